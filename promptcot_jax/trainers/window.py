"""The steps between two rows of the metrics: their loss per label, their speed, and what of the device's
peak they used.

Speed counts real tokens, and only the seconds in which steps ran or waited for data: not those of compiling,
evaluating or saving, which `goodput` counts.
"""

import dataclasses
import math

import jax
import numpy as np
from jax.sharding import Mesh

from promptcot_jax.models import flops
from promptcot_jax.models.config import DecoderConfig
from promptcot_jax.models.language_model import ModelConfig
from promptcot_jax.parallel import hardware
from promptcot_jax.trainers import router_losses
from promptcot_jax.trainers.goodput import Goodput
from promptcot_jax.trainers.train_step import Loss, Metrics

SPEED_FIELDS = ("tokens_per_second", "tflops_per_device", "mfu")


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
