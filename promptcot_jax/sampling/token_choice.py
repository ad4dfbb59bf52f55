"""Choosing the next token: temperature, top-k, top-p and min-p, with the log-probability of what was chosen.

Two distributions are at work and both are reported: the model's own softmax at the sampling temperature (what
rewards, importance weights and policy ratios need) and the one that the token was drawn from after
truncation. Top-k comes first, top-p is taken within it, min-p last (the order of Hugging Face).

* A token is drawn by inverting the cumulative distribution with two uniforms a row, one for a block of the
  vocabulary and one inside it; Gumbel noise on every entry took four times as long on a CPU
  (`benchmarks/decoding.py --token_choice`). No float32 sum runs along the whole vocabulary, and a token of
  zero probability cannot come out.
* Truncation sorts nothing: the cut is found by bisection on the bits of the scores, exactly, ties going to
  the smaller token id, at about a tenth of a sort's cost. `lax.cond` skips it at run time, so that one
  program serves all settings.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from promptcot_jax.core.arrays import Array, Bool, Float, HostOrDevice, Int, UInt
from promptcot_jax.core.settings import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    PositiveShare,
    Share,
    settings,
)

_BLOCK = 128  # vocabulary entries per block: the lane width of a TPU, about the root of a vocabulary


@settings
class SamplingConfig:
    """How completions are sampled."""

    temperature: NonNegativeFloat = 1.0  # 0: greedy
    top_p: PositiveShare = 1.0  # 1 keeps every token
    top_k: NonNegativeInt = 0  # 0 keeps every token
    min_p: Share = 0.0  # 0 keeps every token
    max_new_tokens: PositiveInt = 64

    def numbers(self) -> "ChoiceNumbers":
        """The settings as arguments of a compiled program: new values never compile anew."""
        return ChoiceNumbers(
            temperature=np.asarray(self.temperature, np.float32),
            top_p=np.asarray(self.top_p, np.float32),
            top_k=np.asarray(min(self.top_k, np.iinfo(np.int32).max), np.int32),
            min_p=np.asarray(self.min_p, np.float32),
        )


class ChoiceNumbers(NamedTuple):
    """The numbers of a `SamplingConfig` as traced values: scalars, or one for each row."""

    temperature: Float[HostOrDevice, "*B"]
    top_p: Float[HostOrDevice, "*B"]
    top_k: Int[HostOrDevice, "*B"]
    min_p: Float[HostOrDevice, "*B"]


class ChosenTokens(NamedTuple):
    """One token per row."""

    token_ids: Int[Array, " B"]
    log_probs: Float[Array, " B"]  # under the model at the sampling temperature, nothing truncated
    sampler_log_probs: Float[Array, " B"]  # under what is left after truncation, renormalised


def choose_tokens(logits: Float[Array, "B V"], keys: jax.Array, numbers: ChoiceNumbers) -> ChosenTokens:
    """Draws one token per row, the noise of row b being a function of `keys[b]` alone.

    Greedy choice (temperature 0) reports both log-probabilities at temperature 1.
    """
    logits = logits.astype(jnp.float32)
    numbers = ChoiceNumbers(*(jnp.broadcast_to(number, logits.shape[:1]) for number in numbers))
    is_greedy = numbers.temperature == 0.0
    temperature = jnp.where(is_greedy, 1.0, numbers.temperature)
    # At most 0, and 0 for the most probable token: no temperature can make the exponentials overflow.
    scores = (logits - jnp.max(logits, axis=-1, keepdims=True)) / temperature[:, None]
    weights = jnp.exp(scores)
    truncates: Bool[Array, " B"] = (numbers.top_k > 0) | (numbers.top_p < 1.0) | (numbers.min_p > 0.0)
    kept_weights = lax.cond(
        jnp.any(truncates), lambda: _truncate(scores, weights, numbers, truncates), lambda: weights
    )

    uniforms = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys)  # [B, 2]
    token_ids = jnp.where(is_greedy, _first_maximum(scores), _draw(kept_weights, uniforms))
    picked = jnp.take_along_axis(scores, token_ids[:, None], axis=-1)[:, 0]
    log_probs = picked - jnp.log(jnp.sum(weights, axis=-1))
    sampler_log_probs = picked - jnp.log(jnp.sum(kept_weights, axis=-1))
    return ChosenTokens(token_ids, log_probs, jnp.where(truncates, sampler_log_probs, log_probs))


def _in_blocks(values: Float[Array, "B V"], fill: float) -> Float[Array, "B blocks block"]:
    num_blocks = -(-values.shape[-1] // _BLOCK)
    missing = num_blocks * _BLOCK - values.shape[-1]
    padded = jnp.pad(values, ((0, 0), (0, missing)), constant_values=fill)
    return padded.reshape(-1, num_blocks, _BLOCK)


def _pick_block(blocks: Float[Array, "B blocks block"], index: Int[Array, " B"]) -> Float[Array, "B block"]:
    return jnp.take_along_axis(blocks, index[:, None, None], axis=1)[:, 0]


def _first_maximum(scores: Float[Array, "B V"]) -> Int[Array, " B"]:
    """`jnp.argmax`, by block maxima: the reduction over the vocabulary vectorises, argmax's pairs do not."""
    blocks = _in_blocks(scores, -jnp.inf)
    block = jnp.argmax(jnp.max(blocks, axis=-1), axis=-1)
    return block * _BLOCK + jnp.argmax(_pick_block(blocks, block), axis=-1)


def _draw(weights: Float[Array, "B V"], uniforms: Float[Array, "B 2"]) -> Int[Array, " B"]:
    """Token ids with probability proportional to `weights`: a block, then a token inside it."""
    blocks = _in_blocks(weights, 0.0)
    block = _invert_cumulative(jnp.sum(blocks, axis=-1), uniforms[:, 0])
    return block * _BLOCK + _invert_cumulative(_pick_block(blocks, block), uniforms[:, 1])


def _invert_cumulative(weights: Float[Array, "B W"], uniforms: Float[Array, " B"]) -> Int[Array, " B"]:
    """First index of positive weight whose cumulative weight passes `uniforms` times the total."""
    cumulative = jnp.cumsum(weights, axis=-1)
    is_past = (cumulative > uniforms[:, None] * cumulative[:, -1:]) & (weights > 0.0)
    # A sum in another order may leave the last positive entry an ulp short of the total.
    last_positive = weights.shape[-1] - 1 - jnp.argmax((weights > 0.0)[:, ::-1], axis=-1)
    return jnp.where(jnp.any(is_past, axis=-1), jnp.argmax(is_past, axis=-1), last_positive)


def _truncate(
    scores: Float[Array, "B V"],
    weights: Float[Array, "B V"],
    numbers: ChoiceNumbers,
    truncates: Bool[Array, " B"],
) -> Float[Array, "B V"]:
    """Weights of the tokens that top-k, then top-p, then min-p keep; 0 for the others.

    A row that cuts nothing keeps its very weights, whatever its neighbours cut.
    """
    # Scores are never positive, so their magnitudes order as unsigned integers; greater rank = more probable.
    magnitude = lax.bitcast_convert_type(jnp.abs(scores), jnp.uint32)
    rank = lax.bitcast_convert_type(jnp.float32(jnp.inf), jnp.uint32) - magnitude

    def top_k(kept: Float[Array, "B V"]) -> Float[Array, "B V"]:
        wanted = jnp.where(numbers.top_k > 0, numbers.top_k, kept.shape[-1]).astype(jnp.float32)
        return jnp.where(_leading(rank, jnp.ones_like(kept), wanted), kept, 0.0)

    def top_p(kept: Float[Array, "B V"]) -> Float[Array, "B V"]:
        in_nucleus = _leading(rank, kept, numbers.top_p * jnp.sum(kept, axis=-1))
        return jnp.where(in_nucleus | (numbers.top_p == 1.0)[:, None], kept, 0.0)

    kept = lax.cond(jnp.any(numbers.top_k > 0), top_k, lambda kept: kept, weights)
    kept = lax.cond(jnp.any(numbers.top_p < 1.0), top_p, lambda kept: kept, kept)
    kept = jnp.where(weights >= numbers.min_p[:, None], kept, 0.0)  # the most probable token has weight 1
    return jnp.where(truncates[:, None], kept, weights)


def _leading(
    rank: UInt[Array, "B V"], measure: Float[Array, "B V"], wanted: Float[Array, " B"]
) -> Bool[Array, "B V"]:
    """The fewest tokens, by falling rank, then rising id, whose `measure` adds up to `wanted` (else all)."""

    def is_enough(is_in: Bool[Array, "B V"]) -> Bool[Array, " B"]:
        return jnp.sum(jnp.where(is_in, measure, 0.0), axis=-1) >= wanted

    num_rows, vocab_size = rank.shape
    threshold = _largest(31, num_rows, lambda cut: is_enough(rank >= cut[:, None]))[:, None]
    from_the_end = jnp.arange(vocab_size - 1, -1, -1, dtype=jnp.uint32)

    def up_to_tie(cut: UInt[Array, " B"]) -> Bool[Array, "B V"]:
        return (rank > threshold) | ((rank == threshold) & (from_the_end >= cut[:, None]))

    return up_to_tie(_largest(vocab_size.bit_length(), num_rows, lambda cut: is_enough(up_to_tie(cut))))


def _largest(num_bits: int, num_rows: int, holds: Callable[[Array], Array]) -> UInt[Array, " B"]:
    """Per row, the largest number of `num_bits` bits for which `holds`; true up to it and false beyond it."""

    def set_bit(i: Array, found: Array) -> Array:
        candidate = found | (jnp.uint32(1) << (num_bits - 1 - i).astype(jnp.uint32))
        return jnp.where(holds(candidate), candidate, found)

    return lax.fori_loop(0, num_bits, set_bit, jnp.zeros(num_rows, jnp.uint32))
