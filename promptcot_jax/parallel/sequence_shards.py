"""Sequence shards: what a device holds of a row whose positions are split over a mesh, as a row of its own.

With `sequence` 2 a device holds half of each of its rows, [B, T/2]. What treats every token alike (a matrix
product, a norm, a loss of one token) wants all tokens along one dimension that is split over all devices, and
[B, T] flattened in the order of rows is not that: a device's tokens are not contiguous in [B*T]. So rows are
cut first, [B, T] -> [B*S, T/S], in the order in which devices hold them. The dimension of rows is then split
as rows and positions were, ("batch", "length"), and no token changes its device. `as_rows` is the way back.

Without a split of positions, and where rows or positions do not divide, sharded are the rows.
"""

from collections.abc import Sequence

import jax
from jax.sharding import PartitionSpec

from promptcot_jax.core.arrays import Array
from promptcot_jax.parallel import rules as rules_lib

TOKENS = ("batch", "length")  # the logical axes of sharded, and of flat tokens made from them


def shards(num_rows: int, length: int, rules: rules_lib.LogicalRules) -> tuple[int, int]:
    """Into how many parts the mesh entered with `jax.set_mesh` cuts rows and positions."""
    mesh = jax.sharding.get_abstract_mesh()
    if not rules or mesh.empty:
        return 1, 1
    of_rows, of_length = (rules_lib.num_shards(mesh, axis, rules) for axis in TOKENS)
    if num_rows % of_rows:
        return 1, 1
    return of_rows, 1 if length % of_length else of_length


def as_sequence_shards(rows: Array, rules: rules_lib.LogicalRules) -> Array:
    """[B, T, ...] -> [B*S, T/S, ...], of which a device holds what it held of the rows."""
    num_rows, length, *rest = rows.shape
    of_rows, of_length = shards(num_rows, length, rules)
    if of_length == 1:
        return rows
    parts = _split(rows, TOKENS, rules).reshape(of_rows, -1, of_length, length // of_length, *rest)
    sharded = parts.swapaxes(1, 2).reshape(num_rows * of_length, -1, *rest)
    return _split(sharded, (TOKENS, None), rules)


def as_rows(sharded: Array, shape: Sequence[int], rules: rules_lib.LogicalRules) -> Array:
    """[B*S, T/S, ...] -> [B, T, ...] for `shape` = (B, T)."""
    num_rows, length = shape
    of_rows, of_length = shards(num_rows, length, rules)
    if of_length == 1:
        return sharded
    rest = sharded.shape[2:]
    parts = _split(sharded, (TOKENS, None), rules).reshape(of_rows, of_length, -1, length // of_length, *rest)
    rows = parts.swapaxes(1, 2).reshape(num_rows, length, *rest)
    return _split(rows, TOKENS, rules)


def _split(x: Array, axes: tuple[rules_lib.LogicalAxis, ...], rules: rules_lib.LogicalRules) -> Array:
    """Constrains the first dimensions; others, such as heads, lie as they lie."""
    mesh, given = jax.sharding.get_abstract_mesh(), x.shape[: len(axes)]
    others = (PartitionSpec.UNCONSTRAINED for _ in x.shape[len(axes) :])
    spec = PartitionSpec(*rules_lib.partition_spec(mesh, axes, given, rules), *others)
    return jax.lax.with_sharding_constraint(x, spec)
