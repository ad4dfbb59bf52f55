"""What post-training on synthesized, verified problems is worth to a small solver, against seed problems.

    python benchmarks/self_play_effect.py runs/effect [--seeds=0,1,2] [--figure=FILE.svg]

One start for all: two families of the corpus, a solver after SFT on them (self_play_study_solver.gin), and a
generator by EM that writes problems of one of the two (configs/runs/self_play_study.gin). A teacher, the same
solver after more SFT on that family, gives the problems their answers by its votes (`verify`); as many seed
problems stand beside them with their true answers. Each arm post-trains the start on one of the two sets,
with as many rollouts: GRPO, DPO and rejection sampling by `self_play`, iteration by iteration, and SFT on
completions of the teacher that the answers confirm (`distill`, `sft`). Each policy is measured by `evaluate`
on held-out problems of the family: avg@8 before and after, differences paired by problem, intervals by
bootstrap over problems and seeds. What is complete is not done again.
"""

import argparse
import random
from pathlib import Path

import matplotlib
import numpy as np
from flows import GinText, promptcot, rows_of, write_rows

matplotlib.use("Agg")
from matplotlib import pyplot

ITERATIONS, PROMPTS_PER_ITERATION, GROUP_SIZE, SOLUTION_TOKENS, SLOTS = 12, 32, 8, 224, 128
ROLLOUTS = ITERATIONS * PROMPTS_PER_ITERATION * GROUP_SIZE  # of each arm
FAMILY = "vieta"
SETS = ("synthesized", "seed")
METHODS = ("grpo", "dpo", "rejection", "sft")
# In a pilot of GRPO (another seed, seed problems) accuracy fell by 3 points at 3e-4 and by 15 at 1e-3.
SETTINGS = {
    "grpo": {"SELF_PLAY_LEARNING_RATE": 1e-4, "MINIBATCHES": 4},
    "dpo": {"SELF_PLAY_LEARNING_RATE": 3e-5, "MINIBATCHES": 4},
    "rejection": {"SELF_PLAY_LEARNING_RATE": 1e-4, "MINIBATCHES": 4},
}
NUM_RESAMPLES = 10_000


def make_start(workdir: Path) -> None:
    """The start, the teacher, the held-out problems and the two sets of prompts."""
    start, teacher, seed = workdir / "start", workdir / "teacher", workdir / "seed"
    promptcot("run", start, "runs/self_play_study_solver.gin")
    family = [row for row in rows_of(start / "triples.jsonl") if row["family"] == FAMILY]
    lists = [{name: row[name] for name in ("id", "domain", "concepts", "level")} for row in family[:200]]
    write_rows(start / "concept_sets.jsonl", lists)
    promptcot("run", start, "runs/self_play_study.gin")
    make_held_out(workdir / "held_out", {row["problem"] for row in rows_of(start / "triples.jsonl")})
    evaluate(start, workdir)
    write_rows(teacher / "triples.jsonl", family)
    promptcot(
        "sft",
        teacher,
        "stages/sft.gin",
        "models/pretrained.gin",
        MODEL_PATH=str(start / "policy"),
        SOLVED_HELDOUT=str(start / "triples_heldout.jsonl"),
        SFT_EPOCHS=3,
        SFT_BATCH=2,
        SFT_ROW_LENGTH=512,
        SFT_LEARNING_RATE=2e-3,
    )
    evaluate(teacher, workdir)
    promptcot(
        "verify",
        teacher,
        "stages/verify.gin",
        VERIFY_PROBLEMS=str(start / "problems.jsonl"),
        MAX_VOTE_TOKENS=SOLUTION_TOKENS,
        NUM_SLOTS=SLOTS,
    )
    num_prompts = len(rows_of(teacher / "verified_prompts.jsonl"))
    print(f"{num_prompts} synthesized problems with an answer", flush=True)
    rows = random.Random(0).sample(family, num_prompts)
    names = ("id", "domain", "problem", "answer")
    write_rows(seed / "seed_problems.jsonl", [{name: row[name] for name in names} for row in rows])
    source = str(seed / "seed_problems.jsonl")
    promptcot("import_data", seed, "stages/import_data.gin", SOURCE=source, KIND="prompts")


def make_held_out(workdir: Path, known: set[str]) -> None:
    """Problems of the family that no model has seen."""
    promptcot(
        "corpus",
        workdir,
        "stages/corpus.gin",
        FAMILIES=(FAMILY,),
        NUM_TRAIN=50,
        NUM_HELDOUT=240,
        NUM_NOVEL=2,
        SEED=77,
    )
    unseen = [row for row in rows_of(workdir / "triples_heldout.jsonl") if row["problem"] not in known]
    write_rows(workdir / "problems.jsonl", unseen)


def prompts_of(workdir: Path, name: str) -> Path:
    return workdir / {"synthesized": "teacher", "seed": "seed"}[name] / "verified_prompts.jsonl"


def evaluate(workdir: Path, study: Path) -> None:
    """8 attempts at each held-out problem, with the same noise for every policy."""
    promptcot(
        "evaluate",
        workdir,
        "stages/evaluate.gin",
        PROBLEMS=(str(study / "held_out" / "problems.jsonl"),),
        ATTEMPTS=8,
        ATTEMPT_TEMPERATURE=0.6,
        MAX_SOLUTION_TOKENS=SOLUTION_TOKENS,
        NUM_SLOTS=SLOTS,
    )


def play(workdir: Path, method: str, name: str, seed: int) -> Path:
    """The workdir of one arm, trained and measured."""
    start, arm = workdir / "start", workdir / f"{method}_{name}_{seed}"
    prompts = prompts_of(workdir, name)
    model = {"MODEL_PATH": str(start / "policy"), "SEED": seed}
    if method == "sft":
        promptcot(
            "distill",
            arm,
            "stages/distill.gin",
            PROMPTS=str(prompts),
            TEACHER=str(workdir / "teacher" / "policy"),
            DISTILLED_BY=GinText("@distill/text_models.JaxModel()"),
            DISTILL_GROUP_SIZE=-(-ROLLOUTS // len(rows_of(prompts))),
            VERIFICATION="only",
            MAX_TRACE_TOKENS=SOLUTION_TOKENS,
            NUM_SLOTS=SLOTS,
            SEED=seed,
        )
        promptcot(
            "sft",
            arm,
            "stages/sft.gin",
            "models/pretrained.gin",
            **model,
            SOLVED=str(arm / "sft_traces.jsonl"),
            SOLVED_HELDOUT=str(start / "triples_heldout.jsonl"),
            SFT_EPOCHS=1,
            SFT_BATCH=2,
            SFT_ROW_LENGTH=512,
            SFT_LEARNING_RATE=1e-4,
        )
    else:
        extra = () if method == "grpo" else (f"stages/self_play_{method}.gin",)
        settings = {
            "NUM_ITERATIONS": ITERATIONS,
            "PROMPTS_PER_ITERATION": PROMPTS_PER_ITERATION,
            "GROUP_SIZE": GROUP_SIZE,
            "MAX_TRIES": 1,  # every arm draws as many rollouts
            "ROLLOUT_TEMPERATURE": 1.0,
            "MAX_SOLUTION_TOKENS": SOLUTION_TOKENS,
            "NUM_SLOTS": SLOTS,
        }
        promptcot(
            "self_play",
            arm,
            "stages/self_play.gin",
            *extra,
            "models/pretrained.gin",
            **model,
            VERIFIED_PROMPTS=str(prompts),
            **settings,
            **SETTINGS[method],
        )
    evaluate(arm, workdir)
    return arm


def shares_right(workdir: Path) -> dict[str, float]:
    """Share of right attempts by problem."""
    right: dict[str, list[bool]] = {}
    for row in rows_of(workdir / "evaluate" / "attempts.jsonl"):
        right.setdefault(row["problem_id"], []).append(row["correct"])
    return {problem: float(np.mean(verdicts)) for problem, verdicts in sorted(right.items())}


def interval(differences: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of [seeds, problems], both resampled."""
    random_state = np.random.default_rng(0)
    num_seeds, num_problems = differences.shape
    means = [
        differences[random_state.integers(num_seeds, size=num_seeds)][
            :, random_state.integers(num_problems, size=num_problems)
        ].mean()
        for _ in range(NUM_RESAMPLES)
    ]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def compare(workdir: Path, seeds: list[int], figure: str | None) -> None:
    """Prints the table of arms, and draws it."""
    before = np.array(list(shares_right(workdir / "start").values()))
    teacher = np.array(list(shares_right(workdir / "teacher").values()))
    print(f"\nstart {before.mean():.4f}, teacher {teacher.mean():.4f}, {len(before)} problems\n")
    print("| method | problems | after, by seed | after - before | 95 % | synthesized - seed | 95 % |")
    print("|" + " --- |" * 7)
    gains = {}
    for method in METHODS:
        after = {
            name: np.array(
                [list(shares_right(workdir / f"{method}_{name}_{seed}").values()) for seed in seeds]
            )
            for name in SETS
        }
        between = after["synthesized"] - after["seed"]
        low, high = interval(between)
        for name in SETS:
            gain = after[name] - before
            gains[method, name] = (gain.mean(), *interval(gain))
            by_seed = ", ".join(f"{x:.3f}" for x in after[name].mean(axis=1))
            print(
                f"| {method} | {name} | {by_seed} | {gain.mean():+.3f} | "
                f"{gains[method, name][1]:+.3f} to {gains[method, name][2]:+.3f} | "
                + (f"{between.mean():+.3f} | {low:+.3f} to {high:+.3f} |" if name == SETS[0] else " | |")
            )
    if figure:
        draw(gains, float(before.mean()), figure)


def draw(gains: dict, before: float, figure: str) -> None:
    axes = pyplot.figure(figsize=(7, 3.4), layout="constrained").subplots()
    for offset, name in zip((-0.12, 0.12), SETS, strict=True):
        means, lows, highs = np.array([gains[method, name] for method in METHODS]).T
        axes.errorbar(
            np.arange(len(METHODS)) + offset,
            means,
            yerr=(means - lows, highs - means),
            fmt="o" if name == SETS[0] else "s",
            capsize=4,
            label=f"{name} problems",
        )
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_xticks(
        range(len(METHODS)), [{"grpo": "GRPO", "dpo": "DPO", "sft": "SFT"}.get(m, m) for m in METHODS]
    )
    axes.set_ylabel(f"change of avg@8 (start {before:.3f})")
    axes.legend(frameon=False)
    pyplot.savefig(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--figure", help="an .svg file for the changes of all arms")
    arguments = parser.parse_args()
    workdir, seeds = arguments.workdir, [int(seed) for seed in arguments.seeds.split(",")]
    workdir.mkdir(parents=True, exist_ok=True)
    make_start(workdir)
    for seed in seeds:
        for method in METHODS:
            for name in SETS:
                play(workdir, method, name, seed)
    compare(workdir, seeds, arguments.figure)


if __name__ == "__main__":
    main()
