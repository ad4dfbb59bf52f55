"""Causal attention inside segments by JAX's splash attention kernel for TPUs: memory grows with T, not T * T.

Serves training and teacher-forced scoring. Blocks of the causal triangle, or of the band of a window, that
hold no visible key are neither fetched nor computed; which keys of the others a query sees follows, inside
the kernel, from positions and segment ids.

* The kernel takes lengths in whole blocks, so rows are lengthened with padding, segment 0. A query sees at
  least itself, so no softmax is empty; padding's results are set to 0, and with them its cotangents.
* It does not scale: queries are scaled first.
* Keys and values are not repeated for a group of query heads, except where a mesh has more shards of heads
  than there are key-value heads.
* Over `sequence` queries are split, and keys and values of the whole row gathered: rows are so long there
  that products outweigh this. The triangle makes the last shard work longest, at most twice the mean.

The backward pass is two kernels, of 7 products a block: the fused one would need 5, but write a gradient of
all queries for every block of keys. Blocks of 512 by 512 take 1 MB of scores in float32, and use a block of
keys for 512 queries. Never measured: no part of this has run on a TPU yet.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel_lib
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as mask_lib
from jax.sharding import NamedSharding, PartitionSpec

from promptcot_jax.core.arrays import Array, Float, Int
from promptcot_jax.parallel import rules as rules_lib

RESIDUALS = "attention_residuals"  # name of outputs and normalizers, for remat policies
_BLOCK = 512
_LANES = 128


def attend(
    queries: Float[Array, "B T N H"],
    keys: Float[Array, "B K T H"],
    values: Float[Array, "B K T H"],
    segment_ids: Int[Array, "B T"],
    *,
    scale: float,
    window: int | None = None,
    soft_cap: float | None = None,
    sinks: Float[Array, " N"] | None = None,
    rules: rules_lib.LogicalRules = (),
    block: int = _BLOCK,
) -> Float[Array, "B T N H"]:
    """Softmax attention of N query heads over K key-value heads; zeros for padding.

    Args:
        segment_ids: 0 is padding.
        window: a query sees so many keys, its own included; None: all before it.
        rules: with rules, runs over the mesh entered with `jax.set_mesh`.
        block: queries and keys of a block, a multiple of 128.

    Raises:
        ValueError: rules are given and no mesh is entered.
    """
    length, num_heads = queries.shape[1:3]
    split = _split(queries.shape, keys.shape[1], rules)
    block = min(block, _up(-(-length // split.num_sequence), _LANES))
    missing = _up(length, block * split.num_sequence) - length
    queries = _pad(queries * jnp.asarray(scale, queries.dtype), missing, axis=1)
    keys, values = (_pad(jnp.repeat(x, split.repeats, axis=1), missing, axis=2) for x in (keys, values))
    kernel = _kernel(
        num_heads // split.num_heads, length + missing, block, window, soft_cap, split.num_sequence
    )
    arguments = (kernel, queries, keys, values, _pad(segment_ids, missing, axis=1), sinks)
    mixed = _over_mesh(split, *arguments) if rules else _of_shard((), *arguments)
    return jnp.where(segment_ids[..., None, None] != 0, mixed[:, :length], 0)


class _Split(NamedTuple):
    """How a mesh splits attention; the axes are entries of a PartitionSpec."""

    rows: rules_lib.MeshAxes = None
    sequence: rules_lib.MeshAxes = None
    heads: rules_lib.MeshAxes = None
    num_sequence: int = 1
    num_heads: int = 1
    repeats: int = 1  # of key-value heads


def _split(shape: tuple[int, ...], num_kv_heads: int, rules: rules_lib.LogicalRules) -> _Split:
    if not rules:
        return _Split()
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        raise ValueError("Attention has sharding rules but no mesh is entered; use jax.set_mesh(mesh).")
    batch, _, num_heads, head_dim = shape
    num_sequence = rules_lib.num_shards(mesh, "length", rules)
    axes = ("batch", "length", "heads", None)
    # Lengths are padded to divide, unlike rows and heads.
    rows, sequence, heads, _ = rules_lib.partition_spec(mesh, axes, (batch, 0, num_heads, head_dim), rules)
    shards = 1 if heads is None else rules_lib.num_shards(mesh, "heads", rules)
    repeats = shards // math.gcd(shards, num_kv_heads)
    if num_heads % (num_kv_heads * repeats):  # shards would need parts of a group
        heads, shards, repeats = None, 1, 1
    return _Split(rows, sequence, heads, num_sequence, shards, repeats)


def _kernel(
    num_heads: int, length: int, block: int, window: int | None, soft_cap: float | None, num_sequence: int
) -> kernel_lib.SplashAttentionKernel:
    """The kernel for one shard's heads, with its schedule of blocks, which JAX remembers by its mask."""
    square = (length, length)
    mask = mask_lib.LocalMask(square, (window - 1, 0), 0) if window else mask_lib.CausalMask(square)
    sizes = ("block_q", "block_kv", "block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq")
    return kernel_lib.make_splash_mha(
        mask_lib.MultiHeadMask([mask] * num_heads),
        block_sizes=kernel_lib.BlockSizes(**dict.fromkeys(sizes, block)),
        attn_logits_soft_cap=soft_cap,
        head_shards=1,
        q_seq_shards=num_sequence,
        residual_checkpoint_name=RESIDUALS,
    )


def _over_mesh(
    split: _Split, kernel: Any, queries: Array, keys: Array, values: Array, segment_ids: Array, sinks: Any
) -> Float[Array, "B T N H"]:
    mesh = jax.sharding.get_abstract_mesh()
    of_queries = PartitionSpec(split.rows, split.sequence, split.heads, None)
    of_keys = PartitionSpec(split.rows, split.heads, split.sequence, None)
    specs = (
        kernel.manual_sharding_spec(NamedSharding(mesh, PartitionSpec(None, split.sequence))),
        of_queries,
        of_keys,
        of_keys,
        PartitionSpec(split.rows, split.sequence),
        None if sinks is None else PartitionSpec(split.heads),
    )
    of_shard = functools.partial(_of_shard, split.sequence or ())
    # Kernels do not say over which axes their results vary, so this cannot be checked.
    sharded = jax.shard_map(of_shard, in_specs=specs, out_specs=of_queries, check_vma=False)
    return sharded(kernel, queries, keys, values, segment_ids, sinks)


def _of_shard(
    sequence: str | tuple[str, ...],
    kernel: Any,
    queries: Float[Array, "B T N H"],
    keys: Float[Array, "B K T H"],
    values: Float[Array, "B K T H"],
    segment_ids: Int[Array, "B T"],
    sinks: Float[Array, " N"] | None,
) -> Float[Array, "B T N H"]:
    """The shard's queries over the keys of the whole row."""
    key_ids = segment_ids
    if sequence:
        keys, values = (lax.all_gather(x, sequence, axis=2, tiled=True) for x in (keys, values))
        key_ids = lax.all_gather(segment_ids, sequence, axis=1, tiled=True)
    of_row = jax.vmap(kernel, in_axes=(0, 0, 0, 0, None))
    ids = kernel_lib.SegmentIds(segment_ids, key_ids)
    return of_row(queries.swapaxes(1, 2), keys, values, ids, sinks).swapaxes(1, 2)


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _pad(x: Array, missing: int, *, axis: int) -> Array:
    return jnp.pad(x, [(0, missing if i == axis else 0) for i in range(x.ndim)])
