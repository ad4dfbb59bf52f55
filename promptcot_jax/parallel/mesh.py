"""The device mesh: rows, parameters, experts, long sequences and matrix products over chips.

| axis | what lies over it |
| --- | --- |
| `data` | rows; slices of a multi-slice job, whose gradients cross the data center network |
| `fsdp` | rows, and parameters with their optimizer states, gathered layer by layer |
| `expert` | experts; outside of expert layers it is another `fsdp` |
| `sequence` | positions of long rows; for parameters another `fsdp` |
| `tensor` | heads, hidden units and vocabulary: every matrix product over these chips |

A mesh is stated in full even on one device, so that a laptop runs the code path of a slice.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.settings import PositiveInt, Range, settings

AXES = ("data", "fsdp", "expert", "sequence", "tensor")


Size = Annotated[int, Range(at_least=-1)]


@settings
class MeshConfig:
    """Devices along each axis; one of them may be -1, which takes the devices that are left."""

    EXECUTION_ONLY: ClassVar = frozenset({*AXES, "num_slices"})  # a preempted run may go on on another slice

    data: Size = 1
    fsdp: Size = 1
    expert: Size = 1
    sequence: Size = 1
    tensor: Size = 1
    # Slices of a multi-slice job. They lie along `data`, outermost, since between slices there is only the
    # data center network.
    num_slices: PositiveInt = 1

    def __post_init__(self):
        if 0 in self.shape:
            raise ValueError(f"Mesh axes must be positive, or -1 for what is left; got {self}.")
        if self.shape.count(-1) > 1:
            raise ValueError(f"At most one mesh axis may be -1; got {self}.")
        if self.data > 0 and self.data % self.num_slices:
            raise ValueError(
                f"data={self.data} does not divide over num_slices={self.num_slices}: slices lie along the "
                "axis 'data'; make it a multiple of their number."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(getattr(self, axis) for axis in AXES)


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Builds the mesh over all devices, or over the first of them where the shape asks for fewer.

    Args:
        devices: None takes those that are here; chips of a described topology serve to compile for it.

    Raises:
        WrongUse: the shape asks for more devices than there are, does not divide them, or states another
            number of slices.
    """
    devices = jax.devices() if devices is None else devices
    known = math.prod(size for size in config.shape if size != -1)
    if -1 in config.shape and len(devices) % known:
        raise WrongUse(f"{len(devices)} devices do not divide over {config}; change its sizes.")
    shape = tuple(len(devices) // known if size == -1 else size for size in config.shape)
    needed = math.prod(shape)
    if needed > len(devices):
        raise WrongUse(f"{config} needs {needed} devices, {len(devices)} are here; take a smaller mesh.")
    if needed < len(devices) and jax.process_count() > 1:
        raise WrongUse(
            f"{config} takes {needed} of {len(devices)} devices, and some hosts would have none; use all of "
            "them, for example with one axis at -1."
        )
    devices = devices[:needed]
    num_slices = len({getattr(device, "slice_index", 0) for device in devices})
    if num_slices != config.num_slices:
        raise WrongUse(
            f"num_slices={config.num_slices}, but the devices are of {num_slices} slices; set num_slices to "
            f"{num_slices}."
        )
    return Mesh(_arranged(shape, num_slices, devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _arranged(shape: tuple[int, ...], num_slices: int, devices: Sequence[Any]) -> np.ndarray:
    """Devices in the mesh's shape, neighbours on an inner axis also neighbours in the machine."""
    if num_slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    if shape[0] % num_slices:
        raise WrongUse(f"data={shape[0]} does not divide over {num_slices} slices; use a multiple of it.")
    inside = (shape[0] // num_slices, *shape[1:])
    across = (num_slices, *(1 for _ in shape[1:]))
    return mesh_utils.create_hybrid_device_mesh(inside, across, devices, allow_split_physical_axes=True)
