"""Clipped policy-gradient loss of each completion token (GRPO; PPO's surrogate, arXiv 1707.06347 eq. 7)."""

import jax.numpy as jnp

from promptcot_jax.core.arrays import Array, Float


def grpo_token_loss(
    token_log_probs: Float[Array, "B T"],
    old_log_probs: Float[Array, "B T"],
    advantages: Float[Array, "B T"],
    *,
    clip_epsilon: float,
) -> Float[Array, "B T"]:
    """Surrogate loss per token, no reduction; advantages are given per token since rows may be packed."""
    ratio = jnp.exp(token_log_probs - old_log_probs)
    clipped = jnp.clip(ratio, 1.0 - clip_epsilon, 1.0 + clip_epsilon)
    return -jnp.minimum(ratio * advantages, clipped * advantages)
