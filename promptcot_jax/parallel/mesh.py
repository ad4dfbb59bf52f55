"""The device mesh: data-parallel rows, sharded parameters, tensor-parallel matmuls.

A mesh is stated in full even on one device (1, 1, 1), so that a laptop runs the code path of a slice.
"""

import dataclasses
import math
from typing import ClassVar

import jax
from jax.sharding import AxisType, Mesh

AXES = ("data", "fsdp", "tensor")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each axis; one of them may be -1, which takes the devices that are left."""

    HOW_ONLY: ClassVar = frozenset({"data", "fsdp", "tensor"})  # a preempted run may go on on another slice

    data: int = 1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self):
        if any(size == 0 or size < -1 for size in self.shape):
            raise ValueError(f"Mesh axes must be positive, or -1 for what is left; got {self}.")
        if self.shape.count(-1) > 1:
            raise ValueError(f"At most one mesh axis may be -1; got {self}.")

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.data, self.fsdp, self.tensor)


def make_mesh(config: MeshConfig) -> Mesh:
    """Builds the mesh over all devices, or over the first of them where the shape asks for fewer.

    Raises:
        ValueError: the shape asks for more devices than there are, or does not divide them.
    """
    devices = jax.devices()
    known = math.prod(size for size in config.shape if size != -1)
    if -1 in config.shape and len(devices) % known:
        raise ValueError(f"{len(devices)} devices do not divide over {config}; change its sizes.")
    shape = tuple(len(devices) // known if size == -1 else size for size in config.shape)
    needed = math.prod(shape)
    if needed > len(devices):
        raise ValueError(f"{config} needs {needed} devices, {len(devices)} are here; take a smaller mesh.")
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices[:needed])
