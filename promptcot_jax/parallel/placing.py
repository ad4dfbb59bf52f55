"""Host arrays onto a mesh and back, on one host or several.

With several hosts an array on the mesh is only partly here. What goes up is the same on all hosts, of which
each takes what its devices hold; what comes back is copied to all of them by the program that made it.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec


def place(arrays: Any, shardings: Any) -> Any:
    """A tree of arrays, the same on all hosts, onto devices by a sharding or a tree of them."""
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, arrays)

    def put(array: Any, sharding: jax.sharding.Sharding) -> jax.Array:
        if sharding.is_fully_addressable or isinstance(array, jax.Array):
            return jax.device_put(array, sharding)
        array = np.asarray(array)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(put, arrays, shardings)


def own_rows(sharding: NamedSharding, num_rows: int) -> list[int]:
    """The rows of a batch that devices of this host hold, ascending."""
    places = sharding.addressable_devices_indices_map((num_rows,))
    return sorted({row for index in places.values() if index for row in range(num_rows)[index[0]]})


def from_own_rows(arrays: Any, rows: Sequence[int], num_rows: int, sharding: NamedSharding) -> Any:
    """A batch of `num_rows` rows of which each host has made the rows that it holds.

    Args:
        arrays: a tree of arrays of this host's rows, in the order of `rows`.
    """
    if sharding.is_fully_addressable:
        return jax.device_put(arrays, sharding)
    place_of = {row: i for i, row in enumerate(rows)}

    def global_array(own: np.ndarray) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            rows_here = [place_of[row] for row in range(num_rows)[index[0]]]
            return own[rows_here][(slice(None), *index[1:])]

        return jax.make_array_from_callback((num_rows, *own.shape[1:]), sharding, part)

    return jax.tree.map(global_array, arrays)


def for_hosts(arrays: Any) -> Any:
    """Inside a program: results that hosts will look at, whole on every device where there are several hosts.

    With one host they stay where they are, which saves moving them between its devices.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if jax.process_count() == 1 or mesh.empty:
        return arrays
    return jax.lax.with_sharding_constraint(arrays, NamedSharding(mesh, PartitionSpec()))
