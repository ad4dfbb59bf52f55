"""Updates that were skipped because a gradient or loss was not finite: found without waiting, and kept.

`StepsInFlight` has the steps that were dispatched and are not known to be done, with their batches. It is the
only place where a loop waits for steps, and it waits for old ones: the device always has the next at hand.
The batch of a skipped update is kept for a look, as `nonfinite_batch_SSSSSSSS.npz`: the arrays of a
`PackedBatch` by name (those of `values` as `values/NAME`), as the step read them. `docs/watching.md` shows
how to decode one, and how to run the loss on it again.
"""

import collections
import logging
import os
from typing import Any

import numpy as np
from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.data.packing import PackedBatch
from promptcot_jax.parallel import hosts

logger = logging.getLogger(__name__)

STEPS_IN_FLIGHT = 2  # more would only hold batches in memory
KEPT = 3  # files, the newest; a run with a high limit must not fill the disk
_ARRAYS = ("token_ids", "segment_ids", "positions", "loss_mask", "prefix_ids")  # the last not of all batches
_VALUES = "values/"


class TooManySkippedUpdates(ArithmeticError):
    """Gradients or losses were infinite or NaN more often than `max_skipped` allows."""


class StepsInFlight:
    """At most `STEPS_IN_FLIGHT` steps with their batches; keeps the batches of updates that were skipped."""

    def __init__(self, directory: epath.PathLike, *, num_skipped: int, max_skipped: int):
        """Nothing is in flight.

        Args:
            directory: of the fit; of several hosts each keeps its rows of a batch in one of its number there.
            num_skipped: of the steps before.
            max_skipped: how many are tolerated.
        """
        self._directory = epath.Path(directory)
        if hosts.count() > 1:
            self._directory /= f"host_{hosts.index():03d}"
        self._num_skipped = num_skipped
        self._max_skipped = max_skipped
        self._steps: collections.deque[tuple[int, PackedBatch, Any]] = collections.deque()

    def add(self, step: int, batch: PackedBatch, num_skipped: Any) -> None:
        """Takes up a dispatched step, and settles the one `STEPS_IN_FLIGHT` before it.

        Args:
            num_skipped: a number of the step's metrics, still on the device: updates skipped by then.

        Raises:
            TooManySkippedUpdates: see `settle`.
        """
        num_skipped.copy_to_host_async()
        self._steps.append((step, batch, num_skipped))
        self.settle(STEPS_IN_FLIGHT)

    def settle(self, num_left: int = 0) -> None:
        """Waits for all but the newest steps; the batch of a skipped update is saved.

        Raises:
            TooManySkippedUpdates: it was one too many.
        """
        while len(self._steps) > num_left:
            step, batch, num_skipped = self._steps.popleft()
            if (count := int(num_skipped)) > self._num_skipped:
                self._num_skipped = count
                self._report(step, batch)

    def is_idle(self) -> bool:
        """Whether the device has done all that it was given."""
        return not self._steps or self._steps[-1][2].is_ready()

    def _report(self, step: int, batch: PackedBatch) -> None:
        path = save_batch(self._directory, step, batch)
        if self._num_skipped > self._max_skipped:
            raise TooManySkippedUpdates(
                f"By step {step}, {self._num_skipped} updates had a gradient or a loss that was not finite "
                f"(max_skipped is {self._max_skipped}). The batch of step {step} is in {path}: "
                "promptcot_jax.trainers.nonfinite_batches.load_batch reads it, docs/watching.md shows how "
                "to look at it. Lower learning_rate, lengthen warmup_steps, or use float32; metrics.jsonl "
                "shows the steps before."
            )
        logger.warning(
            "step %d: gradient or loss not finite, no update (%d so far, max_skipped %d); its batch is in %s",
            step,
            self._num_skipped,
            self._max_skipped,
            path,
        )


def save_batch(directory: epath.PathLike, step: int, batch: PackedBatch) -> str:
    """Writes the batch of one step, whole or not at all, and removes all but the newest; returns its path."""
    path = epath.Path(directory) / f"nonfinite_batch_{step:08d}.npz"
    of_rows = {name: getattr(batch, name) for name in _ARRAYS}
    arrays: dict[str, Any] = {name: np.asarray(rows) for name, rows in of_rows.items() if rows is not None}
    arrays |= {f"{_VALUES}{name}": np.asarray(value) for name, value in batch.values.items()}
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
        return PackedBatch(**{name: arrays[name] for name in _ARRAYS if name in arrays}, values=values)
