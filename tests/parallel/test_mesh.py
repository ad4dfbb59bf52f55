"""Meshes and the table from logical axes to mesh axes."""

import jax
import pytest
from jax.sharding import PartitionSpec

from promptcot_jax.parallel import mesh, rules


def test_minus_one_takes_the_devices_that_are_left():
    made = mesh.make_mesh(mesh.MeshConfig(fsdp=-1, tensor=2))
    assert dict(made.shape) == {"data": 1, "fsdp": len(jax.devices()) // 2, "tensor": 2}


def test_a_mesh_smaller_than_the_machine_takes_the_first_devices():
    assert list(mesh.make_mesh(mesh.MeshConfig()).devices.flat) == jax.devices()[:1]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"data": 0}, "must be positive"),
        ({"data": -1, "fsdp": -1}, "At most one"),
        ({"data": 512}, "512 devices"),
    ],
)
def test_nonsense_is_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        mesh.make_mesh(mesh.MeshConfig(**settings))


def test_dimensions_that_do_not_divide_stay_whole_and_are_listed():
    made = mesh.make_mesh(mesh.MeshConfig(fsdp=2, tensor=4))
    axes = {"q": ("embed", "heads"), "k": ("embed", "kv_heads")}
    shapes = {"q": jax.ShapeDtypeStruct((6, 8), "float32"), "k": jax.ShapeDtypeStruct((6, 3), "float32")}
    tree = rules.sharding_tree(made, axes, shapes)
    assert tree["q"].spec == PartitionSpec("fsdp", "tensor")
    assert tree["k"].spec == PartitionSpec("fsdp", None)
    assert rules.unsharded(made, axes, shapes) == ["['k']: axis 'kv_heads' of size 3 over tensor"]


def test_an_axis_without_a_rule_is_an_error():
    made = mesh.make_mesh(mesh.MeshConfig())
    with pytest.raises(ValueError, match="'widht' has no rule"):
        rules.partition_spec(made, ("widht",), (4,), rules.DEFAULT_RULES)
