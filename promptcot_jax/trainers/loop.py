"""One fit, as the stages state it: examples and settings in, trained parameters out.

Cold start, the fits of an EM round and the solver's SFT differ in examples, loss and where they start.

State, metrics rows and data position all belong to a step, so an attempt that was killed goes on from the
last complete checkpoint as if nothing had happened (`driver`). The host never waits for the step it has just
dispatched: metrics stay on the device until a step is logged, and while the device works threads of the host
lay out the next batches. `docs/watching.md` says what a fit is watched by: speed, MFU and lost
time (`goodput`), skipped updates (`nonfinite_batches`), a trace of a few steps (`profile`).
"""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import jax
import numpy as np
import optax
from etils import epath
from jax.sharding import Mesh

from promptcot_jax.checkpoints.training import TrainingCheckpoints
from promptcot_jax.core import prng
from promptcot_jax.core.arrays import Params
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.progress import Progress
from promptcot_jax.core.settings import NonNegativeFloat, NonNegativeInt, PositiveInt, settings
from promptcot_jax.data import example_sets, packing
from promptcot_jax.data.packing import BatchSource, PackedBatch, PackedEpochs
from promptcot_jax.models.causal_lm import CausalLM
from promptcot_jax.models.language_model import LanguageModel
from promptcot_jax.models.lora import LoraConfig
from promptcot_jax.parallel import hosts, placing
from promptcot_jax.parallel import rules as rules_lib
from promptcot_jax.parallel.programs import Program
from promptcot_jax.trainers import driver, sft, train_step
from promptcot_jax.trainers import optimizer as optimizer_lib
from promptcot_jax.trainers.goodput import Goodput, Speedometer, Window
from promptcot_jax.trainers.metrics import MetricsLog
from promptcot_jax.trainers.nonfinite_batches import StepsInFlight
from promptcot_jax.trainers.optimizer import OptimizerConfig
from promptcot_jax.trainers.profile import Profiler
from promptcot_jax.trainers.router_losses import RouterLossConfig
from promptcot_jax.trainers.train_step import Loss, StepConfig, Trainable, TrainState
from promptcot_jax.trainers.watching import PreemptionGuard

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
TABLE_COLUMNS = ("loss", "gradient_norm", "learning_rate", "tokens_per_second", "eval/nll", "goodput")

Evaluate = Callable[[Params], dict[str, float]]


@settings
class LoopConfig(driver.RunConfig):
    """How a fit proceeds; nothing here changes what is learned, but for `micro_batches` within rounding.

    The last step is always logged, evaluated and saved.
    """

    EXECUTION_ONLY: ClassVar = driver.RunConfig.EXECUTION_ONLY | {
        *("log_every", "eval_every", "profile_first", "profile_steps", "profile_cpu"),
    }

    checkpoint_every: PositiveInt = 200  # steps
    log_every: PositiveInt = 10  # steps, from one row of the metrics to the next
    eval_every: NonNegativeInt = 200  # steps, from one held-out figure to the next; 0: none
    profile_first: PositiveInt = 12  # first step of the trace: by then the step is compiled
    profile_steps: NonNegativeInt = 3  # steps that the profiler traces; 0: none
    profile_cpu: bool = False  # trace on a CPU too


@settings
class FitConfig:
    """The rows of a fit, and how often the examples are gone through."""

    row_length: PositiveInt  # tokens
    rows_per_batch: PositiveInt = 16  # of a step; with pack = False 16 is the paper's batch of 16 sequences
    num_epochs: PositiveInt = 1
    pack: bool = True  # several examples in a row; False: one
    overlong: example_sets.Overlong = "drop"
    task_feature_lengths: Mapping[str, int] | None = None  # T5X's: bounds "inputs" and "targets" each as well
    load_balancing: NonNegativeFloat = 0.0  # weight of the routers' loss of balance, of a mixture of experts
    router_z: NonNegativeFloat = 0.0  # weight of the routers' z-loss

    @property
    def router_losses(self) -> RouterLossConfig:
        """What is added to the loss of a mixture of experts."""
        return RouterLossConfig(load_balancing=self.load_balancing, z=self.router_z)

    @property
    def length_policy(self) -> example_sets.LengthPolicy:
        """What becomes of examples that are too long."""
        of_features = self.task_feature_lengths or {}
        return example_sets.LengthPolicy(
            max_length=self.row_length,
            max_prompt_length=of_features.get("inputs"),
            max_completion_length=of_features.get("targets"),
            overlong=self.overlong,
        )

    def __post_init__(self):
        if unknown := (self.task_feature_lengths or {}).keys() - {"inputs", "targets"}:
            raise ValueError(
                f"task_feature_lengths speaks of '{min(unknown)}'; a fit has 'inputs' and 'targets'."
            )
        _ = self.length_policy  # refuses what makes no sense


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fitter:
    """What the fits of a stage share: how examples become batches, how they step, and on which devices."""

    fit: FitConfig
    optimizer: OptimizerConfig
    loop: LoopConfig
    mesh: Mesh
    seed: int
    adapter: LoraConfig | None = None  # shape of the adapters that models have, or get with their first fit
    rules: rules_lib.LogicalRules = ()  # of the models; without any, the default table

    def __post_init__(self):
        """Refuses a batch that does not divide, before a stage has spent time on anything else.

        Raises:
            WrongUse: `rows_per_batch` is no multiple of micro-batches times data shards.
        """
        multiple = self.loop.micro_batches * rules_lib.num_shards(self.mesh, "batch", self._table)
        if self.fit.rows_per_batch % multiple:
            raise WrongUse(
                f"rows_per_batch={self.fit.rows_per_batch} does not divide over micro_batches="
                f"{self.loop.micro_batches} and the data shards of the mesh; use a multiple of {multiple}."
            )

    @property
    def _table(self) -> rules_lib.LogicalRules:
        return self.rules or rules_lib.DEFAULT_RULES

    def within_length(
        self, examples: example_sets.ExampleSet
    ) -> tuple[example_sets.ExampleSet, dict[str, int]]:
        """Applies the length policy; returns what is left and the counts of what was dropped or cut."""
        return example_sets.within_length(examples, self.fit.length_policy)

    def batches(
        self, examples: example_sets.ExampleSet, *, label: int = 0, prefix_capacity: int = 0
    ) -> PackedEpochs:
        """Rows of fixed length in an order that is a function of (seed, label, epoch) alone.

        Args:
            label: tells apart the fits of one stage, such as the rounds of EM.
            prefix_capacity: of `packing.pack_rows`, for examples in groups.
        """
        return PackedEpochs(
            examples,
            row_length=self.fit.row_length,
            rows_per_batch=self.fit.rows_per_batch,
            num_epochs=self.fit.num_epochs,
            seed=prng.derived_seed(self.seed, label),
            pack=self.fit.pack,
            own_rows=placing.own_rows(
                rules_lib.batch_sharding(self.mesh, self._table), self.fit.rows_per_batch
            ),
            prefix_capacity=prefix_capacity,
        )

    def held_out_nll(self, lm: LanguageModel, examples: example_sets.ExampleSet | None) -> Evaluate | None:
        """What a fit calls to measure the mean NLL per trained token of the examples; None without any."""
        if examples is None or not len(examples):
            return None
        once = PackedEpochs(
            examples,
            row_length=self.fit.row_length,
            rows_per_batch=self.fit.rows_per_batch,
            num_epochs=1,
            seed=0,
        )

        def measure(params: Params) -> dict[str, float]:
            total, count = sft.nll(lm, params, once, mesh=self.mesh)
            return {"nll": total / max(count, 1)}

        return measure

    def step_config(self, loss: Loss) -> StepConfig:
        """What a step of a fit computes."""
        return StepConfig(
            loss=loss,
            optimizer=self.optimizer,
            adapter=self.adapter,
            router_losses=self.fit.router_losses,
            micro_batches=self.loop.micro_batches,
            remat=self.loop.remat,
        )

    def program(
        self,
        name: str,
        lm: CausalLM,
        loss: Loss,
        *,
        resident: Mapping[str, Any],
        token_values: tuple[str, ...] = (),
        shares_prompts: bool = False,
    ) -> Program:
        """A step of a fit, for the planner; see `train_step.program`."""
        return train_step.program(
            name,
            lm,
            self.step_config(loss),
            self.mesh,
            num_rows=self.fit.rows_per_batch,
            row_length=self.fit.row_length,
            resident=resident,
            token_values=token_values,
            shares_prompts=shares_prompts,
        )

    def train(
        self,
        lm: LanguageModel,
        params: Params,
        batches: BatchSource,
        *,
        directory: epath.PathLike,
        name: str,
        loss: Loss,
        opt_state: optax.OptState | None = None,
        held_out: example_sets.ExampleSet | None = None,
        donate: bool = False,
    ) -> Params:
        """Parameters after a `fit` on all batches.

        Where adapters are trained, a model without one gets it first, and what comes back shares its arrays.

        Args:
            held_out: examples whose NLL per trained token is measured at times.

        Raises:
            WrongUse: the model has an adapter of another shape, or one though none is to be trained; or rules
                other than the fitter's.
        """
        if (lm.rules or self._table) != self._table:
            raise WrongUse("The model's sharding rules are not the fitter's; make Fitter(rules=lm.rules).")
        parts = Trainable.adapted(lm, params, self.adapter, seed=self.seed, mesh=self.mesh)
        state = fit(
            lm,
            parts,
            batches,
            step=self.step_config(loss),
            config=self.loop,
            mesh=self.mesh,
            directory=directory,
            opt_state=opt_state,
            evaluate=self.held_out_nll(lm, held_out),
            name=name,
            donate=donate,
        )
        return parts.model(state.params)

    def latest_state(self, lm: LanguageModel, directory: epath.PathLike) -> TrainState:
        """The newest complete state of a fit in `directory`; after its end, the state it ended in.

        Raises:
            WrongUse: no step of a fit was finished there.
        """
        like = train_step.abstract_state(lm, self.optimizer, self.mesh, self.adapter)
        with contextlib.closing(TrainingCheckpoints(epath.Path(directory) / CHECKPOINTS)) as checkpoints:
            found = checkpoints.restore_latest(like)
        if found is None:
            raise WrongUse(
                f"{directory}: no finished training checkpoint; was the fit made with other settings?"
            )
        return found[1]


def fit(
    lm: LanguageModel,
    params: Trainable,
    batches: BatchSource,
    *,
    step: StepConfig,
    config: LoopConfig,
    mesh: Mesh,
    directory: epath.PathLike,
    opt_state: optax.OptState | None = None,
    evaluate: Evaluate | None = None,
    name: str = "fit",
    donate: bool = False,
) -> TrainState:
    """Trains the first part of `params` on all batches; the state at the end has it in float32.

    `directory` gets `checkpoints/`, `metrics.jsonl`, `tensorboard/`, `profile/` and batches whose update was
    skipped. Called again with the same arguments after a kill, it goes on from the last complete checkpoint
    there, and after the end it returns the final state at once.

    Args:
        opt_state: moments of an earlier fit to carry on; the schedule then goes on from their count, and a
            cosine ends where this fit ends. None: start anew.
        evaluate: figures of held-out data; called under `jax.set_mesh(mesh)` with parameters that it must
            not keep.
        donate: deletes the arrays of `opt_state` and of what is trained, once they are copied.

    Raises:
        Interrupted: the fit left before its end, for SIGTERM or a deadline.
        nonfinite_batches.TooManySkippedUpdates: see `RunConfig.max_skipped`; the last batch was saved.
        ValueError: a batch's rows do not divide over micro-batches and devices.
    """
    carried = 0 if opt_state is None else int(optimizer_lib.num_updates(opt_state))
    run = _Fit(
        lm=lm,
        params=params,
        batches=batches,
        step_config=step,
        config=config,
        mesh=mesh,
        directory=epath.Path(directory),
        opt_state=opt_state,
        schedule_end=np.int32(batches.num_steps + carried),
        evaluate=evaluate,
        name=name,
        donate=donate,
    )
    with contextlib.closing(run.checkpoints), jax.set_mesh(mesh), run.goodput:
        return driver.drive(run)[1]


def remove_checkpoints(directory: epath.PathLike) -> None:
    """Deletes the checkpoints of a finished fit, whose result is stored elsewhere; its metrics stay."""
    checkpoints = TrainingCheckpoints(epath.Path(directory) / CHECKPOINTS)
    checkpoints.close()
    checkpoints.remove()


@dataclasses.dataclass(kw_only=True)
class _Fit(driver.Run[TrainState]):
    """One attempt at a fit."""

    lm: LanguageModel
    params: Trainable
    batches: BatchSource
    step_config: StepConfig
    config: LoopConfig
    mesh: Mesh
    directory: epath.Path
    opt_state: optax.OptState | None
    schedule_end: np.int32
    evaluate: Evaluate | None
    name: str
    donate: bool

    def __post_init__(self):
        self.num_steps = self.batches.num_steps
        self.checkpoint_every = self.config.checkpoint_every
        self.checkpoints = TrainingCheckpoints(self.directory / CHECKPOINTS, keep=self.config.keep)
        self.goodput = Goodput()
        self._train_step = train_step.make_train_step(self.lm, self.step_config, self.mesh)
        trains_weights = self.step_config.adapter is None
        speedometer = Speedometer.of(self.lm.config, self.mesh, trains_weights=trains_weights)
        self._window = Window(self.goodput, speedometer, self.step_config.loss)

    def restore(self) -> tuple[int, TrainState]:
        """From the newest checkpoint; the arrays that the fit was given are not needed then."""
        trained = self.params.trained
        with self.goodput.spent_on("restore"):
            restored = self.checkpoints.restore_latest(self._train_step.abstract_state)
        if restored is None:
            return 0, self._train_step.first_state(trained, self.opt_state, donate=self.donate)
        if self.donate:
            train_step.delete_arrays((trained, self.opt_state))
        return restored

    @contextlib.contextmanager
    def attempt(self, step: int) -> Iterator[PreemptionGuard]:
        """With the rows of the metrics, a progress bar and the profiler."""
        config, total = self.config, self.num_steps
        self._log = MetricsLog(
            self.directory,
            resume_step=step,
            tensorboard=config.tensorboard,
            writes=hosts.is_first(),
            watch=config.watch,
            columns=TABLE_COLUMNS,
        )
        self.goodput.go_on_from(self._log.kept, self._log.newest)
        self._profiler = Profiler(
            self.directory,
            self.goodput,
            first=config.profile_first,
            num_steps=config.profile_steps if self._is_profiled else 0,
            next_step=step + 1,
        )
        with (
            self._log,
            Progress(self.name, unit="step", start=step, total=total) as self._progress,
            PreemptionGuard(config.watch, unit="row") as guard,
            contextlib.closing(self._profiler),
        ):
            yield guard
        with self.goodput.spent_on("checkpoint"):
            self.checkpoints.wait()
        logger.info("%s: %s", self.name, self.goodput.text())

    @property
    def _is_profiled(self) -> bool:
        return self.config.profile_cpu or self.mesh.devices.flat[0].platform != "cpu"

    def begin(self, step: int, state: TrainState) -> bool:
        """Batches are read ahead from here on."""
        self._in_flight = StepsInFlight(
            self.directory, num_skipped=int(state.num_skipped), max_skipped=self.config.max_skipped
        )
        self._ahead = packing.read_ahead(self.batches, step)
        return False

    def step(self, step: int, state: TrainState) -> TrainState:
        """Hands the step to the devices."""
        if not self._window.is_open:
            self._window.open()
        batch = self._next_batch()
        self._profiler.before(step)
        placed = self._train_step.place(batch, self.batches)
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            state, metrics = self._train_step.run(state, placed, self.schedule_end, self.params.frozen)
        self._window.add(metrics)
        self._in_flight.add(step, batch, metrics["num_skipped"])
        return state

    def _next_batch(self) -> PackedBatch:
        """Waiting for a batch is lost time only if it left the device without work."""
        began = time.monotonic()
        batch = next(self._ahead)
        if self._in_flight.is_idle():
            self.goodput.add("data", time.monotonic() - began)
        return batch

    def record(self, step: int, state: TrainState) -> bool | None:
        """Ends the window with a row where one is due, after an evaluation where that is due."""
        every = [self.config.log_every, self.config.checkpoint_every]
        every += [self.config.eval_every] if self.evaluate else []
        is_logged = any(self._is_due(number, step) for number in every)
        if is_logged:
            self._write_row(step, state)
        self._progress.update(step, *self._window.figures())
        return step == self.num_steps if is_logged else None

    def _write_row(self, step: int, state: TrainState) -> None:
        self._in_flight.settle()
        row = self._window.close()
        if self.evaluate and self._is_due(self.config.eval_every, step):
            with self.goodput.spent_on("evaluation"):
                figures = self.evaluate(self.params.model(state.params))
                row |= {f"eval/{name}": value for name, value in figures.items()}
        self._log.write(step, row | self.goodput.row())

    def _is_due(self, every: int, step: int) -> bool:
        return every > 0 and (step % every == 0 or step == self.num_steps)

    def save(self, step: int, state: TrainState) -> None:
        """Returns as soon as the state is copied off the devices."""
        with self.goodput.spent_on("checkpoint"):
            self.checkpoints.save(step, state)
