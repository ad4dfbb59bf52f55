"""Updates of one self-play iteration: rollouts with the log-probabilities the algorithm needs, then steps.

Old log-probabilities, to which GRPO's ratios refer, are those of the policy before the iteration's first
update, which is DPO's reference too. They are not those of the policy that drew the iteration, which may be
an older one (`rollout_collector`): `sampler_correction` makes up for what lies between that policy's
log-probabilities and these.

An iteration's units are shuffled and cut into minibatches, each packed into rows. A minibatch has its share
of the units, however long they are, so that an iteration makes the same number of updates whatever was drawn.
Its rows are as many as the fullest minibatch needs, rounded up to one of a few counts: an iteration's shape
is one of a few, and a function of the iteration alone.
"""

import dataclasses
import itertools
import logging
import math
from collections.abc import Sequence

import jax
import numpy as np
from etils import epath

from promptcot_jax.core import prng
from promptcot_jax.core.arrays import Params
from promptcot_jax.data import packing
from promptcot_jax.data.examples import TokenExample
from promptcot_jax.data.packing import PackedBatch
from promptcot_jax.models.language_model import LanguageModel
from promptcot_jax.parallel import placing
from promptcot_jax.sampling import batching, scoring
from promptcot_jax.trainers.algorithm import Algorithm, Group, Unit
from promptcot_jax.trainers.nonfinite_batches import StepsInFlight
from promptcot_jax.trainers.self_play_config import SelfPlayConfig
from promptcot_jax.trainers.train_step import TrainState, TrainStep

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyUpdates:
    """How an iteration's rollouts become updates.

    Attributes:
        row_length: tokens of a row.
        temperature: of the sampling.
        directory: for the batches of skipped updates.
        seed: of the order within iterations.
    """

    lm: LanguageModel
    algorithm: Algorithm
    config: SelfPlayConfig
    step: TrainStep
    row_length: int
    temperature: float
    pad_id: int
    directory: epath.Path
    seed: int

    def units(
        self, iteration: int, groups: Sequence[Group], params: Params, reference_params: Params
    ) -> list[Unit]:
        """What the algorithm learns from, with the log-probabilities that it needs.

        A unit with a number that is not finite is left out.

        Args:
            params: of the policy before the iteration's first update.
            reference_params: of the reference.
        """
        units = self.algorithm.units_of(groups, num_groups=self.config.prompts_per_iteration)
        rows, names = [row for unit in units for row in unit], self.algorithm.value_names
        if not rows:
            return []
        columns = {name: [row.token_values[name] for row in rows] for name in rows[0].token_values}
        if "reference_log_probs" in names:
            columns["reference_log_probs"] = self._scores(rows, reference_params)
        if "old_log_probs" in names:
            is_sampled = self.config.old_log_probs == "sampled"
            columns["old_log_probs"] = (
                columns["sampler_log_probs"] if is_sampled else self._scores(rows, params)
            )
        scored = iter(
            dataclasses.replace(row, token_values={name: columns[name][i] for name in names})
            for i, row in enumerate(rows)
        )
        complete = [tuple(itertools.islice(scored, len(unit))) for unit in units]
        finite = [unit for unit in complete if all(_is_finite(row) for row in unit)]
        if len(finite) < len(units):
            log.warning(
                "iteration %d: %d of %d %s left out, with a log-probability that is no number",
                iteration,
                len(units) - len(finite),
                len(units),
                self.algorithm.unit_name,
            )
        return finite

    def _scores(self, rows: Sequence[TokenExample], params: Params) -> list[np.ndarray]:
        """Log-probabilities of the completions' tokens."""
        return scoring.score(
            self.lm,
            params,
            [row.prompt_ids.tolist() for row in rows],
            [row.completion_ids.tolist() for row in rows],
            temperature=self.algorithm.scoring_temperature(self.temperature),
            batch_tokens=self.config.score_tokens,
            pad_id=self.pad_id,
        )

    def update(
        self, iteration: int, units: Sequence[Unit], state: TrainState, frozen: Params
    ) -> tuple[TrainState, dict[str, float]]:
        """The state after the iteration's updates, and their figures.

        Raises:
            nonfinite_batches.TooManySkippedUpdates: more than `max_skipped` updates were not finite.
        """
        step, config = self.step, self.config
        batches = Minibatches(
            units,
            num_minibatches=config.minibatches_per_iteration,
            num_passes=config.passes_per_iteration,
            row_length=self.row_length,
            rows_multiple=step.rows_multiple,
            seed=prng.derived_seed(self.seed, iteration),
            value_names=self.algorithm.value_names,
            pad_id=self.pad_id,
        )
        batches.own_rows = placing.own_rows(step.batch_sharding, batches.rows_per_batch)
        in_flight = StepsInFlight(
            self.directory, num_skipped=int(state.num_skipped), max_skipped=config.max_skipped
        )
        schedule_end = np.int32(config.num_iterations * config.updates_per_iteration)
        first, pending = int(state.step) + 1, []
        for i in range(batches.num_steps):
            batch = batches.batch(i)
            placed = step.place(batch, batches)
            state, metrics = step.run(state, placed, schedule_end, frozen)
            in_flight.add(first + i, batch, metrics["num_skipped"])
            pending.append(metrics)
        in_flight.settle()
        done = jax.device_get(pending)
        total, count = (sum(float(metrics[name]) for metrics in done) for name in ("total", "count"))
        return state, {
            "loss": total / count if count else math.nan,
            "grad_norm": float(np.mean([metrics["gradient_norm"] for metrics in done])),
            "learning_rate": float(done[-1]["learning_rate"]),
            "updates": len(done),
            "num_skipped": int(done[-1]["num_skipped"]),
            "num_tokens": sum(float(metrics["tokens"]) for metrics in done),
            **self.algorithm.loss(self.temperature).metrics_of(
                [metrics["figures"] for metrics in done if "figures" in metrics]
            ),
        }


def _is_finite(row: TokenExample) -> bool:
    return all(np.isfinite(numbers).all() for numbers in row.token_values.values())


class Minibatches:
    """A `BatchSource` of `num_passes` over the units in `num_minibatches` each, fewer where units are few.

    Attributes:
        rows_per_batch: a multiple of `rows_multiple`.
        own_rows: all of them, until a host sets its own.
    """

    def __init__(
        self,
        units: Sequence[tuple[TokenExample, ...]],
        *,
        num_minibatches: int,
        num_passes: int,
        row_length: int,
        rows_multiple: int,
        seed: int,
        value_names: Sequence[str],
        pad_id: int = 0,
    ):
        """Draws the orders and packs the lengths.

        Raises:
            ValueError: there are no units, or one is longer than a row.
        """
        if not units:
            raise ValueError("There is nothing to train on.")
        self._units, self._row_length = units, row_length
        self._value_names, self._pad_id = value_names, pad_id
        num_minibatches = min(num_minibatches, len(units))
        self._members: list[np.ndarray] = []
        for number in range(num_passes):
            order = prng.stream_generator(seed, "order", number).permutation(len(units))
            self._members += np.array_split(order, num_minibatches)
        most_rows = 1 + max(int(self._rows_of(members).max()) for members in self._members)
        self.rows_per_batch = _whole(most_rows, rows_multiple)
        self.own_rows: Sequence[int] = range(self.rows_per_batch)

    def _rows_of(self, members: np.ndarray) -> np.ndarray:
        lengths = [sum(example.length for example in self._units[i]) for i in members]
        return packing.first_fit(lengths, self._row_length)

    @property
    def num_steps(self) -> int:
        """Updates of the iteration."""
        return len(self._members)

    def batch(self, step: int) -> PackedBatch:
        """The minibatch of one update, or this host's rows of it."""
        members = self._members[step]
        rows: list[list[TokenExample]] = [[] for _ in range(self.rows_per_batch)]
        for i, row in zip(members, self._rows_of(members), strict=True):
            rows[row] += self._units[i]
        return packing.pack_rows(
            [rows[row] for row in self.own_rows],
            num_rows=len(self.own_rows),
            row_length=self._row_length,
            value_names=self._value_names,
            pad_id=self._pad_id,
        )


def most_rows(num_units: int, unit_length: int, *, row_length: int, rows_multiple: int) -> int:
    """`rows_per_batch` of so many units in a minibatch, each as long as one may be."""
    return _whole(-(-num_units // (row_length // unit_length)), rows_multiple)


def _whole(num_rows: int, multiple: int) -> int:
    return batching.few_counts(-(-num_rows // multiple)) * multiple
