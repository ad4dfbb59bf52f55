"""GRPO of SmolLM2-135M on short problems of GSM8K, all of it real: its first steps, for two CPU cores.

    python benchmarks/gsm8k_self_play.py gsm8k_train.jsonl runs/gsm8k [--iterations=24]

Of the training problems that take one or two calculations, most make the model write solutions with a boxed
answer (`sft`; before that it boxes nothing), others are played on (`self_play`), and the rest are held out.
Reward curve and completions to read: runs/gsm8k/played/report.html and self_play/samples.html in that folder.
What is complete is not done again.
"""

import argparse
import random
from pathlib import Path

from flows import promptcot, rows_of, solved, write_rows

NUM_SOLVED, NUM_PLAYED, NUM_HELD_OUT = 200, 160, 24


def is_short(row: dict) -> bool:
    """Whether one or two calculations, which GSM8K marks by << >>, lead to an integer."""
    few = 1 <= row["solution"].count("<<") <= 2
    return few and len(row["problem"]) < 200 and len(row["solution"]) < 180 and row["answer"].isdigit()


def write_problems(gsm8k: Path, workdir: Path) -> None:
    """Three disjoint sets."""
    rows = [row for row in rows_of(gsm8k) if is_short(row)]
    random.Random(0).shuffle(rows)
    write_rows(workdir / "solver" / "triples.jsonl", list(map(solved, rows[:NUM_SOLVED])))
    rest = rows[NUM_SOLVED:]
    write_rows(workdir / "solver" / "triples_heldout.jsonl", list(map(solved, rest[:NUM_HELD_OUT])))
    prompts = [{name: row[name] for name in ("id", "problem", "answer")} for row in rest]
    write_rows(workdir / "held_out.jsonl", prompts[:NUM_HELD_OUT])
    write_rows(
        workdir / "played" / "verified_prompts.jsonl", prompts[NUM_HELD_OUT : NUM_HELD_OUT + NUM_PLAYED]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("gsm8k", type=Path)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--iterations", type=int, default=24)
    arguments = parser.parse_args()
    workdir = arguments.workdir.resolve()
    write_problems(arguments.gsm8k, workdir)
    promptcot(
        "sft",
        workdir / "solver",
        "stages/sft.gin",
        "models/smollm2_135m.gin",
        SFT_ROW_LENGTH=256,
        SFT_BATCH=4,
        SFT_EPOCHS=1,
        SFT_LEARNING_RATE=1e-4,
        SFT_WARMUP=4,
    )
    promptcot(
        "self_play",
        workdir / "played",
        "stages/self_play.gin",
        "models/pretrained.gin",
        MODEL_PATH=str(workdir / "solver" / "policy"),
        NUM_ITERATIONS=arguments.iterations,
        PROMPTS_PER_ITERATION=4,
        MAX_TRIES=1,
        MAX_SOLUTION_TOKENS=80,
        NUM_SLOTS=32,
        SELF_PLAY_LEARNING_RATE=5e-6,
        EVAL_PROMPTS=str(workdir / "held_out.jsonl"),
        EVAL_EVERY=arguments.iterations,
        EVAL_SAMPLES=4,
        SAMPLES_EVERY=5,
    )
    promptcot("report", workdir / "played")


if __name__ == "__main__":
    main()
