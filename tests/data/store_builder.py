"""A builder of a token store as its own process: `python -m tests.data.store_builder SETTINGS`."""

import collections
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from promptcot_jax.data import examples, token_store

ROOT = Path(__file__).parents[2]
NAME = "slow"


def example(number: int, first_id: int = 0) -> examples.TokenExample:
    """Examples told apart by number, of different lengths."""
    return examples.TokenExample(
        prompt_ids=[first_id + number, *range(number % 5)], completion_ids=[first_id + number, 1]
    )


def content(
    journal: Path, *, num_batches: int = 6, first_id: int = 0, goes_on_with: str = ""
) -> token_store.Content:
    """Batches of three examples; `journal` gets a line at the start of the build and one for each batch.

    Args:
        goes_on_with: a file without which the build stands still after three batches.
    """
    counts = collections.Counter[str]()

    def note(what: str) -> None:
        with open(journal, "a") as file:
            file.write(f"{what}\n")

    def build() -> Iterator[list[examples.TokenExample]]:
        note("build")
        for batch in range(num_batches):
            yield [example(3 * batch + i, first_id) for i in range(3)]
            counts["read"] += 3
            note("batch")
            while batch == 2 and goes_on_with and not os.path.exists(goes_on_with):
                time.sleep(0.01)

    return token_store.Content(NAME, {"num_batches": num_batches}, build, counts)


def start(cache_dir: Path, journal: Path, *, anew: bool = False, **of_content: Any) -> subprocess.Popen:
    """`open_or_build` in a process of its own; it prints the ids of all examples and their counts."""
    given = json.dumps([str(cache_dir), str(journal), anew, of_content])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.data.store_builder", given],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ids_of(store: token_store.TokenStore) -> list[list[int]]:
    """All examples of a store."""
    return [np.concatenate([row.prompt_ids, row.completion_ids]).tolist() for row in store]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    cache_dir_given, journal_given, is_anew, settings = json.loads(sys.argv[1])
    made = content(Path(journal_given), **settings)
    opened = token_store.open_or_build(cache_dir_given, made, anew=is_anew)
    print(json.dumps([ids_of(opened), opened.counts]))
