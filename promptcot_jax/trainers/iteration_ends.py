"""What follows an iteration of self-play: the policy's evaluation, the row of metrics, a checkpoint, and
whether the run goes on.

The order is what makes a resumed run the same: what a step's row says is on disk before its checkpoint is, so
a run that goes on from there has nothing to look at again.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any

from promptcot_jax.core.arrays import Params
from promptcot_jax.core.errors import Interrupted
from promptcot_jax.core.progress import Progress
from promptcot_jax.parallel import hosts
from promptcot_jax.trainers.best_policy import BestPolicy
from promptcot_jax.trainers.goals import Goal
from promptcot_jax.trainers.held_out import HeldOut
from promptcot_jax.trainers.metrics import MetricsLog
from promptcot_jax.trainers.preemption import PreemptionGuard

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IterationEnds:
    """The ends of one attempt's iterations; a step is the number of iterations done.

    Attributes:
        save: writes the checkpoint of a step.
        policy: all parameters of a position.
        best: where the best policy is kept; None: nowhere.
        goal: at which the run ends; None: after all iterations.
    """

    num_iterations: int
    checkpoint_every: int
    rows: MetricsLog
    shown: Progress
    guard: PreemptionGuard
    save: Callable[[int, Any], None]
    policy: Callable[[Any], Params]
    held_out: HeldOut | None
    best: BestPolicy | None
    goal: Goal | None

    def begin(self, step: int, position: Any) -> bool:
        """Before the first iteration of the attempt: a new run evaluates the policy that it begins with.

        Returns: whether the run is over.
        """
        if step == 0 and self.held_out is not None:
            row = self._evaluated(self.held_out, 0, position)
            self.rows.write(0, row)
        else:
            row = self.rows.kept or {}
        is_over = step == self.num_iterations or self._is_reached(step, row)
        if not is_over:
            self._leave(step, self.guard.reason())
        return is_over

    def after(self, step: int, position: Any, row: Mapping[str, float]) -> bool:
        """After an iteration.

        Returns: whether the run is over.

        Raises:
            Interrupted: it is to leave here, with its checkpoint.
        """
        held_out, row = self.held_out, dict(row)
        is_last = step == self.num_iterations or self._is_reached(step, row)
        if held_out is not None and (is_last or step % held_out.config.every == 0):
            row |= self._evaluated(held_out, step, position)
        self._warn_of_unknown_goal(step, row)
        self.rows.write(step, row)
        self.shown.update(step, f"reward {row['reward']:.3f}")
        is_over = is_last or self._is_reached(step, row)
        reason = "" if is_over else self.guard.reason()
        if is_over or reason or step % self.checkpoint_every == 0:
            self.save(step, position)
        self._leave(step, reason)
        return is_over

    def _evaluated(self, held_out: HeldOut, step: int, position: Any) -> dict[str, float]:
        """The figures of the policy, which is kept where it is the best so far."""
        figures = held_out.measure(step, self.policy(position))
        if self.best is not None:
            self.best.offer(step, figures[self.best.metric], position.state.params)
        return figures

    def _is_reached(self, step: int, row: Mapping[str, Any]) -> bool:
        """Whether the run is where it was to go; the same on all hosts, whose clocks differ."""
        goal = self.goal
        if goal is None or not hosts.decided_by_first("goal", lambda: goal.is_reached(row)):
            return False
        log.info("the goal %s is reached after iteration %d", goal, step)
        return True

    def _warn_of_unknown_goal(self, step: int, row: Mapping[str, Any]) -> None:
        """Warns where an iteration's row lacks the metric that the run is to stop at, perhaps misspelt."""
        if self.goal is not None and self.goal.metric not in row and not self.goal.metric.startswith("eval/"):
            log.warning(
                "iteration %d has no '%s', at which the run is to stop; it has %s",
                step,
                self.goal.metric,
                ", ".join(row),
            )

    def _leave(self, step: int, reason: str) -> None:
        if reason:
            raise Interrupted(
                f"left after iteration {step} of {self.num_iterations} for {reason}, with a checkpoint; the "
                "same command goes on"
            )
