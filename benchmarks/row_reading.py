"""Rows a second and peak memory of the row reader, by format, against `json.loads` of every line.

    python benchmarks/row_reading.py --rows=200000

Each reading is a process of its own, so that its peak resident size is its own; the best of three is shown.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time

from promptcot_jax.core.records import Triple
from promptcot_jax.data import rows

WORDS = "the sum of two consecutive even integers is divisible by three when \\frac{a}{b} = x^2 – α".split()
FORMATS = ("jsonl", "jsonl.gz", "parquet", "tfrecord", "array_record")


def main() -> None:
    """Writes the files and starts a process for each reading, or is such a process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--read", nargs=2, metavar=("HOW", "FILE"))
    flags = parser.parse_args()
    if flags.read:
        read(*flags.read)
        return
    with tempfile.TemporaryDirectory() as directory:
        for kind in FORMATS:
            write(os.path.join(directory, f"rows.{kind}"), kind, flags.rows)
        print(f"{'reading':<28}{'rows/s':>10}{'MB':>8}{'peak MB':>9}")
        for how, kind in [
            ("json.loads", "jsonl"),
            *(("iter_rows", kind) for kind in FORMATS),
            ("iter_records", "jsonl"),
        ]:
            file = os.path.join(directory, f"rows.{kind}")
            runs = [started(how, file) for _ in range(3)]
            speed, peak = max(run[0] for run in runs), min(run[1] for run in runs)
            print(f"{how + ' ' + kind:<28}{speed:>10,.0f}{os.path.getsize(file) >> 20:>8}{peak:>9.0f}")


def row(draw: random.Random, i: int) -> dict[str, object]:
    """About 1.6 kB of text, as a triple."""
    text = " ".join(draw.choices(WORDS, k=320))
    concepts = draw.sample(WORDS, 4)
    return {"id": f"row-{i}", "concepts": concepts, "rationale": text[400:], "problem": text[:400]}


def write(path: str, kind: str, count: int) -> None:
    """Writes the same rows in the format of an extension."""
    import gzip

    import pyarrow
    import pyarrow.parquet
    from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

    draw = random.Random(0)
    made = (row(draw, i) for i in range(count))
    lines = (json.dumps(fields, ensure_ascii=False).encode() for fields in made)
    if kind.startswith("jsonl"):
        with gzip.open(path, "wb") if kind.endswith("gz") else open(path, "wb") as file:
            file.writelines(line + b"\n" for line in lines)
    elif kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(made)), path)
    elif kind == "array_record":
        writer = array_record_module.ArrayRecordWriter(path, "group_size:1")
        for line in lines:
            writer.write(line)
        writer.close()
    else:
        import tensorflow as tf

        with tf.io.TFRecordWriter(path) as writer:
            for line in lines:
                writer.write(line)


def started(how: str, file: str) -> tuple[float, float]:
    """Rows a second and peak megabytes of one reading."""
    command = [sys.executable, __file__, "--read", how, file]
    speed, peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(speed), float(peak)


def read(how: str, file: str) -> None:
    """Reads all rows, prints rows a second and the peak resident size in megabytes."""
    start, count = time.perf_counter(), 0
    if how == "json.loads":
        with open(file, "rb") as lines:
            for line in lines:
                json.loads(line)
                count += 1
    else:
        for _ in rows.iter_rows(file) if how == "iter_rows" else rows.iter_records(file, Triple):
            count += 1
    seconds = time.perf_counter() - start
    with open("/proc/self/status") as status:  # not getrusage, which tells the parent's peak too
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    print(count / seconds, peak / 1024)


if __name__ == "__main__":
    main()
