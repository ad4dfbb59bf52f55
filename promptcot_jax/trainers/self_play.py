"""Self-play (paper section 2.3): a policy improves on verified prompts by rewards of its own tries.

The run goes in waves: `wave_draws` draws and grades rollouts of the policy as it is, then the policy is
updated on minibatches of them, by one of three methods: GRPO, DPO (the paper's runs) or rejection sampling.
Old log-probabilities, to which GRPO's ratios refer, are those of the policy before the wave's first update,
which is DPO's reference too.

The outcome is a function of settings and seed, whatever interrupts it. Rollouts are kept by the store, state
and place in the stream of prompts by checkpoints; between two of those a resumed run makes its updates again
from the stored rollouts, which are never drawn twice.
"""

import collections
import dataclasses
import functools
import itertools
import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from promptcot_jax.checkpoints.training import TrainingCheckpoints
from promptcot_jax.core import prng
from promptcot_jax.core.arrays import Params
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.progress import Progress
from promptcot_jax.data.examples import TokenExample
from promptcot_jax.data.prompt_stream import PromptStream
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.models import lora
from promptcot_jax.models.decoder import Remat
from promptcot_jax.models.language_model import LanguageModel
from promptcot_jax.models.lora import LoraConfig
from promptcot_jax.parallel import hosts, placing
from promptcot_jax.sampling import rollout_store, scoring
from promptcot_jax.sampling.rollouts import RolloutConfig
from promptcot_jax.trainers import rollout_groups
from promptcot_jax.trainers.dpo import DpoConfig
from promptcot_jax.trainers.grading import Grader
from promptcot_jax.trainers.grpo import GrpoConfig
from promptcot_jax.trainers.in_flight import StepsInFlight
from promptcot_jax.trainers.metrics import MetricsLog
from promptcot_jax.trainers.minibatches import Minibatches
from promptcot_jax.trainers.optimizer import OptimizerConfig
from promptcot_jax.trainers.rejection import RejectionConfig
from promptcot_jax.trainers.rollout_groups import Group
from promptcot_jax.trainers.train_step import TrainState, TrainStep, make_train_step
from promptcot_jax.trainers.wave_draws import WaveDrawer

log = logging.getLogger(__name__)

DIRECTORY = "self_play"
Method = GrpoConfig | DpoConfig | RejectionConfig
Unit = tuple[TokenExample, ...]  # what must share a row
# What a resumed run may have otherwise in `metrics.jsonl`.
WALL_TIME_PREFIXES = ("seconds", "tokens_per_second")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfPlayConfig:
    """The waves; how many samples a prompt gets is `RolloutConfig.samples_per_row`.

    Attributes:
        minibatches_per_wave: updates of one pass over a wave, each on its share of the sequences.
        passes_per_wave: how often a wave's sequences are gone through.
        max_tries: how often prompts are drawn for a wave at most, until enough of them are of use.
        old_log_probs: `scored`: by the trainer's own forward pass, so that ratios begin at 1 (of a wave with
            one update that is the update's own, at no cost); `sampled`: the sampler's, which saves that pass
            and is for sampling in float32.
        row_length: of packed rows; 0: of the longest prompt and completion, up to the next 64.
        checkpoint_every: waves; a killed run makes at most the updates of so many again.
        score_tokens: padded tokens that are scored at once.
        max_skipped: updates with a non-finite gradient or loss that are tolerated.
    """

    HOW_ONLY: ClassVar = frozenset(
        {"checkpoint_every", "keep", "micro_batches", "remat", "score_tokens", "max_skipped", "tensorboard"}
    )

    num_waves: int
    prompts_per_wave: int = 16
    minibatches_per_wave: int = 1
    passes_per_wave: int = 1
    max_tries: int = 4
    old_log_probs: Literal["scored", "sampled"] = "scored"
    row_length: int = 0
    checkpoint_every: int = 10
    keep: int = 2
    micro_batches: int = 1
    remat: Remat = "projections"
    score_tokens: int = 16384
    max_skipped: int = 10
    tensorboard: bool = True

    def __post_init__(self):
        for name in (
            "num_waves",
            "prompts_per_wave",
            "minibatches_per_wave",
            "passes_per_wave",
            "max_tries",
            "checkpoint_every",
            "keep",
            "micro_batches",
            "score_tokens",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("row_length", "max_skipped"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}.")

    @property
    def updates_per_wave(self) -> int:
        """At most: of few sequences come fewer."""
        return self.minibatches_per_wave * self.passes_per_wave

    def most_units(self, method: Method, group_size: int) -> int:
        """What the method learns from in one update at most."""
        return -(-self.prompts_per_wave * method.most_units(group_size) // self.minibatches_per_wave)

    def spared(self, method: Method) -> Method:
        """The method, spared what a single update of a wave does not need."""
        if isinstance(method, GrpoConfig) and self.updates_per_wave == 1 and self.old_log_probs == "scored":
            return dataclasses.replace(method, single_update=True)
        return method

    def tokens_of_row(self, longest: int) -> int:
        """Of the updates.

        Args:
            longest: tokens of what must share a row.
        """
        return self.row_length or -(-longest // 64) * 64


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A policy after its waves, and what it took."""

    params: Params
    num_prompts: int  # drawn, those included that were of no use
    num_updates: int
    num_skipped: int  # updates left out because gradient or loss was not finite


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfPlay:
    """One run: model, prompts, settings and directory (a workdir)."""

    lm: LanguageModel
    tokenizer: Tokenizer
    stream: PromptStream
    grader: Grader
    config: SelfPlayConfig
    method: Method
    rollouts: RolloutConfig
    optimizer: OptimizerConfig
    mesh: Mesh
    directory: epath.Path
    seed: int  # of the updates' data order and a new adapter; that of the noise is the rollouts' own
    adapter: LoraConfig | None = None

    def __post_init__(self):
        """Refuses what would train on something else than it samples.

        Raises:
            WrongUse: says what to set.
        """
        sampling = self.rollouts.sampling
        if self.rollouts.samples_per_row < 2:
            raise WrongUse("GRPO compares the samples of a prompt; set samples_per_row to at least 2.")
        if (sampling.top_p, sampling.top_k, sampling.min_p) != (1.0, 0, 0.0):
            raise WrongUse(
                "Self-play draws from the whole distribution: with top_p, top_k or min_p the policy that is "
                "trained would not be the one that was sampled. Set them to 1, 0 and 0."
            )
        is_sampled = self.config.old_log_probs == "sampled"
        if is_sampled and isinstance(self.method, GrpoConfig) and self.method.sampler_correction != "none":
            raise WrongUse(
                "With old_log_probs = 'sampled' there is nothing to correct by; set sampler_correction to "
                "'none'."
            )
        num_updates = self.config.updates_per_wave
        if isinstance(self.method, GrpoConfig) and self.method.single_update and num_updates > 1:
            raise WrongUse(
                f"single_update is set, but a wave makes {num_updates} updates; leave it unset: ratios need "
                "the log-probabilities from before the first."
            )
        if self.row_length < self._longest:
            raise WrongUse(
                f"row_length={self.row_length}, but what must share a row may have {self._longest} tokens (a "
                "prompt and its completion; for DPO two of each); raise it, or set it to 0."
            )

    @property
    def _longest(self) -> int:
        longest = self.stream.longest_prompt + self.rollouts.sampling.max_new_tokens
        return self.method.sequences_per_unit * longest

    @property
    def row_length(self) -> int:
        """Tokens of a row of the updates."""
        return self.config.tokens_of_row(self._longest)

    @functools.cached_property
    def _method(self) -> Method:
        return self.config.spared(self.method)

    @functools.cached_property
    def _drawer(self) -> WaveDrawer:
        return WaveDrawer(
            lm=self.lm,
            tokenizer=self.tokenizer,
            stream=self.stream,
            grader=self.grader,
            config=self.rollouts,
            is_of_use=self._method.is_of_use,
            wanted=self.config.prompts_per_wave,
            max_tries=self.config.max_tries,
            directory=self.directory / rollout_store.DIRECTORY,
        )

    @functools.cached_property
    def _train_step(self) -> TrainStep:
        return make_train_step(
            self.lm,
            self._method.loss(self.rollouts.sampling.temperature),
            self.optimizer,
            self.mesh,
            num_micro_batches=self.config.micro_batches,
            remat=self.config.remat,
            adapter=self.adapter,
        )

    def run(self, params: Params) -> Outcome:
        """Does all waves, or those that an earlier attempt did not.

        Args:
            params: of the policy to begin with. What is trained of them is given up, unless they are the
                reference of a KL term.

        Raises:
            in_flight.TooManySkippedUpdates: see `SelfPlayConfig.max_skipped`.
        """
        if self.adapter is not None and not lora.is_adapted(params):
            key = prng.stream_key(self.seed, "adapter")
            params = lora.attach(self.lm, params, self.adapter, key, self.mesh)
        lora.check(self.lm, params, self.adapter)
        trained, frozen = lora.split(params)
        place = self.directory / DIRECTORY
        checkpoints = TrainingCheckpoints(place / "checkpoints", keep=self.config.keep)
        try:
            with jax.set_mesh(self.mesh):
                first, position = checkpoints.restore_latest(self._like(trained)) or (
                    0,
                    self._start(trained),
                )
                reference = params if self.method.keeps_start else None
                if reference is None:
                    for leaf in jax.tree.leaves(trained):
                        leaf.delete()
                with (
                    MetricsLog(
                        place,
                        resume_step=first,
                        tensorboard=self.config.tensorboard,
                        writes=hosts.is_first(),
                    ) as rows,
                    Progress("self-play", unit="wave", start=first, total=self.config.num_waves) as shown,
                ):
                    for wave in range(first, self.config.num_waves):
                        position, row = self._wave(wave, position, frozen, reference)
                        rows.write(wave + 1, row)
                        shown.update(wave + 1, f"reward {row['reward']:.3f}")
                        if (wave + 1) % self.config.checkpoint_every == 0:
                            checkpoints.save(wave + 1, position)
                checkpoints.wait()
        finally:
            checkpoints.close()
        state = position.state
        return Outcome(
            params=lora.join(state.params, frozen),
            num_prompts=int(position.num_prompts),
            num_updates=int(state.step),
            num_skipped=int(state.num_skipped),
        )

    def _start(self, trained: Params) -> "_Position":
        """The position before the first wave, of arrays that nobody else holds."""
        state = self._train_step.start(jax.device_put(trained, self._train_step.shardings.params))
        return _Position(state, np.int32(0))

    def _like(self, trained: Params) -> "_Position":
        """Shapes and places of a position, for restoring."""
        step = self._train_step
        places = _Position(step.shardings, NamedSharding(self.mesh, PartitionSpec()))
        shapes = _Position(jax.eval_shape(step.start, trained), jax.ShapeDtypeStruct((), np.int32))
        return jax.tree.map(
            lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, places
        )

    def _wave(
        self, wave: int, position: "_Position", frozen: Params, reference: Params | None
    ) -> tuple["_Position", dict[str, float]]:
        """The position after a wave, and its row of the metrics."""
        clock = _Clock()
        params = lora.join(position.state.params, frozen)
        drawn = self._drawer.draw(wave, params, int(position.num_prompts))
        seconds = {"sampling": drawn.times.sampling_seconds, "grading": drawn.times.waited_seconds}
        row = rollout_groups.figures_of(drawn.groups) | {
            "tries": drawn.num_tries,
            "groups/drawn": len(drawn.groups),
            "groups/used": len(drawn.used),
        }
        clock.lap()
        units = self._units(drawn.used, params, reference)
        row["sequences"] = sum(map(len, units))
        seconds["scoring"] = clock.lap()
        state = position.state
        if units:
            state, figures = self._update(wave, units, state, frozen)
            row |= figures
        else:
            log.info("wave %d: no update; %s", wave, _why_not(drawn.groups))
        seconds["training"] = clock.lap()
        num_prompts = np.int32(int(position.num_prompts) + len(drawn.groups))
        return _Position(state, num_prompts), row | clock.figures(
            seconds, drawn.times.new_tokens, row.get("num_tokens", 0.0)
        )

    # Updates

    def _units(self, groups: Sequence[Group], params: Params, start: Params | None) -> list[Unit]:
        """What the method learns from, with the log-probabilities that it needs.

        A unit with a number that is not finite is left out.

        Args:
            params: of the policy before the wave's first update.
            start: of the policy at the start, where it is the reference.
        """
        units = self._method.units_of(groups, num_groups=self.config.prompts_per_wave)
        rows, names = [row for unit in units for row in unit], self._method.value_names
        columns = {
            name: [row.token_values[name] for row in rows] for name in (rows[0].token_values if rows else ())
        }
        if "reference_log_probs" in names:
            columns["reference_log_probs"] = self._scores(rows, params if start is None else start)
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
        return [unit for unit in complete if all(_is_finite(row) for row in unit)]

    def _scores(self, rows: Sequence[TokenExample], params: Params) -> list[np.ndarray]:
        """Log-probabilities of the completions' tokens."""
        return scoring.score(
            self.lm,
            params,
            [row.prompt_ids.tolist() for row in rows],
            [row.completion_ids.tolist() for row in rows],
            temperature=self._method.scoring_temperature(self.rollouts.sampling.temperature),
            batch_tokens=self.config.score_tokens,
            pad_id=self.tokenizer.pad_id,
        )

    def _update(
        self, wave: int, units: Sequence[Unit], state: TrainState, frozen: Params
    ) -> tuple[TrainState, dict[str, float]]:
        """The state after the wave's updates, and their figures."""
        config, step = self.config, self._train_step
        batches = Minibatches(
            units,
            num_minibatches=config.minibatches_per_wave,
            num_passes=config.passes_per_wave,
            row_length=self.row_length,
            rows_multiple=step.rows_multiple,
            seed=prng.derived_seed(self.seed, wave),
            value_names=self._method.value_names,
            pad_id=self.tokenizer.pad_id,
        )
        batches.own_rows = placing.own_rows(step.batch_sharding, batches.rows_per_batch)
        most_updates = config.num_waves * config.minibatches_per_wave * config.passes_per_wave
        in_flight = StepsInFlight(
            self.directory / DIRECTORY, num_skipped=int(state.num_skipped), max_skipped=config.max_skipped
        )
        first, pending = int(state.step) + 1, []
        for i in range(batches.num_steps):
            batch = batches.batch(i)
            placed = step.place(batch, batches)
            state, metrics = step.run(state, placed, np.int32(most_updates), frozen)
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
            **self._method.figures_of([metrics["figures"] for metrics in done if "figures" in metrics]),
        }


@functools.partial(jax.tree_util.register_dataclass, data_fields=("state", "num_prompts"), meta_fields=())
@dataclasses.dataclass(frozen=True)
class _Position:
    """What a run carries from wave to wave."""

    state: Any  # TrainState
    num_prompts: Any  # int32: place in the stream of prompts


class _Clock:
    """The seconds of a wave by what they were spent on."""

    def __init__(self):
        self._began = self._last = time.monotonic()

    def lap(self) -> float:
        """Seconds since the last call."""
        last, self._last = self._last, time.monotonic()
        return self._last - last

    def figures(self, seconds: Mapping[str, float], new_tokens: int, num_tokens: float) -> dict[str, float]:
        """Time split and speed; `other` is what nothing accounts for."""
        whole = time.monotonic() - self._began
        figures = {f"seconds/{name}": value for name, value in seconds.items()}
        figures |= {"seconds/other": whole - sum(seconds.values()), "seconds": whole}
        speeds = {"sampling": new_tokens, "training": num_tokens}
        figures |= {
            f"tokens_per_second/{name}": number / seconds[name] if seconds[name] else 0.0
            for name, number in speeds.items()
        }
        return {name: round(value, 4) for name, value in figures.items()}


def _is_finite(row: TokenExample) -> bool:
    return all(np.isfinite(numbers).all() for numbers in row.token_values.values())


def _why_not(groups: Sequence[Group]) -> str:
    """Why a wave has nothing to learn from."""
    kinds = collections.Counter(group.kind for group in groups)
    return (
        f"of {len(groups)} prompts all samples are right for {kinds['all_right']}, all wrong for "
        f"{kinds['all_wrong']}, not graded for {kinds['ungraded']}, too often right for the "
        "rest; take harder or easier prompts, more samples a prompt, or a higher temperature"
    )
