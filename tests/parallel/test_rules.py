"""The table from logical axes to mesh axes: what it places, what it leaves whole, what it refuses."""

import jax
import pytest
from jax.sharding import PartitionSpec

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.parallel import mesh, rules


def _tree(**shapes):
    return {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in shapes.items()}


def test_fewer_key_value_heads_than_chips_stay_whole_and_are_listed():
    made = mesh.make_mesh(mesh.MeshConfig(fsdp=2, tensor=4))
    axes = {"q": ("embed", "heads"), "k": ("embed", "kv_heads")}
    shapes = _tree(q=(6, 8), k=(6, 3))
    tree = rules.sharding_tree(made, axes, shapes)
    assert tree["q"].spec == PartitionSpec("fsdp", "tensor")
    assert tree["k"].spec == PartitionSpec("fsdp", None)
    (line,) = rules.unsharded(made, axes, shapes)
    assert line == "k: axis 'kv_heads' of size 3 is whole on each device of tensor 4"


def test_a_parameter_that_does_not_divide_is_refused_with_axis_size_and_mesh():
    made = mesh.make_mesh(mesh.MeshConfig(fsdp=2, expert=2, tensor=2))
    axes = {"layers": {"q": ("layers", "embed", "heads")}}
    shapes = {"layers": _tree(q=(3, 6, 8))}
    with pytest.raises(WrongUse, match="'layers.q': its axis 'embed' of size 6 .* 4 devices, fsdp 2 x exp"):
        rules.sharding_tree(made, axes, shapes)


def test_two_dimensions_over_one_mesh_axis_are_refused():
    made = mesh.make_mesh(mesh.MeshConfig(tensor=2))
    with pytest.raises(WrongUse, match="'w': the logical axes 'mlp' and 'heads' both lie over .* 'tensor'"):
        rules.sharding_tree(made, {"w": ("mlp", "heads")}, _tree(w=(4, 4)))


def test_experts_do_not_collide_with_what_else_their_axis_shards():
    made = mesh.make_mesh(mesh.MeshConfig(fsdp=2, expert=2, tensor=2))
    axes = {"dense": ("embed", "mlp"), "experts": ("layers", "experts", "expert_embed", "expert_mlp")}
    tree = rules.sharding_tree(made, axes, _tree(dense=(8, 4), experts=(3, 4, 8, 4)))
    assert tree["dense"].spec == PartitionSpec(("fsdp", "expert"), "tensor")
    assert tree["experts"].spec == PartitionSpec(None, "expert", "fsdp", "tensor")


def test_an_axis_without_a_rule_is_an_error():
    made = mesh.make_mesh(mesh.MeshConfig())
    with pytest.raises(ValueError, match="'widht' has no rule"):
        rules.partition_spec(made, ("widht",), (4,), rules.DEFAULT_RULES)
