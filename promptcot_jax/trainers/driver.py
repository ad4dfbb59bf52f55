"""The one driver of runs: restore, step, record, checkpoint, leave.

A fit, self-play and the rounds of EM are each a `Run`; `drive` takes it to its end.

* restore: the newest state that is whole on disk, or the one before the first step.
* step: gives the next state and donates the one before. It may return while devices still work on it.
* record: where a row is due, writes what the step came to. Only here the host waits for the devices.
* checkpoint: after the row, every `checkpoint_every` steps, at the end, and before the run leaves.
* leave: at a step with a row, where SIGTERM came or a deadline is near.

A row is on disk before the checkpoint of its step, so a run that goes on from there has nothing to measure
again. A run whose steps are functions of its settings and its state ends in the same bits wherever an attempt
was killed.
"""

import abc
import contextlib
from typing import ClassVar, Generic, TypeVar

from promptcot_jax.core.errors import Interrupted
from promptcot_jax.core.settings import NonNegativeInt, PositiveInt, settings
from promptcot_jax.models.decoder import Remat
from promptcot_jax.trainers.watching import NOT_WATCHED, PreemptionGuard, WatchConfig

State = TypeVar("State")


@settings
class RunConfig:
    """What fits and self-play have in common; nothing here changes what is learned, but for rounding."""

    EXECUTION_ONLY: ClassVar = frozenset(
        {"micro_batches", "remat", "checkpoint_every", "keep", "max_skipped", "tensorboard", "watch"}
    )

    micro_batches: PositiveInt = 1  # parts of a batch whose gradients are computed one after the other
    # What the backward pass keeps of each layer instead of computing it again: "none" (everything is kept),
    # "projections", "offload" (the same, in the host's memory) or "full" (the layer's input only).
    remat: Remat = "projections"
    checkpoint_every: PositiveInt = 200
    keep: PositiveInt = 2  # complete checkpoints that stay
    max_skipped: NonNegativeInt = 10  # updates with a non-finite gradient or loss that are tolerated
    tensorboard: bool = True
    watch: WatchConfig = NOT_WATCHED  # where metrics go, and until when the run may last


class Run(abc.ABC, Generic[State]):
    """Steps with numbers from 1, and a state after each.

    Attributes:
        unit: what a step is called in messages.
        num_steps: at most; a goal or a stop rule may end the run before (`begin`, `record`).
        checkpoint_every: steps.
    """

    unit: ClassVar[str] = "step"
    num_steps: int
    checkpoint_every: int

    @abc.abstractmethod
    def restore(self) -> tuple[int, State]:
        """How many steps are done and the state after them, from a checkpoint or the steps' own files."""

    def attempt(self, step: int) -> contextlib.AbstractContextManager[PreemptionGuard | None]:
        """Opens what an attempt writes to from `step` on; its guard, if any, says when to leave."""
        return contextlib.nullcontext()

    def begin(self, step: int, state: State) -> bool:
        """Called once before the first step of an attempt; whether the run is over already."""
        return False

    @abc.abstractmethod
    def step(self, step: int, state: State) -> State:
        """Makes one step, or gives it to the devices."""

    @abc.abstractmethod
    def record(self, step: int, state: State) -> bool | None:
        """Writes a step's row; whether the run is over. None: no row is due, and nothing was waited for."""

    def save(self, step: int, state: State) -> None:
        """Writes a checkpoint; nothing where the files of a step are its checkpoint."""


def drive(run: Run[State]) -> tuple[int, State]:
    """Takes a run from where an earlier attempt left it to its end: the steps made in all, and the state.

    Raises:
        Interrupted: it left before its end, with a checkpoint.
    """
    step, state = run.restore()
    if step == run.num_steps:
        return step, state
    with run.attempt(step) as guard:
        is_over = run.begin(step, state)
        while not is_over:
            step += 1
            state = run.step(step, state)
            recorded = run.record(step, state)
            if recorded is None:
                continue
            is_over = recorded
            reason = "" if is_over or guard is None else guard.reason()
            if is_over or reason or step % run.checkpoint_every == 0:
                run.save(step, state)
            leave_for(reason, run, step)
    return step, state


def leave_for(reason: str, run: Run[State], step: int) -> None:
    """Ends an attempt after `step`, unless the reason is empty.

    Raises:
        Interrupted: there is a reason.
    """
    if reason:
        raise Interrupted(
            f"left after {run.unit} {step} of {run.num_steps} for {reason}, with a checkpoint; the same "
            "command goes on"
        )
