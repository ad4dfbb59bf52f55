"""Log-probabilities of given tokens, and sums of them, without a [B, T, V] array of logits.

Serves every likelihood of the system: the SFT loss of cold start and M-step, the reward
`log p(z | c) + log p(x | z, c)` and `log q(z | c, x)` (section 3 of the paper), and scoring.
Reductions over the vocabulary are in float32 whatever the dtype of the hidden states.

Rows stay rows: a chunk is a range of positions of all rows, while inside a chunk tokens lie flat,
[B * C, D], for one plain matrix product. On a mesh each device goes through the tokens that it holds, whether
rows or positions are split, with the output matrix gathered once in D and split over V; left to the compiler,
every chunk would gather the matrix and add up its gradient over all devices.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from promptcot_jax.core.arrays import Array, Bool, Float, Int
from promptcot_jax.parallel import rules as rules_lib

CHUNK_TOKENS = 1024  # tokens whose logits a device has at one time, over its rows; 200 MB at V = 49,152


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
    is_label: Bool[Array, "B T"] | None = None,
    temperature: float | Float[Array, ""] = 1.0,
    soft_cap: float | None = None,
    chunk: int = CHUNK_TOKENS,
    rules: rules_lib.LogicalRules = (),
) -> Float[Array, "B T"]:
    """log p(labels[b, t]) under softmax(hidden[b, t] @ output_embedding / temperature), in float32.

    The backward pass computes each chunk's logits again instead of keeping them. For a weighted sum of
    log-probabilities with known weights, `weighted_nll` is cheaper.

    Args:
        is_label: where they are wanted; elsewhere they mean nothing and are for the caller to mask, and cost
            next to nothing, as with `weighted_nll`. None: everywhere.
        temperature: positive; may be traced.
        soft_cap: logits are cap * tanh(logits / cap) before the temperature divides them (Gemma 2).
        chunk: tokens whose logits a device has at one time; changes memory and speed, not the result.
        rules: with rules, each device of the mesh entered with `jax.set_mesh` works on its own tokens.
    """
    settings = _Settings(soft_cap, chunk, rules)
    return _over_tokens(settings, False, hidden, output_embedding, labels, is_label, temperature)[0]


def chunked_log_probs_and_entropies(
    hidden: Float[Array, "B T D"],
    output_embedding: Float[Array, "D V"],
    labels: Int[Array, "B T"],
    *,
    is_label: Bool[Array, "B T"] | None = None,
    temperature: float | Float[Array, ""] = 1.0,
    soft_cap: float | None = None,
    entropy_gradient: bool = False,
    chunk: int = CHUNK_TOKENS,
    rules: rules_lib.LogicalRules = (),
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """`chunked_label_log_probs`, and the entropy of each softmax in nats.

    Args:
        entropy_gradient: whether a gradient flows through the entropies.
    """
    settings = _Settings(soft_cap, chunk, rules, entropy_gradient)
    log_probs, entropies = _over_tokens(
        settings, True, hidden, output_embedding, labels, is_label, temperature
    )
    return log_probs, entropies


def _over_tokens(
    settings: "_Settings",
    with_entropies: bool,
    hidden: Array,
    output_embedding: Array,
    labels: Array,
    is_label: Array | None,
    temperature: float | Array,
) -> tuple[Array, ...]:
    """Runs on each shard of tokens; gives [B, T] arrays."""
    split = _split_of(hidden, settings.rules)
    of_shard = functools.partial(_label_log_probs, split, settings, with_entropies, is_label is not None)
    is_label = jnp.ones(labels.shape, bool) if is_label is None else is_label
    arguments = hidden, output_embedding, labels, is_label, jnp.asarray(temperature)
    if not split.axes:
        return of_shard(*arguments)
    whole = PartitionSpec()
    specs = (split.tokens, whole, split.tokens, split.tokens, whole)
    return jax.shard_map(of_shard, in_specs=specs, out_specs=split.tokens, axis_names={*split.axes})(
        *arguments
    )


def _label_log_probs(
    split: "_Split",
    settings: "_Settings",
    with_entropies: bool,
    is_masked: bool,
    hidden: Array,
    output_embedding: Array,
    labels: Array,
    is_label: Array,
    temperature: Array,
) -> tuple[Array, ...]:
    num_rows, length, _ = hidden.shape
    width = _chunk_width(num_rows, length, settings.chunk)

    def of_chunk(chunk_hidden: Array, chunk_labels: Array) -> tuple[Array, ...]:
        logits = _logits(chunk_hidden.reshape(-1, chunk_hidden.shape[-1]), output_embedding)
        logits = _capped(logits, settings.soft_cap) / temperature
        found = [label_log_probs(logits[None], chunk_labels.reshape(1, -1))]
        if with_entropies:
            found.append(_entropies(logits if settings.entropy_gradient else lax.stop_gradient(logits)))
        return tuple(values.reshape(chunk_labels.shape) for values in found)

    def nothing(chunk_hidden: Array, chunk_labels: Array) -> tuple[Array, ...]:
        zeros = 0.0 * chunk_labels.astype(jnp.float32)  # differs from shard to shard like what it stands for
        return (zeros,) * (1 + with_entropies)

    if width >= length:
        return jax.checkpoint(of_chunk)(hidden, labels)
    if not is_masked:
        chunks = lax.map(
            lambda inputs: jax.checkpoint(of_chunk)(*inputs),
            (_in_chunks(hidden, width), _in_chunks(labels, width)),
        )
        return tuple(_from_chunks(values)[:, :length] for values in chunks)  # of [chunks, B, C]

    # Each row's wanted positions come first; chunks beyond the last of them are passed over.
    order = jnp.argsort(~is_label, axis=1, stable=True)
    num_wanted = split.maximum(jnp.max(jnp.sum(is_label, axis=1)))

    @jax.checkpoint  # around the choice: what a branch keeps would be kept for every chunk
    def of_chunk_if_wanted(inputs: tuple[Array, Array, Array]) -> tuple[Array, ...]:
        first, *of_tokens = inputs
        return lax.cond(first < num_wanted, of_chunk, nothing, *of_tokens)

    in_order = _in_chunks(_reordered(hidden, order), width), _in_chunks(_reordered(labels, order), width)
    firsts = width * jnp.arange(len(in_order[0]))
    back = jnp.argsort(order, axis=1)
    chunks = lax.map(of_chunk_if_wanted, (firsts, *in_order))
    return tuple(_reordered(_from_chunks(values)[:, :length], back) for values in chunks)


def _reordered(values: Array, order: Int[Array, "B T"]) -> Array:
    """values[b, order[b, t]] of [B, T, ...]; each position is taken once."""
    take = functools.partial(jnp.take, axis=0, unique_indices=True, mode="clip")
    return jax.vmap(take)(values, order)


def _entropies(logits: Float[Array, "N V"]) -> Float[Array, " N"]:
    """-sum_v p_v log p_v; a logit of -inf adds nothing."""
    # A floor under log p, at which exp is 0; a choice by it (`where`) is far slower on a CPU.
    log_probs = jnp.maximum(logits - jax.nn.logsumexp(logits, axis=-1, keepdims=True), -1e4)
    return -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)


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
        chunk: tokens whose logits a device has at one time.
        rules: with rules, each device of the mesh entered with `jax.set_mesh` works on its own tokens.
    """
    return _weighted_nll(hidden, output_embedding, labels, weights, _Settings(soft_cap, chunk, rules))


class _Settings(NamedTuple):
    soft_cap: float | None
    chunk: int
    rules: rules_lib.LogicalRules
    entropy_gradient: bool = False


class _Split(NamedTuple):
    """How a mesh splits tokens."""

    tokens: PartitionSpec = PartitionSpec()  # of [B, T]
    axes: tuple[str, ...] = ()  # the mesh axes of `tokens`

    def sum(self, total: Array) -> Array:
        return lax.psum(total, self.axes) if self.axes else total

    def maximum(self, number: Array) -> Array:
        return lax.pmax(number, self.axes) if self.axes else number


def _split_of(hidden: Array, rules: rules_lib.LogicalRules) -> _Split:
    mesh = jax.sharding.get_abstract_mesh()
    if not rules or mesh.empty:
        return _Split()
    tokens = rules_lib.partition_spec(mesh, ("batch", "length"), hidden.shape[:2], rules)
    return _Split(tokens, tuple(axis for entry in tokens for axis in rules_lib.names(entry)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _weighted_nll(
    hidden: Array, output_embedding: Array, labels: Array, weights: Array, settings: _Settings
) -> Array:
    split = _split_of(hidden, settings.rules)
    of_shard = functools.partial(_total, split, settings)
    return _over_mesh(split, of_shard, PartitionSpec(), hidden, output_embedding, labels, weights)


def _weighted_nll_forward(
    hidden: Array, output_embedding: Array, labels: Array, weights: Array, settings: _Settings
) -> tuple[Array, tuple[Array, Array]]:
    """The total, and as residuals its gradients by hidden states and output embedding."""
    split = _split_of(hidden, settings.rules)
    of_shard = functools.partial(_total_and_gradients, split, settings)
    specs = PartitionSpec(), split.tokens, PartitionSpec(split.axes or None)
    total, d_hidden, d_embedding = _over_mesh(
        split, of_shard, specs, hidden, output_embedding, labels, weights
    )
    # [shards, D, V]: the one sum over devices, of which each keeps its part.
    d_embedding = rules_lib.constrain(jnp.sum(d_embedding, axis=0), ("embed", "vocab"), settings.rules)
    # Else the sum is put off until the optimizer wants it, and the unsummed whole is kept as long.
    d_hidden, d_embedding = lax.optimization_barrier((d_hidden, d_embedding))
    return total, (d_hidden, d_embedding.astype(output_embedding.dtype))


def _over_mesh(
    split: _Split, of_shard: Any, out_specs: Any, hidden: Array, output_embedding: Array, *of_tokens: Array
) -> Any:
    """Runs on each shard of tokens; the output matrix comes whole in D, in the type that computes."""
    arguments = hidden, output_embedding.astype(hidden.dtype), *of_tokens
    if not split.axes:
        return of_shard(*arguments)
    in_specs = (split.tokens, PartitionSpec(), split.tokens, split.tokens)
    return jax.shard_map(
        of_shard, in_specs=in_specs, out_specs=out_specs, axis_names={*split.axes}, check_vma=False
    )(*arguments)


def _total(
    split: _Split,
    settings: _Settings,
    hidden: Array,
    output_embedding: Array,
    labels: Array,
    weights: Array,
) -> Array:
    tokens = _weighted_first(split, hidden, labels, weights, settings.chunk)

    def add_chunk(i: Array, total: Array) -> Array:
        chunk_hidden, chunk_labels, chunk_weights = tokens.chunk(i)
        logits = _capped(_logits(chunk_hidden, output_embedding), settings.soft_cap)
        log_probs = label_log_probs(logits[None], chunk_labels[None])[0]
        return total - jnp.sum(chunk_weights * log_probs)

    return split.sum(lax.fori_loop(0, tokens.num_chunks, add_chunk, jnp.float32(0.0)))


def _total_and_gradients(
    split: _Split,
    settings: _Settings,
    hidden: Array,
    output_embedding: Array,
    labels: Array,
    weights: Array,
) -> tuple[Array, Array, Array]:
    tokens, soft_cap = _weighted_first(split, hidden, labels, weights, settings.chunk), settings.soft_cap
    num_rows, _, embed_dim = hidden.shape

    def add_chunk(i: Array, sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        total, d_hidden, d_embedding = sums
        chunk_hidden, chunk_labels, chunk_weights = tokens.chunk(i)
        logits = _capped(_logits(chunk_hidden, output_embedding), soft_cap)  # [B * C, V]
        log_normalizer = jax.nn.logsumexp(logits, axis=-1)
        each = jnp.arange(chunk_labels.size)
        total += jnp.sum(chunk_weights * (log_normalizer - logits[each, chunk_labels]))
        # d total / d logits = weight * (softmax - one-hot of the label)
        d_logits = chunk_weights[:, None] * jnp.exp(logits - log_normalizer[:, None])
        d_logits = d_logits.at[each, chunk_labels].add(-chunk_weights)
        if soft_cap is not None:
            d_logits *= 1.0 - jnp.square(logits / soft_cap)  # of cap * tanh, by what it gave
        d_logits = d_logits.astype(hidden.dtype)
        d_chunk = jnp.dot(
            d_logits, output_embedding.astype(hidden.dtype).T, preferred_element_type=jnp.float32
        )
        d_chunk = d_chunk.astype(hidden.dtype).reshape(num_rows, tokens.width, embed_dim)
        d_hidden = lax.dynamic_update_slice_in_dim(d_hidden, d_chunk, i * tokens.width, axis=1)
        d_embedding += jnp.dot(chunk_hidden.T, d_logits, preferred_element_type=jnp.float32)
        return total, d_hidden, d_embedding

    start = (jnp.float32(0.0), jnp.zeros_like(tokens.hidden), jnp.zeros(output_embedding.shape, jnp.float32))
    total, d_hidden, d_embedding = lax.fori_loop(0, tokens.num_chunks, add_chunk, start)
    back = jnp.argsort(tokens.order, axis=1)
    d_hidden = jnp.take_along_axis(d_hidden, back[..., None], axis=1)  # [B, T, D]
    return split.sum(total), d_hidden, d_embedding[None]


def _weighted_nll_backward(settings: _Settings, gradients: tuple[Array, Array], cotangent: Array):
    d_hidden, d_embedding = gradients
    scale = cotangent.astype(jnp.float32)
    return (
        (scale * d_hidden).astype(d_hidden.dtype),
        (scale * d_embedding).astype(d_embedding.dtype),
        None,
        None,
    )


_weighted_nll.defvjp(_weighted_nll_forward, _weighted_nll_backward)


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
            lax.dynamic_slice_in_dim(x, i * self.width, self.width, axis=1)
            for x in (self.hidden, self.labels, self.weights)
        )
        hidden, labels, weights = (x.reshape(-1, *x.shape[2:]) for x in parts)
        return hidden, labels, weights


def _weighted_first(
    split: _Split, hidden: Array, labels: Array, weights: Array, chunk: int
) -> _WeightedFirst:
    num_rows, length, _ = hidden.shape
    width = _chunk_width(num_rows, length, chunk)
    is_weighted = weights != 0
    order = jnp.argsort(~is_weighted, axis=1, stable=True)
    hidden = jnp.where(is_weighted[..., None], hidden, 0)  # a masked NaN must not reach a product with 0
    end = (0, -length % width)
    # All shards take as many steps: those of a column of V communicate in each.
    num_weighted = split.maximum(jnp.max(jnp.sum(is_weighted, axis=1)))
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


def _from_chunks(x: Array) -> Array:
    """[chunks, B, width] -> [B, chunks * width]."""
    return jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1)


def num_chunks(num_rows: int, length: int) -> int:
    """Chunks of a shard's rows where every token has a label."""
    return -(-length // _chunk_width(max(1, num_rows), length, CHUNK_TOKENS))


def _chunk_width(num_rows: int, length: int, chunk: int) -> int:
    """Positions per chunk, so that all rows together have about `chunk` tokens in it."""
    return min(length, max(1, chunk // num_rows))


def _in_chunks(x: Array, width: int) -> Array:
    """[B, T, ...] -> [chunks, B, width, ...], zeros after the end."""
    x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % width)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(x.shape[0], -1, width, *x.shape[2:]), 1, 0)
