"""Log-probabilities of given tokens, and sums of them, without a [B, T, V] array of logits.

Serves every likelihood of the system: the SFT loss of cold start and M-step, the reward
`log p(z | c) + log p(x | z, c)` and `log q(z | c, x)` (section 3 of the paper), and scoring.
Reductions over the vocabulary are in float32 whatever the dtype of the hidden states.

Rows stay rows: a chunk is a stretch of positions of *all* rows, so that on a mesh each device works on the
rows it holds, while inside a chunk tokens lie flat, [B * C, D], for one plain matrix product.

With rules the loop over chunks runs on each shard of rows by itself (`_over_shards`), for XLA moves no
collective out of a loop: left to it, every chunk would gather the output matrix anew, and sum a gradient of
the whole matrix over all devices (in what it compiles for v5e, more than half of all bytes that a step of a
1.5B model sends). So the matrix is gathered once, in the compute type, and its gradient summed once.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from promptcot_jax.core.arrays import Array, Bool, Float, Int
from promptcot_jax.parallel import rules as rules_lib

CHUNK_TOKENS = 1024  # tokens whose logits exist at one time, over all rows; 200 MB at V = 49,152


def label_log_probs(logits: Float[Array, "B T V"], labels: Int[Array, "B T"]) -> Float[Array, "B T"]:
    """log p(labels[b, t]) under logits[b, t], in float32."""
    logits = logits.astype(jnp.float32)
    picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return picked - jax.nn.logsumexp(logits, axis=-1)


def masked_total(
    values: Float[Array, "B T"], loss_mask: Bool[Array, "B T"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Sum over unmasked positions, and how many there are (both float32; divide once, at the very end)."""
    total = jnp.sum(jnp.where(loss_mask, values, 0.0), dtype=jnp.float32)
    return total, jnp.sum(loss_mask, dtype=jnp.float32)


def chunked_label_log_probs(
    hidden: Float[Array, "B T D"],
    output_embedding: Float[Array, "D V"],
    labels: Int[Array, "B T"],
    *,
    temperature: float | Float[Array, ""] = 1.0,
    soft_cap: float | None = None,
    chunk: int = CHUNK_TOKENS,
) -> Float[Array, "B T"]:
    """log p(labels[b, t]) under softmax(hidden[b, t] @ output_embedding / temperature), in float32.

    The backward pass computes each chunk's logits again instead of keeping them. For a weighted sum of
    log-probabilities with known weights, `weighted_nll` is cheaper.

    Args:
        temperature: positive; may be traced.
        soft_cap: logits are cap * tanh(logits / cap) before the temperature divides them (Gemma 2).
        chunk: tokens whose logits exist at one time; changes memory and speed, not the result.
    """
    num_rows, length, _ = hidden.shape
    width = _chunk_width(num_rows, length, chunk)

    @jax.checkpoint
    def of_chunk(inputs: tuple[Array, Array]) -> Array:
        chunk_hidden, chunk_labels = inputs
        logits = _logits(chunk_hidden.reshape(-1, chunk_hidden.shape[-1]), output_embedding)
        logits = _capped(logits, soft_cap) / temperature
        return label_log_probs(logits[None], chunk_labels.reshape(1, -1)).reshape(chunk_labels.shape)

    if width >= length:
        return of_chunk((hidden, labels))
    log_probs = jax.lax.map(of_chunk, (_split(hidden, width), _split(labels, width)))  # [chunks, B, C]
    return jnp.moveaxis(log_probs, 0, 1).reshape(num_rows, -1)[:, :length]


def weighted_nll(
    hidden: Float[Array, "B T D"],
    output_embedding: Float[Array, "D V"],
    labels: Int[Array, "B T"],
    weights: Float[Array, "B T"],
    *,
    soft_cap: float | None = None,
    chunk: int = CHUNK_TOKENS,
    rules: rules_lib.LogicalRules = (),
) -> Float[Array, ""]:
    """Sum of -weights[b, t] * log p(labels[b, t]); the weights are constants of the loss.

    Positions of weight 0 contribute nothing to value or gradient, whatever is in `hidden` there, and cost
    next to nothing: each row's positions are reordered so that weighted ones come first, and only chunks that
    hold some are computed. Because the weights are known, both gradients are made in the forward pass from
    the logits at hand (three matrix products over the vocabulary in all; recomputing the logits would make it
    four).

    Args:
        soft_cap: logits are cap * tanh(logits / cap) (Gemma 2).
        chunk: tokens whose logits exist at one time, over all devices.
        rules: by which rows and positions are split over the mesh entered with `jax.set_mesh`.
    """
    return _weighted_nll(hidden, output_embedding, labels, weights, soft_cap, chunk, rules)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _weighted_nll(
    hidden: Array,
    output_embedding: Array,
    labels: Array,
    weights: Array,
    soft_cap: float | None,
    chunk: int,
    rules: rules_lib.LogicalRules,
) -> Array:
    tokens = (hidden, output_embedding.astype(hidden.dtype), labels, weights)
    return _over_shards(_nll, tokens, soft_cap=soft_cap, chunk=chunk, rules=rules)[0]


def _nll(
    hidden: Array, kernel: Array, labels: Array, weights: Array, *, soft_cap: float | None, chunk: int
) -> tuple[Array]:
    tokens = _weighted_first(hidden, labels, weights, chunk)

    def add_chunk(i: Array, total: Array) -> Array:
        chunk_hidden, chunk_labels, chunk_weights = tokens.chunk(i)
        logits = _capped(_logits(chunk_hidden, kernel), soft_cap)
        log_probs = label_log_probs(logits[None], chunk_labels[None])[0]
        return total - jnp.sum(chunk_weights * log_probs)

    return (jax.lax.fori_loop(0, tokens.num_chunks, add_chunk, jnp.float32(0.0)),)


def _weighted_nll_forward(
    hidden: Array,
    output_embedding: Array,
    labels: Array,
    weights: Array,
    soft_cap: float | None,
    chunk: int,
    rules: rules_lib.LogicalRules,
) -> tuple[Array, tuple[Array, Array]]:
    """The total, and as residuals its gradients by hidden states and output embedding."""
    tokens = (hidden, output_embedding.astype(hidden.dtype), labels, weights)
    total, d_hidden, d_kernel = _over_shards(
        _nll_and_gradients, tokens, soft_cap=soft_cap, chunk=chunk, rules=rules
    )
    return total, (d_hidden, d_kernel.astype(output_embedding.dtype))


def _nll_and_gradients(
    hidden: Array, kernel: Array, labels: Array, weights: Array, *, soft_cap: float | None, chunk: int
) -> tuple[Array, Array, Array]:
    tokens = _weighted_first(hidden, labels, weights, chunk)
    num_rows, _, embed_dim = hidden.shape

    def add_chunk(i: Array, sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        total, d_hidden, d_kernel = sums
        chunk_hidden, chunk_labels, chunk_weights = tokens.chunk(i)
        logits = _capped(_logits(chunk_hidden, kernel), soft_cap)  # [B * C, V]
        log_normalizer = jax.nn.logsumexp(logits, axis=-1)
        each = jnp.arange(chunk_labels.size)
        total += jnp.sum(chunk_weights * (log_normalizer - logits[each, chunk_labels]))
        # d total / d logits = weight * (softmax - one-hot of the label)
        d_logits = chunk_weights[:, None] * jnp.exp(logits - log_normalizer[:, None])
        d_logits = d_logits.at[each, chunk_labels].add(-chunk_weights)
        if soft_cap is not None:
            d_logits *= 1.0 - jnp.square(logits / soft_cap)  # of cap * tanh, by what it gave
        d_logits = d_logits.astype(hidden.dtype)
        d_chunk = jnp.dot(d_logits, kernel.T, preferred_element_type=jnp.float32)
        d_chunk = d_chunk.astype(hidden.dtype).reshape(num_rows, tokens.width, embed_dim)
        d_hidden = jax.lax.dynamic_update_slice_in_dim(d_hidden, d_chunk, i * tokens.width, axis=1)
        d_kernel += jnp.dot(chunk_hidden.T, d_logits, preferred_element_type=jnp.float32)
        return total, d_hidden, d_kernel

    start = (jnp.float32(0.0), jnp.zeros_like(tokens.hidden), jnp.zeros(kernel.shape, jnp.float32))
    total, d_hidden, d_kernel = jax.lax.fori_loop(0, tokens.num_chunks, add_chunk, start)
    back = jnp.argsort(tokens.order, axis=1)
    return total, jnp.take_along_axis(d_hidden, back[..., None], axis=1), d_kernel


def _weighted_nll_backward(
    soft_cap: float | None,
    chunk: int,
    rules: rules_lib.LogicalRules,
    gradients: tuple[Array, Array],
    cotangent: Array,
):
    d_hidden, d_embedding = gradients
    scale = cotangent.astype(jnp.float32)
    return (
        (scale * d_hidden).astype(d_hidden.dtype),
        (scale * d_embedding).astype(d_embedding.dtype),
        None,
        None,
    )


_weighted_nll.defvjp(_weighted_nll_forward, _weighted_nll_backward)


def _over_shards(
    of_shard: Callable[..., tuple[Array, ...]],
    tokens: tuple[Array, Array, Array, Array],
    *,
    soft_cap: float | None,
    chunk: int,
    rules: rules_lib.LogicalRules,
) -> tuple[Array, ...]:
    """What `_nll` or `_nll_and_gradients` gives, worked out on each shard of rows and positions by itself.

    Only the end joins shards: totals are summed, and so is the kernel's gradient, which is split at the same
    time over those of the shards' axes that split the kernel. An axis that splits the vocabulary is XLA's to
    see to.
    """
    _, kernel, labels, _ = tokens
    mesh = jax.sharding.get_abstract_mesh()
    rows, positions = (
        rules_lib.partition_spec(mesh, ("batch", "length"), labels.shape, rules)
        if rules and not mesh.empty
        else (None, None)
    )
    axes = (*_names(rows), *_names(positions))
    num_row_shards = math.prod(mesh.shape[axis] for axis in _names(rows))
    of_shard = functools.partial(of_shard, soft_cap=soft_cap, chunk=max(1, chunk // num_row_shards))
    if not axes:
        return of_shard(*tokens)
    splitting = tuple(axis for axis in rules_lib.mesh_axes("embed", rules) if axis in axes)
    if kernel.shape[0] % math.prod(mesh.shape[axis] for axis in splitting):
        splitting = ()

    def joined(*arrays: Array) -> tuple[Array, ...]:
        total, *gradients = of_shard(*arrays)
        if not gradients:
            return (jax.lax.psum(total, axes),)
        d_hidden, d_kernel = gradients
        if splitting:
            d_kernel = jax.lax.psum_scatter(d_kernel, splitting, scatter_dimension=0, tiled=True)
        if others := tuple(axis for axis in axes if axis not in splitting):
            d_kernel = jax.lax.psum(d_kernel, others)
        # Else the sum is put off until the optimizer wants it, and the unsummed whole is kept as long.
        d_hidden, d_kernel = jax.lax.optimization_barrier((d_hidden, d_kernel))
        return jax.lax.psum(total, axes), d_hidden, d_kernel

    of_tokens, whole = PartitionSpec(rows, positions), PartitionSpec()
    results = (whole, of_tokens, PartitionSpec(splitting or None))
    return jax.shard_map(
        joined,
        in_specs=(of_tokens, whole, of_tokens, of_tokens),
        out_specs=results[:1] if of_shard.func is _nll else results,
        axis_names=set(axes),
        check_vma=False,
    )(*tokens)


def _names(axes: rules_lib.MeshAxes) -> tuple[str, ...]:
    return (axes,) if isinstance(axes, str) else axes or ()


class _WeightedFirst(NamedTuple):
    """Each row's positions, those with a weight first; the length is padded to whole chunks."""

    hidden: Array  # [B, P, D], zero where the weight is
    labels: Array  # [B, P]
    weights: Array  # [B, P] float32
    order: Array  # [B, T]: which position stands here
    width: int  # positions per chunk, C
    num_chunks: Array  # traced: how many chunks hold a weight

    def chunk(self, i: Array) -> tuple[Array, Array, Array]:
        """Flat tokens of the i-th chunk: hidden states [B * C, D], labels and weights [B * C]."""
        parts = (
            jax.lax.dynamic_slice_in_dim(x, i * self.width, self.width, axis=1)
            for x in (self.hidden, self.labels, self.weights)
        )
        hidden, labels, weights = (x.reshape(-1, *x.shape[2:]) for x in parts)
        return hidden, labels, weights


def _weighted_first(hidden: Array, labels: Array, weights: Array, chunk: int) -> _WeightedFirst:
    num_rows, length, _ = hidden.shape
    width = _chunk_width(num_rows, length, chunk)
    is_weighted = weights != 0
    order = jnp.argsort(~is_weighted, axis=1, stable=True)
    hidden = jnp.where(is_weighted[..., None], hidden, 0)  # a masked NaN must not reach a product with 0
    end = (0, -length % width)
    num_weighted = jnp.max(jnp.sum(is_weighted, axis=1))
    return _WeightedFirst(
        hidden=jnp.pad(jnp.take_along_axis(hidden, order[..., None], axis=1), ((0, 0), end, (0, 0))),
        labels=jnp.pad(jnp.take_along_axis(labels, order, axis=1), ((0, 0), end)),
        weights=jnp.pad(jnp.take_along_axis(weights, order, axis=1).astype(jnp.float32), ((0, 0), end)),
        order=order,
        width=width,
        num_chunks=-(-num_weighted // width),
    )


def _logits(flat_hidden: Array, output_embedding: Array) -> Array:
    """[N, D] -> [N, V] float32; the product is taken in the dtype of the hidden states."""
    return jnp.dot(
        flat_hidden, output_embedding.astype(flat_hidden.dtype), preferred_element_type=jnp.float32
    )


def _capped(logits: Array, soft_cap: float | None) -> Array:
    """cap * tanh(logits / cap), or as they are."""
    return logits if soft_cap is None else soft_cap * jnp.tanh(logits / soft_cap)


def _chunk_width(num_rows: int, length: int, chunk: int) -> int:
    """Positions per chunk, so that all rows together have about `chunk` tokens in it."""
    return min(length, max(1, chunk // num_rows))


def _split(x: Array, width: int) -> Array:
    """[B, T, ...] -> [chunks, B, width, ...], zeros after the end."""
    x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % width)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(x.shape[0], -1, width, *x.shape[2:]), 1, 0)
