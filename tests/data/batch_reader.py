"""A reader of batches as its own process, to be killed: `python -m tests.data.batch_reader SETTINGS`.

It stands for a trainer on any number of hosts: every step it takes each host's rows, writes them down as one
batch, and then the position, the way a checkpoint would: one integer, flushed to disk, by a rename.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from promptcot_jax.core import jsonl
from promptcot_jax.data import example_sets, packing, training_sets
from tests import toys

ROOT = Path(__file__).parents[2]
ROWS_PER_BATCH = 8
FIELDS = ("token_ids", "segment_ids", "positions", "loss_mask")


def epochs_of(
    directory: Path, settings: Mapping[str, Any], own_rows: Sequence[int] | None = None
) -> packing.PackedEpochs:
    """A task's batches, from its file, as one host of a stage sees them."""
    config = training_sets.DataConfig(rates=settings["rates"])
    found, _ = training_sets.open_task(
        settings["task"],
        directory / "triples.jsonl",
        toys.byte_tokenizer(),
        config=config,
        workdir=str(directory),
    )
    policy = example_sets.LengthPolicy(
        max_length=settings["row_length"], max_completion_length=150, overlong=settings["overlong"]
    )
    kept, _ = example_sets.within_length(found, policy)
    return packing.PackedEpochs(
        kept,
        row_length=settings["row_length"],
        rows_per_batch=ROWS_PER_BATCH,
        num_epochs=settings["num_epochs"],
        seed=3,
        own_rows=own_rows,
    )


def arrays_of(batch: packing.PackedBatch) -> np.ndarray:
    """All fields of a batch. [4, B, T]"""
    return np.stack([np.asarray(getattr(batch, name), np.int32) for name in FIELDS])


def position_in(directory: Path) -> int:
    """The step to go on with; 0 at first."""
    path = directory / "position"
    return int(path.read_text()) if path.exists() else 0


def read(
    directory: Path, settings: Mapping[str, Any], *, num_hosts: int, num_threads: int, halt: int | None = None
) -> None:
    """Goes on from the position to the end, or stands still before the step `halt`, threads reading ahead."""
    shares = np.split(np.arange(ROWS_PER_BATCH), num_hosts)
    hosts = [epochs_of(directory, settings, share.tolist()) for share in shares]
    first = position_in(directory)
    readers = [packing.read_ahead(host, first, num_threads=num_threads) for host in hosts]
    for step, parts in enumerate(zip(*readers, strict=True), start=first):
        while step == halt:
            time.sleep(1.0)
        batch = np.concatenate([arrays_of(part) for part in parts], axis=1)
        with open(directory / f"batch-{step:04d}.npy", "wb") as file:
            np.save(file, batch)
            file.flush()
            os.fsync(file.fileno())
        jsonl.write_atomically(directory / "position", str(step + 1).encode())


def start(directory: Path, settings: Mapping[str, Any], **how: int | None) -> subprocess.Popen:
    """`read` in a process of its own."""
    given = json.dumps([str(directory), settings, how])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.data.batch_reader", given]
    return subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)


if __name__ == "__main__":
    place, settings_given, how = json.loads(sys.argv[1])
    read(Path(place), settings_given, **how)
