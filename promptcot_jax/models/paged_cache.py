"""Keys and values of the rows being decoded, kept in pages: cost and memory follow the tokens that exist.

A row's tokens lie in pages of equal size; its line of the page table names them in order, so that rows may
share the pages of a common prefix and none reserves memory for its longest possible end. All layers live in
one pair of arrays: layer l of page p is at `p + l * (pages of a layer)`. No layer's part is ever sliced out,
which would copy it, and a donated cache is written in place.

Page 0 belongs to no row: rows that stand idle write there and read from there, and nothing else reads it.

Attention goes over the pages in use with a running maximum, as FlashAttention does. A page past a row's last
token changes that row's result by nothing, not even rounding, so a row's bits do not depend on how long its
neighbours are. Keys lie transposed: on a CPU the score matmul of one query token is then five times as fast.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from promptcot_jax.core.arrays import Array, Float, Int
from promptcot_jax.models import config as config_lib
from promptcot_jax.parallel import rules as rules_lib


class PagedCache(NamedTuple):
    """Pages of all layers; keys are already rotated."""

    keys: Float[Array, "pages K H page"]
    values: Float[Array, "pages K page H"]

    @property
    def page_size(self) -> int:
        """Tokens of a page."""
        return self.values.shape[2]


class Places(NamedTuple):
    """Where the tokens of one pass go, and with that what they may read: themselves and what is before them.

    A pass reads either one token a row (decode) or whole pages (prefill): then T is the page size and
    `positions[:, 0]` a multiple of it. What a prompt leaves of its last page is written with padding, which
    later tokens overwrite before anything reads it.
    """

    page_table: Int[Array, "B W"]  # each row's pages, in the order of its tokens
    positions: Int[Array, "B T"]


def empty_cache(
    config: config_lib.DecoderConfig, num_pages: int, page_size: int, rules: rules_lib.LogicalRules = ()
) -> PagedCache:
    """A cache of `num_pages` pages, page 0 included; with rules laid out as `write_and_attend` wants it."""
    pages, heads, head_dim = num_pages * config.num_layers, config.num_kv_heads, config.head_dim
    cache = PagedCache(
        jnp.zeros((pages, heads, head_dim, page_size), config.dtype),
        jnp.zeros((pages, heads, page_size, head_dim), config.dtype),
    )
    if not rules or jax.sharding.get_abstract_mesh().empty:
        return cache
    return lax.with_sharding_constraint(cache, _cache_specs(cache, rules))


def write(
    cache: PagedCache,
    keys: Float[Array, "B T K H"],
    values: Float[Array, "B T K H"],
    places: Places,
    first_page: Int[Array, ""] | int,
) -> PagedCache:
    """Puts one layer's new keys and values in place; the layer's pages begin at `first_page`."""
    first = places.positions[:, :1]
    pages = first_page + jnp.take_along_axis(places.page_table, first // cache.page_size, axis=1)[:, 0]
    keys, values = keys.astype(cache.keys.dtype), values.astype(cache.values.dtype)
    if keys.shape[1] == 1:
        offsets = first[:, 0] % cache.page_size
        return PagedCache(
            cache.keys.at[pages, :, :, offsets].set(keys[:, 0], mode="promise_in_bounds"),
            cache.values.at[pages, :, offsets].set(values[:, 0], mode="promise_in_bounds"),
        )
    return PagedCache(
        cache.keys.at[pages].set(keys.transpose(0, 2, 3, 1), mode="promise_in_bounds"),
        cache.values.at[pages].set(values.transpose(0, 2, 1, 3), mode="promise_in_bounds"),
    )


def attend(
    queries: Float[Array, "B T N H"], cache: PagedCache, places: Places, first_page: Int[Array, ""] | int
) -> Float[Array, "tokens N*H"]:
    """Softmax attention of every token over its row's tokens up to itself, flat tokens out."""
    batch, length, num_heads, head_dim = queries.shape
    num_kv_heads, page_size = cache.keys.shape[1], cache.page_size
    scaled = queries * jnp.asarray(head_dim**-0.5, queries.dtype)
    grouped = scaled.reshape(batch, length, num_kv_heads, -1, head_dim).transpose(0, 2, 3, 1, 4)
    rows = grouped.reshape(batch, num_kv_heads, -1, head_dim)  # [B, K, N/K*T, H]
    lowest = jnp.finfo(jnp.float32).min

    def add_page(i: Int[Array, ""], partial: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        maximum, total, mixed = partial
        pages = first_page + lax.dynamic_index_in_dim(places.page_table, i, axis=1, keepdims=False)
        keys = cache.keys.at[pages].get(mode="promise_in_bounds")  # [B, K, H, page]
        values = cache.values.at[pages].get(mode="promise_in_bounds")  # [B, K, page, H]
        scores = jnp.einsum("BKRH,BKHS->BKRS", rows, keys, preferred_element_type=jnp.float32)
        is_past = i * page_size + jnp.arange(page_size) <= places.positions[:, :, None]  # [B, T, page]
        by_token = scores.reshape(batch, num_kv_heads, -1, length, page_size)
        scores = jnp.where(is_past[:, None, None], by_token, lowest).reshape(scores.shape)
        new_maximum = jnp.maximum(maximum, jnp.max(scores, axis=-1))
        weights = jnp.exp(scores - new_maximum[..., None])  # 0 where masked: every token sees its row's first
        shrink = jnp.exp(maximum - new_maximum)
        of_page = jnp.einsum(
            "BKRS,BKSH->BKRH", weights.astype(values.dtype), values, preferred_element_type=jnp.float32
        )
        return new_maximum, total * shrink + jnp.sum(weights, axis=-1), mixed * shrink[..., None] + of_page

    nothing = (
        jnp.full(rows.shape[:-1], lowest),
        jnp.zeros(rows.shape[:-1], jnp.float32),
        jnp.zeros(rows.shape, jnp.float32),
    )
    num_pages = jnp.max(places.positions) // page_size + 1
    _, total, mixed = lax.fori_loop(0, num_pages, add_page, nothing)
    output = (mixed / total[..., None]).astype(queries.dtype)
    output = output.reshape(batch, num_kv_heads, -1, length, head_dim).transpose(0, 3, 1, 2, 4)
    return output.reshape(batch * length, num_heads * head_dim)  # from [B, T, K, N/K, H]


def copy_pages(
    cache: PagedCache,
    sources: Int[Array, " n"],
    targets: Int[Array, " n"],
    *,
    num_layers: int,
    rules: rules_lib.LogicalRules = (),
) -> PagedCache:
    """Copies whole pages in all layers; a pair (0, 0) copies nothing that counts.

    With rules, the pairs are split over the data axes as rows are, and count within their shard.
    """

    def local(cache, sources, targets):
        pages_of_layer = cache.values.shape[0] // num_layers
        starts = pages_of_layer * jnp.arange(num_layers)[:, None]  # [L, 1]
        return jax.tree.map(lambda pages: pages.at[starts + targets].set(pages[starts + sources]), cache)

    if not rules:
        return local(cache, sources, targets)
    of_cache, of_pairs = _cache_specs(cache, rules), _spec(sources, ("batch",), rules)
    return jax.shard_map(local, in_specs=(of_cache, of_pairs, of_pairs), out_specs=of_cache, check_vma=False)(
        cache, sources, targets
    )


def write_and_attend(
    queries: Float[Array, "B T N H"],
    keys: Float[Array, "B T K H"],
    values: Float[Array, "B T K H"],
    cache: PagedCache,
    places: Places,
    layer: Int[Array, ""] | int,
    *,
    num_layers: int,
    rules: rules_lib.LogicalRules = (),
) -> tuple[Float[Array, "tokens N*H"], PagedCache]:
    """One layer's part of a pass: its new keys and values go into the cache, then every token looks back.

    With rules, rows and pages are split over the data axes of the mesh entered with `jax.set_mesh` and heads
    over its tensor axis: each shard of rows has pages of its own, and page tables count within the shard.
    """

    def local(queries, keys, values, cache, places, layer):
        first_page = layer * (cache.values.shape[0] // num_layers)
        cache = write(cache, keys, values, places, first_page)
        return attend(queries, cache, places, first_page), cache

    layer = jnp.asarray(layer, jnp.int32)
    if not rules:
        return local(queries, keys, values, cache, places, layer)
    # Query heads are split where key-value heads are, so that every head finds its keys on its own shard.
    of_heads = _spec(keys, ("batch", None, "kv_heads", None), rules)
    of_cache = _cache_specs(cache, rules)
    of_places = jax.tree.map(lambda array: _spec(array, ("batch", None), rules), places)
    return jax.shard_map(
        local,
        in_specs=(of_heads, of_heads, of_heads, of_cache, of_places, PartitionSpec()),
        out_specs=(PartitionSpec(of_heads[0], of_heads[2]), of_cache),
        check_vma=False,
    )(queries, keys, values, cache, places, layer)


def _cache_specs(cache: PagedCache, rules: rules_lib.LogicalRules) -> Any:
    return jax.tree.map(lambda pages: _spec(pages, ("batch", "kv_heads", None, None), rules), cache)


def _spec(array: Array, axes: tuple[str | None, ...], rules: rules_lib.LogicalRules) -> PartitionSpec:
    """How an array is split over the mesh entered with `jax.set_mesh`."""
    return rules_lib.partition_spec(jax.sharding.get_abstract_mesh(), axes, array.shape, rules)
