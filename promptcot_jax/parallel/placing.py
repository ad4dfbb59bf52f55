"""Host arrays onto a mesh and back, on one host or several.

With several hosts an array on the mesh is only partly here. What goes up is the same on all hosts, of which
each takes what its devices hold; what comes back is copied to all of them by the program that made it.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec, Sharding


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


def as_shapes(arrays: Any, shardings: Any) -> Any:
    """The shapes of a tree of arrays, with a sharding or a tree of them: what `place` would make of it."""
    if isinstance(shardings, Sharding):
        shardings = jax.tree.map(lambda _: shardings, arrays)
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=sharding), arrays, shardings
    )


def own_rows(sharding: NamedSharding, num_rows: int) -> list[int]:
    """The rows of a batch that devices of this host hold, ascending."""
    devices = sharding.addressable_devices_indices_map((num_rows,))
    return sorted({row for index in devices.values() if index for row in range(num_rows)[index[0]]})


def from_own_rows(arrays: Any, rows: Sequence[int], num_rows: int, sharding: NamedSharding) -> Any:
    """A batch of `num_rows` rows of which each host has made the rows that it holds.

    Args:
        arrays: a tree of arrays of this host's rows, in the order of `rows`.
    """
    if sharding.is_fully_addressable:
        return jax.device_put(arrays, sharding)
    position_of = {row: i for i, row in enumerate(rows)}

    def global_array(own: np.ndarray) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            rows_here = [position_of[row] for row in range(num_rows)[index[0]]]
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


# Arrays too large for the host: into their shards part by part, and back slice by slice.


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """What one or several devices of this host hold of an array that is being made."""

    index: tuple[slice, ...]  # where it lies in the array
    values: np.ndarray  # to be filled in
    devices: tuple[Any, ...]  # that hold it; (None,) the default one


def local_parts(shape: tuple[int, ...], dtype: Any, sharding: Sharding | None) -> list[Part]:
    """Empty parts for `from_parts`, each distinct one once.

    Args:
        sharding: None: the whole array on the default device.
    """
    devices_of: dict[tuple[tuple[int, int], ...], list[Any]] = {}
    indices = {None: ()} if sharding is None else sharding.addressable_devices_indices_map(shape)
    for device, index in indices.items():
        index = (*(index or ()), *[slice(None)] * (len(shape) - len(index or ())))
        bounds = [part.indices(size)[:2] for part, size in zip(index, shape, strict=True)]
        devices_of.setdefault(tuple(bounds), []).append(device)
    return [
        Part(
            tuple(slice(*bound) for bound in bounds),
            np.empty([stop - start for start, stop in bounds], dtype),
            tuple(devices),
        )
        for bounds, devices in devices_of.items()
    ]


def from_parts(shape: tuple[int, ...], sharding: Sharding | None, parts: Sequence[Part]) -> jax.Array:
    """The array whose parts are filled in by now; returns when they have left the host."""
    arrays = [jax.device_put(part.values, device) for part in parts for device in part.devices]
    jax.block_until_ready(arrays)
    return (
        arrays[0] if sharding is None else jax.make_array_from_single_device_arrays(shape, sharding, arrays)
    )


def empty_stack(shape: tuple[int, ...], dtype: Any, sharding: Sharding | None) -> jax.Array:
    """An array [L, ...] for `set_layer`."""
    return jnp.zeros(shape, dtype, device=sharding)


def set_layer(stack: jax.Array, layer: jax.Array, i: int) -> jax.Array:
    """`stack` with its slice i replaced, in place: the array given is donated."""
    replace = _layer_setter(stack.sharding if stack.committed else None)
    return jax.block_until_ready(replace(stack, layer, np.int32(i)))


def layer_sharding(sharding: Sharding | None) -> Sharding | None:
    """Where a slice of a stack lies, given where the stack does."""
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
    return sharding


@functools.lru_cache(maxsize=256)
def _layer_setter(sharding: Sharding | None) -> Callable[..., jax.Array]:
    def replace(stack: jax.Array, layer: jax.Array, i: jax.Array) -> jax.Array:
        return lax.dynamic_update_index_in_dim(stack, layer, i, 0)

    return jax.jit(replace, donate_argnums=0, out_shardings=sharding)


def to_host(array: jax.Array, index: tuple[int, ...] = ()) -> np.ndarray:
    """`array[index]` on every host; all take part, and no more of the array leaves its devices.

    With several hosts each device holds the slice whole for a moment.
    """
    is_here, sharding = array.is_fully_addressable, array.sharding
    if index or not is_here:
        if not is_here:
            assert isinstance(sharding, NamedSharding)
            sharding = NamedSharding(sharding.mesh, PartitionSpec())
        else:
            for _ in index:
                sharding = layer_sharding(sharding)
        array = _picker(sharding)(array, *map(np.int32, index))
    return np.asarray(array)


@functools.lru_cache(maxsize=256)
def _picker(sharding: Sharding) -> Callable[..., jax.Array]:
    def pick(array: jax.Array, *index: jax.Array) -> jax.Array:
        for i in index:
            array = lax.dynamic_index_in_dim(array, i, keepdims=False)
        return array

    return jax.jit(pick, out_shardings=sharding)
