"""The batches whose gradient or loss was not finite, kept for a look: `nonfinite_batch_SSSSSSSS.npz`.

A file holds the arrays of a `PackedBatch` by name (those of `values` as `values/NAME`), as the step read
them. `docs/watching.md` shows how to decode one, and how to run the loss on it again.
"""

import os
from typing import Any

import numpy as np
from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.data.packing import PackedBatch

KEPT = 3  # the newest; a run with a high limit must not fill the disk
_ARRAYS = ("token_ids", "segment_ids", "positions", "loss_mask")
_VALUES = "values/"


def save_batch(directory: epath.PathLike, step: int, batch: PackedBatch) -> str:
    """Writes the batch of one step, whole or not at all, and removes all but the newest; returns its path."""
    path = epath.Path(directory) / f"nonfinite_batch_{step:08d}.npz"
    arrays: dict[str, Any] = {name: np.asarray(getattr(batch, name)) for name in _ARRAYS} | {
        f"{_VALUES}{name}": np.asarray(value) for name, value in batch.values.items()
    }
    with jsonl.atomic_stream(path) as file:
        np.savez(file, **arrays)
    for old in saved_batches(directory)[:-KEPT]:
        old.unlink()
    return os.fspath(path)


def saved_batches(directory: epath.PathLike) -> list[epath.Path]:
    """The files of a fit's directory, oldest step first."""
    return sorted(epath.Path(directory).glob("nonfinite_batch_*.npz"))


def load_batch(path: epath.PathLike) -> PackedBatch:
    """Reads what `save_batch` wrote."""
    with epath.Path(path).open("rb") as file, np.load(file) as arrays:
        values = {name.removeprefix(_VALUES): arrays[name] for name in arrays if name.startswith(_VALUES)}
        return PackedBatch(**{name: arrays[name] for name in _ARRAYS}, values=values)
