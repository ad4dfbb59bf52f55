"""Updates of one self-play iteration: rollouts with the log-probabilities the algorithm needs, then steps.

Old log-probabilities, to which GRPO's ratios refer, are those of the policy before the iteration's first
update, which is DPO's reference too. They are not those of the policy that drew the iteration, which may be
an older one (`rollout_collector`): `sampler_correction` makes up for what lies between that policy's
log-probabilities and these.

An iteration's units are shuffled, by GRPO prompt by prompt, and dealt out evenly to as few minibatches as
hold them all at `units_per_update` each, which are packed into rows: a few units are one update, not many of
one unit. None is left over for the next iteration, where its old log-probabilities would be another policy's.
Units that lie in one row and have one prompt share it: it is computed once (`packing.pack_rows`). The rows
are as many as the fullest minibatch needs, rounded up to one of a few counts: an iteration's shape is one of
a few, and a function of the iteration alone.

Old and reference log-probabilities are computed on the minibatches of the first pass (`packed_scores`), so
that before the first update a ratio is 1 and a margin of DPO 0.
"""

import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np
from etils import epath

from promptcot_jax.core import prng
from promptcot_jax.core.arrays import Params
from promptcot_jax.data import packing
from promptcot_jax.data.examples import TokenExample
from promptcot_jax.data.packing import PackedBatch
from promptcot_jax.models import language_model
from promptcot_jax.models.language_model import LanguageModel
from promptcot_jax.parallel import placing
from promptcot_jax.sampling import batching
from promptcot_jax.trainers import packed_scores
from promptcot_jax.trainers.algorithm import Algorithm, Group, Unit
from promptcot_jax.trainers.nonfinite_batches import StepsInFlight
from promptcot_jax.trainers.self_play_config import SelfPlayConfig
from promptcot_jax.trainers.train_step import TrainState, TrainStep
from promptcot_jax.trainers.update_checkpoints import Reported

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
        names = self.algorithm.value_names
        policies = {} if self.config.old_log_probs == "sampled" else {"old_log_probs": params}
        policies["reference_log_probs"] = reference_params
        return self._scored(iteration, units, {name: policies[name] for name in names if name in policies})

    def _scored(self, iteration: int, units: list[Unit], policies: Mapping[str, Params]) -> list[Unit]:
        """The units with their log-probabilities under the policies."""
        if not units:
            return []
        names, scores = self.algorithm.value_names, self._scores(iteration, units, policies)

        def with_values(row: TokenExample, scored: Mapping[str, np.ndarray]) -> TokenExample:
            values = {**row.token_values, **scored}
            if "old_log_probs" in names and "old_log_probs" not in policies:
                values["old_log_probs"] = values["sampler_log_probs"]
            return dataclasses.replace(row, token_values={name: values[name] for name in names})

        complete = [
            tuple(with_values(row, scored) for row, scored in zip(unit, of_unit, strict=True))
            for unit, of_unit in zip(units, scores, strict=True)
        ]
        finite = [all(map(_is_finite, unit)) for unit in complete]
        if all(finite):
            return complete
        log.warning(
            "iteration %d: %d of %d %s left out, with a log-probability that is no number",
            iteration,
            len(units) - sum(finite),
            len(units),
            self.algorithm.unit_name,
        )
        # The others are dealt anew, and scored in the rows in which they will be learned from.
        rest = [unit for unit, is_finite in zip(units, finite, strict=True) if is_finite]
        return self._scored(iteration, rest, policies)

    def _scores(
        self, iteration: int, units: Sequence[Unit], policies: Mapping[str, Params]
    ) -> list[list[dict[str, np.ndarray]]]:
        """For each sequence of each unit the log-probabilities of its completion under the policies."""
        scores: list[list[dict[str, np.ndarray]]] = [[{} for _ in unit] for unit in units]
        if not policies:
            return scores
        minibatches, step_config = self._minibatches(iteration, units, value_names=()), self.step.config
        score = functools.partial(
            packed_scores.score,
            self.lm,
            temperature=self.algorithm.scoring_temperature(self.temperature),
            micro_batches=step_config.micro_batches,
            remat=step_config.remat,
            sharding=self.step.batch_sharding,
        )
        pending = []
        for i in range(minibatches.steps_of_pass):
            placed = self.step.place(minibatches.batch(i), minibatches)
            pending.append({name: score(params=params, batch=placed) for name, params in policies.items()})
        for i, found in enumerate(jax.device_get(pending)):
            for unit, sequence, row, where in minibatches.places(i):
                scores[unit][sequence] = {name: values[row, where] for name, values in found.items()}
        return scores

    def _minibatches(
        self, iteration: int, units: Sequence[Unit], value_names: Sequence[str]
    ) -> "Minibatches":
        """The same ones whatever values come with the tokens."""
        batches = Minibatches(
            units,
            num_minibatches=self.config.num_minibatches(len(units)),
            num_passes=self.config.passes_per_iteration,
            row_length=self.row_length,
            rows_multiple=self.step.rows_multiple,
            seed=prng.derived_seed(self.seed, iteration),
            value_names=value_names,
            keeps_prompts_together=self.algorithm.keeps_prompts_together,
            prefix_capacity=language_model.prefix_capacity(self.lm, self.row_length),
            pad_id=self.pad_id,
        )
        batches.own_rows = placing.own_rows(self.step.batch_sharding, batches.rows_per_batch)
        return batches

    def update(
        self,
        iteration: int,
        units: Sequence[Unit],
        state: TrainState,
        frozen: Params,
        *,
        reported: Sequence[Reported] = (),
        save: Callable[[TrainState, Sequence[Reported]], None] | None = None,
    ) -> tuple[TrainState, dict[str, float]]:
        """The state after the iteration's updates, and their figures.

        Args:
            reported: by those that an earlier attempt made, with which the state begins.
            save: called after every `updates_per_checkpoint` updates, but not after the last.

        Raises:
            nonfinite_batches.TooManySkippedUpdates: more than `max_skipped` updates were not finite.
        """
        step, config = self.step, self.config
        batches = self._minibatches(iteration, units, self.algorithm.value_names)
        in_flight = StepsInFlight(
            self.directory, num_skipped=int(state.num_skipped), max_skipped=config.max_skipped
        )
        # Of the learning rate: the last update, if later iterations make as many as those so far on average.
        first, finished = int(state.step) - len(reported), list(reported)
        so_far = first + batches.num_steps
        schedule_end = np.int32(math.ceil(so_far * config.num_iterations / (iteration + 1)))
        pending, metrics = [], {}
        for i in range(len(finished), batches.num_steps):
            batch = batches.batch(i)
            placed = step.place(batch, batches)
            state, metrics = step.run(state, placed, schedule_end, frozen)
            in_flight.add(first + i + 1, batch, metrics["num_skipped"])
            pending.append(jax.tree.leaves(metrics))
            if save is not None and i + 1 < batches.num_steps and self._is_due(i + 1):
                in_flight.settle()
                finished += jax.device_get(pending)
                pending = []
                save(state, finished)
        in_flight.settle()
        structure = jax.tree.structure(metrics)
        done = [jax.tree.unflatten(structure, leaves) for leaves in finished + jax.device_get(pending)]
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

    def num_updates(self, num_units: int) -> int:
        """Of an iteration with so many units."""
        return self.config.num_minibatches(num_units) * self.config.passes_per_iteration

    def _is_due(self, num_done: int) -> bool:
        every = self.config.updates_per_checkpoint
        return every > 0 and num_done % every == 0


def _prompt(unit: Unit) -> bytes:
    return unit[0].prompt_ids.tobytes()


def _is_finite(row: TokenExample) -> bool:
    return all(np.isfinite(numbers).all() for numbers in row.token_values.values())


class Minibatches:
    """A `BatchSource` of `num_passes` over the units in `num_minibatches` each, none of them empty.

    Attributes:
        steps_of_pass: updates of one pass.
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
        keeps_prompts_together: bool = False,
        prefix_capacity: int = 0,
        pad_id: int = 0,
    ):
        """Draws the orders and packs the lengths.

        Args:
            keeps_prompts_together: units of one prompt are in one minibatch, or in two in a row.
            prefix_capacity: of `packing.pack_rows`.

        Raises:
            ValueError: there are fewer units than minibatches, or one is longer than a row.
        """
        if not 0 < num_minibatches <= len(units):
            raise ValueError(f"{len(units)} units do not make {num_minibatches} minibatches.")
        self._units, self._row_length, self._prefix_capacity = units, row_length, prefix_capacity
        self._value_names, self._pad_id = value_names, pad_id
        self.steps_of_pass = num_minibatches
        # By its prompt's number, in the order of the prompts' first units.
        numbers: dict[bytes, int] = {}
        prompt_of = np.array([numbers.setdefault(_prompt(unit), len(numbers)) for unit in units], np.int64)

        def by_prompt(order: np.ndarray) -> np.ndarray:
            """Units of one prompt together, prompts in the order of their first units."""
            first = np.unique(prompt_of[order], return_index=True, return_inverse=True)
            return order[np.argsort(first[1][first[2]], kind="stable")]

        self._members: list[np.ndarray] = []
        for number in range(num_passes):
            order = prng.stream_generator(seed, "order", number).permutation(len(units))
            order = by_prompt(order) if keeps_prompts_together else order
            self._members += map(by_prompt, np.array_split(order, num_minibatches))
        self._rows = [self._rows_of(members) for members in self._members]
        most_rows = 1 + max(int(rows.max()) for rows in self._rows)
        self.rows_per_batch = _whole(most_rows, rows_multiple)
        self.own_rows: Sequence[int] = range(self.rows_per_batch)

    def _rows_of(self, members: np.ndarray) -> np.ndarray:
        run_of, lengths = packing.prompt_runs(
            [self._units[i] for i in members],
            row_length=self._row_length,
            prefix_capacity=self._prefix_capacity,
        )
        shared = packing.first_fit(lengths, self._row_length)[run_of]
        lengths = [sum(example.length for example in self._units[i]) for i in members]
        if max(lengths) > self._row_length:  # fits where it shares
            return shared
        apart = packing.first_fit(lengths, self._row_length)
        # Runs are larger pieces, and may leave more of each row empty. What lies in one row is shared anyway.
        return apart if apart.max() < shared.max() else shared

    @property
    def num_steps(self) -> int:
        """Updates of the iteration."""
        return len(self._members)

    def batch(self, step: int) -> PackedBatch:
        """The minibatch of one update, or this host's rows of it."""
        rows = [[example for i in row for example in self._units[i]] for row in self._units_by_row(step)]
        return packing.pack_rows(
            [rows[row] for row in self.own_rows],
            num_rows=len(self.own_rows),
            row_length=self._row_length,
            value_names=self._value_names,
            pad_id=self._pad_id,
            prefix_capacity=self._prefix_capacity,
        )

    def _units_by_row(self, step: int) -> list[list[int]]:
        rows: list[list[int]] = [[] for _ in range(self.rows_per_batch)]
        for i, row in zip(self._members[step].tolist(), self._rows[step].tolist(), strict=True):
            rows[row].append(i)
        return rows

    def places(self, step: int) -> Iterator[tuple[int, int, int, slice]]:
        """Unit, sequence of it, row of the whole minibatch, and the positions that predict its completion."""
        for row, units in enumerate(self._units_by_row(step)):
            sequences = [(i, sequence) for i in units for sequence in range(len(self._units[i]))]
            spans = packing.row_spans(
                [self._units[i][j] for i, j in sequences],
                row_length=self._row_length,
                prefix_capacity=self._prefix_capacity,
            )
            for (i, sequence), span in zip(sequences, spans, strict=True):
                yield i, sequence, row, span.predictions


def most_rows(num_units: int, unit_length: int, *, row_length: int, rows_multiple: int) -> int:
    """`rows_per_batch` of so many units in a minibatch, each as long as one may be."""
    return _whole(-(-num_units // (row_length // unit_length)), rows_multiple)


def _whole(num_rows: int, multiple: int) -> int:
    return batching.few_counts(-(-num_rows // multiple)) * multiple
