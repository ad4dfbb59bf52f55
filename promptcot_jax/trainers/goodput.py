"""Where the wall time of a fit went, and how fast its steps were.

`Goodput` counts over all attempts, by named counters that are kept in the rows of the metrics.
Productive are the seconds in which steps ran that still count; `CAUSES` says what takes the others. What is
neither (making the first state, opening files) is the rest of `seconds`. A fit begins with the call of
`loop.fit`: what its process does before that, and between attempts, is known to the manifest at most.

A `Window` is the steps between two rows: their loss per label and their speed. Speed counts real tokens, and
only the seconds in which steps ran or waited for data.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, get_args

import jax
import numpy as np
from jax.sharding import Mesh

from promptcot_jax.models import flops
from promptcot_jax.models.config import DecoderConfig, ModelConfig
from promptcot_jax.parallel import hardware
from promptcot_jax.trainers import router_losses
from promptcot_jax.trainers.train_step import Loss, Metrics

Cause = Literal["compile", "restore", "checkpoint", "evaluation", "data", "profile", "repeated"]
CAUSES: tuple[Cause, ...] = get_args(Cause)
FIELDS = ("seconds", "step_seconds", "goodput", *(f"lost_seconds/{cause}" for cause in CAUSES))

SPEED_FIELDS = ("tokens_per_second", "tflops_per_device", "mfu")

_COMPILE_EVENTS = "/jax/core/compile/"  # of tracing, lowering, and of compiling or reading the cache


class Goodput:
    """The counters of one fit; as a context manager it hears what JAX compiles."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        """The fit begins now."""
        self.lost: dict[Cause, float] = dict.fromkeys(CAUSES, 0.0)
        self.step_seconds = 0.0
        self._clock = clock
        self._began = clock()
        self._seconds_before = 0.0
        self._compilations: list[tuple[float, float]] = []  # (began, seconds), one after the other
        self.open_window()

    def __enter__(self) -> "Goodput":
        jax.monitoring.register_event_duration_secs_listener(self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._hear)

    def go_on_from(self, kept: Mapping[str, Any] | None, newest: Mapping[str, Any] | None) -> None:
        """Takes up an earlier attempt: its steps after the checkpoint were in vain and are repeated now.

        Args:
            kept: the last row up to the checkpoint.
            newest: the last row that the attempt wrote.
        """
        kept, newest = kept or {}, newest or {}
        for cause in CAUSES:
            self.lost[cause] += newest.get(f"lost_seconds/{cause}", 0.0)
        self.lost["repeated"] += newest.get("step_seconds", 0.0) - kept.get("step_seconds", 0.0)
        self.step_seconds += kept.get("step_seconds", 0.0)
        self._seconds_before += newest.get("seconds", 0.0)

    @contextlib.contextmanager
    def spent_on(self, cause: Cause) -> Iterator[None]:
        """Counts the time of the block, without what inside it is counted under another cause."""
        began, lost = self._clock(), self._total_lost()
        try:
            yield
        finally:
            self.add(cause, self._clock() - began - (self._total_lost() - lost))

    def add(self, cause: Cause, seconds: float) -> None:
        """Counts seconds that the caller measured."""
        self.lost[cause] += seconds

    def open_window(self) -> None:
        """From now on time is that of steps, unless counted otherwise."""
        self._window_began, self._lost_before = self._clock(), dict(self.lost)

    def close_window(self) -> float:
        """Counts the window's steps; returns the seconds that they took, waiting for data included."""
        lost = {cause: self.lost[cause] - before for cause, before in self._lost_before.items()}
        elapsed = self._clock() - self._window_began
        self.step_seconds += elapsed - sum(lost.values())
        self.open_window()
        return elapsed - lost["compile"] - lost["profile"]

    @property
    def seconds(self) -> float:
        """Wall time so far, of all attempts."""
        return self._seconds_before + self._clock() - self._began

    def row(self) -> dict[str, float]:
        """`FIELDS` and their values."""
        seconds = self.seconds
        share = self.step_seconds / seconds if seconds else 0.0
        figures = {"seconds": seconds, "step_seconds": self.step_seconds}
        figures |= {f"lost_seconds/{cause}": self.lost[cause] for cause in CAUSES}
        return {name: round(value, 3) for name, value in figures.items()} | {"goodput": round(share, 4)}

    def text(self) -> str:
        """One line for the log."""
        shares = {"steps": self.step_seconds, **self.lost}
        seconds = max(self.seconds, 1e-9)
        parts = [f"{name} {100 * part / seconds:.1f} %" for name, part in shares.items() if part > 0.0]
        return f"{seconds:.1f} s, of these {', '.join(parts)}"

    def _total_lost(self) -> float:
        return sum(self.lost.values())

    def _hear(self, event: str, duration_secs: float, **_: str | int) -> None:
        """Counts what JAX spent on compiling; an inner function's event comes before its outer one's."""
        if not event.startswith(_COMPILE_EVENTS):
            return
        began = self._clock() - duration_secs
        while self._compilations and self._compilations[-1][0] >= began:
            self.add("compile", -self._compilations.pop()[1])
        self._compilations.append((began, duration_secs))
        self.add("compile", duration_secs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speedometer:
    """How fast a model trains on some devices."""

    config: DecoderConfig | None  # None: a model whose FLOPs no formula tells
    num_devices: int
    peak: float | None  # FLOP/s of one device; None where it is not known
    trains_weights: bool = True  # else an adapter only: no gradients of the model's own matrices

    @classmethod
    def of(cls, config: ModelConfig, mesh: Mesh, *, trains_weights: bool = True) -> "Speedometer":
        """For the devices of a mesh, which are of one kind."""
        peaks = hardware.hardware_of(mesh.devices.flat[0].device_kind)
        return cls(
            config=config if isinstance(config, DecoderConfig) else None,
            num_devices=mesh.size,
            peak=peaks and peaks.bf16_flops,
            trains_weights=trains_weights,
        )

    def figures(self, num_tokens: int, num_seen: int, seconds: float) -> dict[str, float]:
        """`SPEED_FIELDS` and their values; without `mfu` where no peak is known."""
        speed = {"tokens_per_second": round(num_tokens / seconds, 1)}
        if self.config is None:
            return speed
        total = flops.training_flops(self.config, num_tokens, num_seen, trains_weights=self.trains_weights)
        per_device = total / seconds / self.num_devices
        figures = speed | {"tflops_per_device": round(per_device / 1e12, 6)}
        if self.peak is not None:
            figures["mfu"] = round(per_device / self.peak, 4)
        return figures


class Window:
    """The steps since the last row; their metrics stay on the device until it is closed.

    A row is written at every step that is logged, evaluated or saved, so a window never reaches over a
    checkpoint and a resumed run writes the rows the first one would have written.
    """

    def __init__(self, goodput: Goodput, speedometer: Speedometer, loss: Loss):
        self.is_open = False
        self.mean_loss: float | None = None  # of the last closed window
        self.tokens_per_second: float | None = None
        self._goodput = goodput
        self._speedometer = speedometer
        self._loss = loss

    def open(self) -> None:
        """Starts the clock of the next window."""
        self.is_open = True
        self._pending: list[Metrics] = []
        self._goodput.open_window()

    def add(self, metrics: Metrics) -> None:
        """Takes up a dispatched step."""
        self._pending.append(metrics)

    def figures(self) -> tuple[str, ...]:
        """What is known of the last closed window, for the eye."""
        if self.mean_loss is None or self.tokens_per_second is None:
            return ()
        return f"loss {self.mean_loss:.4f}", f"{self.tokens_per_second:,.0f} tokens/s"

    def close(self) -> dict[str, float]:
        """Waits for the window's steps; the loss is per label over all of them, the rest of the last."""
        self.is_open = False
        steps = jax.device_get(self._pending)
        total, count, num_tokens, num_seen = (
            float(np.sum([step[name] for step in steps], dtype=np.float64))
            for name in ("total", "count", "tokens", "tokens_seen")
        )
        speed = self._speedometer.figures(int(num_tokens), int(num_seen), self._goodput.close_window())
        self.mean_loss = total / count if count else math.nan
        self.tokens_per_second = speed["tokens_per_second"]
        return {
            "loss": self.mean_loss,
            "labels": int(count) if math.isfinite(count) else count,  # a sum of weights, for some losses
            **{name: float(steps[-1][name]) for name in ("gradient_norm", "learning_rate")},
            "num_skipped": int(steps[-1]["num_skipped"]),
            **(router_losses.figures([step["routers"] for step in steps]) if "routers" in steps[0] else {}),
            **(self._loss.metrics_of([s["figures"] for s in steps]) if "figures" in steps[0] else {}),
            **speed,
        }
