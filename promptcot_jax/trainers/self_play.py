"""Self-play (paper section 2.3): a policy improves on verified prompts by rewards of its own tries.

The run goes in iterations: `rollout_collector` draws and grades rollouts of the policy as it is, then the
policy is updated on minibatches of them (`policy_updates`), by one of three algorithms: GRPO, DPO (the
paper's runs) or rejection sampling.

The outcome is a function of settings and seed, whatever interrupts it. Rollouts are kept by the store, state
and position in the stream of prompts by checkpoints; between two of those a resumed run makes its updates
again from the stored rollouts, which are never drawn twice.
"""

import collections
import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from promptcot_jax.checkpoints.training import TrainingCheckpoints
from promptcot_jax.core.arrays import Params
from promptcot_jax.core.errors import Interrupted, WrongUse
from promptcot_jax.core.progress import Progress
from promptcot_jax.core.records import CompletionSample
from promptcot_jax.data import rollout_sets
from promptcot_jax.data.prompt_stream import PromptStream
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.models.language_model import LanguageModel
from promptcot_jax.models.lora import LoraConfig
from promptcot_jax.parallel import hosts
from promptcot_jax.parallel import rules as rules_lib
from promptcot_jax.sampling.rollouts import RolloutConfig
from promptcot_jax.trainers import algorithm as algorithm_lib
from promptcot_jax.trainers import driver, update_checkpoints
from promptcot_jax.trainers import held_out as held_out_lib
from promptcot_jax.trainers.algorithm import Algorithm, Group, Unit
from promptcot_jax.trainers.completion_samples import SampleLog
from promptcot_jax.trainers.goals import Best, BestPolicy
from promptcot_jax.trainers.grading import Grader
from promptcot_jax.trainers.held_out import HeldOut
from promptcot_jax.trainers.metrics import MetricsLog
from promptcot_jax.trainers.optimizer import OptimizerConfig
from promptcot_jax.trainers.policy_updates import PolicyUpdates
from promptcot_jax.trainers.rollout_collector import Position, RolloutCollector, RunAhead
from promptcot_jax.trainers.self_play_config import SelfPlayConfig
from promptcot_jax.trainers.train_step import Trainable, TrainState, delete_arrays, make_train_step
from promptcot_jax.trainers.update_checkpoints import Reported, UpdateCheckpoints
from promptcot_jax.trainers.watching import PreemptionGuard

log = logging.getLogger(__name__)

DIRECTORY = "self_play"
UPDATES = "updates"  # in it: checkpoints within an iteration's updates
TABLE_COLUMNS = (
    *("reward", "frac_reward_zero_std", "completions/mean_length", "loss", "entropy", "grad_norm"),
    *("eval/avg_at_k", "seconds"),
)
# Metrics that may differ after a resume.
WALL_TIME_PREFIXES = ("seconds", "tokens_per_second")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A policy after its iterations, and what it took."""

    params: Params
    best: Best | None  # which policy that is, where the best is kept; None: that of the last iteration
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
    algorithm: Algorithm
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
        self.config.check(self.algorithm, self.rollouts)
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
        return self.algorithm.sequences_per_unit * longest

    @property
    def row_length(self) -> int:
        """Tokens of a row of the updates."""
        shards = rules_lib.num_shards(self.mesh, "batch", self.lm.rules or rules_lib.DEFAULT_RULES)
        return self.config.tokens_of_row(
            self.lm,
            self.algorithm,
            self.rollouts,
            prompt_tokens=self.stream.longest_prompt,
            rows_multiple=self.config.micro_batches * shards,
        )

    def run(self, params: Params) -> Outcome:
        """Does all iterations, or those that an earlier attempt did not.

        Args:
            params: of the policy to begin with. What is trained of them is donated, unless they are the
                reference of a KL term.

        Raises:
            Interrupted: the run left before its end, for SIGTERM or a deadline.
            nonfinite_batches.TooManySkippedUpdates: see `SelfPlayConfig.max_skipped`.
        """
        parts = Trainable.adapted(self.lm, params, self.adapter, seed=self.seed, mesh=self.mesh)
        run = _Iterations(self, parts)
        with contextlib.closing(run), jax.set_mesh(self.mesh):
            num_iterations, position = driver.drive(run)
        update_checkpoints.remove(self.directory / DIRECTORY / UPDATES)
        state, best = position.state, run.best
        num_updates, num_skipped = int(state.step), int(state.num_skipped)
        trained = state.params if best is None else best.chosen(num_iterations, state)
        return Outcome(
            params=parts.model(trained),
            best=None if best is None else best.best,
            num_iterations=num_iterations,
            num_prompts=int(position.position.num_drawn),
            num_updates=num_updates,
            num_skipped=num_skipped,
        )


@functools.partial(jax.tree_util.register_dataclass, data_fields=("state", "position"), meta_fields=())
@dataclasses.dataclass(frozen=True)
class IterationState:
    """What a run carries from iteration to iteration."""

    state: Any  # TrainState
    position: Position


class _Iterations(driver.Run[IterationState]):
    """One attempt at the iterations."""

    unit = "iteration"

    def __init__(self, settings: SelfPlay, params: Trainable):
        config, directory = settings.config, settings.directory / DIRECTORY
        self.num_steps, self.checkpoint_every = config.num_iterations, config.checkpoint_every
        self.checkpoints = TrainingCheckpoints(directory / "checkpoints", keep=config.keep)
        self._within: UpdateCheckpoints | None = None  # of the iteration whose updates are being made
        self._under_way: tuple[list[Unit], list[Reported]] | None = None  # as an earlier attempt left it
        self.best = _best_policy(settings.held_out, directory)
        self._settings, self._params, self._directory = settings, params, directory
        group_size = settings.rollouts.group_size
        self._algorithm = config.resolved(settings.algorithm, group_size)
        temperature = settings.rollouts.sampling.temperature
        step_config = config.step_config(
            self._algorithm,
            temperature=temperature,
            optimizer=settings.optimizer,
            adapter=settings.adapter,
        )
        self._train_step = make_train_step(settings.lm, step_config, settings.mesh)
        self._updates = PolicyUpdates(
            lm=settings.lm,
            algorithm=self._algorithm,
            config=config,
            step=self._train_step,
            row_length=settings.row_length,
            temperature=temperature,
            pad_id=settings.tokenizer.pad_id,
            directory=directory,
            seed=settings.seed,
        )
        self._samples = SampleLog(
            directory,
            every=config.samples_every,
            num_iterations=config.num_iterations,
            seed=settings.seed,
            prompts=settings.stream.prompts,
            tokenizer=settings.tokenizer,
            show=settings.show_samples,
            writes=hosts.is_first(),
        )

    def restore(self) -> tuple[int, IterationState]:
        """From the newest checkpoint; what is trained of the first policy stays where it is the reference."""
        step, trained = self._train_step, self._params.trained
        whole = NamedSharding(self._settings.mesh, PartitionSpec())
        first = Position.first(self._settings.stream)
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), first)
        like = IterationState(step.abstract_state, abstract)
        within = UpdateCheckpoints.newest(self._directory / UPDATES)
        done = hosts.decided_by_first("complete iterations", self.checkpoints.complete_steps)
        if within is not None and within.iteration >= max(done, default=0):
            state, units, reported = within.restore(like)
            position = within.iteration, state
            self._within, self._under_way = within, (units, reported)
        else:
            restored = self.checkpoints.restore_latest(like)
            position = restored or (0, IterationState(step.first_state(trained), first))
        if not self._algorithm.keeps_reference:
            delete_arrays(trained)
        return position

    @contextlib.contextmanager
    def attempt(self, step: int) -> Iterator[PreemptionGuard]:
        """With the rows of the metrics, a progress bar, and what draws rollouts."""
        settings, config = self._settings, self._settings.config
        collector = RolloutCollector(
            lm=settings.lm,
            tokenizer=settings.tokenizer,
            stream=settings.stream,
            grader=settings.grader,
            config=settings.rollouts,
            iterations=config,
            algorithm=self._algorithm,
            directory=settings.directory / rollout_sets.DIRECTORY,
        )
        with (
            MetricsLog(
                self._directory,
                # A new run has a row before its first iteration.
                resume_step=-1 if step == 0 and self._under_way is None else step,
                tensorboard=config.tensorboard,
                writes=hosts.is_first(),
                watch=config.watch,
                columns=TABLE_COLUMNS,
            ) as self._log,
            Progress("self-play", unit=self.unit, start=step, total=self.num_steps) as self._progress,
            RunAhead(
                collector,
                settings.mesh,
                num_iterations=config.num_iterations,
                max_staleness=config.max_staleness,
            ) as self._ahead,
            PreemptionGuard(config.watch, unit=self.unit) as self._guard,
        ):
            yield self._guard
        self.checkpoints.wait()

    def close(self) -> None:
        """Waits for checkpoints under way, and ends their threads."""
        with contextlib.ExitStack() as closing:
            closing.callback(self.checkpoints.close)
            if self._within is not None:
                closing.callback(self._within.close)

    def begin(self, step: int, state: IterationState) -> bool:
        """A new run evaluates the policy that it begins with; the run may be at its goal already."""
        is_new = step == 0 and self._under_way is None
        if is_new and self._settings.held_out is not None:
            row = self._evaluate(self._settings.held_out, 0, state)
            self._log.write(0, row)
        else:
            row = self._log.kept or {}
        is_over = self._is_goal_reached(step, row)
        if not is_over:
            driver.leave_for(self._guard.reason(), self, step)
        return is_over

    def step(self, step: int, state: IterationState) -> IterationState:
        """Draws an iteration's rollouts, and makes its updates."""
        iteration, train_state, config = step - 1, state.state, self._settings.config
        clock = _Clock()
        params = self._params.model(train_state.params)
        drawn = self._ahead.draw(
            iteration,
            params,
            train_state.params,
            jax.device_get(state.position),
            is_under_way=self._under_way is not None,
        )
        drawing = {"sampling": drawn.times.sampling_seconds, "grading": drawn.times.waited_seconds}
        seconds = {"waiting": clock.lap()} if config.max_staleness else dict(drawing)
        row = algorithm_lib.figures_of(drawn.groups) | {
            "staleness": self._ahead.staleness(iteration),
            "groups/drawn": len(drawn.groups),
            "groups/used": len(drawn.used),
            "groups/older": drawn.num_older,
            "groups/left_over": int(drawn.after.num_left_over),
            "prompts/retired": drawn.num_retired,
        }
        self._samples.add(iteration, drawn.groups)
        clock.lap()
        reference_is_initial = self._algorithm.keeps_reference
        reference_params = self._params.model(self._params.trained) if reference_is_initial else params
        reported: list[Reported] = []
        if self._under_way is not None:
            (units, reported), self._under_way = self._under_way, None
        else:
            units = self._updates.units(iteration, drawn.used, params, reference_params)
            self._begin_updates(iteration, units)
        row["sequences"] = sum(map(len, units))
        seconds["scoring"] = clock.lap()
        if units:
            train_state, figures = self._updates.update(
                iteration,
                units,
                train_state,
                self._params.frozen,
                reported=reported,
                save=functools.partial(self._save_updates, step, state.position),
            )
            row |= figures
        else:
            log.info("iteration %d: no update; %s", iteration, _why_not(drawn.groups))
        seconds["training"] = clock.lap()
        self._row = row | clock.figures(seconds, drawing, drawn.times.new_tokens, row.get("num_tokens", 0.0))
        return IterationState(train_state, drawn.after)

    def record(self, step: int, state: IterationState) -> bool:
        """The iteration's row, with an evaluation where one is due; the last policy always has one."""
        held_out, row = self._settings.held_out, dict(self._row)
        is_last = step == self.num_steps or self._is_goal_reached(step, row)
        if held_out is not None and (is_last or step % held_out.config.every == 0):
            row |= self._evaluate(held_out, step, state)
        self._warn_if_goal_is_unknown(step, row)
        self._log.write(step, row)
        self._progress.update(step, f"reward {row['reward']:.3f}")
        return is_last or self._is_goal_reached(step, row)

    def _begin_updates(self, iteration: int, units: Sequence[Unit]) -> None:
        """Stores the units where there will be checkpoints within their updates."""
        if not 0 < self._settings.config.updates_per_checkpoint < self._updates.num_updates(len(units)):
            return
        if self._within is not None:
            self._within.close()
        self._within = UpdateCheckpoints(self._directory / UPDATES, iteration)
        self._within.begin(units)

    def _save_updates(
        self, step: int, position: Position, state: TrainState, reported: Sequence[Reported]
    ) -> None:
        """Within the iteration that is step `step`; leaves where the run has to.

        Raises:
            Interrupted: the run left here.
        """
        assert self._within is not None
        self._ahead.settle()
        self._within.save(IterationState(state, position), reported)
        reason = self._guard.reason()
        if reason:
            raise Interrupted(
                f"left after update {len(reported)} of {self.unit} {step} for {reason}, with a checkpoint; "
                "the same command goes on"
            )

    def save(self, step: int, state: IterationState) -> None:
        """Once rollouts under way are stored: a resumed run no longer has the policy that draws them."""
        self._ahead.settle()
        self.checkpoints.save(step, state)

    def _evaluate(self, held_out: HeldOut, step: int, position: IterationState) -> dict[str, float]:
        """The figures of the policy, which is kept where it is the best so far."""
        trained = position.state.params
        figures = held_out.measure(step, self._params.model(trained))
        if self.best is not None:
            self.best.offer(step, figures[self.best.metric], trained)
        return figures

    def _is_goal_reached(self, step: int, row: Mapping[str, Any]) -> bool:
        """Whether the run is where it was to go; the same on all hosts, whose clocks differ."""
        goal = self._settings.config.goal
        if goal is None or not hosts.decided_by_first("goal", lambda: goal.is_reached(row)):
            return False
        log.info("the goal %s is reached after iteration %d", goal, step)
        return True

    def _warn_if_goal_is_unknown(self, step: int, row: Mapping[str, Any]) -> None:
        """Warns where an iteration's row lacks the metric that the run is to stop at, perhaps misspelt."""
        goal = self._settings.config.goal
        if goal is not None and goal.metric not in row and not goal.metric.startswith("eval/"):
            log.warning(
                "iteration %d has no '%s', at which the run is to stop; it has %s",
                step,
                goal.metric,
                ", ".join(row),
            )


def _best_policy(held_out: HeldOut | None, directory: epath.Path) -> BestPolicy | None:
    """What keeps the best policy, where that is wanted."""
    if held_out is None or held_out.config.keep_best is None:
        return None
    metric = held_out.config.keep_best
    return BestPolicy(directory, metric, value_at=lambda step: held_out.stored(step)[metric])


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
    kinds = collections.Counter(group.verdicts for group in groups)
    return (
        f"of {len(groups)} prompts all samples are right for {kinds['all_right']}, all wrong for "
        f"{kinds['all_wrong']}, not graded for {kinds['ungraded']}, too often right for the "
        "rest; take harder or easier prompts, more samples a prompt, or a higher temperature"
    )
