"""Policy-gradient losses of each completion token: PPO's surrogate and what the field makes of it.

Arrays are [B, T] over packed rows. Position t predicts the token after it: `is_label` says whether that is a
token of a completion, and `segment_ids` whose, since several sequences may share a row. Nothing is reduced
here: a loss is the sum of `weights * losses`, divided once by a count that all micro-batches and devices add
up to (`aggregation_weights`).

Ratios are exp of differences of log-probabilities at the temperature of sampling. A difference is held within
`LOG_RATIO_LIMIT`, beyond which no gradient flows: exp of it is finite, and 0 * inf would be NaN.
"""

from typing import Literal

import jax.numpy as jnp
from jax import lax

from promptcot_jax.core.arrays import Array, Bool, Float, Int

RatioLevel = Literal["token", "sequence"]
Aggregation = Literal["token", "sequence", "constant"]
KlEstimator = Literal["k1", "k2", "k3"]

LOG_RATIO_LIMIT = 20.0


def sequence_sums(
    values: Float[Array, "B T"], segment_ids: Int[Array, "B T"], is_label: Bool[Array, "B T"]
) -> Float[Array, "B T"]:
    """At each label the sum of the values over the labels of its sequence; 0 elsewhere."""
    num_rows, length = values.shape
    rows = jnp.arange(num_rows)[:, None]
    sums = jnp.zeros((num_rows, length + 1), values.dtype)  # segment ids of a row are at most its length
    sums = sums.at[rows, segment_ids].add(jnp.where(is_label, values, 0.0))
    return jnp.where(is_label, jnp.take_along_axis(sums, segment_ids, axis=1), 0.0)


def sequence_lengths(segment_ids: Int[Array, "B T"], is_label: Bool[Array, "B T"]) -> Float[Array, "B T"]:
    """At each label the number of labels of its sequence; 1 elsewhere."""
    return jnp.maximum(sequence_sums(is_label.astype(jnp.float32), segment_ids, is_label), 1.0)


def log_ratios(
    token_log_probs: Float[Array, "B T"],
    old_log_probs: Float[Array, "B T"],
    segment_ids: Int[Array, "B T"],
    is_label: Bool[Array, "B T"],
    *,
    level: RatioLevel,
) -> Float[Array, "B T"]:
    """log of the importance ratio at each label; 0 elsewhere.

    `token`: log p(y_t) - log p_old(y_t). `sequence`: the mean of that over the sequence, at each of its
    tokens, which is the length-normalised ratio of GSPO (arXiv 2507.18071, equation 7).
    """
    difference = jnp.where(is_label, token_log_probs - old_log_probs, 0.0)
    if level == "sequence":
        difference = sequence_sums(difference, segment_ids, is_label)
        difference = difference / sequence_lengths(segment_ids, is_label)
    return jnp.clip(difference, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def clipped_surrogate(
    log_ratio: Float[Array, "B T"],
    advantages: Float[Array, "B T"],
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float = 0.0,
) -> Float[Array, "B T"]:
    """-min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A) (PPO, arXiv 1707.06347, equation 7).

    With `clip_high` above `clip_low` it is DAPO's "clip higher" (arXiv 2503.14476, equation 8). Where A < 0
    it grows with the ratio without bound; `dual_clip` holds the ratio there at that value, beyond which no
    gradient flows (dual-clip PPO, arXiv 1912.09729, equation 5). 0: it does not.
    """
    ratio = jnp.exp(log_ratio)
    clipped = jnp.clip(ratio, 1.0 - clip_low, 1.0 + clip_high)
    surrogate = jnp.minimum(ratio * advantages, clipped * advantages)
    if dual_clip:
        surrogate = jnp.where(advantages < 0, jnp.maximum(surrogate, dual_clip * advantages), surrogate)
    return -surrogate


def cispo(
    token_log_probs: Float[Array, "B T"],
    log_ratio: Float[Array, "B T"],
    advantages: Float[Array, "B T"],
    *,
    clip_low: float,
    clip_high: float,
) -> Float[Array, "B T"]:
    """-clip(ratio) * A * log p, the clipped ratio a constant (CISPO, arXiv 2506.13585, equation 4).

    Every token keeps a gradient: clipping bounds its weight where PPO's surrogate drops it.
    """
    weight = jnp.clip(jnp.exp(log_ratio), 1.0 - clip_low, 1.0 + clip_high)
    return -lax.stop_gradient(weight) * advantages * token_log_probs


def clipped_where(
    log_ratio: Float[Array, "B T"],
    advantages: Float[Array, "B T"],
    *,
    clip_low: float,
    clip_high: float,
) -> tuple[Bool[Array, "B T"], Bool[Array, "B T"]]:
    """Where clipping is at work, below and above: only ratios that have gone the advantage's way."""
    ratio = jnp.exp(log_ratio)
    return (ratio < 1.0 - clip_low) & (advantages < 0), (ratio > 1.0 + clip_high) & (advantages > 0)


def kl_estimate(
    token_log_probs: Float[Array, "B T"],
    reference_log_probs: Float[Array, "B T"],
    *,
    estimator: KlEstimator,
) -> Float[Array, "B T"]:
    """Estimate of KL(p || reference) from a token drawn from p (J. Schulman, "Approximating KL divergence").

    With d = log p - log reference: `k1` d; `k2` d^2 / 2; `k3` exp(-d) - 1 + d, GRPO's. k1 and k3 have the
    right mean. As terms of a loss they are another matter: the mean gradient of k1 is 0, that of k2 is the
    gradient of KL(p || reference), that of k3 the one of KL(reference || p).
    """
    difference = jnp.clip(token_log_probs - reference_log_probs, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return 0.5 * difference**2
    return jnp.expm1(-difference) + difference


def sampler_weights(
    old_log_probs: Float[Array, "B T"],
    sampler_log_probs: Float[Array, "B T"],
    segment_ids: Int[Array, "B T"],
    is_label: Bool[Array, "B T"],
    *,
    level: RatioLevel,
    cap: float,
    is_masked: bool = False,
) -> Float[Array, "B T"]:
    """min(p_old / p_sampler, cap), which corrects for a sampler that rounds otherwise than the trainer.

    A constant of the loss. `token`: of each token; `sequence`: the product over the whole sequence (truncated
    importance sampling, as verl and TRL have it). 1 where there is no label.

    Args:
        is_masked: 0 in place of `cap` where the ratio is above it (masked importance sampling).
    """
    difference = jnp.where(is_label, old_log_probs - sampler_log_probs, 0.0)
    if level == "sequence":
        difference = sequence_sums(difference, segment_ids, is_label)
    difference = jnp.clip(difference, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    ratio = jnp.exp(difference)
    bounded = jnp.where(ratio > cap, 0.0, ratio) if is_masked else jnp.minimum(ratio, cap)
    return lax.stop_gradient(bounded)


def aggregation_weights(
    segment_ids: Int[Array, "B T"],
    is_label: Bool[Array, "B T"],
    *,
    aggregation: Aggregation,
    constant_length: int = 0,
) -> tuple[Float[Array, "B T"], Float[Array, ""]]:
    """Weights of the token losses, and the count to divide their sum by once all batches are added up.

    `token`: each token of the batch counts alike (DAPO). `sequence`: each sequence, by the mean of its tokens
    (GRPO). `constant`: each sequence, by the sum of its tokens over `constant_length`, so that a long wrong
    answer is not cheaper by the token than a short one (Dr. GRPO).
    """
    if aggregation == "token":
        return is_label.astype(jnp.float32), jnp.sum(is_label, dtype=jnp.float32)
    before = jnp.pad(is_label[:, :-1], ((0, 0), (1, 0)))
    is_same = segment_ids == jnp.pad(segment_ids[:, :-1], ((0, 0), (1, 0)))
    num_sequences = jnp.sum(is_label & ~(before & is_same), dtype=jnp.float32)
    lengths = sequence_lengths(segment_ids, is_label) if aggregation == "sequence" else constant_length
    return jnp.where(is_label, 1.0 / lengths, 0.0), num_sequences
