"""How the pages of a cache lie in memory: a layout for TPUs, and one in plain JAX for everything else.

Plain pages keep keys transposed: on a CPU the score matmul of one query token is then five times as fast.

TPU pages lie as JAX's paged attention kernel reads them, so that a decode step fetches only the pages in use.
Prompts, read a page of queries at a time, and layers with windows or sinks, which the kernel does not know,
go through plain JAX over the same pages. What the kernel and the compiler ask for, found by compiling for v5p
and v6e (`tests/sampling/compile_for_tpu.py`; no part of this has run on a TPU yet):

* Heads come first, a head's numbers fill whole lines of 128 (a narrower head is padded with zeros), and a
  page is a multiple of 8 tokens.
* The kernel rounds keys and values to bfloat16, so they are kept so: what a float32 model's attention gives
  is off by up to 5e-3 of the size of its values.
* Writes and reads name the head in their index: as a slice (`pages.at[:, page]`) the compiler would lay the
  pages out anew, which copies the whole cache in every layer.
* What lies past a row's last token is multiplied by weights that are exactly 0: a row's bits depend neither
  on its neighbours nor on the width of the page table. Every entry of the table must name a page, and all
  pages be finite.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import paged_attention

from promptcot_jax.core.arrays import Array, Float, Int
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.models import paged_cache
from promptcot_jax.models.attention import ScoreRule
from promptcot_jax.parallel import rules as rules_lib
from promptcot_jax.parallel.hardware import Platform

_LANES = 128  # numbers of a line of the vector unit
_SUBLANES = 8  # lines of a tile
_TOKENS_PER_BLOCK = 512  # that the kernel fetches at once; never measured, for want of a TPU
_TABLE_BYTES = 2**20  # of scalar memory, which holds the whole page table of a shard


def empty(
    shape: paged_cache.CacheShape,
    num_pages: int,
    page_size: int,
    layout: Platform,
    rules: rules_lib.LogicalRules,
) -> paged_cache.PagedCache:
    """A cache of `num_pages` pages, page 0 included, split over the mesh by the rules.

    Raises:
        ValueError: the layout cannot have pages of that size.
    """
    make = _empty_tpu_pages if layout == "tpu" else _empty_plain_pages
    cache = make(shape, num_pages, page_size)
    return jax.tree.map(lambda pages: rules_lib.constrain(pages, cache.axes, rules), cache)


class PlainPages(NamedTuple):
    """A `paged_cache.PagedCache`."""

    keys: Float[Array, "pages K H page"]
    values: Float[Array, "pages K page H"]

    @property
    def page_size(self) -> int:
        return self.values.shape[2]

    @property
    def num_pages(self) -> int:
        return self.values.shape[0]

    @property
    def axes(self) -> tuple[str | None, ...]:
        return ("batch", "kv_heads", None, None)

    def write(
        self,
        keys: Float[Array, "B T K H"],
        values: Float[Array, "B T K H"],
        cache_positions: paged_cache.CachePositions,
        first_page: paged_cache.Index,
    ) -> "PlainPages":
        pages, offsets = cache_positions.first(self.page_size)
        pages = first_page + pages
        keys, values = keys.astype(self.keys.dtype), values.astype(self.values.dtype)
        if keys.shape[1] == 1:
            return PlainPages(
                self.keys.at[pages, :, :, offsets].set(keys[:, 0], mode="promise_in_bounds"),
                self.values.at[pages, :, offsets].set(values[:, 0], mode="promise_in_bounds"),
            )
        return PlainPages(
            self.keys.at[pages].set(keys.transpose(0, 2, 3, 1), mode="promise_in_bounds"),
            self.values.at[pages].set(values.transpose(0, 2, 1, 3), mode="promise_in_bounds"),
        )

    def attend(
        self,
        queries: Float[Array, "B T N H"],
        cache_positions: paged_cache.CachePositions,
        first_page: paged_cache.Index,
        rule: ScoreRule,
    ) -> Float[Array, "tokens N*H"]:
        def read_pages(
            pages: Int[Array, " B"],
        ) -> tuple[Float[Array, "B K H page"], Float[Array, "B K page H"]]:
            keys = self.keys.at[first_page + pages].get(mode="promise_in_bounds")
            return keys, self.values.at[first_page + pages].get(mode="promise_in_bounds")

        num_kv_heads = self.values.shape[1]
        return paged_cache.attend_by_page(
            queries, cache_positions, self.page_size, num_kv_heads, read_pages, rule
        )

    def copy(self, sources: Int[Array, " n"], targets: Int[Array, " n"]) -> "PlainPages":
        return jax.tree.map(
            lambda pages: pages.at[targets].set(pages[sources], mode="promise_in_bounds"), self
        )


def _empty_plain_pages(config: paged_cache.CacheShape, num_pages: int, page_size: int) -> PlainPages:
    """A cache of `num_pages` pages, page 0 included."""
    pages, heads, head_dim = num_pages * config.num_layers, config.num_kv_heads, config.head_dim
    return PlainPages(
        jnp.zeros((pages, heads, head_dim, page_size), config.dtype),
        jnp.zeros((pages, heads, page_size, head_dim), config.dtype),
    )


class TpuPages(NamedTuple):
    """A `paged_cache.PagedCache`; `width` is the head dimension, padded to whole lines."""

    keys: Float[Array, "K pages page width"]
    values: Float[Array, "K pages page width"]

    @property
    def page_size(self) -> int:
        return self.values.shape[2]

    @property
    def num_pages(self) -> int:
        return self.values.shape[1]

    @property
    def axes(self) -> tuple[str | None, ...]:
        return ("kv_heads", "batch", None, None)

    def write(
        self,
        keys: Float[Array, "B T K H"],
        values: Float[Array, "B T K H"],
        cache_positions: paged_cache.CachePositions,
        first_page: paged_cache.Index,
    ) -> "TpuPages":
        pages, offsets = cache_positions.first(self.page_size)
        at = (*self._of_all_heads(first_page + pages), offsets)

        def put(array: Array, new: Float[Array, "B T K H"]) -> Array:
            new = _padded(new.astype(array.dtype))
            if new.shape[1] == 1:
                return array.at[at].set(new[:, 0].swapaxes(0, 1), mode="promise_in_bounds")
            return array.at[at[:2]].set(new.transpose(2, 0, 1, 3), mode="promise_in_bounds")

        return TpuPages(put(self.keys, keys), put(self.values, values))

    def attend(
        self,
        queries: Float[Array, "B T N H"],
        cache_positions: paged_cache.CachePositions,
        first_page: paged_cache.Index,
        rule: ScoreRule,
    ) -> Float[Array, "tokens N*H"]:
        if queries.shape[1] == 1 and rule.reach is None and rule.sinks is None:
            return self._attend_from_last(queries[:, 0], cache_positions, first_page, rule)

        def read_pages(
            pages: Int[Array, " B"],
        ) -> tuple[Float[Array, "B K H page"], Float[Array, "B K page H"]]:
            at, head_dim = self._of_all_heads(first_page + pages), queries.shape[-1]
            keys, values = (
                array.at[at].get(mode="promise_in_bounds")[..., :head_dim].astype(queries.dtype)
                for array in (self.keys, self.values)
            )  # [K, B, page, H]
            return keys.transpose(1, 0, 3, 2), values.swapaxes(0, 1)

        num_kv_heads = self.values.shape[0]
        return paged_cache.attend_by_page(
            queries, cache_positions, self.page_size, num_kv_heads, read_pages, rule
        )

    def copy(self, sources: Int[Array, " n"], targets: Int[Array, " n"]) -> "TpuPages":
        to, of = self._of_all_heads(targets), self._of_all_heads(sources)
        return jax.tree.map(lambda pages: pages.at[to].set(pages[of], mode="promise_in_bounds"), self)

    def _of_all_heads(self, pages: Int[Array, " n"]) -> tuple[Int[Array, "K 1"], Int[Array, "1 n"]]:
        """Indices of the pages in every head."""
        return jnp.arange(self.values.shape[0])[:, None], pages[None]

    def _attend_from_last(
        self,
        queries: Float[Array, "B N H"],
        cache_positions: paged_cache.CachePositions,
        first_page: paged_cache.Index,
        rule: ScoreRule,
    ) -> Float[Array, "B N*H"]:
        """The kernel: one query token a row.

        Raises:
            WrongUse: the page table is too large.
        """
        batch, num_heads, head_dim = queries.shape
        pages_per_block = max(1, _TOKENS_PER_BLOCK // self.page_size)
        missing = -cache_positions.page_table.shape[1] % pages_per_block
        table = jnp.pad(first_page + cache_positions.page_table, ((0, 0), (0, missing)))
        if table.size * 4 > _TABLE_BYTES:
            raise WrongUse(
                f"A page table of {table.shape[0]} slots by {table.shape[1]} pages does not fit in the "
                f"{_TABLE_BYTES} bytes of a TPU's scalar memory; raise EngineConfig.page_size, or lower "
                "EngineConfig.num_slots."
            )
        # float32 in and out: the kernel adds up blocks in the type of the queries.
        scaled = _padded(queries.astype(jnp.float32) * rule.scale)
        mixed = paged_attention.paged_attention(
            scaled,
            self.keys,
            self.values,
            cache_positions.positions[:, 0] + 1,
            table,
            attn_logits_soft_cap=rule.soft_cap,
            pages_per_compute_block=pages_per_block,
        )
        return mixed[..., :head_dim].astype(queries.dtype).reshape(batch, num_heads * head_dim)


def _empty_tpu_pages(config: paged_cache.CacheShape, num_pages: int, page_size: int) -> TpuPages:
    """A cache of `num_pages` pages, page 0 included.

    Raises:
        ValueError: a page is not made of whole tiles.
    """
    if page_size % _SUBLANES:
        raise ValueError(
            f"On a TPU page_size must be a multiple of {_SUBLANES}, got {page_size}: with other pages the "
            "compiler copies the whole cache at every call."
        )
    width = config.head_dim + -config.head_dim % _LANES
    shape = (config.num_kv_heads, num_pages * config.num_layers, page_size, width)
    return TpuPages(jnp.zeros(shape, jnp.bfloat16), jnp.zeros(shape, jnp.bfloat16))


def _padded(heads: Float[Array, "... H"]) -> Float[Array, "... width"]:
    """Heads widened to whole lines, with zeros."""
    return jnp.pad(heads, ((0, 0),) * (heads.ndim - 1) + ((0, -heads.shape[-1] % _LANES),))
