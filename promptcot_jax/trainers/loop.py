"""The one training loop: runs the train step, logs, evaluates, checkpoints, and resumes bit-equally.

State, metrics rows and data position all belong to a step, so an attempt that was killed goes on from the
last complete checkpoint as if nothing had happened. The host never waits for the step it has just dispatched:
metrics stay on the device until a step is logged, and while the device works threads of the host lay out the
next batches. What the run is watched by is in `docs/watching.md`: speed and MFU (`window`), lost time
(`goodput`), skipped updates (`in_flight`, `nonfinite`), a trace of a few steps (`profile`).
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from jax.sharding import Mesh

from promptcot_jax.checkpoints.training import TrainingCheckpoints
from promptcot_jax.core.arrays import Params
from promptcot_jax.core.errors import Interrupted, WrongUse
from promptcot_jax.core.progress import Progress
from promptcot_jax.data import packing
from promptcot_jax.data.packing import BatchSource, PackedBatch
from promptcot_jax.models import lora
from promptcot_jax.models.decoder import Remat
from promptcot_jax.models.language_model import LanguageModel
from promptcot_jax.models.lora import LoraConfig
from promptcot_jax.parallel import hosts
from promptcot_jax.trainers import metrics as metrics_lib
from promptcot_jax.trainers import optimizer as optimizer_lib
from promptcot_jax.trainers.goodput import Goodput
from promptcot_jax.trainers.in_flight import StepsInFlight
from promptcot_jax.trainers.optimizer import OptimizerConfig
from promptcot_jax.trainers.preemption import PreemptionGuard
from promptcot_jax.trainers.profile import Profiler
from promptcot_jax.trainers.router_losses import RouterLossConfig
from promptcot_jax.trainers.train_step import (
    NO_ROUTER_LOSSES,
    Loss,
    TrainState,
    TrainStep,
    make_train_step,
)
from promptcot_jax.trainers.watching import NOT_WATCHED, WatchConfig
from promptcot_jax.trainers.window import Speedometer, Window

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
TABLE_COLUMNS = ("loss", "gradient_norm", "learning_rate", "tokens_per_second", "eval/nll", "goodput")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How a fit runs; nothing here changes what is learned, but for `micro_batches` within rounding.

    `checkpoint_every`, `eval_every` and `log_every` count steps; 0 switches evaluation off, and the last step
    always counts for all three. `keep`: complete checkpoints that stay. `remat`: what the backward pass keeps
    of each layer instead of computing it again: "none" (everything is kept), "projections", "offload" (the
    same, in the host's memory) or "full" (the layer's input only). `max_skipped`: updates with a non-finite
    gradient or loss that are tolerated. The profiler traces `profile_steps` steps (0: none) from step
    `profile_first` on, on a CPU only with `profile_cpu`. `watch`: where metrics go, and until when the run
    may last; it leaves at a step with a row.
    """

    EXECUTION_ONLY: ClassVar = frozenset(
        {
            "micro_batches",
            "log_every",
            "eval_every",
            "checkpoint_every",
            "keep",
            "remat",
            "max_skipped",
            "tensorboard",
            "profile_first",
            "profile_steps",
            "profile_cpu",
            "watch",
        }
    )

    micro_batches: int = 1
    log_every: int = 10
    eval_every: int = 200
    checkpoint_every: int = 200
    keep: int = 2
    remat: Remat = "projections"
    max_skipped: int = 10
    tensorboard: bool = True
    profile_first: int = 12  # the step is compiled, and the next rows are some steps away
    profile_steps: int = 3
    profile_cpu: bool = False
    watch: WatchConfig = NOT_WATCHED

    def __post_init__(self):
        for name in ("micro_batches", "log_every", "checkpoint_every", "keep", "profile_first"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("eval_every", "max_skipped", "profile_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}.")
        if self.remat not in get_args(Remat):
            raise ValueError(f"remat must be one of {get_args(Remat)}, got {self.remat!r}.")


def fit(
    lm: LanguageModel,
    params: Params,
    batches: BatchSource,
    *,
    loss: Loss,
    optimizer: OptimizerConfig,
    config: LoopConfig,
    mesh: Mesh,
    directory: epath.PathLike,
    opt_state: optax.OptState | None = None,
    evaluate: Callable[[Params], dict[str, float]] | None = None,
    adapter: LoraConfig | None = None,
    router_losses: RouterLossConfig = NO_ROUTER_LOSSES,
    name: str = "fit",
    donate: bool = False,
) -> TrainState:
    """Trains `params` on all batches; the state at the end has float32 parameters.

    Of a model with an adapter only that is trained, and only that is in the state.

    `directory` gets `checkpoints/`, `metrics.jsonl`, `tensorboard/`, `profile/` and batches whose update was
    skipped. Called again with the same arguments after a kill, it goes on from the last complete checkpoint
    there, and after the end it returns the final state at once.

    Args:
        opt_state: moments of an earlier fit to carry on; the schedule then goes on from their count, and a
            cosine ends where this fit ends. None: start anew.
        evaluate: figures of held-out data; called under `jax.set_mesh(mesh)` with parameters that it must
            not keep.
        adapter: shape of the adapter that `params` have.
        router_losses: added to the loss of a mixture of experts.
        donate: gives up the arrays of `opt_state`, and of what is trained of `params`, once they are copied.

    Raises:
        Interrupted: the fit left before its end, for SIGTERM or a deadline.
        in_flight.TooManySkippedUpdates: see `LoopConfig.max_skipped`; the last batch was saved.
        ValueError: a batch's rows do not divide over micro-batches and devices.
    """
    train_step = make_train_step(
        lm,
        loss,
        optimizer,
        mesh,
        num_micro_batches=config.micro_batches,
        remat=config.remat,
        adapter=adapter,
        router_losses=router_losses,
    )
    trained, frozen = lora.split(params)
    schedule_end = batches.num_steps + (0 if opt_state is None else int(optimizer_lib.num_updates(opt_state)))
    checkpoints = TrainingCheckpoints(epath.Path(directory) / CHECKPOINTS, keep=config.keep)
    goodput = Goodput()
    try:
        with jax.set_mesh(mesh), goodput:
            with goodput.spent_on("restore"):
                restored = checkpoints.restore_latest(_like(train_step, trained))
            first, state = restored or (0, _first_state(train_step, trained, opt_state, donate))
            if donate and restored:
                _give_up((trained, opt_state))
            if first == batches.num_steps:
                return state
            log = metrics_lib.MetricsLog(
                directory,
                resume_step=first,
                tensorboard=config.tensorboard,
                writes=hosts.is_first(),
                watch=config.watch,
                columns=TABLE_COLUMNS,
            )
            goodput.go_on_from(log.kept, log.newest)
            with (
                log,
                Progress(name, unit="step", start=first, total=batches.num_steps) as progress,
                PreemptionGuard(config.watch, unit="row") as guard,
            ):
                run = _Run(
                    train_step=train_step,
                    frozen=frozen,
                    batches=batches,
                    schedule_end=np.int32(schedule_end),
                    config=config,
                    log=log,
                    progress=progress,
                    guard=guard,
                    checkpoints=checkpoints,
                    evaluate=evaluate,
                    goodput=goodput,
                    window=Window(goodput, Speedometer.of(lm.config, mesh, trains_weights=adapter is None)),
                    in_flight=StepsInFlight(
                        directory,
                        num_skipped=int(state.num_skipped),
                        max_skipped=config.max_skipped,
                    ),
                    profiler=_profiler(directory, goodput, config, mesh, next_step=first + 1),
                )
                state = run.steps(first, state)
            with goodput.spent_on("checkpoint"):
                checkpoints.wait()
            logger.info("%s: %s", name, goodput.text())
            return state
    finally:
        checkpoints.close()


def latest_state(
    lm: LanguageModel,
    params: Params,
    *,
    loss: Loss,
    optimizer: OptimizerConfig,
    mesh: Mesh,
    directory: epath.PathLike,
    adapter: LoraConfig | None = None,
) -> TrainState:
    """The newest complete state of a fit in `directory`; after its end, the state it ended in.

    Args:
        params: parameters of the model that was fitted, for their shapes.

    Raises:
        WrongUse: no step of a fit was finished there.
    """
    checkpoints = TrainingCheckpoints(epath.Path(directory) / CHECKPOINTS)
    try:
        step = make_train_step(lm, loss, optimizer, mesh, adapter=adapter)
        found = checkpoints.restore_latest(_like(step, lora.split(params)[0]))
    finally:
        checkpoints.close()
    if found is None:
        raise WrongUse(f"{directory}: no finished training checkpoint; was the fit made with other settings?")
    return found[1]


def remove_checkpoints(directory: epath.PathLike) -> None:
    """Deletes the checkpoints of a finished fit, whose result is stored elsewhere; its metrics stay."""
    checkpoints = TrainingCheckpoints(epath.Path(directory) / CHECKPOINTS)
    checkpoints.close()
    checkpoints.remove()


def _like(train_step: TrainStep, params: Params) -> TrainState:
    """Shapes and places of a state, for restoring."""
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        jax.eval_shape(train_step.start, params),
        train_step.shardings,
    )


def _first_state(
    train_step: TrainStep, params: Params, opt_state: optax.OptState | None, donate: bool
) -> TrainState:
    """The state before the first step, of arrays that nobody else holds: the step will donate them."""
    shardings = train_step.shardings
    state = train_step.start(jax.device_put(params, shardings.params))
    if donate:
        _give_up(params)
    if opt_state is None:
        return state
    _give_up(state.opt_state)  # before the moments to carry on are copied
    own = opt_state if donate else jax.tree.map(jnp.copy, opt_state)
    return dataclasses.replace(state, opt_state=jax.device_put(own, shardings.opt_state))


def _give_up(arrays: Any) -> None:
    """Frees memory that callers still refer to."""
    for leaf in jax.tree.leaves(arrays):
        leaf.delete()


def _profiler(
    directory: epath.PathLike, goodput: Goodput, config: LoopConfig, mesh: Mesh, *, next_step: int
) -> Profiler:
    is_on = config.profile_cpu or mesh.devices.flat[0].platform != "cpu"
    num_steps = config.profile_steps if is_on else 0
    return Profiler(directory, goodput, first=config.profile_first, num_steps=num_steps, next_step=next_step)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
    """One attempt at a fit, from a state to the last step."""

    train_step: TrainStep
    frozen: Params
    batches: BatchSource
    schedule_end: np.int32
    config: LoopConfig
    log: metrics_lib.MetricsLog
    progress: Progress
    guard: PreemptionGuard
    checkpoints: TrainingCheckpoints
    evaluate: Callable[[Params], dict[str, float]] | None
    goodput: Goodput
    window: Window
    in_flight: StepsInFlight
    profiler: Profiler

    def steps(self, first: int, state: TrainState) -> TrainState:
        """Runs the steps after `first`; the order row, checkpoint is what makes a resumed log complete."""
        self.window.open()
        try:
            for step, batch in enumerate(self._read_from(first), start=first + 1):
                self.profiler.before(step)
                state = self._dispatch(step, state, batch)
                if self._has_row(step):
                    self._write_row(step, state)
                self.progress.update(step, *self.window.figures())
        finally:
            self.profiler.close()
        return state

    def _read_from(self, first: int) -> Iterator[PackedBatch]:
        """The batches; waiting for one is lost time only if it left the device without work."""
        batches = packing.read_ahead(self.batches, first)
        while True:
            began = time.monotonic()
            batch = next(batches, None)
            if self.in_flight.is_idle():
                self.goodput.add("data", time.monotonic() - began)
            if batch is None:
                return
            yield batch

    def _dispatch(self, step: int, state: TrainState, batch: PackedBatch) -> TrainState:
        placed = self.train_step.place(batch, self.batches)
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            state, metrics = self.train_step.run(state, placed, self.schedule_end, self.frozen)
        self.window.add(metrics)
        self.in_flight.add(step, batch, metrics["num_skipped"])
        return state

    def _has_row(self, step: int) -> bool:
        every = (self.config.log_every, self.config.checkpoint_every, self._eval_every)
        return any(self._is_due(number, step) for number in every)

    def _write_row(self, step: int, state: TrainState) -> None:
        """Ends the window with a row, after an evaluation and before a checkpoint where these are due."""
        self.in_flight.settle()
        row = self.window.close()
        if self.evaluate and self._is_due(self._eval_every, step):
            with self.goodput.spent_on("evaluation"):
                figures = self.evaluate(lora.join(state.params, self.frozen))
                row |= {f"eval/{name}": value for name, value in figures.items()}
        self.log.write(step, row | self.goodput.row())
        reason = "" if step == self.batches.num_steps else self.guard.reason()
        if reason or self._is_due(self.config.checkpoint_every, step):
            with self.goodput.spent_on("checkpoint"):
                self.checkpoints.save(step, state)
        if reason:
            raise Interrupted(
                f"left after step {step} of {self.batches.num_steps} for {reason}, with a checkpoint; the "
                "same command goes on"
            )
        self.window.open()

    @property
    def _eval_every(self) -> int:
        return self.config.eval_every if self.evaluate else 0

    def _is_due(self, every: int, step: int) -> bool:
        return every > 0 and (step % every == 0 or step == self.batches.num_steps)
