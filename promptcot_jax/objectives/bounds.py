"""Bounds on log p(x | c) from samples of proposals, and the exact E-step's posterior weights.

On the host, in float64. The log weight of a sample z of a pair is log p_theta(z, x | c) - log m(z | c, x), m
being the density that it was drawn from, a mixture where there are several proposals; it is -inf where the
sample did not end, so that the sample counts, with weight zero.
"""

import numpy as np

from promptcot_jax.core.arrays import Bool, Float


def log_importance_weights(
    log_joint: Float[np.ndarray, "*B G"],
    log_q: Float[np.ndarray, "*B G"],
    is_finished: Bool[np.ndarray, "*B G"],
) -> Float[np.ndarray, "*B G"]:
    """log p(z, x | c) - log q(z | c, x); -inf where the sample did not end."""
    return np.where(is_finished, np.asarray(log_joint, np.float64) - log_q, -np.inf)


def elbo(log_weights: Float[np.ndarray, "*B G"]) -> Float[np.ndarray, "*B"]:
    """Mean log weight of q given that it ended; -inf where no sample did.

    Given that it ended, q's density is q(z) / P(end): the log of the share that ended is added.
    """
    is_finished = log_weights > -np.inf
    count = is_finished.sum(axis=-1)
    total = np.where(is_finished, log_weights, 0.0).sum(axis=-1)
    share = np.maximum(count, 1) / log_weights.shape[-1]
    return np.where(count > 0, total / np.maximum(count, 1) + np.log(share), -np.inf)


def importance_bound(log_weights: Float[np.ndarray, "*B G"]) -> Float[np.ndarray, "*B"]:
    """Log of the mean weight over all G samples, those of weight zero included.

    The mean weight is an unbiased estimate of p(x | c), so its log is below log p(x | c) on average.
    """
    return np.logaddexp.reduce(np.asarray(log_weights, np.float64), axis=-1) - np.log(log_weights.shape[-1])


def importance_bound_error(log_weights: Float[np.ndarray, "*B G"]) -> Float[np.ndarray, "*B"]:
    """Standard error of `importance_bound`, from the spread of its own weights: sqrt(1 / ESS - 1 / G).

    The delta method for the log of a mean, whose weights are normalised by their sum; inf where no sample
    ended. About half of its square is how far the bound lies below log p(x | c).
    """
    effective = effective_sample_size(log_weights)
    with np.errstate(divide="ignore"):
        return np.sqrt(np.maximum(1.0 / effective - 1.0 / log_weights.shape[-1], 0.0))


def posterior_weights(log_weights: Float[np.ndarray, "*B G"]) -> Float[np.ndarray, "*B G"]:
    """Self-normalised weights; all zero where no sample ended."""
    largest = np.max(log_weights, axis=-1, keepdims=True)
    weights = np.exp(np.asarray(log_weights, np.float64) - np.where(np.isfinite(largest), largest, 0.0))
    return weights / np.maximum(weights.sum(axis=-1, keepdims=True), 1e-300)


def effective_sample_size(log_weights: Float[np.ndarray, "*B G"]) -> Float[np.ndarray, "*B"]:
    """1 / sum of squared posterior weights: G when all are equal, 1 when one has all, 0 when none ended."""
    squares = np.sum(posterior_weights(log_weights) ** 2, axis=-1)
    return np.where(squares > 0, 1.0 / np.maximum(squares, 1e-300), 0.0)
