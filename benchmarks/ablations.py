"""The paper's ablation rows in kind, on the seed corpus: full, no cold start, no EM; seed problems alone.

    python benchmarks/ablations.py runs/ablations [--seeds=0,1,2,3,4]

All begin with promptcot-tiny. Its base generators are cold-started on two of the families that it knows, so
that they have the form of rationales and problems; its base solver is itself. A family that it does not know
is the target: 300 of its triples are the seeds of everything. For each seed of the draws:

* full: cold start on the seeds from the base models, then EM rounds on them;
* no cold start: the same EM rounds straight from the base models;
* no EM: the cold start alone;
* seed problems alone: no generator.

Each generator writes as many drafts from the seeds' concept lists; up to NUM_PROBLEMS of those that pass the
filters stand for it. A teacher, the solver after SFT on other problems of the target, answers each arm's
problems until there are NUM_TRACES traces with a boxed answer (as in the paper nobody asks whether it is
right), and promptcot-tiny is fitted to them: equal traces, equal passes. Accuracy is avg@4 on problems that
no model has seen, and every figure is paired by problem and seed. What is complete is not done again.
"""

import argparse
import random
from pathlib import Path

from flows import GinText, promptcot, rows_of, write_rows

BASE = "models/promptcot_tiny.gin"
TARGET = "mixture"
NUM_SEEDS, NUM_PROBLEMS, NUM_TRACES = 300, 600, 1000
SOLUTION_TOKENS, SLOTS = 256, 256
ARMS = ("full", "no_cold_start", "no_em", "seed_problems")
SETTINGS = "runs/ablations.gin"


def make_start(workdir: Path) -> None:
    """The corpus, the base generators, the teacher and the problems to measure on."""
    start, teacher = workdir / "start", workdir / "teacher"
    promptcot("corpus", start, SETTINGS)
    rows = rows_of(start / "triples.jsonl")
    target = [row for row in rows if row["family"] == TARGET]
    others = [row for row in rows if row["family"] != TARGET]
    seeds, unseen = target[:NUM_SEEDS], target[NUM_SEEDS:]
    held_out = [row for row in rows_of(start / "triples_heldout.jsonl") if row["family"] == TARGET]
    known = {row["problem"] for row in target}
    sets = {
        "others": others,
        "seeds": seeds,
        "for_the_teacher": unseen,
        "held_out": [row for row in held_out if row["problem"] not in known],
    }
    for name, some in sets.items():
        write_rows(workdir / f"{name}.jsonl", some)
    promptcot("cold_start", start, SETTINGS, TRIPLES=str(workdir / "others.jsonl"))
    promptcot(
        "sft",
        teacher,
        SETTINGS,
        BASE,
        SOLVED=str(workdir / "for_the_teacher.jsonl"),
        SOLVED_HELDOUT=str(start / "triples_heldout.jsonl"),
        SFT_EPOCHS=4,
        SFT_LEARNING_RATE=1e-3,
    )
    evaluate(start, workdir, SOLVER="promptcot-tiny")
    evaluate(teacher, workdir)


def evaluate(arm: Path, workdir: Path, **model: object) -> None:
    """4 attempts at each held-out problem, with the same noise for every arm."""
    promptcot(
        "evaluate",
        arm,
        SETTINGS,
        PROBLEMS=(str(workdir / "held_out.jsonl"),),
        MAX_PROBLEMS=0,
        ATTEMPTS=4,
        ATTEMPT_TEMPERATURE=0.6,
        MAX_SOLUTION_TOKENS=SOLUTION_TOKENS,
        NUM_SLOTS=SLOTS,
        **model,
    )


def cold_started(workdir: Path, seed: int) -> dict[str, str]:
    """Both roles after the cold start on the seeds, each from its own base (a stage starts both from one).

    The other role of each stage is not used, and gets a few rows only.
    """
    paths = {}
    for role, other in (("theta", "phi"), ("phi", "theta")):
        run = workdir / f"cold_{seed}" / role
        promptcot(
            "cold_start",
            run,
            SETTINGS,
            "models/pretrained.gin",
            MODEL_PATH=str(workdir / "start" / "cold_start" / role),
            TRIPLES=str(workdir / "seeds.jsonl"),
            TRIPLES_HELDOUT=str(workdir / "held_out.jsonl"),
            COLD_START_ROWS={other: 8},
            COLD_START_EPOCHS=4,
            SEED=seed,
        )
        paths[role] = str(run / "cold_start" / role)
    return paths


def generator(workdir: Path, arm: str, seed: int) -> str:
    """The path of the arm's p_theta."""
    base = {role: str(workdir / "start" / "cold_start" / role) for role in ("theta", "phi")}
    models = base if arm == "no_cold_start" else cold_started(workdir, seed)
    if arm == "no_em":
        return models["theta"]
    run = workdir / f"{arm}_{seed}"
    promptcot(
        "em",
        run,
        SETTINGS,
        **{f"em.em.{role}": path for role, path in models.items()},
        TRIPLES=str(workdir / "seeds.jsonl"),
        TRIPLES_HELDOUT=str(workdir / "held_out.jsonl"),
        SEED=seed,
        **{"settings.EmConfig.patience": 2},
    )
    return str(run / "em" / "round_001" / "theta")


def problems_of(workdir: Path, arm: str, seed: int) -> list[dict]:
    """What the arm's solver is trained on; of a generator, a sample of what its filters kept."""
    run = workdir / f"{arm}_{seed}"
    if arm == "seed_problems":
        return rows_of(workdir / "seeds.jsonl")
    lists = rows_of(workdir / "seeds.jsonl")[:120]
    names = ("id", "domain", "concepts", "level")
    write_rows(run / "concept_sets.jsonl", [{name: row[name] for name in names} for row in lists])
    promptcot(
        "synthesize",
        run,
        SETTINGS,
        PROMPT_MODEL=generator(workdir, arm, seed),
        TRIPLES=str(workdir / "seeds.jsonl"),
        SEED=seed,
    )
    kept = rows_of(run / "problems.jsonl")
    return random.Random(seed).sample(kept, min(NUM_PROBLEMS, len(kept)))


def train(workdir: Path, arm: str, seed: int) -> None:
    """Problems, the teacher's traces of them, and the solver that they make."""
    run = workdir / f"{arm}_{seed}"
    problems = problems_of(workdir, arm, seed)
    names = ("id", "domain", "problem")
    write_rows(run / "asked.jsonl", [{name: row[name] for name in names} for row in problems])
    promptcot(
        "distill",
        run,
        "stages/distill.gin",
        PROMPTS=str(run / "asked.jsonl"),
        TEACHER=str(workdir / "teacher" / "policy"),
        DISTILLED_BY=GinText("@distill/text_models.JaxModel()"),
        DISTILL_GROUP_SIZE=-(-15 * NUM_TRACES // (8 * len(problems))),  # not all end in a box, or differ
        TRACES_HELDOUT_SHARE=0.0,
        MAX_TRACE_TOKENS=SOLUTION_TOKENS,
        NUM_SLOTS=SLOTS,
        SEED=seed,
    )
    traces = rows_of(run / "sft_traces.jsonl")
    random.Random(seed).shuffle(traces)
    write_rows(run / "traces.jsonl", traces[:NUM_TRACES])
    print(f"{arm} {seed}: {len(problems)} problems, {min(len(traces), NUM_TRACES)} traces", flush=True)
    promptcot(
        "sft",
        run,
        SETTINGS,
        BASE,
        SOLVED=str(run / "traces.jsonl"),
        SOLVED_HELDOUT=str(workdir / "held_out.jsonl"),
        SFT_EPOCHS=2,
        SFT_LEARNING_RATE=1e-3,
        SEED=seed,
    )
    evaluate(run, workdir)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    arguments = parser.parse_args()
    workdir = arguments.workdir
    workdir.mkdir(parents=True, exist_ok=True)
    make_start(workdir)
    for seed in map(int, arguments.seeds.split(",")):
        for arm in ARMS:
            train(workdir, arm, seed)


if __name__ == "__main__":
    main()
