"""Causal attention inside segments by JAX's splash attention kernel for TPUs: memory grows with T, not T * T.

Serves training and teacher-forced scoring. Blocks of the causal triangle, or of the band of a window, that
hold no visible key are neither fetched nor computed; which keys of the others a query sees follows, inside
the kernel, from positions and segment ids.

* The kernel takes lengths in whole blocks, so rows are lengthened with padding, segment 0. A query sees at
  least itself, so no softmax is empty; padding's results are set to 0, and with them its cotangents.
* It does not scale: queries are scaled first.
* Keys and values are not repeated for a group of query heads, except where a mesh has more shards of heads
  than there are key-value heads.
* A token that sees its prompt's segment too (`prefix_ids`) goes through a second kernel, over the first
  `prefix_capacity` keys of a row. The two softmaxes become one by their normalizers, forward; the backward
  kernels take the normalizer of both, and so give each part of the gradient as it is.
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
from jax.ad_checkpoint import checkpoint_name
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
    prefix_ids: Int[Array, "B T"] | None = None,
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
        prefix_ids: a segment within the first `prefix_capacity` tokens that a token sees beside its own, or
            its own one; without a window.
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
    make = functools.partial(_kernel, num_heads // split.num_heads, block=block, soft_cap=soft_cap)
    square = (length + missing, length + missing)
    mask = mask_lib.LocalMask(square, (window - 1, 0), 0) if window else mask_lib.CausalMask(square)
    if prefix_ids is None:
        most, kernels = 0, (make(mask, shards=split.num_sequence, residuals=RESIDUALS),)
    else:
        prefix_ids = _pad(jnp.where(prefix_ids == segment_ids, -1, prefix_ids), missing, axis=1)
        most = _up(max(1, prefix_capacity(length)), block)  # keys, in whole blocks
        everything = mask_lib.FullMask((square[0] // split.num_sequence, most))
        kernels = (make(mask, shards=split.num_sequence), make(everything))
    arguments = (kernels, queries, keys, values, _pad(segment_ids, missing, axis=1), prefix_ids, sinks)
    of_shard = functools.partial(_of_shard, split.sequence or (), most)
    mixed = _over_mesh(split, of_shard, *arguments) if rules else of_shard(*arguments)
    return jnp.where(segment_ids[..., None, None] != 0, mixed[:, :length], 0)


# Keys and values [K, S, H], and the segment ids of queries and of keys.
_Keys = tuple[Array, Array, kernel_lib.SegmentIds]


def prefix_capacity(row_length: int) -> int:
    """Within how many tokens of a row's beginning shared prompts lie; all queries go over them once more."""
    return row_length // 4


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
    num_heads: int,
    mask: mask_lib.Mask,
    *,
    block: int,
    soft_cap: float | None,
    shards: int = 1,
    residuals: str | None = None,
) -> kernel_lib.SplashAttentionKernel:
    """The kernel for one shard's heads, with its schedule of blocks, which JAX remembers by its mask.

    Args:
        shards: of the mask's queries.
        residuals: name of output and normalizer; None: the kernel returns the normalizers, and the caller
            differentiates.
    """
    sizes = ("block_q", "block_kv", "block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq")
    return kernel_lib.make_splash_mha(
        mask_lib.MultiHeadMask([mask] * num_heads),
        block_sizes=kernel_lib.BlockSizes(**dict.fromkeys(sizes, block)),
        attn_logits_soft_cap=soft_cap,
        head_shards=1,
        q_seq_shards=shards,
        residual_checkpoint_name=residuals,
        save_residuals=residuals is None,
    )


def _over_mesh(
    split: _Split,
    of_shard: Any,
    kernels: tuple[Any, ...],
    queries: Array,
    keys: Array,
    values: Array,
    segment_ids: Array,
    prefix_ids: Any,
    sinks: Any,
) -> Float[Array, "B T N H"]:
    mesh = jax.sharding.get_abstract_mesh()
    of_queries = PartitionSpec(split.rows, split.sequence, split.heads, None)
    of_keys = PartitionSpec(split.rows, split.heads, split.sequence, None)
    of_ids = PartitionSpec(split.rows, split.sequence)
    blocks = PartitionSpec(None, split.sequence), PartitionSpec(None, None)  # all shards have one schedule
    specs = (
        tuple(
            kernel.manual_sharding_spec(NamedSharding(mesh, spec))
            for kernel, spec in zip(kernels, blocks, strict=False)
        ),
        of_queries,
        of_keys,
        of_keys,
        of_ids,
        None if prefix_ids is None else of_ids,
        None if sinks is None else PartitionSpec(split.heads),
    )
    # Kernels do not say over which axes their results vary, so this cannot be checked.
    sharded = jax.shard_map(of_shard, in_specs=specs, out_specs=of_queries, check_vma=False)
    return sharded(kernels, queries, keys, values, segment_ids, prefix_ids, sinks)


def _of_shard(
    sequence: str | tuple[str, ...],
    most_prefix: int,
    kernels: tuple[Any, ...],
    queries: Float[Array, "B T N H"],
    keys: Float[Array, "B K T H"],
    values: Float[Array, "B K T H"],
    segment_ids: Int[Array, "B T"],
    prefix_ids: Int[Array, "B T"] | None,
    sinks: Float[Array, " N"] | None,
) -> Float[Array, "B T N H"]:
    """The shard's queries over the keys of the whole row, and over its first ones as prefixes."""
    key_ids = segment_ids
    if sequence:
        keys, values = (lax.all_gather(x, sequence, axis=2, tiled=True) for x in (keys, values))
        key_ids = lax.all_gather(segment_ids, sequence, axis=1, tiled=True)
    queries = queries.swapaxes(1, 2)
    own = keys, values, kernel_lib.SegmentIds(segment_ids, key_ids)
    if prefix_ids is None:
        of_row = jax.vmap(kernels[0], in_axes=(0, 0, 0, 0, None))
        return of_row(queries, *own, sinks).swapaxes(1, 2)
    first_ids = kernel_lib.SegmentIds(prefix_ids, key_ids[:, :most_prefix])
    prefixes = keys[:, :, :most_prefix], values[:, :, :most_prefix], first_ids
    of_row = jax.vmap(_attend_to_both, in_axes=(None, 0, 0, 0, None))
    return of_row(kernels, queries, own, prefixes, sinks).swapaxes(1, 2)


@jax.custom_vjp
def _attend_to_both(
    kernels: tuple[Any, Any], queries: Float[Array, "N T H"], own: _Keys, prefixes: _Keys, sinks: Any
) -> Float[Array, "N T H"]:
    """One softmax of a row's queries over two sets of keys, by a kernel for each; sinks, if any, [N]."""
    return _attend_to_both_forward(kernels, queries, own, prefixes, sinks)[0]


def _attend_to_both_forward(
    kernels: Any, queries: Array, own: _Keys, prefixes: _Keys, sinks: Any
) -> tuple[Float[Array, "N T H"], Any]:
    # Sinks have their share of one of the sums. A query without a prefix has a sum there that is next to 0.
    one, (one_sum,) = kernels[0](queries, *own, sinks)
    other, (other_sum,) = kernels[1](queries, *prefixes)
    log_sum = jnp.logaddexp(one_sum, other_sum)  # [N, T]
    of_one, of_other = (jnp.exp(part - log_sum)[..., None] for part in (one_sum, other_sum))
    mixed = (of_one * one + of_other * other).astype(queries.dtype)
    mixed, log_sum = (checkpoint_name(x, RESIDUALS) for x in (mixed, log_sum))
    return mixed, (kernels, queries, own, prefixes, sinks, mixed, log_sum)


def _attend_to_both_backward(residuals: Any, d_mixed: Float[Array, "N T H"]) -> tuple[Any, ...]:
    kernels, queries, own, prefixes, sinks, mixed, log_sum = residuals

    def of(kernel: Any, keys_and_ids: _Keys, sinks: Any) -> tuple[Any, ...]:
        # JAX's own rule, which has no public name. A weight is exp(score - log_sum), with the sum of both.
        known = (queries, *keys_and_ids, sinks, mixed, log_sum, kernel.dq_mask_info, kernel.dkv_mask_info)
        _, _, _, *gradients = kernel_lib._splash_attention_bwd(**kernel.kwargs, res=known, do=d_mixed)
        d_queries, d_keys, d_values, _, d_sinks = gradients
        return d_queries, (d_keys, d_values, None), d_sinks

    d_queries, d_own, d_sinks = of(kernels[0], own, sinks)
    more, d_prefixes, _ = of(kernels[1], prefixes, None)
    return None, d_queries + more, d_own, d_prefixes, d_sinks


_attend_to_both.defvjp(_attend_to_both_forward, _attend_to_both_backward)


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _pad(x: Array, missing: int, *, axis: int) -> Array:
    return jnp.pad(x, [(0, missing if i == axis else 0) for i in range(x.ndim)])
