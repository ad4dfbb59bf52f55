"""The steps that were dispatched and are not known to be done, and what is to be seen as soon as they are.

Here is the only place where the loop waits for steps, and it waits for old ones: the device always has the
next at hand. The batches of these few steps are held until it is known whether their updates were made.
"""

import collections
import logging
from typing import Any

from etils import epath

from promptcot_jax.data.packing import PackedBatch
from promptcot_jax.parallel import hosts
from promptcot_jax.trainers import nonfinite_batches

logger = logging.getLogger(__name__)

STEPS_IN_FLIGHT = 2  # more would only hold batches in memory


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
        path = nonfinite_batches.save_batch(self._directory, step, batch)
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
