"""What follows a wave of self-play: the policy's evaluation, the row of metrics, and a checkpoint.

The order is what makes a resumed run the same: what a step's row says is on disk before its checkpoint is, so
a run that goes on from there has nothing to look at again.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from promptcot_jax.core.arrays import Params
from promptcot_jax.core.progress import Progress
from promptcot_jax.trainers.held_out import HeldOut
from promptcot_jax.trainers.metrics import MetricsLog


@dataclasses.dataclass(frozen=True, kw_only=True)
class WaveEnds:
    """The ends of one attempt's waves; a step is the number of waves done.

    Attributes:
        save: writes the checkpoint of a step.
        policy: all parameters of a position.
    """

    num_waves: int
    checkpoint_every: int
    rows: MetricsLog
    shown: Progress
    save: Callable[[int, Any], None]
    policy: Callable[[Any], Params]
    held_out: HeldOut | None

    def begin(self, step: int, position: Any) -> None:
        """Before the first wave of the attempt: a new run evaluates the policy that it begins with."""
        if step == 0 and self.held_out is not None:
            self.rows.write(0, self._evaluated(self.held_out, 0, position))

    def after(self, step: int, position: Any, row: Mapping[str, float]) -> None:
        """After a wave."""
        held_out, is_last = self.held_out, step == self.num_waves
        row = dict(row)
        if held_out is not None and (is_last or step % held_out.config.every == 0):
            row |= self._evaluated(held_out, step, position)
        self.rows.write(step, row)
        self.shown.update(step, f"reward {row['reward']:.3f}")
        if step % self.checkpoint_every == 0:
            self.save(step, position)

    def _evaluated(self, held_out: HeldOut, step: int, position: Any) -> dict[str, float]:
        return held_out.measure(step, self.policy(position))
