"""One table from logical axes to mesh axes; layers name logical axes only.

`embed` of the parameters is sharded over `fsdp` (each layer's weights are gathered when it runs), heads and
mlp over `tensor`. Activations keep rows over both data axes. A dimension that its mesh axis does not divide
stays whole, since small models on large meshes have fewer heads than devices; `unsharded` lists those, so
that a launch can log them.
"""

from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

MeshAxes = str | tuple[str, ...] | None
LogicalRules = tuple[tuple[str, MeshAxes], ...]

DEFAULT_RULES: LogicalRules = (
    ("batch", ("data", "fsdp")),
    ("length", None),
    ("act_embed", None),
    ("embed", "fsdp"),
    ("mlp", "tensor"),
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("head_dim", None),
    ("vocab", "tensor"),
    ("layers", None),
)


def _mesh_axes(
    mesh: Mesh | AbstractMesh, logical_axis: str | None, size: int, rules: LogicalRules
) -> MeshAxes:
    """Mesh axes of one dimension: the rule's, if they divide it."""
    table = dict(rules)
    if logical_axis is None:
        return None
    if logical_axis not in table:
        raise ValueError(f"Logical axis '{logical_axis}' has no rule; the table names {sorted(table)}.")
    axes = table[logical_axis]
    names = (axes,) if isinstance(axes, str) else (axes or ())
    devices = 1
    for name in names:
        devices *= mesh.shape[name]
    return axes if devices and size % devices == 0 else None


def partition_spec(
    mesh: Mesh | AbstractMesh, axes: tuple[str | None, ...], shape: tuple[int, ...], rules: LogicalRules
) -> PartitionSpec:
    """PartitionSpec of one array from the logical names of its dimensions."""
    sizes = zip(axes, shape, strict=True)
    return PartitionSpec(*(_mesh_axes(mesh, axis, size, rules) for axis, size in sizes))


def sharding_tree(mesh: Mesh, logical_axes: Any, shapes: Any, rules: LogicalRules = DEFAULT_RULES) -> Any:
    """NamedSharding of every array of a tree.

    Args:
        logical_axes: tree of tuples of logical names, as `CausalLM.logical_axes()` gives it.
        shapes: the tree of arrays or `ShapeDtypeStruct`s they belong to.
    """

    def sharding(array: Any, axes: tuple[str | None, ...]) -> NamedSharding:
        return NamedSharding(mesh, partition_spec(mesh, axes, array.shape, rules))

    return jax.tree.map(sharding, shapes, logical_axes)


def unsharded(mesh: Mesh, logical_axes: Any, shapes: Any, rules: LogicalRules = DEFAULT_RULES) -> list[str]:
    """Parameters with a dimension whose rule asks for mesh axes that do not divide it, as readable lines."""
    table, lines = dict(rules), []
    for path, array in jax.tree_util.tree_leaves_with_path(shapes):
        axes = logical_axes
        for entry in path:
            axes = axes[getattr(entry, "key", getattr(entry, "idx", None))]
        for axis, size in zip(axes, array.shape, strict=True):
            if axis is None or table.get(axis) is None:
                continue
            if _mesh_axes(mesh, axis, size, rules) is None:
                lines.append(f"{jax.tree_util.keystr(path)}: axis '{axis}' of size {size} over {table[axis]}")
    return lines


def batch_sharding(mesh: Mesh, rules: LogicalRules = DEFAULT_RULES) -> NamedSharding:
    """Sharding of a batch's arrays: rows over the data axes."""
    return NamedSharding(mesh, PartitionSpec(dict(rules)["batch"]))
