"""Positions inside packed rows, and rotary embeddings that pair dimensions i and i + H/2, as Llama does.

Frequencies are constants of a model, made in float64 on the host; scaled ones (for contexts longer than those
first trained on) follow `transformers.modeling_rope_utils`, which the checkpoints were trained with.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from promptcot_jax.core.arrays import Array, Float, Int
from promptcot_jax.models import config as config_lib


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
    turns = frequencies(head_dim, theta, scaling).astype(np.float32)  # [H/2]
    angles = positions[..., None].astype(jnp.float32) * turns
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


def rotate(heads: Float[Array, "B T heads H"], turn: Rotation) -> Float[Array, "B T heads H"]:
    """Turns each pair (i, i + H/2) of every head by its position's angle."""
    first, second = jnp.split(heads.astype(jnp.float32), 2, axis=-1)
    cosine, sine = turn.cosine[:, :, None], turn.sine[:, :, None]  # [B, T, 1, H/2]
    turned = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    return turned.astype(heads.dtype)


def _llama3_share_kept(unscaled: np.ndarray, scaling: config_lib.Llama3Scaling) -> np.ndarray:
    """Linear in the number of turns within the original context."""
    num_turns = scaling.original_max_positions * unscaled / (2.0 * math.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    return np.clip((num_turns - low) / (high - low), 0.0, 1.0)


def _yarn_share_kept(head_dim: int, theta: float, scaling: config_lib.YarnScaling) -> np.ndarray:
    """Linear in the number of the pair, between those that make `beta_fast` and `beta_slow` turns."""

    def pair_of(num_turns: float) -> float:
        wavelength = scaling.original_max_positions / (num_turns * 2.0 * math.pi)
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
