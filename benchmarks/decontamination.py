"""Decontamination of synthetic rows on disk: rows a second, peak memory as rows grow, every planted overlap.

    python benchmarks/decontamination.py                     # a synthetic benchmark of 2,000 texts
    python benchmarks/decontamination.py BENCHMARK.jsonl ... # rows with a `problem`

For each number of rows a seeded generator streams them to a file: 40 to 80 words each, some more frequent
than others, and in one row of a thousand a planted run of 13 words of a benchmark. The other words are those
of the benchmarks, but for each third word of each of their texts, so that nothing but the planted runs can
match. Then `promptcot decontaminate` does its work on the file in a process of its own, whose peak memory is
that of the stage with everything it imports.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from promptcot_jax.core import jsonl
from promptcot_jax.data import decontamination

N = 13
ROWS_PER_PLANTED = 1000


def synthetic_benchmark(num_texts: int) -> list[str]:
    """Texts of about 60 words out of 8,000."""
    draw = random.Random(1)
    return [
        " ".join(_word(int(8000 * draw.random() ** 3)) for _ in range(draw.randint(30, 90)))
        for _ in range(num_texts)
    ]


def _word(number: int) -> str:
    """A word of letters for a number."""
    letters = ""
    while number >= 0:
        letters, number = chr(ord("a") + number % 26) + letters, number // 26 - 1
    return letters


def write_rows(path: Path, num_rows: int, benchmark: Sequence[str]) -> set[int]:
    """Streams rows to a file; returns which of them hold a planted run."""
    draw = random.Random(2)
    runs = [own for own in map(decontamination.words, benchmark) if len(own) >= N]
    # No run of 13 words of a benchmark is free of these, so that none comes about by chance.
    avoided = {word for own in map(decontamination.words, benchmark) for word in own[::3]}
    common = sorted({word for own in runs for word in own} - avoided) + [
        f"unseen{_word(i)}" for i in range(500)
    ]
    draw.shuffle(common)
    planted = set()
    with path.open("w") as file:
        for i, own in enumerate(_texts(draw, common, num_rows)):
            if draw.randrange(ROWS_PER_PLANTED) == 0:
                run = draw.choice(runs)
                start, place = draw.randint(0, len(run) - N), draw.randint(0, len(own))
                own[place:place] = [word.upper() for word in run[start : start + N]]
                planted.add(i)
            file.write(json.dumps({"id": f"row-{i}", "problem": ", ".join(own), "answer": str(i)}) + "\n")
    return planted


def _texts(draw: random.Random, vocabulary: Sequence[str], num_rows: int) -> Iterator[list[str]]:
    """Texts of 40 to 80 words, the earlier words of the vocabulary more often."""
    weights = [1 / (rank + 10) for rank in range(len(vocabulary))]
    for _ in range(num_rows):
        yield draw.choices(vocabulary, weights, k=draw.randint(40, 80))


def measure(rows: Path, benchmarks: Sequence[str], workdir: Path) -> None:
    """Does the stage and prints its own time and this process's peak memory."""
    from promptcot_jax.core import manifest
    from promptcot_jax.run import stage

    started = time.perf_counter()
    bindings = (f"INPUT={str(rows)!r}", f"BENCHMARKS={tuple(benchmarks)!r}")
    imported = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    stage.run_stage("decontaminate", ("stages/decontaminate.gin",), bindings, str(workdir))
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    num_rows = manifest.read(workdir)["decontaminate"].counts["in"]
    print(
        f"{num_rows:,} rows: {seconds:.1f} s, {num_rows / seconds:,.0f} rows/s, peak {peak / 1024:.0f} MB "
        f"({imported / 1024:.0f} MB before the work)",
        flush=True,
    )


def check(workdir: Path, planted: set[int]) -> None:
    """Exactly the planted rows are dropped."""
    report = jsonl.iter_rows(workdir / "decontamination.jsonl")
    found = {int(row["row"].removeprefix("row-")) for _, _, row in report}
    others = len(found - planted)
    print(f"  planted {len(planted)}, of these found {len(planted & found)}, others found {others}")
    if found != planted:
        sys.exit("the dropped rows are not the planted ones")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("benchmarks", nargs="*", help="JSON Lines with a `problem`")
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--only", nargs=2, metavar=("ROWS", "WORKDIR"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        measure(Path(arguments.only[0]), arguments.benchmarks, Path(arguments.only[1]))
        return
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        files = [os.path.abspath(path) for path in arguments.benchmarks]
        if not files:
            texts = synthetic_benchmark(2000)
            jsonl.write_records(place / "synthetic.jsonl", [{"problem": text} for text in texts])
            files = [str(place / "synthetic.jsonl")]
        benchmark = [row["problem"] for file in files for _, _, row in jsonl.iter_rows(file)]
        for num_rows in arguments.rows:
            rows, workdir = place / "rows.jsonl", place / f"workdir_{num_rows}"
            planted = write_rows(rows, num_rows, benchmark)
            command = [sys.executable, __file__, *files, "--only", str(rows), str(workdir)]
            subprocess.run(command, check=True)
            check(workdir, planted)


if __name__ == "__main__":
    main()
