"""Losses over pairs of completions of one prompt, of which one is preferred (DPO, arXiv 2305.18290)."""

import jax

from promptcot_jax.core.arrays import Array, Float


def dpo_losses(
    chosen_log_ratios: Float[Array, "..."],
    rejected_log_ratios: Float[Array, "..."],
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> Float[Array, "..."]:
    """-log sigmoid(beta * (chosen - rejected)) of each pair (equation 7), no reduction.

    Args:
        chosen_log_ratios: log p(y | x) - log p_reference(y | x) of the preferred completion, summed over its
            tokens, or their mean where lengths are to play no part.
        label_smoothing: probability that a pair is the wrong way round (conservative DPO).
    """
    logits = beta * (chosen_log_ratios - rejected_log_ratios)
    right, wrong = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    return -(1.0 - label_smoothing) * right - label_smoothing * wrong
