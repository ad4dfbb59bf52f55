"""Self-play (paper section 2.3): a policy improves on verified prompts by rewards of its own tries.

The run goes in iterations: `rollout_collector` draws and grades rollouts of the policy as it is, then the
policy is updated on minibatches of them (`policy_updates`), by one of three methods: GRPO, DPO (the paper's
runs) or rejection sampling.

The outcome is a function of settings and seed, whatever interrupts it. Rollouts are kept by the store, state
and place in the stream of prompts by checkpoints; between two of those a resumed run makes its updates again
from the stored rollouts, which are never drawn twice.
"""

import collections
import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from promptcot_jax.checkpoints.training import TrainingCheckpoints
from promptcot_jax.core import prng
from promptcot_jax.core.arrays import Params
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.progress import Progress
from promptcot_jax.core.records import CompletionSample
from promptcot_jax.data.prompt_stream import PromptStream
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.models import lora
from promptcot_jax.models.language_model import LanguageModel
from promptcot_jax.models.lora import LoraConfig
from promptcot_jax.parallel import hosts
from promptcot_jax.sampling import rollout_store
from promptcot_jax.sampling.rollouts import RolloutConfig
from promptcot_jax.trainers import held_out as held_out_lib
from promptcot_jax.trainers import reference_cache, rollout_groups
from promptcot_jax.trainers.best_policy import Best, BestPolicy
from promptcot_jax.trainers.completion_samples import SampleLog
from promptcot_jax.trainers.grading import Grader
from promptcot_jax.trainers.held_out import HeldOut
from promptcot_jax.trainers.iteration_ends import IterationEnds
from promptcot_jax.trainers.metrics import MetricsLog
from promptcot_jax.trainers.optimizer import OptimizerConfig
from promptcot_jax.trainers.policy_updates import Method, PolicyUpdates
from promptcot_jax.trainers.preemption import PreemptionGuard
from promptcot_jax.trainers.reference_cache import ReferenceCache
from promptcot_jax.trainers.rollout_collector import RolloutCollector
from promptcot_jax.trainers.rollout_groups import Group
from promptcot_jax.trainers.run_ahead import RunAhead
from promptcot_jax.trainers.self_play_config import SelfPlayConfig
from promptcot_jax.trainers.train_step import TrainStep, make_train_step

log = logging.getLogger(__name__)

DIRECTORY = "self_play"
TABLE_COLUMNS = (
    *("reward", "frac_reward_zero_std", "completions/mean_length", "loss", "entropy", "grad_norm"),
    *("eval/avg_at_k", "seconds"),
)
# What a resumed run may have otherwise in `metrics.jsonl`.
WALL_TIME_PREFIXES = ("seconds", "tokens_per_second")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A policy after its iterations, and what it took."""

    params: Params
    kept: Best | None  # which policy that is, where the best is kept; None: that of the last iteration
    num_iterations: int  # fewer than were wanted where the run reached its goal
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
    show_samples: Callable[[Sequence[CompletionSample]], None] | None = None  # see `SampleLog`
    held_out: HeldOut | None = None  # evaluations of the policy between iterations

    def __post_init__(self):
        """Refuses what would train on something else than it samples.

        Raises:
            WrongUse: says what to set.
        """
        self.config.check(self.method, self.rollouts)
        goal, measured = self.config.goal, held_out_lib.METRICS if self.held_out is not None else ()
        if goal is not None and goal.metric.startswith("eval/") and goal.metric not in measured:
            raise WrongUse(
                f"The run would never reach '{goal}': its evaluations measure {measured or 'nothing'}; set "
                "EVAL_PROMPTS, or another metric in STOP_AT."
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
        return self.config.resolve_single_update(self.method)

    @functools.cached_property
    def _collector(self) -> RolloutCollector:
        return RolloutCollector(
            lm=self.lm,
            tokenizer=self.tokenizer,
            stream=self.stream,
            grader=self.grader,
            config=self.rollouts,
            is_of_use=self._method.is_of_use,
            wanted=self.config.prompts_per_iteration,
            max_tries=self.config.max_tries,
            directory=self.directory / rollout_store.DIRECTORY,
        )

    @functools.cached_property
    def _updates(self) -> PolicyUpdates:
        config = self.config
        return PolicyUpdates(
            lm=self.lm,
            method=self._method,
            step=self._train_step,
            groups_per_iteration=config.prompts_per_iteration,
            num_minibatches=config.minibatches_per_iteration,
            num_passes=config.passes_per_iteration,
            most_updates=config.num_iterations * config.updates_per_iteration,
            row_length=self.row_length,
            temperature=self.rollouts.sampling.temperature,
            use_rollout_logps=config.old_log_probs == "sampled",
            score_tokens=config.score_tokens,
            max_skipped=config.max_skipped,
            pad_id=self.tokenizer.pad_id,
            directory=self.directory / DIRECTORY,
            references=ReferenceCache(
                directory=self.directory / DIRECTORY / reference_cache.DIRECTORY,
                keep=config.checkpoint_every + 1,  # those that a resumed run may make again
            ),
            seed=self.seed,
        )

    @functools.cached_property
    def _samples(self) -> SampleLog:
        return SampleLog(
            self.directory / DIRECTORY,
            every=self.config.samples_every,
            num_iterations=self.config.num_iterations,
            seed=self.seed,
            prompts=self.stream.prompts,
            tokenizer=self.tokenizer,
            show=self.show_samples,
            writes=hosts.is_first(),
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

    def _ahead(self) -> RunAhead:
        """What draws the iterations of one attempt."""
        config = self.config
        return RunAhead(
            self._collector,
            self.mesh,
            num_iterations=config.num_iterations,
            max_staleness=config.max_staleness,
        )

    def run(self, params: Params) -> Outcome:
        """Does all iterations, or those that an earlier attempt did not.

        Args:
            params: of the policy to begin with. What is trained of them is given up, unless they are the
                reference of a KL term.

        Raises:
            Interrupted: the run left before its end, for SIGTERM or a deadline.
            in_flight.TooManySkippedUpdates: see `SelfPlayConfig.max_skipped`.
        """
        if self.adapter is not None and not lora.is_adapted(params):
            key = prng.stream_key(self.seed, "adapter")
            params = lora.attach(self.lm, params, self.adapter, key, self.mesh)
        lora.check(self.lm, params, self.adapter)
        trained, frozen = lora.split(params)
        place = self.directory / DIRECTORY
        checkpoints = TrainingCheckpoints(place / "checkpoints", keep=self.config.keep)
        best = self._best_policy()
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
                        resume_step=first or -1,  # a new run has a row before its first iteration
                        tensorboard=self.config.tensorboard,
                        writes=hosts.is_first(),
                        watch=self.config.watch,
                        columns=TABLE_COLUMNS,
                    ) as rows,
                    Progress(
                        "self-play", unit="iteration", start=first, total=self.config.num_iterations
                    ) as shown,
                    self._ahead() as ahead,
                    PreemptionGuard(self.config.watch, unit="iteration") as guard,
                ):

                    def save(step: int, position: "_Position") -> None:
                        ahead.settle()  # a resumed run has no more the policy that draws the next iteration
                        checkpoints.save(step, position)

                    ends = IterationEnds(
                        num_iterations=self.config.num_iterations,
                        checkpoint_every=self.config.checkpoint_every,
                        rows=rows,
                        shown=shown,
                        guard=guard,
                        save=save,
                        policy=lambda position: lora.join(position.state.params, frozen),
                        held_out=self.held_out,
                        best=best,
                        goal=self.config.goal,
                    )
                    num_iterations, is_over = first, ends.begin(first, position)
                    while not is_over:
                        position, row = self._iteration(num_iterations, position, frozen, reference, ahead)
                        num_iterations += 1
                        is_over = ends.after(num_iterations, position, row)
                checkpoints.wait()
        finally:
            checkpoints.close()
        state = position.state
        num_updates, num_skipped = int(state.step), int(state.num_skipped)
        params = state.params if best is None else best.chosen(num_iterations, state)
        return Outcome(
            params=lora.join(params, frozen),
            kept=None if best is None else best.best,
            num_iterations=num_iterations,
            num_prompts=int(position.num_prompts),
            num_updates=num_updates,
            num_skipped=num_skipped,
        )

    def _best_policy(self) -> BestPolicy | None:
        """What keeps the best policy, where that is wanted."""
        held_out = self.held_out
        if held_out is None or held_out.config.keep_best is None:
            return None
        metric = held_out.config.keep_best
        return BestPolicy(
            self.directory / DIRECTORY, metric, value_at=lambda step: held_out.stored(step)[metric]
        )

    def _start(self, trained: Params) -> "_Position":
        """The position before the first iteration, of arrays that nobody else holds."""
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

    def _iteration(
        self,
        iteration: int,
        position: "_Position",
        frozen: Params,
        reference: Params | None,
        ahead: RunAhead,
    ) -> tuple["_Position", dict[str, float]]:
        """The position after an iteration, and its row of the metrics."""
        clock = _Clock()
        params = lora.join(position.state.params, frozen)
        drawn = ahead.draw(iteration, params, position.state.params, int(position.num_prompts))
        drawing = {"sampling": drawn.times.sampling_seconds, "grading": drawn.times.waited_seconds}
        seconds = {"waiting": clock.lap()} if self.config.max_staleness else dict(drawing)
        row = rollout_groups.figures_of(drawn.groups) | {
            "staleness": ahead.staleness(iteration),
            "tries": drawn.num_tries,
            "groups/drawn": len(drawn.groups),
            "groups/used": len(drawn.used),
        }
        self._samples.add(iteration, drawn.groups)
        clock.lap()
        units = self._updates.units(iteration, drawn.used, params, reference)
        row["sequences"] = sum(map(len, units))
        seconds["scoring"] = clock.lap()
        state = position.state
        if units:
            state, figures = self._updates.update(iteration, units, state, frozen)
            row |= figures
        else:
            log.info("iteration %d: no update; %s", iteration, _why_not(drawn.groups))
        seconds["training"] = clock.lap()
        num_prompts = np.int32(int(position.num_prompts) + len(drawn.groups))
        return _Position(state, num_prompts), row | clock.figures(
            seconds, drawing, drawn.times.new_tokens, row.get("num_tokens", 0.0)
        )


@functools.partial(jax.tree_util.register_dataclass, data_fields=("state", "num_prompts"), meta_fields=())
@dataclasses.dataclass(frozen=True)
class _Position:
    """What a run carries from iteration to iteration."""

    state: Any  # TrainState
    num_prompts: Any  # int32: place in the stream of prompts


class _Clock:
    """The seconds of an iteration by what they were spent on."""

    def __init__(self):
        self._began = self._last = time.monotonic()

    def lap(self) -> float:
        """Seconds since the last call."""
        last, self._last = self._last, time.monotonic()
        return self._last - last

    def figures(
        self, seconds: Mapping[str, float], drawing: Mapping[str, float], new_tokens: int, num_tokens: float
    ) -> dict[str, float]:
        """Time split and speed; `other` is what nothing accounts for.

        Args:
            seconds: add up to the iteration.
            drawing: of the iteration's rollouts, part of `seconds` or in a thread beside it.
        """
        whole = time.monotonic() - self._began
        figures = {f"seconds/{name}": value for name, value in {**drawing, **seconds}.items()}
        figures |= {"seconds/other": whole - sum(seconds.values()), "seconds": whole}
        for name, number, took in (
            ("sampling", new_tokens, drawing["sampling"]),
            ("training", num_tokens, seconds["training"]),
        ):
            figures[f"tokens_per_second/{name}"] = number / took if took else 0.0
        return {name: round(value, 4) for name, value in figures.items()}


def _why_not(groups: Sequence[Group]) -> str:
    """Why an iteration has nothing to learn from."""
    kinds = collections.Counter(group.kind for group in groups)
    return (
        f"of {len(groups)} prompts all samples are right for {kinds['all_right']}, all wrong for "
        f"{kinds['all_wrong']}, not graded for {kinds['ungraded']}, too often right for the "
        "rest; take harder or easier prompts, more samples a prompt, or a higher temperature"
    )
