"""Products of groups of rows, each group with a matrix of its own: what a mixture of experts is made of.

Two forms. For TPUs the kernel of `jax.experimental.pallas.ops.tpu.megablox`, whose grid covers the rows in
use only. Elsewhere a loop over tiles, each of one group's rows. `jax.lax.ragged_dot` is neither: off TPU, and
for some TPUs, it multiplies all rows by all matrices.

On two cores the loop takes 4.6 to 7.5 ms for 16 to 128 groups of 2,048 rows, ragged_dot 26 to 195 ms
(`python benchmarks/grouped_dots.py`). For v5p and v6e the compiler counts 3 * 2 * rows * D * F operations of
value and gradients with megablox, and for v6e 43 or 128 times that with ragged_dot, by version (`python
tests/models/compile_for_tpu.py TOPOLOGY`). No part of this has run on a TPU yet.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas.ops.tpu import megablox

from promptcot_jax.core.arrays import Array, Float, Int
from promptcot_jax.parallel.hardware import Platform

_TILES = (512, 1024, 1024)  # of rows, contracted and resulting columns: 10 MB of fast memory in bfloat16
_PLAIN_TILES = (8, 128)  # rows of the smallest and of the largest tile of the plain form
_LANES = 128


def grouped_dot(
    rows: Float[Array, "rows D"],
    matrices: Float[Array, "E D F"],
    group_sizes: Int[Array, " E"],
    platform: Platform,
) -> Float[Array, "rows F"]:
    """Each row times its group's matrix; groups lie one after the other, rows after the last give zeros.

    Whatever stands in the rows after the last group, NaN included, has no part in value or gradient.
    """
    in_use = (jnp.arange(rows.shape[0]) < jnp.sum(group_sizes))[:, None]
    product = _kernel if platform == "tpu" else _tiled
    # The first mask holds for the gradient by rows, which a kernel leaves unwritten where no group is.
    return jnp.where(in_use, product(jnp.where(in_use, rows, 0), matrices, group_sizes), 0)


def _kernel(rows: Array, matrices: Array, group_sizes: Array) -> Array:
    tile_rows = min(_TILES[0], -(-rows.shape[0] // _LANES) * _LANES)
    rows_and_more = jnp.pad(rows, ((0, -rows.shape[0] % tile_rows), (0, 0)))
    tiles = (tile_rows, *_TILES[1:])
    y = megablox.gmm(rows_and_more, matrices, group_sizes, rows.dtype, tiles)
    return y[: rows.shape[0]]


class _Tiles(NamedTuple):
    """Runs of `size` rows, each starting inside one group, that cover all groups in order.

    A tile may reach beyond its group: what is written there, the next group's tile writes anew.
    """

    size: int
    num_used: Int[Array, ""]
    starts: Int[Array, " tiles"]  # first row
    ends: Int[Array, " tiles"]  # of the group's rows
    groups: Int[Array, " tiles"]

    def read(self, rows: Float[Array, "rows _"], i: Int[Array, ""]) -> Float[Array, "size _"]:
        return lax.dynamic_slice_in_dim(rows, self.starts[i], self.size)

    def read_group(self, rows: Float[Array, "rows _"], i: Int[Array, ""]) -> Float[Array, "size _"]:
        """The tile's rows, zeros beyond the group's end."""
        is_of_group = self.starts[i] + jnp.arange(self.size) < self.ends[i]
        return jnp.where(is_of_group[:, None], self.read(rows, i), 0)

    def room(self, rows: Float[Array, "rows _"]) -> Float[Array, "more _"]:
        """Rows with so many added that a tile which starts at the last one is inside."""
        return jnp.pad(rows, ((0, self.size), (0, 0)))


def _tiles(num_rows: int, group_sizes: Int[Array, " E"]) -> _Tiles:
    num_groups = group_sizes.shape[0]
    smallest, largest = _PLAIN_TILES
    size = min(largest, max(smallest, num_rows // num_groups))
    ends = jnp.cumsum(group_sizes)
    tiles_of_group = -(-group_sizes // size)
    last_tiles = jnp.cumsum(tiles_of_group)  # one beyond each group's last
    numbers = jnp.arange(num_rows // size + min(num_groups, num_rows))
    groups = jnp.minimum(jnp.searchsorted(last_tiles, numbers, side="right"), num_groups - 1)
    tile_in_group = numbers - (last_tiles - tiles_of_group)[groups]
    starts = (ends - group_sizes)[groups] + tile_in_group * size
    return _Tiles(size, last_tiles[-1], starts, ends[groups], groups)


@jax.custom_vjp
def _tiled(
    rows: Float[Array, "rows D"], matrices: Float[Array, "E D F"], group_sizes: Int[Array, " E"]
) -> Float[Array, "rows F"]:
    tiles = _tiles(rows.shape[0], group_sizes)
    source, result = tiles.room(rows), jnp.zeros((rows.shape[0], matrices.shape[2]), rows.dtype)

    def write(i: Int[Array, ""], y: Float[Array, "more F"]) -> Float[Array, "more F"]:
        product = jnp.dot(tiles.read(source, i), matrices[tiles.groups[i]])
        return lax.dynamic_update_slice_in_dim(y, product, tiles.starts[i], axis=0)

    return lax.fori_loop(0, tiles.num_used, write, tiles.room(result))[: rows.shape[0]]


def _tiled_backward(residuals: tuple[Array, Array, Array], cotangent: Array) -> tuple[Array, Array, None]:
    rows, matrices, group_sizes = residuals
    tiles = _tiles(rows.shape[0], group_sizes)
    rows, cotangent = tiles.room(rows), tiles.room(cotangent)

    def add(i: Int[Array, ""], total: Float[Array, "E D F"]) -> Float[Array, "E D F"]:
        x, d_y = tiles.read_group(rows, i), tiles.read(cotangent, i)
        return total.at[tiles.groups[i]].add(jnp.dot(x.T, d_y, preferred_element_type=jnp.float32))

    d_matrices = lax.fori_loop(0, tiles.num_used, add, jnp.zeros(matrices.shape, jnp.float32))
    d_rows = _tiled(cotangent[: -tiles.size], matrices.swapaxes(1, 2), group_sizes)
    return d_rows, d_matrices.astype(matrices.dtype), None


_tiled.defvjp(lambda *arguments: (_tiled(*arguments), arguments), _tiled_backward)
