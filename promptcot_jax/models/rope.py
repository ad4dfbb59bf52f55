"""Positions inside packed rows, and rotary embeddings that pair dimensions i and i + H/2, as Llama does."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from promptcot_jax.core.arrays import Array, Float, Int


class Rotation(NamedTuple):
    """Cosine and sine of every position's angles, one angle for each pair of head dimensions."""

    cosine: Float[Array, "B T H/2"]
    sine: Float[Array, "B T H/2"]


def positions_in_segments(segment_ids: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """Counts from 0 at the start of every run of equal segment ids."""
    slots = jnp.arange(segment_ids.shape[1], dtype=jnp.int32)
    is_start = jnp.diff(segment_ids, axis=1, prepend=-1) != 0
    return slots - jax.lax.cummax(jnp.where(is_start, slots, 0), axis=1)


def rotation(positions: Int[Array, "B T"], *, head_dim: int, theta: float) -> Rotation:
    """Angles of `positions`, in float32: bfloat16 cannot tell positions apart beyond 256."""
    frequencies = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)  # [H/2]
    angles = positions[..., None].astype(jnp.float32) * frequencies
    return Rotation(jnp.cos(angles), jnp.sin(angles))


def rotate(heads: Float[Array, "B T heads H"], turn: Rotation) -> Float[Array, "B T heads H"]:
    """Turns each pair (i, i + H/2) of every head by its position's angle."""
    first, second = jnp.split(heads.astype(jnp.float32), 2, axis=-1)
    cosine, sine = turn.cosine[:, :, None], turn.sine[:, :, None]  # [B, T, 1, H/2]
    turned = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    return turned.astype(heads.dtype)
