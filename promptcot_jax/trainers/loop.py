"""The one training loop: runs the train step, logs, evaluates, checkpoints, and resumes bit-equally.

State, metrics rows and data position all belong to a step, so an attempt that was killed goes on from the
last complete checkpoint as if nothing had happened. The host never waits for the step it has just dispatched:
metrics stay on the device until a step is logged, and while the device works threads of the host lay out the
next batches.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from jax.sharding import Mesh

from promptcot_jax.checkpoints.training import TrainingCheckpoints
from promptcot_jax.core.arrays import Params
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.progress import Progress
from promptcot_jax.data import packing
from promptcot_jax.data.packing import BatchSource
from promptcot_jax.models.causal_lm import CausalLM
from promptcot_jax.trainers import metrics as metrics_lib
from promptcot_jax.trainers import optimizer as optimizer_lib
from promptcot_jax.trainers.optimizer import OptimizerConfig
from promptcot_jax.trainers.train_step import Loss, Metrics, TrainState, TrainStep, make_train_step

CHECKPOINTS = "checkpoints"
STEPS_IN_FLIGHT = 2  # dispatched and not known to be done; more would only hold batches in memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How a fit runs; nothing here changes what is learned, but for `micro_batches` within rounding.

    `checkpoint_every`, `eval_every` and `log_every` count steps; 0 switches evaluation off, and the last step
    always counts for all three. `keep`: complete checkpoints that stay. `remat`: compute layers again in the
    backward pass instead of keeping their activations. `max_skipped`: updates with a non-finite gradient that
    are tolerated.
    """

    HOW_ONLY: ClassVar = frozenset(
        {"micro_batches", "log_every", "eval_every", "checkpoint_every", "keep", "remat", "tensorboard"}
    )

    micro_batches: int = 1
    log_every: int = 10
    eval_every: int = 200
    checkpoint_every: int = 200
    keep: int = 2
    remat: bool = False
    max_skipped: int = 10
    tensorboard: bool = True

    def __post_init__(self):
        for name in ("micro_batches", "log_every", "checkpoint_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("eval_every", "max_skipped"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}.")


class TooManySkippedUpdates(ArithmeticError):
    """Gradients were infinite or NaN more often than `max_skipped` allows."""


def fit(
    lm: CausalLM,
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
    name: str = "fit",
) -> TrainState:
    """Trains `params` on all batches; the state at the end has float32 parameters.

    `directory` gets `checkpoints/`, `metrics.jsonl` and `tensorboard/`. Called again with the same arguments
    after a kill, it goes on from the last complete checkpoint there, and after the end it returns the final
    state at once. The arrays of `params` and `opt_state` are copied and stay valid.

    Args:
        opt_state: moments of an earlier fit to carry on; the schedule then goes on from their count, and a
            cosine ends where this fit ends. None: start anew.
        evaluate: figures of held-out data; called under `jax.set_mesh(mesh)` with parameters that it must
            not keep.

    Raises:
        TooManySkippedUpdates: see `LoopConfig.max_skipped`.
        ValueError: a batch's rows do not divide over micro-batches and devices.
    """
    train_step = make_train_step(
        lm, loss, optimizer, mesh, num_micro_batches=config.micro_batches, remat=config.remat
    )
    schedule_end = batches.num_steps + (0 if opt_state is None else int(optimizer_lib.num_updates(opt_state)))
    checkpoints = TrainingCheckpoints(epath.Path(directory) / CHECKPOINTS, keep=config.keep)
    try:
        with jax.set_mesh(mesh):
            restored = checkpoints.restore_latest(_like(train_step, params))
            first, state = restored or (0, _first_state(train_step, params, opt_state))
            if first == batches.num_steps:
                return state
            log = metrics_lib.MetricsLog(directory, resume_step=first, tensorboard=config.tensorboard)
            with log, Progress(name, unit="step", start=first, total=batches.num_steps) as progress:
                run = _Run(
                    train_step, batches, np.int32(schedule_end), config, log, progress, checkpoints, evaluate
                )
                return run.steps(first, state)
    finally:
        checkpoints.close()


def latest_state(
    lm: CausalLM,
    params: Params,
    *,
    loss: Loss,
    optimizer: OptimizerConfig,
    mesh: Mesh,
    directory: epath.PathLike,
) -> TrainState:
    """The newest complete state of a fit in `directory`; after its end, the state it ended in.

    Args:
        params: parameters of the model that was fitted, for their shapes.

    Raises:
        WrongUse: no step of a fit was finished there.
    """
    checkpoints = TrainingCheckpoints(epath.Path(directory) / CHECKPOINTS)
    try:
        found = checkpoints.restore_latest(_like(make_train_step(lm, loss, optimizer, mesh), params))
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


def _first_state(train_step: TrainStep, params: Params, opt_state: optax.OptState | None) -> TrainState:
    """The state before the first step, of arrays that nobody else holds: the step will donate them."""
    state = train_step.start(jax.device_put(params, train_step.shardings.params))
    if opt_state is None:
        return state
    own = jax.device_put(jax.tree.map(jnp.copy, opt_state), train_step.shardings.opt_state)
    return dataclasses.replace(state, opt_state=own)


@dataclasses.dataclass(frozen=True)
class _Run:
    """One attempt at a fit, from a state to the last step."""

    train_step: TrainStep
    batches: BatchSource
    schedule_end: np.int32
    config: LoopConfig
    log: metrics_lib.MetricsLog
    progress: Progress
    checkpoints: TrainingCheckpoints
    evaluate: Callable[[Params], dict[str, float]] | None

    def steps(self, first: int, state: TrainState) -> TrainState:
        """Runs the steps after `first`; the order row, checkpoint is what makes a resumed log complete."""
        window = _Window(self.log.seconds)
        for step, batch in enumerate(packing.read_ahead(self.batches, first), start=first + 1):
            self.train_step.check_rows(batch.token_ids.shape[0])
            state, metrics = self.train_step.run(state, batch, self.schedule_end)
            window.add(metrics, num_tokens=int(np.count_nonzero(batch.segment_ids)))
            is_save = self._is_due(self.config.checkpoint_every, step)
            evaluate = self.evaluate if self._is_due(self.config.eval_every, step) else None
            if is_save or evaluate or self._is_due(self.config.log_every, step):
                row = window.close()
                self._check_skipped(step, row)
                if evaluate:
                    row |= {f"eval/{name}": value for name, value in evaluate(state.params).items()}
                self.log.write(step, row)
                if is_save:
                    self.checkpoints.save(step, state)
                window.open()
            self.progress.update(step, *window.figures())
        return state

    def _is_due(self, every: int, step: int) -> bool:
        return every > 0 and (step % every == 0 or step == self.batches.num_steps)

    def _check_skipped(self, step: int, row: dict[str, float]) -> None:
        if row["num_skipped"] > self.config.max_skipped:
            raise TooManySkippedUpdates(
                f"By step {step}, {row['num_skipped']:.0f} updates had a gradient that was not finite "
                f"(max_skipped is {self.config.max_skipped}); lower learning_rate, lengthen "
                "warmup_steps, or use float32 activations; metrics.jsonl shows the steps before."
            )


class _Window:
    """The steps since the last row: their metrics, still on the device, and their wall time.

    A row is written at every step that is logged, evaluated or saved, so a window never reaches over a
    checkpoint and a resumed run writes the rows the first one would have written.
    """

    def __init__(self, seconds_before: float):
        self.loss: float | None = None  # of the last closed window
        self.tokens_per_second: float | None = None
        self._seconds = seconds_before
        self.open()

    def open(self) -> None:
        """Starts the clock of the next window."""
        self._pending: list[Metrics] = []
        self._num_tokens = 0
        self._began = time.monotonic()

    def add(self, metrics: Metrics, *, num_tokens: int) -> None:
        """Takes up a dispatched step; waits only for the one `STEPS_IN_FLIGHT` before it."""
        self._pending.append(metrics)
        self._num_tokens += num_tokens
        if len(self._pending) > STEPS_IN_FLIGHT:
            jax.block_until_ready(self._pending[-1 - STEPS_IN_FLIGHT])

    def figures(self) -> tuple[str, ...]:
        """What is known of the last closed window, for the eye."""
        if self.loss is None or self.tokens_per_second is None:
            return ()
        return f"loss {self.loss:.4f}", f"{self.tokens_per_second:,.0f} tokens/s"

    def close(self) -> dict[str, float]:
        """Waits for the window's steps; the loss is per label over all of them, the rest of the last."""
        steps = jax.device_get(self._pending)
        seconds = time.monotonic() - self._began
        self._seconds += seconds
        total, count = (
            float(np.sum([step[name] for step in steps], dtype=np.float64)) for name in ("total", "count")
        )
        self.loss = total / count if count else math.nan
        self.tokens_per_second = self._num_tokens / seconds
        last = {name: float(steps[-1][name]) for name in ("gradient_norm", "learning_rate")}
        return {
            "loss": self.loss,
            "labels": int(count),
            **last,
            "num_skipped": int(steps[-1]["num_skipped"]),
            "seconds": round(self._seconds, 3),
            "tokens_per_second": round(self.tokens_per_second, 1),
        }
