"""What post-training on synthesized, verified problems is worth to promptcot-tiny, against seed problems.

    python benchmarks/self_play_effect.py runs/effect [--seeds=0,1,2,3,4] [--figure=FILE.svg]

Each seed has a flow of its own up to `verify` (configs/runs/self_play_study.gin): new problems with answers
by promptcot-tiny's votes. As many seed problems stand beside them with their true answers. Each arm
post-trains promptcot-tiny on one of the two sets, with as many rollouts: GRPO, DPO and rejection sampling by
`self_play`, iteration by iteration, and SFT on a teacher's completions that the answers confirm (`distill`,
`sft`); the teacher is promptcot-tiny after SFT on the corpus' worked solutions. Two controls are GRPO on the
synthesized problems with rewards that know no answer: 1 for work, right or wrong, and 1 by chance. Each
policy is measured by `evaluate` on the same held-out problems: avg@8 before and after, and the share of right
ones among the attempts with work; differences paired by problem, intervals by bootstrap over problems and
seeds. What is complete is not done again.
"""

import argparse
import random
from pathlib import Path

import control_rewards
import matplotlib
import numpy as np
from flows import GinText, promptcot, rows_of, write_rows

matplotlib.use("Agg")
from matplotlib import pyplot

BASE = "promptcot-tiny"
ITERATIONS, PROMPTS_PER_ITERATION, GROUP_SIZE, SOLUTION_TOKENS, SLOTS = 6, 16, 8, 320, 128
ROLLOUTS = ITERATIONS * PROMPTS_PER_ITERATION * GROUP_SIZE  # of each arm
SETS = ("synthesized", "seed")
METHODS = ("grpo", "dpo", "rejection", "sft")
CONTROLS = ("work", "chance")
ARMS = tuple((method, name) for method in METHODS for name in SETS) + tuple(
    (control, "synthesized") for control in CONTROLS
)
SETTINGS = {
    "grpo": {"SELF_PLAY_LEARNING_RATE": 3e-4},
    **{
        control: {
            "SELF_PLAY_LEARNING_RATE": 3e-4,
            "REWARD_FUNCTION": f"control_rewards:{control}",
        }
        for control in CONTROLS
    },
    "dpo": {"SELF_PLAY_LEARNING_RATE": 3e-4, "ROLLOUTS_SOLVED_BELOW": 1.01},
    "rejection": {"SELF_PLAY_LEARNING_RATE": 3e-4, "ROLLOUTS_SOLVED_BELOW": 1.01},
}
NUM_RESAMPLES = 10_000


def make_start(workdir: Path, seed: int) -> Path:
    """A seed's flow up to its verified problems, as many seed problems, and the teacher."""
    start = workdir / f"start_{seed}"
    promptcot("run", start, "runs/self_play_study.gin", SEED=seed)
    num_prompts = len(rows_of(start / "verified_prompts.jsonl"))
    print(f"{num_prompts} synthesized problems with an answer", flush=True)
    rows = random.Random(seed).sample(rows_of(start / "triples.jsonl"), num_prompts)
    names = ("id", "domain", "problem", "answer")
    source = start / "seed" / "seed_problems.jsonl"
    write_rows(source, [{name: row[name] for name in names} for row in rows])
    promptcot("import_data", start / "seed", "stages/import_data.gin", SOURCE=str(source), KIND="prompts")
    promptcot(
        "sft",
        start,
        "stages/sft.gin",
        "models/promptcot_tiny.gin",
        SFT_EPOCHS=2,
        SFT_BATCH=4,
        SFT_ROW_LENGTH=512,
        SFT_LEARNING_RATE=5e-4,
        SEED=seed,
    )
    return start


def make_held_out(workdir: Path) -> None:
    """Problems of the same families that no model has seen."""
    promptcot("corpus", workdir, "runs/self_play_study.gin", NUM_TRAIN=50, NUM_HELDOUT=240, SEED=77)


def prompts_of(start: Path, name: str) -> Path:
    return (start / "seed" if name == "seed" else start) / "verified_prompts.jsonl"


def evaluate(workdir: Path, study: Path, **model: object) -> None:
    """8 attempts at each held-out problem, with the same noise for every policy."""
    promptcot(
        "evaluate",
        workdir,
        "stages/evaluate.gin",
        PROBLEMS=(str(study / "held_out" / "triples_heldout.jsonl"),),
        ATTEMPTS=8,
        ATTEMPT_TEMPERATURE=0.6,
        MAX_SOLUTION_TOKENS=SOLUTION_TOKENS,
        NUM_SLOTS=SLOTS,
        **model,
    )


def play(workdir: Path, method: str, name: str, seed: int) -> Path:
    """The workdir of one arm, trained and measured."""
    start, arm = workdir / f"start_{seed}", workdir / f"{method}_{name}_{seed}"
    prompts, model = prompts_of(start, name), "models/promptcot_tiny.gin"
    if method == "sft":
        promptcot(
            "distill",
            arm,
            "stages/distill.gin",
            PROMPTS=str(prompts),
            TEACHER=str(start / "policy"),
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
            model,
            SEED=seed,
            SOLVED=str(arm / "sft_traces.jsonl"),
            SOLVED_HELDOUT=str(start / "triples_heldout.jsonl"),
            SFT_EPOCHS=1,
            SFT_BATCH=2,
            SFT_ROW_LENGTH=512,
            SFT_LEARNING_RATE=1e-4,
        )
    else:
        extra = (f"stages/self_play_{method}.gin",) if method in ("dpo", "rejection") else ()
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
            model,
            SEED=seed,
            VERIFIED_PROMPTS=str(prompts),
            **settings,
            **SETTINGS[method],
        )
    evaluate(arm, workdir)
    return arm


def shares_right(workdir: Path, *, of_worked: bool = False) -> np.ndarray:
    """Share of right attempts by problem, [problems]; of those with work, NaN where there is none."""
    right: dict[str, list[bool]] = {}
    for row in rows_of(workdir / "evaluate" / "attempts.jsonl"):
        verdicts = right.setdefault(row["problem_id"], [])
        if not of_worked or control_rewards.has_work(row["completion"]):
            verdicts.append(row["correct"])
    return np.array([np.mean(verdicts) if verdicts else np.nan for _, verdicts in sorted(right.items())])


def share_with_work(workdir: Path) -> float:
    rows = rows_of(workdir / "evaluate" / "attempts.jsonl")
    return float(np.mean([control_rewards.has_work(row["completion"]) for row in rows]))


def interval(differences: np.ndarray) -> tuple[float, float, float]:
    """The mean of [seeds, problems] and its 95 % bootstrap interval, both resampled; NaN is left out."""
    random_state = np.random.default_rng(0)
    num_seeds, num_problems = differences.shape
    means = [
        np.nanmean(
            differences[random_state.integers(num_seeds, size=num_seeds)][
                :, random_state.integers(num_problems, size=num_problems)
            ]
        )
        for _ in range(NUM_RESAMPLES)
    ]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(np.nanmean(differences)), float(low), float(high)


def compare(workdir: Path, seeds: list[int], figure: str | None) -> None:
    """Prints the table of arms, and draws it."""
    base = workdir / "base"
    before = shares_right(base)
    before_of_worked = shares_right(base, of_worked=True)
    teachers = [shares_right(workdir / f"start_{seed}").mean() for seed in seeds]
    print(f"\nbase {before.mean():.4f}, with work {share_with_work(base):.3f}, {len(before)} problems")
    print(f"teachers {np.round(teachers, 4)}\n")
    print(
        "| method | problems | after, by seed | after - before | with work | right of those with work, "
        "after - before | synthesized - seed |"
    )
    print("|" + " --- |" * 7)
    after, gains = {}, {}
    for method, name in ARMS:
        runs = [workdir / f"{method}_{name}_{seed}" for seed in seeds]
        after[method, name] = np.array([shares_right(run) for run in runs])
        gains[method, name] = interval(after[method, name] - before)
    for method, name in ARMS:
        runs = [workdir / f"{method}_{name}_{seed}" for seed in seeds]
        of_worked = np.array([shares_right(run, of_worked=True) for run in runs]) - before_of_worked
        between = ""
        if method in METHODS and name == SETS[0]:
            between = in_words(interval(after[method, SETS[0]] - after[method, SETS[1]]))
        by_seed = ", ".join(f"{x:.3f}" for x in after[method, name].mean(axis=1))
        with_work = np.mean([share_with_work(run) for run in runs])
        print(
            f"| {method} | {name} | {by_seed} | {in_words(gains[method, name])} | {with_work:.3f} | "
            f"{in_words(interval(of_worked))} | {between} |"
        )
    for control in CONTROLS:
        difference = interval(after["grpo", "synthesized"] - after[control, "synthesized"])
        print(f"\nGRPO less its control by {control}: {in_words(difference)}")
    if figure:
        draw(gains, float(before.mean()), figure)


def in_words(estimate: tuple[float, float, float]) -> str:
    return "{:+.3f} ({:+.3f} to {:+.3f})".format(*estimate)


def draw(gains: dict, before: float, figure: str) -> None:
    axes = pyplot.figure(figsize=(7, 3.4), layout="constrained").subplots()
    methods = (*METHODS, *CONTROLS)
    for offset, name in zip((-0.12, 0.12), SETS, strict=True):
        shown = [method for method in methods if (method, name) in gains]
        means, lows, highs = np.array([gains[method, name] for method in shown]).T
        axes.errorbar(
            [methods.index(method) + offset for method in shown],
            means,
            yerr=(means - lows, highs - means),
            fmt="o" if name == SETS[0] else "s",
            capsize=4,
            label=f"{name} problems",
        )
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_xticks(
        range(len(methods)),
        ["GRPO", "DPO", "rejection", "SFT", "GRPO, reward\nfor work alone", "GRPO, reward\nby chance"],
    )
    axes.set_ylabel(f"change of avg@8 (start {before:.3f})")
    axes.legend(frameon=False)
    pyplot.savefig(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--figure", help="an .svg file for the changes of all arms")
    arguments = parser.parse_args()
    workdir, seeds = arguments.workdir, [int(seed) for seed in arguments.seeds.split(",")]
    workdir.mkdir(parents=True, exist_ok=True)
    make_held_out(workdir / "held_out")
    evaluate(workdir / "base", workdir, SOLVER=BASE)
    for seed in seeds:
        evaluate(make_start(workdir, seed), workdir)
        for method, name in ARMS:
            play(workdir, method, name, seed)
    compare(workdir, seeds, arguments.figure)


if __name__ == "__main__":
    main()
