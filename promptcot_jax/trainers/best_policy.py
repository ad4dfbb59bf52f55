"""Keep-best-by-metric: the best policy that was evaluated so far, as a checkpoint of its own.

The checkpoint of a better policy is complete before the row of its iteration is written, and the one before
it goes only then. So a killed run finds the best of everything that it had evaluated. It may be of a later
iteration than the one that the run goes on from: it then stays until one is better, for the iterations in
between are made again to the same bits, and none of them was better.
"""

import contextlib
import dataclasses
from collections.abc import Callable

import jax
from etils import epath

from promptcot_jax.checkpoints.training import TrainingCheckpoints
from promptcot_jax.core.arrays import Params
from promptcot_jax.parallel import hosts
from promptcot_jax.trainers.train_step import TrainState

DIRECTORY = "best"
METRICS = ("eval/avg_at_k", "eval/pass_at_k")  # of which more is better


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
            state: after the last step, `step`; given up where the best policy is another, whose place on the
                devices it has.
        """
        if self.best is None or self.best.step == step:
            return state.params
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state.params
        )
        for leaf in jax.tree.leaves(state):
            leaf.delete()
        with _checkpoints(self._directory) as checkpoints:
            found = checkpoints.restore_latest(like)
        assert found is not None
        return found[1]


def remove(directory: epath.PathLike) -> None:
    """Deletes what was kept, once it is stored as the run's policy."""
    with _checkpoints(directory) as checkpoints:
        checkpoints.remove()


def _checkpoints(directory: epath.PathLike) -> contextlib.closing[TrainingCheckpoints]:
    return contextlib.closing(TrainingCheckpoints(epath.Path(directory) / DIRECTORY, keep=1))
