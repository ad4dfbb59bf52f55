"""Pages in plain JAX: the cache's layout on a CPU, and wherever no better one is known.

Keys lie transposed: on a CPU the score matmul of one query token is then five times as fast.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from promptcot_jax.core.arrays import Array, Float, Int
from promptcot_jax.models import paged_cache
from promptcot_jax.models import scores as scores_lib


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
        places: paged_cache.Places,
        first_page: paged_cache.Index,
    ) -> "PlainPages":
        pages, offsets = places.first(self.page_size)
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
        places: paged_cache.Places,
        first_page: paged_cache.Index,
        rule: scores_lib.ScoreRule,
    ) -> Float[Array, "tokens N*H"]:
        def read_pages(
            pages: Int[Array, " B"],
        ) -> tuple[Float[Array, "B K H page"], Float[Array, "B K page H"]]:
            keys = self.keys.at[first_page + pages].get(mode="promise_in_bounds")
            return keys, self.values.at[first_page + pages].get(mode="promise_in_bounds")

        num_kv_heads = self.values.shape[1]
        return paged_cache.attend_by_page(queries, places, self.page_size, num_kv_heads, read_pages, rule)

    def copy(self, sources: Int[Array, " n"], targets: Int[Array, " n"]) -> "PlainPages":
        return jax.tree.map(
            lambda pages: pages.at[targets].set(pages[sources], mode="promise_in_bounds"), self
        )


def empty(config: paged_cache.CacheShape, num_pages: int, page_size: int) -> PlainPages:
    """A cache of `num_pages` pages, page 0 included."""
    pages, heads, head_dim = num_pages * config.num_layers, config.num_kv_heads, config.head_dim
    return PlainPages(
        jnp.zeros((pages, heads, head_dim, page_size), config.dtype),
        jnp.zeros((pages, heads, page_size, head_dim), config.dtype),
    )
