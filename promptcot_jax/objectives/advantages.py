"""Advantages of samples within their group: those of GRPO and its relatives.

Rewards come with a mask: what could not be scored takes no part in its group's mean or deviation, whatever
number stands in its place, and has advantage 0.
"""

from typing import Literal

import jax.numpy as jnp

from promptcot_jax.core.arrays import Array, Bool, Float

Baseline = Literal["mean_and_std", "mean", "leave_one_out"]


def group_advantages(
    rewards: Float[Array, "B G"],
    is_valid: Bool[Array, "B G"],
    *,
    baseline: Baseline = "mean_and_std",
    epsilon: float = 1e-4,
) -> Float[Array, "B G"]:
    """Advantages of the valid samples of each row; zero for the others, and for one that is alone.

    `mean_and_std`: (reward - mean) / (std + epsilon), GRPO (arXiv 2402.03300), with the deviation of the
    group itself and not an estimate for a population (TRL divides by G - 1). `mean`: reward - mean, Dr. GRPO
    (arXiv 2503.20783). `leave_one_out`: reward - mean of the others (RLOO, arXiv 2402.14740).

    Args:
        epsilon: far above rounding, so that rewards which differ by rounding alone give advantages near zero.
    """
    count = jnp.sum(is_valid, axis=-1, keepdims=True)
    mean = jnp.sum(jnp.where(is_valid, rewards, 0.0), axis=-1, keepdims=True) / jnp.maximum(count, 1)
    centred = jnp.where(is_valid, rewards - mean, 0.0)
    if baseline == "mean":
        return centred
    if baseline == "leave_one_out":
        # r - (sum - r) / (n - 1) = (r - mean) * n / (n - 1)
        return jnp.where(count > 1, centred * count / jnp.maximum(count - 1, 1), 0.0)
    std = jnp.sqrt(jnp.sum(centred**2, axis=-1, keepdims=True) / jnp.maximum(count, 1))
    return centred / (std + epsilon)
