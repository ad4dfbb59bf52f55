"""AdamW in float32, and its learning rate as a function of the number of updates.

The paper gives learning rates (2e-5 for cold start, 2e-6 for EM) but neither schedule, betas nor clipping;
ours are the settings below. The learning rate is computed outside the optax transformation because the length
of a run enters it: as a traced number it may differ from round to round of EM without a recompilation.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from promptcot_jax.core.arrays import Array, Float, Int
from promptcot_jax.core.settings import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    Share,
    ShareBelowOne,
    settings,
)

DECAYED = ("kernel", "embedding", "lora_a", "lora_b")  # norm scales and biases are left alone


@settings
class OptimizerConfig:
    """AdamW with global-norm clipping, warm-up, and a constant or cosine schedule."""

    learning_rate: PositiveFloat
    warmup_steps: NonNegativeInt = 0
    schedule: Literal["constant", "cosine"] = "constant"
    final_fraction: Share = 0.1  # of `learning_rate`, at the end of a cosine schedule
    weight_decay: NonNegativeFloat = 0.0
    b1: ShareBelowOne = 0.9
    b2: ShareBelowOne = 0.95
    epsilon: PositiveFloat = 1e-8
    clip_norm: PositiveFloat | None = 1.0  # None: no clipping

    def build(self) -> optax.GradientTransformation:
        """The descent direction before it is scaled by minus the learning rate; moments are float32."""
        inner = optax.chain(
            optax.identity() if self.clip_norm is None else optax.clip_by_global_norm(self.clip_norm),
            optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.epsilon),
            optax.add_decayed_weights(self.weight_decay, mask=decay_mask),
        )
        return optax.GradientTransformation(lambda params: inner.init(to_float32(params)), inner.update)

    def learning_rate_at(self, num_updates: Int[Array, ""], end: Int[Array, ""]) -> Float[Array, ""]:
        """The rate of the update after `num_updates` earlier ones; a cosine schedule ends at update `end`."""
        rate = jnp.float32(self.learning_rate)
        if self.schedule == "cosine":
            done = (num_updates - self.warmup_steps) / jnp.maximum(end - self.warmup_steps, 1)
            cosine = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(done, 0.0, 1.0)))
            rate *= self.final_fraction + (1 - self.final_fraction) * cosine
        if self.warmup_steps:
            rate *= jnp.minimum(1.0, (num_updates + 1) / self.warmup_steps)
        return rate


def num_updates(opt_state: optax.OptState) -> Array:
    """How many updates the optimizer has made: Adam's own count."""
    return optax.tree.get(opt_state, "count")


def to_float32(params: Any) -> Any:
    """The tree in new float32 arrays, never the ones given (optax passes trees of placeholders as well)."""
    return jax.tree.map(lambda x: jnp.array(x, dtype=jnp.float32, copy=True), params)


def decay_mask(params: Any) -> Any:
    """True for the matrices, by the name of the leaf: a scanned norm scale is a matrix too, [L, D]."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in DECAYED, params)
