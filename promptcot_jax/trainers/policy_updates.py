"""Updates of one self-play iteration: rollouts with the log-probabilities the method needs, then steps.

Old log-probabilities, to which GRPO's ratios refer, are those of the policy before the iteration's first
update, which is DPO's reference too, whichever policy drew the iteration (`run_ahead`): what lies between
that one and the sampler's log-probabilities is made up for by `sampler_correction`.
"""

import dataclasses
import itertools
import logging
import math
from collections.abc import Sequence

import jax
import numpy as np
from etils import epath

from promptcot_jax.checkpoints import store
from promptcot_jax.core import prng
from promptcot_jax.core.arrays import Params
from promptcot_jax.data.examples import TokenExample
from promptcot_jax.models.language_model import LanguageModel
from promptcot_jax.parallel import placing
from promptcot_jax.sampling import scoring
from promptcot_jax.trainers import reference_cache
from promptcot_jax.trainers.dpo import DpoConfig
from promptcot_jax.trainers.grpo import GrpoConfig
from promptcot_jax.trainers.in_flight import StepsInFlight
from promptcot_jax.trainers.minibatches import Minibatches
from promptcot_jax.trainers.reference_cache import ReferenceCache, ScoredBy
from promptcot_jax.trainers.rejection import RejectionConfig
from promptcot_jax.trainers.rollout_groups import Group
from promptcot_jax.trainers.train_step import TrainState, TrainStep

Method = GrpoConfig | DpoConfig | RejectionConfig
Unit = tuple[TokenExample, ...]  # what must share a row

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyUpdates:
    """How an iteration's rollouts become updates.

    Attributes:
        groups_per_iteration: how many groups a full iteration has.
        most_updates: of the whole run, where the learning rate's schedule ends.
        temperature: of the sampling.
        use_rollout_logps: whether old log-probabilities are the sampler's.
        directory: for the batches of skipped updates.
        references: where the reference's log-probabilities are kept.
        seed: of the order within iterations.
    """

    lm: LanguageModel
    method: Method
    step: TrainStep
    groups_per_iteration: int
    num_minibatches: int
    num_passes: int
    most_updates: int
    row_length: int
    temperature: float
    use_rollout_logps: bool
    score_tokens: int
    max_skipped: int
    pad_id: int
    directory: epath.Path
    references: ReferenceCache
    seed: int

    def units(
        self, iteration: int, groups: Sequence[Group], params: Params, start: Params | None
    ) -> list[Unit]:
        """What the method learns from, with the log-probabilities that it needs.

        A unit with a number that is not finite is left out.

        Args:
            params: of the policy before the iteration's first update.
            start: of the policy at the start, where it is the reference.
        """
        units = self.method.units_of(groups, num_groups=self.groups_per_iteration)
        rows, names = [row for unit in units for row in unit], self.method.value_names
        if not rows:
            return []
        columns = {name: [row.token_values[name] for row in rows] for name in rows[0].token_values}
        if "reference_log_probs" in names:
            columns["reference_log_probs"] = self._reference_scores(
                iteration, rows, params if start is None else start
            )
        if "old_log_probs" in names:
            columns["old_log_probs"] = (
                columns["sampler_log_probs"] if self.use_rollout_logps else self._scores(rows, params)
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
                "pairs" if isinstance(self.method, DpoConfig) else "completions",
            )
        return finite

    def _reference_scores(
        self, iteration: int, rows: Sequence[TokenExample], reference: Params
    ) -> list[np.ndarray]:
        """As `_scores`, kept for when the iteration is made again."""
        scored_by = ScoredBy(
            reference=store.params_digest(reference),
            temperature=self.method.scoring_temperature(self.temperature),
            sequences=reference_cache.digest_of(rows),
            devices=reference_cache.devices_of_mesh(),
        )
        lengths = [len(row.completion_ids) for row in rows]
        return self.references.scores(iteration, scored_by, lengths, lambda: self._scores(rows, reference))

    def _scores(self, rows: Sequence[TokenExample], params: Params) -> list[np.ndarray]:
        """Log-probabilities of the completions' tokens."""
        return scoring.score(
            self.lm,
            params,
            [row.prompt_ids.tolist() for row in rows],
            [row.completion_ids.tolist() for row in rows],
            temperature=self.method.scoring_temperature(self.temperature),
            batch_tokens=self.score_tokens,
            pad_id=self.pad_id,
        )

    def update(
        self, iteration: int, units: Sequence[Unit], state: TrainState, frozen: Params
    ) -> tuple[TrainState, dict[str, float]]:
        """The state after the iteration's updates, and their figures.

        Raises:
            in_flight.TooManySkippedUpdates: more than `max_skipped` updates were not finite.
        """
        step = self.step
        batches = Minibatches(
            units,
            num_minibatches=self.num_minibatches,
            num_passes=self.num_passes,
            row_length=self.row_length,
            rows_multiple=step.rows_multiple,
            seed=prng.derived_seed(self.seed, iteration),
            value_names=self.method.value_names,
            pad_id=self.pad_id,
        )
        batches.own_rows = placing.own_rows(step.batch_sharding, batches.rows_per_batch)
        in_flight = StepsInFlight(
            self.directory, num_skipped=int(state.num_skipped), max_skipped=self.max_skipped
        )
        first, pending = int(state.step) + 1, []
        for i in range(batches.num_steps):
            batch = batches.batch(i)
            placed = step.place(batch, batches)
            state, metrics = step.run(state, placed, np.int32(self.most_updates), frozen)
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
            **self.method.figures_of([metrics["figures"] for metrics in done if "figures" in metrics]),
        }


def _is_finite(row: TokenExample) -> bool:
    return all(np.isfinite(numbers).all() for numbers in row.token_values.values())
