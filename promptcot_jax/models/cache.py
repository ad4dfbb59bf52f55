"""Keys and values of the tokens read so far, for prefill and step-by-step decoding."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from promptcot_jax.core.arrays import Array, Bool, Float, Int
from promptcot_jax.models import config as config_lib


class LayerCache(NamedTuple):
    """Keys (already rotated) and values of one layer; head-major, as the attention matmul reads them."""

    keys: Float[Array, "B K S H"]
    values: Float[Array, "B K S H"]


class Cache(NamedTuple):
    """State of a batch of rows being decoded; all rows write the same slots, padding included."""

    layers: tuple[LayerCache, ...]
    is_token: Bool[Array, "B S"]  # False: padding, or not written yet
    num_written: Int[Array, ""]  # slots, in every row


class Slots(NamedTuple):
    """Where the tokens of one `extend` go, and what they may read."""

    positions: Int[Array, "B T"]
    mask: Bool[Array, "B T S"]
    is_token: Bool[Array, "B S"]


def empty_cache(config: config_lib.DecoderConfig, batch: int, length: int) -> Cache:
    """A cache of `length` free slots for each of `batch` rows."""
    shape = (batch, config.num_kv_heads, length, config.head_dim)
    layers = tuple(
        LayerCache(jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype))
        for _ in range(config.num_layers)
    )
    return Cache(layers, jnp.zeros((batch, length), bool), jnp.zeros((), jnp.int32))


def take_slots(cache: Cache, is_token: Bool[Array, "B T"]) -> Slots:
    """The next T slots for T new tokens a row; a position counts the real tokens before it in its row."""
    seen = jnp.sum(cache.is_token, axis=1, keepdims=True, dtype=jnp.int32)  # [B, 1]
    positions = seen + jnp.cumsum(is_token, axis=1, dtype=jnp.int32) - is_token
    written = jax.lax.dynamic_update_slice(cache.is_token, is_token, (jnp.int32(0), cache.num_written))
    queries = cache.num_written + jnp.arange(is_token.shape[1], dtype=jnp.int32)  # [T]
    is_past = jnp.arange(written.shape[1], dtype=jnp.int32) <= queries[:, None]  # [T, S]
    return Slots(positions, is_past & written[:, None, :], written)


def write(
    layer: LayerCache,
    keys: Float[Array, "B K T H"],
    values: Float[Array, "B K T H"],
    first_slot: Int[Array, ""] | int,
) -> LayerCache:
    """Writes T slots from `first_slot` on; in place where the caller donated or carries the cache."""
    start = (jnp.int32(0), jnp.int32(0), jnp.int32(first_slot), jnp.int32(0))
    return LayerCache(
        jax.lax.dynamic_update_slice(layer.keys, keys.astype(layer.keys.dtype), start),
        jax.lax.dynamic_update_slice(layer.values, values.astype(layer.values.dtype), start),
    )
