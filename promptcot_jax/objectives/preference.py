"""Losses over pairs of completions of one prompt, of which one is preferred, and none reduced."""

from typing import Literal

import jax
import jax.numpy as jnp

from promptcot_jax.core.arrays import Array, Float

PreferenceLoss = Literal["sigmoid", "ipo"]


def preference_losses(
    chosen_log_ratios: Float[Array, "..."],
    rejected_log_ratios: Float[Array, "..."],
    *,
    beta: float,
    loss: PreferenceLoss = "sigmoid",
    target_margin: float = 0.0,
    label_smoothing: float = 0.0,
) -> Float[Array, "..."]:
    """The loss of each pair, of the difference d = chosen - rejected.

    `sigmoid`: -log sigmoid(beta * d - target_margin) (DPO, arXiv 2305.18290, equation 7; with a margin and
    without a reference SimPO, arXiv 2405.14734, equation 6). `ipo`: (d - 1 / (2 beta))^2 (arXiv 2310.12036,
    equation 17), which does not drive d to infinity where a pair is always the same way round.

    Args:
        chosen_log_ratios: log p(y | x) - log p_reference(y | x) of the preferred completion (log p(y | x)
            without a reference), summed over its tokens, or their mean where lengths are to play no part.
        label_smoothing: probability that a pair is the wrong way round (conservative DPO); of `sigmoid`.
    """
    difference = chosen_log_ratios - rejected_log_ratios
    if loss == "ipo":
        return jnp.square(difference - 0.5 / beta)
    logits = beta * difference - target_margin
    right, wrong = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    return -(1.0 - label_smoothing) * right - label_smoothing * wrong
