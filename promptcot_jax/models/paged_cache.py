"""Keys and values of the rows being decoded, kept in pages: cost and memory follow the tokens that exist.

A row's tokens lie in pages of equal size; its line of the page table names them in order, so that rows may
share the pages of a common prefix and none reserves memory for its longest possible end. All layers live in
one pair of arrays: layer l of page p is at `p + l * (pages of a layer)`. No layer's part is ever sliced out,
which would copy it, and a donated cache is written in place.

Page 0 belongs to no row: rows that stand idle write there and read from there, and nothing else reads it.

How a page lies in memory is the business of a layout, the class of the cache (`page_layouts`). Here is what
layouts share: how a pass over one layer calls on them, the split over a mesh, and attention by pages in
plain JAX.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from promptcot_jax.core.arrays import Array, Float, Int
from promptcot_jax.models.attention import ScoreRule
from promptcot_jax.parallel import rules as rules_lib

Index = Int[Array, ""] | int


class CachePositions(NamedTuple):
    """Where the tokens of one pass go, and with that what they may read: themselves and what is before them.

    A pass reads either one token a row (decode) or whole pages (prefill): then T is the page size and
    `positions[:, 0]` a multiple of it. What a prompt leaves of its last page is written with padding, which
    later tokens overwrite before anything reads it.
    """

    page_table: Int[Array, "B W"]  # each row's pages, in the order of its tokens
    positions: Int[Array, "B T"]

    def first(self, page_size: int) -> tuple[Int[Array, " B"], Int[Array, " B"]]:
        """The page of each row's first token of this pass, and where in it that token goes."""
        first = self.positions[:, :1]
        pages = jnp.take_along_axis(self.page_table, first // page_size, axis=1)
        return pages[:, 0], first[:, 0] % page_size


@runtime_checkable
class CacheShape(Protocol):
    """What a model's config says of what each token leaves in a cache."""

    @property
    def num_layers(self) -> int: ...

    @property
    def num_kv_heads(self) -> int: ...

    @property
    def head_dim(self) -> int: ...

    @property
    def dtype(self) -> str: ...


@runtime_checkable
class PagedCache(Protocol):
    """Pages of all layers in some layout: a pytree of two arrays, keys (already rotated) and values."""

    @property
    def page_size(self) -> int:
        """Tokens of a page."""
        ...

    @property
    def num_pages(self) -> int:
        """Pages of all layers together."""
        ...

    @property
    def axes(self) -> tuple[str | None, ...]:
        """Logical axes of keys and of values; pages are split as rows are ("batch")."""
        ...

    def write(
        self,
        keys: Float[Array, "B T K H"],
        values: Float[Array, "B T K H"],
        cache_positions: CachePositions,
        first_page: Index,
    ) -> "PagedCache":
        """Puts one layer's new keys and values in place; the layer's pages begin at `first_page`."""
        ...

    def attend(
        self,
        queries: Float[Array, "B T N H"],
        cache_positions: CachePositions,
        first_page: Index,
        rule: ScoreRule,
    ) -> Float[Array, "tokens N*H"]:
        """Softmax attention of every token over its row's tokens up to itself, flat tokens out."""
        ...

    def copy(self, sources: Int[Array, " n"], targets: Int[Array, " n"]) -> "PagedCache":
        """Copies pages, which are counted over all layers."""
        ...


def write_and_attend(
    queries: Float[Array, "B T N H"],
    keys: Float[Array, "B T K H"],
    values: Float[Array, "B T K H"],
    cache: PagedCache,
    cache_positions: CachePositions,
    layer: Index,
    *,
    rule: ScoreRule,
    num_layers: int,
    rules: rules_lib.LogicalRules = (),
) -> tuple[Float[Array, "tokens N*H"], PagedCache]:
    """One layer's part of a pass: its new keys and values go into the cache, then every token looks back.

    With rules, rows and pages are split over the data axes of the mesh entered with `jax.set_mesh` and heads
    over its tensor axis: each shard of rows has pages of its own, and page tables count within the shard.
    """

    def local(queries, keys, values, cache, cache_positions, layer, reach, sinks):
        first_page = layer * (cache.num_pages // num_layers)
        cache = cache.write(keys, values, cache_positions, first_page)
        of_shard = dataclasses.replace(rule, reach=reach, sinks=sinks)
        return cache.attend(queries, cache_positions, first_page, of_shard), cache

    layer = jnp.asarray(layer, jnp.int32)
    if not rules:
        return local(queries, keys, values, cache, cache_positions, layer, rule.reach, rule.sinks)
    # Query heads are split where key-value heads are, so that every head finds its keys on its own shard.
    of_heads = _spec(keys, ("batch", None, "kv_heads", None), rules)
    of_cache = _cache_spec(cache, rules)
    of_positions = _spec(cache_positions.positions, ("batch", None), rules)
    one, of_sinks = PartitionSpec(), PartitionSpec(of_heads[2])
    return jax.shard_map(
        local,
        in_specs=(of_heads, of_heads, of_heads, of_cache, of_positions, one, one, of_sinks),
        out_specs=(PartitionSpec(of_heads[0], of_heads[2]), of_cache),
        check_vma=False,
    )(queries, keys, values, cache, cache_positions, layer, rule.reach, rule.sinks)


def copy_pages(
    cache: PagedCache,
    sources: Int[Array, " n"],
    targets: Int[Array, " n"],
    *,
    num_layers: int,
    rules: rules_lib.LogicalRules = (),
) -> PagedCache:
    """Copies whole pages in all layers; a pair (0, 0) copies nothing that counts.

    Layer after layer: what is read before it is written is one layer's part of `n` pages, not all layers'.
    With rules, the pairs are split over the data axes as rows are, and count within their shard.
    """

    def local(cache, sources, targets):
        pages_of_layer = cache.num_pages // num_layers

        def copy_layer(layer, cache):
            first_page = layer * pages_of_layer
            return cache.copy(first_page + sources, first_page + targets)

        return lax.fori_loop(0, num_layers, copy_layer, cache)

    if not rules:
        return local(cache, sources, targets)
    of_cache, of_pairs = _cache_spec(cache, rules), _spec(sources, ("batch",), rules)
    return jax.shard_map(local, in_specs=(of_cache, of_pairs, of_pairs), out_specs=of_cache, check_vma=False)(
        cache, sources, targets
    )


def attend_by_page(
    queries: Float[Array, "B T N H"],
    cache_positions: CachePositions,
    page_size: int,
    num_kv_heads: int,
    read_pages: Callable[[Int[Array, " B"]], tuple[Float[Array, "B K H page"], Float[Array, "B K page H"]]],
    rule: ScoreRule,
) -> Float[Array, "tokens N*H"]:
    """Attention over the pages in reach with a running maximum, as FlashAttention does it.

    Each row goes through its own pages, from the first in reach of its first token to that of its last. A
    page past these changes the row's result by nothing, not even rounding, so a row's bits do not depend on
    how long its neighbours are.

    Args:
        read_pages: keys and values of one page for each row, in the layer at hand.
    """
    batch, length, num_heads, head_dim = queries.shape
    scaled = queries * jnp.asarray(rule.scale, queries.dtype)
    grouped = scaled.reshape(batch, length, num_kv_heads, -1, head_dim).transpose(0, 2, 3, 1, 4)
    rows = grouped.reshape(batch, num_kv_heads, -1, head_dim)  # [B, K, N/K*T, H]
    lowest = jnp.finfo(jnp.float32).min
    first_pages = _first_pages_in_reach(cache_positions, page_size, rule)
    last_entry = cache_positions.page_table.shape[1] - 1

    def add_page(i: Int[Array, ""], partial: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        maximum, total, mixed = partial
        entries = first_pages + i  # [B]; past a row's last page, any that exists
        pages = jnp.take_along_axis(
            cache_positions.page_table, jnp.minimum(entries, last_entry)[:, None], axis=1
        )
        keys, values = read_pages(pages[:, 0])
        scores = jnp.einsum("BKRH,BKHS->BKRS", rows, keys, preferred_element_type=jnp.float32)
        of_keys = entries[:, None] * page_size + jnp.arange(page_size)  # [B, page]
        is_seen = rule.sees(cache_positions.positions[:, :, None] - of_keys[:, None])  # [B, T, page]
        by_token = rule.capped(scores).reshape(batch, num_kv_heads, -1, length, page_size)
        scores = jnp.where(is_seen[:, None, None], by_token, lowest).reshape(scores.shape)
        new_maximum = jnp.maximum(maximum, jnp.max(scores, axis=-1))
        # 0 where masked. For a token whose window begins in a later page all are masked and all weights 1;
        # the first score that it sees shrinks what they added to exactly 0.
        weights = jnp.exp(scores - new_maximum[..., None])
        shrink = jnp.exp(maximum - new_maximum)
        of_page = jnp.einsum(
            "BKRS,BKSH->BKRH", weights.astype(values.dtype), values, preferred_element_type=jnp.float32
        )
        return new_maximum, total * shrink + jnp.sum(weights, axis=-1), mixed * shrink[..., None] + of_page

    nothing = jnp.zeros(rows.shape, jnp.float32)
    num_pages = jnp.max(cache_positions.positions[:, -1] // page_size - first_pages) + 1
    _, total, mixed = lax.fori_loop(0, num_pages, add_page, (*_of_sinks(rows, length, rule), nothing))
    output = (mixed / total[..., None]).astype(queries.dtype)
    output = output.reshape(batch, num_kv_heads, -1, length, head_dim).transpose(0, 3, 1, 2, 4)
    return output.reshape(batch * length, num_heads * head_dim)  # from [B, T, K, N/K, H]


def _first_pages_in_reach(
    cache_positions: CachePositions, page_size: int, rule: ScoreRule
) -> Int[Array, " B"]:
    """For each row, the first entry of its page table that any of its tokens sees."""
    first_positions = cache_positions.positions[:, 0]
    if rule.reach is None:
        return jnp.zeros_like(first_positions)
    return jnp.maximum(first_positions - (rule.reach - 1), 0) // page_size


def _of_sinks(
    rows: Float[Array, "B K R H"], length: int, rule: ScoreRule
) -> tuple[Float[Array, "B K R"], Float[Array, "B K R"]]:
    """Maximum and total before any page: a sink counts as a key seen already, that mixes in nothing."""
    shape = rows.shape[:-1]
    if rule.sinks is None:
        return jnp.full(shape, jnp.finfo(jnp.float32).min), jnp.zeros(shape, jnp.float32)
    of_heads = rule.sinks.astype(jnp.float32).reshape(shape[1], -1, 1)  # [K, N/K, 1]
    of_rows = jnp.broadcast_to(of_heads, (*of_heads.shape[:2], length)).reshape(shape[1:])
    return jnp.broadcast_to(of_rows, shape), jnp.ones(shape, jnp.float32)


def _cache_spec(cache: PagedCache, rules: rules_lib.LogicalRules) -> PartitionSpec:
    """How both arrays of a cache are split."""
    keys: Array = jax.tree.leaves(cache)[0]
    return _spec(keys, cache.axes, rules)


def _spec(array: Array, axes: tuple[str | None, ...], rules: rules_lib.LogicalRules) -> PartitionSpec:
    """How an array is split over the mesh entered with `jax.set_mesh`."""
    return rules_lib.partition_spec(jax.sharding.get_abstract_mesh(), axes, array.shape, rules)
