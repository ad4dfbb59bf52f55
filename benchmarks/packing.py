"""Examples to packed rows: our converter, seqio's, and the trainers' own epochs, on the same examples.

    python benchmarks/packing.py FILE...        # JSON Lines with `problem` and `solution`
    python benchmarks/packing.py FILE... --row_length=2048 --window=4096

Tokenization is done before and not timed. Examples longer than a row are left out for all sides, and tokens
are counted as they went in: seqio's packer takes id 0 for padding and cuts what holds it.
"""

import argparse
import json
import os
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import seqio
import tensorflow as tf

from promptcot_jax.checkpoints import load
from promptcot_jax.data import example_sets, examples, packing
from promptcot_jax.data.seqio import converters, vocabulary


def read_examples(files: list[str], most: int, row_length: int) -> list[examples.TokenExample]:
    """Problems as prompts, solutions as completions."""
    rows = []
    for name in files:
        with open(name, encoding="utf-8") as file:
            rows.extend(json.loads(line) for line in file)
    rows = [row for row in rows if row.get("problem") and row.get("solution")][:most]
    tokenizer = vocabulary.TokenizerVocabulary.from_path(load.smollm2_path()).tokenizer
    prompts, solutions = (
        tokenizer.encode_many([row[key] for row in rows]) for key in ("problem", "solution")
    )
    made = [
        examples.TokenExample(prompt_ids=a, completion_ids=(*b, tokenizer.eos_id))
        for a, b in zip(prompts, solutions, strict=True)
    ]
    return [example for example in made if example.length <= row_length]


def dataset_of(rows: list[examples.TokenExample]) -> tf.data.Dataset:
    ragged = {
        "inputs": tf.ragged.constant([row.prompt_ids.tolist() for row in rows], dtype=tf.int32),
        "targets": tf.ragged.constant([row.completion_ids.tolist() for row in rows], dtype=tf.int32),
    }
    dataset = tf.data.Dataset.from_tensor_slices(ragged)
    return dataset.map(lambda row: {name: tf.convert_to_tensor(value) for name, value in row.items()})


def sides(rows: list[examples.TokenExample], row_length: int, window: int) -> dict[str, Callable[[], int]]:
    """What is timed: each gives the number of rows it made."""
    dataset = dataset_of(rows)
    lengths = {"inputs": row_length - row_length // 2, "targets": row_length // 2}

    def converted(converter: seqio.FeatureConverter) -> Callable[[], int]:
        packed = converter(dataset, lengths)
        return lambda: sum(1 for _ in packed.as_numpy_iterator())

    def epochs() -> int:
        listed = example_sets.Listed(rows)
        source = packing.PackedEpochs(listed, row_length=row_length, rows_per_batch=16, num_epochs=1, seed=0)
        return sum(
            int(np.any(np.asarray(source.batch(step).segment_ids), axis=1).sum())
            for step in range(source.num_steps)
        )

    return {
        f"PackedLM, windows of {window}": converted(converters.PackedLM(window=window)),
        f"PrefixLM, windows of {window}": converted(converters.PrefixLM(window=window)),
        # Its length check refuses examples whose halves do not fit; its packer sees only the joined row.
        "seqio's PrefixLMFeatureConverter": converted(
            seqio.PrefixLMFeatureConverter(pack=True, apply_length_check=False)
        ),
        "PackedEpochs (the trainers')": epochs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--row_length", type=int, default=1024)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rows = read_examples(options.files, options.examples, options.row_length)
    num_tokens = sum(row.length for row in rows)
    print(f"{len(rows)} examples, {num_tokens} tokens, rows of {options.row_length}")
    work = sides(rows, options.row_length, options.window)
    best = dict.fromkeys(work, float("inf"))
    num_rows = {name: run() for name, run in work.items()}
    for _ in range(options.repeats):
        for name, run in work.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - start)
    for name, seconds in best.items():
        share = num_tokens / (num_rows[name] * options.row_length)
        rate = num_tokens / seconds / 1_000
        print(f"{name:35} {rate:7,.0f} k tokens/s, {num_rows[name]} rows, {share:.1%} full")


if __name__ == "__main__":
    main()
