"""Tables from logical axes to mesh axes; layers name logical axes only.

Whole rows, in training and scoring: `embed` of the parameters lies over `fsdp` and whatever other axes hold
no matrix product (each layer's weights are gathered when it runs), heads and mlp over `tensor`, experts over
`expert`. Activations keep rows over the data axes and positions over `sequence`; flat tokens lie over both
(`sequence_shards`).

Decoding reads one token a row or one page, far fewer numbers than the weights, so that there the tokens
travel and the weights stay: `for_decoding` is the table of its parameters and its matrix products.
Attention and its cache keep the other one, rows over the data axes.

A parameter that its rule cannot split evenly is an error that names it, not a slow run; but for the axes in
`MAY_STAY_WHOLE`: there are fewer key-value heads than chips in most models, and vocabularies come in any
size. `unsharded` lists those, so that a launch can log them. Activations follow where they divide.
"""

import functools
import math
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from promptcot_jax.core.errors import WrongUse

MeshAxes = str | tuple[str, ...] | None
LogicalAxis = str | tuple[str, ...] | None  # several: a dimension into which they were merged, major first
LogicalRules = tuple[tuple[str, MeshAxes], ...]

DEFAULT_RULES: LogicalRules = (
    ("batch", ("data", "fsdp", "expert")),
    ("length", "sequence"),
    ("act_embed", None),
    ("embed", ("fsdp", "sequence", "expert")),
    ("mlp", "tensor"),
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("head_dim", None),
    ("vocab", "tensor"),
    ("layers", None),
    ("experts", "expert"),
    ("expert_embed", ("fsdp", "sequence")),
    ("expert_mlp", "tensor"),
    ("router", None),
)
MAY_STAY_WHOLE = frozenset({"kv_heads", "vocab"})


def extended(own: LogicalRules) -> LogicalRules:
    """`DEFAULT_RULES` with a model's own rows, which win over the table's of the same name."""
    return tuple({**dict(DEFAULT_RULES), **dict(own)}.items())


_WIDTHS = {
    "mlp": "embed",
    "heads": "embed",
    "kv_heads": "embed",
    "vocab": "embed",
    "expert_mlp": "expert_embed",
}


@functools.cache
def for_decoding(rules: LogicalRules) -> LogicalRules:
    """The table for matrix products of few tokens: each matrix stays split over all the axes it lies over.

    What `embed` lies over goes to the matrix's other dimension, where the product asks for tokens instead of
    weights; rows keep the axes that no matrix takes.
    """
    table = dict(rules)
    if not table:
        return ()
    decoding = dict(table)
    for features, width in _WIDTHS.items():
        decoding[features] = names(table[features]) + names(table[width])
    taken = {axis for width in _WIDTHS.values() for axis in names(table[width])}
    decoding |= dict.fromkeys(_WIDTHS.values())
    decoding["batch"] = tuple(axis for axis in names(table["batch"]) if axis not in taken)
    return tuple(decoding.items())


def mesh_axes(logical_axis: str | tuple[str, ...], rules: LogicalRules) -> tuple[str, ...]:
    """Mesh axes that a logical axis lies over, major first.

    Raises:
        ValueError: the table has no such axis.
    """
    if isinstance(logical_axis, tuple):
        return tuple(name for axis in logical_axis for name in mesh_axes(axis, rules))
    table = dict(rules)
    if logical_axis not in table:
        raise ValueError(
            f"Logical axis '{logical_axis}' has no rule; the table names {sorted(table)}. A model states "
            f"rules for axes of its own in axis_rules: ('{logical_axis}', None) keeps it whole."
        )
    return names(table[logical_axis])


def names(entry: MeshAxes) -> tuple[str, ...]:
    """The mesh axes of one entry of a table or of a PartitionSpec."""
    return (entry,) if isinstance(entry, str) else (entry or ())


def num_shards(mesh: Mesh | AbstractMesh, logical_axis: str | tuple[str, ...], rules: LogicalRules) -> int:
    """Into how many parts the mesh splits a logical axis."""
    return math.prod(mesh.shape[axis] for axis in mesh_axes(logical_axis, rules))


def partition_spec(
    mesh: Mesh | AbstractMesh, axes: tuple[LogicalAxis, ...], shape: tuple[int, ...], rules: LogicalRules
) -> PartitionSpec:
    """PartitionSpec of one array from the logical names of its dimensions.

    A dimension that its mesh axes do not divide stays whole, and mesh axes of one device are left out.
    """

    def entry(axis: LogicalAxis, size: int) -> MeshAxes:
        if axis is None or size % num_shards(mesh, axis, rules):
            return None
        several = tuple(name for name in mesh_axes(axis, rules) if mesh.shape[name] > 1)
        return several[0] if len(several) == 1 else several or None

    return PartitionSpec(*(entry(axis, size) for axis, size in zip(axes, shape, strict=True)))


def sharding_tree(mesh: Mesh, logical_axes: Any, shapes: Any, rules: LogicalRules = DEFAULT_RULES) -> Any:
    """NamedSharding of every parameter of a tree.

    Args:
        logical_axes: tree of tuples of logical names, as `CausalLM.logical_axes()` gives it.
        shapes: the tree of arrays or `ShapeDtypeStruct`s they belong to.

    Raises:
        WrongUse: an axis has no rule, two dimensions of a parameter want the same mesh axis, or one does not
            divide over its own; names parameter, axis, size and mesh.
    """

    def sharding(path: Any, array: Any, axes: tuple[str | None, ...]) -> NamedSharding:
        _check(jax.tree_util.keystr(path, simple=True, separator="."), axes, array.shape, mesh, rules)
        return NamedSharding(mesh, partition_spec(mesh, axes, array.shape, rules))

    return jax.tree_util.tree_map_with_path(sharding, shapes, logical_axes)


def _check(
    name: str, axes: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh, rules: LogicalRules
) -> None:
    """Refuses a parameter that the table cannot split."""
    taken: dict[str, str] = {}
    for axis, size in zip(axes, shape, strict=True):
        if axis is None:
            continue
        if axis not in dict(rules):
            raise WrongUse(
                f"Parameter '{name}': its logical axis '{axis}' has no rule. Add one to the model's "
                f"axis_rules: ('{axis}', 'tensor') splits it over that mesh axis, ('{axis}', None) keeps it "
                "whole."
            )
        for mesh_axis in mesh_axes(axis, rules):
            if mesh_axis in taken:
                raise WrongUse(
                    f"Parameter '{name}': the logical axes '{taken[mesh_axis]}' and '{axis}' both lie over "
                    f"the mesh axis '{mesh_axis}'; change the table of rules."
                )
            taken[mesh_axis] = axis
        shards = num_shards(mesh, axis, rules)
        if size % shards and axis not in MAY_STAY_WHOLE:
            raise WrongUse(
                f"Parameter '{name}': its axis '{axis}' of size {size} does not divide over {shards} "
                f"devices, {_in_words(mesh, mesh_axes(axis, rules))}; choose a mesh whose size divides "
                f"{size}, and put the other devices along 'data'."
            )


def _in_words(mesh: Mesh, axes: tuple[str, ...]) -> str:
    """Sizes of some mesh axes, as "fsdp 4 x tensor 2"."""
    return " x ".join(f"{axis} {mesh.shape[axis]}" for axis in axes if mesh.shape[axis] > 1)


def unsharded(mesh: Mesh, logical_axes: Any, shapes: Any, rules: LogicalRules = DEFAULT_RULES) -> list[str]:
    """Parameters with a dimension that stays whole because its mesh axes do not divide it, one a line."""
    lines: list[str] = []

    def look(path: Any, array: Any, axes: tuple[str | None, ...]) -> None:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        for axis, size in zip(axes, array.shape, strict=True):
            if axis is not None and size % num_shards(mesh, axis, rules):
                over = _in_words(mesh, mesh_axes(axis, rules))
                lines.append(f"{name}: axis '{axis}' of size {size} is whole on each device of {over}")

    jax.tree_util.tree_map_with_path(look, shapes, logical_axes)
    return lines


def constrain(x: jax.Array, axes: tuple[LogicalAxis, ...], rules: LogicalRules) -> jax.Array:
    """Shards `x` over the mesh entered with `jax.set_mesh`; without rules, leaves it to the compiler.

    Raises:
        ValueError: rules are given and no mesh is entered.
    """
    if not rules:
        return x
    mesh = entered_mesh()
    return jax.lax.with_sharding_constraint(x, partition_spec(mesh, axes, x.shape, rules))


def entered_mesh() -> AbstractMesh:
    """The mesh of `jax.set_mesh`.

    Raises:
        ValueError: there is none.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        raise ValueError(
            "This model has sharding rules but no mesh is entered; call it inside jax.set_mesh(mesh)."
        )
    return mesh


def batch_sharding(mesh: Mesh, rules: LogicalRules = DEFAULT_RULES) -> NamedSharding:
    """Sharding of a batch's arrays: rows over the data axes; what a row holds stays together."""
    axes = tuple(name for name in mesh_axes("batch", rules) if mesh.shape[name] > 1)
    return NamedSharding(mesh, PartitionSpec(axes or None))
