"""Meshes from stated shapes."""

import jax
import pytest

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.parallel import mesh


def test_minus_one_takes_the_devices_that_are_left():
    made = mesh.make_mesh(mesh.MeshConfig(fsdp=-1, tensor=2))
    assert dict(made.shape) == {"data": 1, "fsdp": 4, "expert": 1, "sequence": 1, "tensor": 2}


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
    with pytest.raises((ValueError, WrongUse), match=says):
        mesh.make_mesh(mesh.MeshConfig(**settings))


def test_slices_lie_outermost_along_data():
    devices = [SimulatedDevice(i, slice_index=i // 4) for i in range(8)]
    made = mesh.make_mesh(mesh.MeshConfig(data=2, fsdp=2, tensor=2, num_slices=2), devices)
    assert {device.slice_index for device in made.devices[0].flat} == {0}
    assert {device.slice_index for device in made.devices[1].flat} == {1}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"data": 3, "num_slices": 2}, "does not divide over num_slices=2"),
        ({"fsdp": 8}, "devices are of 2 slices; set num_slices to 2"),
        ({"data": -1, "fsdp": 8, "num_slices": 2}, "data=1 does not divide over 2 slices"),
    ],
)
def test_slices_that_do_not_fit_are_refused(settings, says):
    devices = [SimulatedDevice(i, slice_index=i // 4) for i in range(8)]
    with pytest.raises((ValueError, WrongUse), match=says):
        mesh.make_mesh(mesh.MeshConfig(**settings), devices)


class SimulatedDevice:
    """As much of a device of a multi-slice job as a mesh is made of."""

    platform = device_kind = "cpu"

    def __init__(self, number: int, slice_index: int):
        self.id, self.slice_index, self.process_index = number, slice_index, number
