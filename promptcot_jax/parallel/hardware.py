"""What one device can do at most, by the name JAX gives its kind, and which devices this run holds.

The peaks are for MFU and for roofline estimates; what is held is for the manifest's cost in chip-hours.

TPU figures are per chip, from the "System architecture" table of each generation's page under
https://docs.cloud.google.com/tpu/docs (v4, v5e, v5p, v6e; capacities there are in GB here and GiB there, and
the smaller is taken), the links of v4 (six of 50 GB/s each way) from arXiv 2304.01433, table 4. v4 and v5p
show their chip of two cores as one device; v2, v3 and TPU7x show each core, and are not listed. GPU figures
are those of NVIDIA's data sheets, dense, for the SXM boards: A100 (2021), H100 (2023), H200 (2024).
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, Literal

import jax
from jax._src import xla_bridge  # whether there are devices yet has no public name

from promptcot_jax.core.manifest import DeviceUse, Unit

Platform = Literal["plain", "tpu"]  # whose kernels a model uses: plain JAX runs everywhere

_GPU: Unit = "GPU"
_UNITS: dict[str, Unit] = {"tpu": "chip", "cpu": "processor"}  # by JAX's platform; all others are GPUs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hardware:
    """Peaks of one device, as its maker states them."""

    bf16_flops: float  # per second, dense, accumulated in float32
    hbm_bytes: float
    hbm_bandwidth: float  # bytes per second
    link_bandwidth: float  # bytes per second to other devices, all links, both directions together


_TPU_V4 = Hardware(bf16_flops=275e12, hbm_bytes=32e9, hbm_bandwidth=1200e9, link_bandwidth=600e9)
_TPU_V5E = Hardware(bf16_flops=197e12, hbm_bytes=16e9, hbm_bandwidth=819e9, link_bandwidth=400e9)
_TPU_V5P = Hardware(bf16_flops=459e12, hbm_bytes=95e9, hbm_bandwidth=2765e9, link_bandwidth=1200e9)
_TPU_V6E = Hardware(bf16_flops=918e12, hbm_bytes=32e9, hbm_bandwidth=1638e9, link_bandwidth=800e9)
_A100_40 = Hardware(bf16_flops=312e12, hbm_bytes=40e9, hbm_bandwidth=1555e9, link_bandwidth=600e9)
_A100_80 = Hardware(bf16_flops=312e12, hbm_bytes=80e9, hbm_bandwidth=2039e9, link_bandwidth=600e9)
_H100 = Hardware(bf16_flops=989e12, hbm_bytes=80e9, hbm_bandwidth=3350e9, link_bandwidth=900e9)
_H200 = Hardware(bf16_flops=989e12, hbm_bytes=141e9, hbm_bandwidth=4800e9, link_bandwidth=900e9)

# Names as `jax.Device.device_kind` has them; libtpu says "lite" where Google Cloud says "e".
HARDWARE = {
    "TPU v4": _TPU_V4,
    "TPU v5 lite": _TPU_V5E,
    "TPU v5e": _TPU_V5E,
    "TPU v5": _TPU_V5P,
    "TPU v5p": _TPU_V5P,
    "TPU v6 lite": _TPU_V6E,
    "TPU v6e": _TPU_V6E,
    "NVIDIA A100-SXM4-40GB": _A100_40,
    "NVIDIA A100-SXM4-80GB": _A100_80,
    "NVIDIA H100 80GB HBM3": _H100,
    "NVIDIA H200": _H200,
}


def hardware_of(device_kind: str) -> Hardware | None:
    """The peaks of a kind of device, or None where they are not known: a CPU, or a kind not listed."""
    return HARDWARE.get(device_kind)


def platform() -> Platform:
    """Whose kernels a model uses on the machine that this runs on."""
    return "tpu" if jax.default_backend() == "tpu" else "plain"


def held(wall_seconds: float) -> DeviceUse | None:
    """The devices of this run's hosts for so long; None where JAX has not been asked for any yet.

    Asking would start the devices, which takes seconds and, on a TPU, takes them from other processes.
    """
    if not xla_bridge.backends_are_initialized():
        return None
    devices = jax.devices()
    unit = _UNITS.get(devices[0].platform, _GPU)
    count = _num_processors() * jax.process_count() if unit == "processor" else num_chips(devices)
    return DeviceUse(
        kind=devices[0].device_kind,
        unit=unit,
        count=count,
        hosts=jax.process_count(),
        wall_seconds=round(wall_seconds, 3),
    )


def num_chips(devices: Sequence[Any]) -> int:
    """Chips or GPUs; cores of a TPU that are devices with the same coordinates are one chip."""
    chips = {
        (getattr(device, "slice_index", 0), tuple(device.coords)) if hasattr(device, "coords") else device.id
        for device in devices
    }
    return len(chips)


def _num_processors() -> int:
    """That this process may run on; the simulated devices of a CPU are no measure."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
