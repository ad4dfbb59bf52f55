"""Evidence bounds from samples z ~ q_phi(z | c, x), and E-step weights (paper section 2, appendix A).

With `log_weights = log p_theta(z, x | c) - log q_phi(z | c, x)` of G samples of one pair:

    ELBO              mean_g log_weights                       <= log p(x | c)
    importance bound  logsumexp_g log_weights - log G          <= log p(x | c) on average, tight as G grows
    posterior weight  softmax_g log_weights                    ~ p_theta(z | c, x) on the sampled z

A sample that did not end inside its budget lies outside the support that q is scored on: its weight is zero
(`log_weights = -inf`), which keeps the importance bound a bound. The ELBO is then that of q given that it
ended.
"""

import jax
import jax.numpy as jnp

from promptcot_jax.core.arrays import Array, Bool, Float


def log_importance_weights(
    log_joint: Float[Array, "B G"], log_q: Float[Array, "B G"], is_finished: Bool[Array, "B G"]
) -> Float[Array, "B G"]:
    """log p(z, x | c) - log q(z | c, x); -inf where the sample did not end."""
    return jnp.where(is_finished, log_joint - log_q, -jnp.inf)


def elbo(log_weights: Float[Array, "B G"]) -> Float[Array, " B"]:
    """Mean log weight of q given that it ended; -inf where no sample did.

    Given that it ended, q's density is q(z) / P(end): the log of the share that ended is added.
    """
    is_finished = log_weights > -jnp.inf
    count = jnp.sum(is_finished, axis=-1)
    total = jnp.sum(jnp.where(is_finished, log_weights, 0.0), axis=-1)
    bound = total / jnp.maximum(count, 1) + jnp.log(count / log_weights.shape[-1])
    return jnp.where(count > 0, bound, -jnp.inf)


def importance_bound(log_weights: Float[Array, "B G"]) -> Float[Array, " B"]:
    """Log of the mean weight over all G samples, those of weight zero included."""
    return jax.nn.logsumexp(log_weights, axis=-1) - jnp.log(log_weights.shape[-1])


def posterior_weights(log_weights: Float[Array, "B G"]) -> Float[Array, "B G"]:
    """Self-normalised weights; all zero where no sample ended."""
    largest = jnp.max(log_weights, axis=-1, keepdims=True)
    weights = jnp.where(jnp.isfinite(largest), jnp.exp(log_weights - largest), 0.0)
    return weights / jnp.maximum(jnp.sum(weights, axis=-1, keepdims=True), 1e-30)


def effective_sample_size(log_weights: Float[Array, "B G"]) -> Float[Array, " B"]:
    """1 / sum of squared posterior weights: G when all are equal, 1 when one has all, 0 when none ended."""
    squares = jnp.sum(posterior_weights(log_weights) ** 2, axis=-1)
    return jnp.where(squares > 0, 1.0 / jnp.maximum(squares, 1e-30), 0.0)
