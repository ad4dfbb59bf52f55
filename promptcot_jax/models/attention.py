"""The arithmetic of attention over whole rows: positions, rotary embeddings, and how scores become weights.

Rotary embeddings pair dimensions i and i + H/2, as Llama does. Their frequencies are constants of a model,
made in float64 on the host; scaled ones (for contexts longer than those first trained on) follow
`transformers.modeling_rope_utils`, which the checkpoints were trained with.

Attention is one batched product for each key-value head, its group of query heads laid side by side, so that
keys and values are never repeated. Over the pages of a cache `paged_cache` computes the same by `ScoreRule`.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from promptcot_jax.core.arrays import Array, Bool, Float, Int
from promptcot_jax.models import config as config_lib
from promptcot_jax.models import splash
from promptcot_jax.parallel import rules as rules_lib
from promptcot_jax.parallel.rules import constrain


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreRule:
    """One layer's rule; scale and cap are known when a program is traced, reach and sinks are arrays.

    Attributes:
        scale: scores are multiplied by it.
        soft_cap: scores are then cap * tanh(scores / cap).
        reach: how many tokens a query sees, itself and those before it; None: all. A layer of a scan says
            so by a reach beyond every row (`EVERYTHING`).
        sinks: a score of each query head that takes its share of the softmax and mixes in nothing.
    """

    scale: float
    soft_cap: float | None = None
    reach: Int[Array, ""] | None = None
    sinks: Float[Array, " N"] | None = None

    def capped(self, scores: Float[Array, "..."]) -> Float[Array, "..."]:
        """Scores after the soft cap; masks come after it."""
        if self.soft_cap is None:
            return scores
        return self.soft_cap * jnp.tanh(scores / self.soft_cap)

    def sees(self, distance: Int[Array, "..."]) -> Array:
        """Whether a query sees a key so many tokens before it."""
        if self.reach is None:
            return distance >= 0
        return (distance >= 0) & (distance < self.reach)


EVERYTHING = jnp.iinfo(jnp.int32).max
_QUERY_BLOCK, _MOST_BLOCKS = 128, 8  # queries of a block on a CPU, at least; blocks of a row, at most


class Rotation(NamedTuple):
    """Cosine and sine of every position's angles, one angle for each pair of head dimensions."""

    cosine: Float[Array, "B T H/2"]
    sine: Float[Array, "B T H/2"]


def positions_in_segments(segment_ids: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """Counts from 0 at the start of every run of equal segment ids."""
    slots = jnp.arange(segment_ids.shape[1], dtype=jnp.int32)
    is_start = jnp.diff(segment_ids, axis=1, prepend=-1) != 0
    return slots - jax.lax.cummax(jnp.where(is_start, slots, 0), axis=1)


def rotation(
    positions: Int[Array, "B T"],
    *,
    head_dim: int,
    theta: float,
    scaling: config_lib.RopeScaling | None = None,
) -> Rotation:
    """Angles of `positions`, in float32: bfloat16 cannot tell positions apart beyond 256."""
    radians = frequencies(head_dim, theta, scaling).astype(np.float32)  # [H/2]
    angles = positions[..., None].astype(jnp.float32) * radians
    size = _attention_factor(scaling)
    return Rotation(jnp.cos(angles) * size, jnp.sin(angles) * size)


def frequencies(head_dim: int, theta: float, scaling: config_lib.RopeScaling | None = None) -> np.ndarray:
    """Radians per position of each pair of dimensions, [H/2] in float64, fastest first."""
    unscaled = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    match scaling:
        case None:
            return unscaled
        case config_lib.LinearScaling():
            return unscaled / scaling.factor
        case config_lib.Llama3Scaling():
            kept = _llama3_share_kept(unscaled, scaling)
        case config_lib.YarnScaling():
            kept = _yarn_share_kept(head_dim, theta, scaling)
    return unscaled * (kept + (1.0 - kept) / scaling.factor)


def rotate(heads: Float[Array, "B T heads H"], rotary: Rotation) -> Float[Array, "B T heads H"]:
    """Turns each pair (i, i + H/2) of every head by its position's angle."""
    first, second = jnp.split(heads.astype(jnp.float32), 2, axis=-1)
    cosine, sine = rotary.cosine[:, :, None], rotary.sine[:, :, None]  # [B, T, 1, H/2]
    rotated = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    return rotated.astype(heads.dtype)


def _llama3_share_kept(unscaled: np.ndarray, scaling: config_lib.Llama3Scaling) -> np.ndarray:
    """Linear in the number of full rotations within the original context."""
    num_rotations = scaling.original_max_positions * unscaled / (2.0 * math.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    return np.clip((num_rotations - low) / (high - low), 0.0, 1.0)


def _yarn_share_kept(head_dim: int, theta: float, scaling: config_lib.YarnScaling) -> np.ndarray:
    """Linear in the number of the pair, between those that make `beta_fast` and `beta_slow` rotations."""

    def pair_of(num_rotations: float) -> float:
        wavelength = scaling.original_max_positions / (num_rotations * 2.0 * math.pi)
        return head_dim * math.log(wavelength) / (2.0 * math.log(theta))

    start, end = pair_of(scaling.beta_fast), pair_of(scaling.beta_slow)
    if scaling.truncate:
        start, end = math.floor(start), math.ceil(end)
    start, end = max(start, 0), min(end, head_dim - 1)
    width = end - start if end != start else 1e-3
    return 1.0 - np.clip((np.arange(head_dim // 2) - start) / width, 0.0, 1.0)


def _attention_factor(scaling: config_lib.RopeScaling | None) -> float:
    if not isinstance(scaling, config_lib.YarnScaling):
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    return 0.1 * math.log(max(scaling.factor, 1.0)) + 1.0


def segment_mask(
    segment_ids: Int[Array, "B T"],
    rules: rules_lib.LogicalRules,
    prefix_ids: Int[Array, "B T"] | None = None,
) -> Bool[Array, "B T T"]:
    """Which tokens each token of a row sees: those up to itself of its own segment and of its prefix."""
    slots = jnp.arange(segment_ids.shape[1])
    is_past = slots[None, :] <= slots[:, None]  # [T, T]
    # Padding sees padding, which keeps its softmax finite; nothing else sees it.
    is_seen = segment_ids[:, :, None] == segment_ids[:, None, :]
    if prefix_ids is not None:
        is_seen |= prefix_ids[:, :, None] == segment_ids[:, None, :]
    mask = is_past & is_seen
    return constrain(mask, ("batch", "length", None), rules)


def attend_in_rows(
    queries: Float[Array, "B T N H"],
    keys: Float[Array, "B K T H"],
    values: Float[Array, "B K T H"],
    *,
    mask: Bool[Array, "B T T"] | None,
    segment_ids: Int[Array, "B T"] | None,
    prefix_ids: Int[Array, "B T"] | None = None,
    rule: ScoreRule,
    window: int | None = None,
    rules: rules_lib.LogicalRules = (),
) -> Float[Array, "B T N H"]:
    """Attention over whole rows: plain where there is a mask, on a CPU in blocks; else by TPUs' kernel.

    Args:
        window: the reach, which the kernel has to know when it is traced; the mask's is in `rule`.
    """
    if mask is not None:
        # A query sees keys of the whole row: gathered once, where positions are split.
        whole = ("batch", "kv_heads", None, None)
        keys, values = (constrain(x, whole, rules) for x in (keys, values))
        if jax.default_backend() == "cpu":
            return _attend_in_blocks(queries, keys, values, mask, rule)
        return attend(queries, keys, values, mask, rule)
    assert segment_ids is not None
    return splash.attend(
        queries,
        keys,
        values,
        segment_ids,
        prefix_ids,
        scale=rule.scale,
        window=window,
        soft_cap=rule.soft_cap,
        sinks=rule.sinks,
        rules=rules,
    )


def _attend_in_blocks(
    queries: Float[Array, "B T N H"],
    keys: Float[Array, "B K T H"],
    values: Float[Array, "B K T H"],
    mask: Bool[Array, "B T T"],
    rule: ScoreRule,
) -> Float[Array, "B T N H"]:
    """`attend` for a stretch of queries at a time, each with the keys up to its end: half of the scores.

    Their memory stays in a CPU's cache, which counts for more: a step of 3 M parameters on rows of 512 tokens
    takes 0.6 of the time. An accelerator would rather have one large product.
    """
    length = queries.shape[1]
    block = max(_QUERY_BLOCK, -(-length // _MOST_BLOCKS))
    spans = [(start, min(start + block, length)) for start in range(0, length, block)]
    mixed = [
        attend(queries[:, i:j], keys[:, :, :j], values[:, :, :j], mask[:, i:j, :j], rule, first=i)
        for i, j in spans
    ]
    return jnp.concatenate(mixed, axis=1)


def attend(
    queries: Float[Array, "B T N H"],
    keys: Float[Array, "B K S H"],
    values: Float[Array, "B K S H"],
    mask: Bool[Array, "B T S"],
    rule: ScoreRule,
    first: int = 0,
) -> Float[Array, "B T N H"]:
    """Softmax attention of N query heads over K key-value heads; the queries' places begin at `first`.

    A query whose mask is empty (padding) gets a finite mean of all values; nothing reads it.
    """
    batch, length, num_heads, head_dim = queries.shape
    num_kv_heads, num_slots = keys.shape[1:3]
    scaled = queries * jnp.asarray(rule.scale, queries.dtype)
    grouped = scaled.reshape(batch, length, num_kv_heads, -1, head_dim)
    grouped = grouped.transpose(0, 2, 1, 3, 4)  # [B, K, T, N/K, H]: merged with heads, positions stay split
    rows = grouped.reshape(batch, num_kv_heads, -1, head_dim)  # [B, K, T*N/K, H]
    scores = jnp.einsum("BKRH,BKSH->BKRS", rows, keys, preferred_element_type=jnp.float32)
    scores = rule.capped(scores).reshape(batch, num_kv_heads, length, -1, num_slots)
    if rule.reach is not None:
        mask = mask & rule.sees(first + jnp.arange(length)[:, None] - jnp.arange(num_slots))
    scores = jnp.where(mask[:, None, :, None], scores, jnp.finfo(jnp.float32).min)
    weights = softmax_with_sinks(scores, rule.sinks).astype(values.dtype)
    weights = weights.reshape(batch, num_kv_heads, -1, num_slots)
    mixed = jnp.einsum("BKRS,BKSH->BKRH", weights, values)
    mixed = mixed.reshape(batch, num_kv_heads, length, -1, head_dim)
    return mixed.swapaxes(1, 2).reshape(queries.shape)  # from [B, T, K, N/K, H]


def softmax_with_sinks(
    scores: Float[Array, "B K T G S"], sinks: Float[Array, " N"] | None
) -> Float[Array, "B K T G S"]:
    """Softmax over keys; each head's sink takes its share of the sum."""
    if sinks is None:
        return jax.nn.softmax(scores, axis=-1)
    sinks = sinks.astype(jnp.float32).reshape(scores.shape[1], 1, -1, 1)  # [K, 1, N/K, 1]
    maximum = lax.stop_gradient(jnp.maximum(jnp.max(scores, axis=-1, keepdims=True), sinks))
    weights = jnp.exp(scores - maximum)
    return weights / (jnp.sum(weights, axis=-1, keepdims=True) + jnp.exp(sinks - maximum))
