"""What a self-play run is after: a goal at which it ends, and the best policy that it evaluated.

The checkpoint of a better policy is complete before the row of its iteration is written, and the one before
it goes only then. So a killed run finds the best of everything that it had evaluated. It may be of a later
iteration than the one that the run goes on from: it then stays until one is better, for the iterations in
between are made again to the same bits, and none of them was better.
"""

import contextlib
import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import jax
from etils import epath

from promptcot_jax.checkpoints.training import TrainingCheckpoints
from promptcot_jax.core.arrays import Params
from promptcot_jax.parallel import hosts
from promptcot_jax.trainers.train_step import TrainState, delete_arrays

DIRECTORY = "best"
BestBy = Literal["eval/avg_at_k", "eval/pass_at_k"]  # metrics of which more is better
_FORM = re.compile(r"\s*([\w/.]+)\s*(>=|<=)\s*(\S+)\s*")


@dataclasses.dataclass(frozen=True)
class Goal:
    """A metric and the bound at which a run ends."""

    metric: str
    sign: Literal[">=", "<="]
    bound: float

    @classmethod
    def of(cls, text: str) -> "Goal":
        """A goal as settings state it.

        Raises:
            ValueError: the text is none.
        """
        found = _FORM.fullmatch(text)
        try:
            bound = float(found[3]) if found else math.nan
        except ValueError:
            bound = math.nan
        if found is None or not math.isfinite(bound):
            raise ValueError(f"{text!r} is no goal; write it as in 'eval/avg_at_k >= 0.9', with >= or <=.")
        return cls(found[1], cast(Literal[">=", "<="], found[2]), bound)

    def is_reached(self, row: Mapping[str, Any]) -> bool:
        """Whether an iteration's row is there; not where it lacks the metric or has no number for it."""
        value = row.get(self.metric)
        if value is None:
            return False
        return value >= self.bound if self.sign == ">=" else value <= self.bound

    def __str__(self) -> str:
        return f"{self.metric} {self.sign} {self.bound:g}"


@dataclasses.dataclass(frozen=True)
class Best:
    """Which policy is kept, and why."""

    step: int  # iterations that made it
    metric: str
    value: float


class BestPolicy:
    """The best policy of a run under `directory`; of equals the earliest."""

    def __init__(self, directory: epath.PathLike, metric: str, *, value_at: Callable[[int], float]):
        """Looks for what an earlier attempt kept.

        Args:
            value_at: the metric of an evaluation that was made before, by its step.
        """
        self._directory, self.metric = directory, metric
        with _checkpoints(directory) as checkpoints:
            steps = hosts.decided_by_first("best policy", checkpoints.complete_steps)
        self.best = Best(steps[-1], metric, value_at(steps[-1])) if steps else None

    def offer(self, step: int, value: float, trained: Params) -> None:
        """Keeps what is trained of a policy that is better than all before; returns when it is on disk."""
        if value > (self.best.value if self.best else float("-inf")):  # never where it is no number
            with _checkpoints(self._directory) as checkpoints:
                checkpoints.save(step, trained)
            self.best = Best(step, self.metric, value)

    def chosen(self, step: int, state: TrainState) -> Params:
        """What is trained of the best policy, at the end of a run.

        Args:
            state: after the last step, `step`; donated where the best policy is another one, which takes over
                its shardings.
        """
        if self.best is None or self.best.step == step:
            return state.params
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state.params
        )
        delete_arrays(state)
        with _checkpoints(self._directory) as checkpoints:
            found = checkpoints.restore_latest(like)
        assert found is not None
        return found[1]


def remove_best(directory: epath.PathLike) -> None:
    """Deletes what was kept, once it is stored as the run's policy."""
    with _checkpoints(directory) as checkpoints:
        checkpoints.remove()


def _checkpoints(directory: epath.PathLike) -> contextlib.closing[TrainingCheckpoints]:
    return contextlib.closing(TrainingCheckpoints(epath.Path(directory) / DIRECTORY, keep=1))
