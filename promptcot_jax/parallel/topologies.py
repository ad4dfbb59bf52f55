"""TPU slices as Google Cloud offers them, and their chips described to the compiler on a machine without any.

`tpu_scripts/accelerators.txt` says of the same slices what the scripts need; a test holds the two equal. The
compiler itself checks no sizes: it would compile for 1,024 chips of v5e, of which no slice has more than 256.
"""

import dataclasses
import importlib.metadata
import importlib.util
import math
import re
from collections.abc import Mapping
from typing import Any

from jax.experimental import topologies as jax_topologies

from promptcot_jax.core.errors import WrongUse

# What libtpu reads where there is no TPU: it would ask the machine's metadata for the slice it is part of.
ENVIRONMENT: Mapping[str, str] = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LOG_DIR": "disabled",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}

_TORUS = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8")
_SQUARES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_GRIDS: Mapping[str, tuple[str, ...]] = {
    "v4": (*_TORUS, "4x8x8", "8x8x8"),
    "v5e": _SQUARES,
    "v5p": (*_TORUS, "4x4x12", "4x8x8", "8x8x8"),
    "v6e": _SQUARES,
}
# The cloud's names count TensorCores of v4 and v5p, which have two on a chip, and chips of the others.
_CLOUD_NAMES = {"v4": ("v4", 2), "v5e": ("v5litepod", 1), "v5p": ("v5p", 2), "v6e": ("v6e", 1)}
_CHIPS_OF_HOST = 4
_MOST_CHIPS_OF_ONE_HOST = {"v4": 4, "v5e": 8, "v5p": 4, "v6e": 8}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology:
    """Slices of one kind and size; `num_chips` and `num_hosts` are those of all of them."""

    kind: str  # "v4", "v5e", "v5p" or "v6e"
    grid: str  # chips along each axis of the torus: "4x4"
    num_slices: int = 1

    @property
    def chips_of_slice(self) -> int:
        return math.prod(map(int, self.grid.split("x")))

    @property
    def num_chips(self) -> int:
        return self.chips_of_slice * self.num_slices

    @property
    def num_hosts(self) -> int:
        is_one = self.chips_of_slice <= _MOST_CHIPS_OF_ONE_HOST[self.kind]
        return self.num_slices * (1 if is_one else self.chips_of_slice // _CHIPS_OF_HOST)

    @property
    def cloud_name(self) -> str:
        """The accelerator's type as the cloud has it; of several slices, of each."""
        prefix, count = _CLOUD_NAMES[self.kind]
        return f"{prefix}-{self.chips_of_slice * count}"

    def __str__(self) -> str:
        slices = f"{self.num_slices} x " if self.num_slices > 1 else ""
        return f"{slices}{self.cloud_name} ({self.num_chips} chips, {self.grid})"


def offered(kind: str, num_slices: int = 1) -> list[Topology]:
    """The slices of a kind that the cloud lists, small ones first."""
    return [Topology(kind=kind, grid=grid, num_slices=num_slices) for grid in _GRIDS[kind]]


def named(name: str, num_slices: int = 1) -> Topology:
    """The topology of a cloud name ("v5litepod-16", also "v5e-16") or of a kind and its grid ("v5e:4x4").

    Raises:
        WrongUse: the cloud does not offer it.
    """
    text = name.strip().lower().replace("v5litepod", "v5e")
    kind, _, size = text.partition(":" if ":" in text else "-")
    if kind not in _GRIDS:
        raise WrongUse(f"topology '{name}': no such kind of TPU; there are {', '.join(_GRIDS)}.")
    for topology in offered(kind, num_slices):
        if size in (topology.grid, topology.cloud_name.rpartition("-")[2]):
            return topology
    sizes = ", ".join(f"{one.cloud_name} ({one.grid})" for one in offered(kind))
    counted = "TensorCores, two a chip" if _CLOUD_NAMES[kind][1] == 2 else "chips"
    raise WrongUse(
        f"topology '{name}' is not offered; of {kind} there are {sizes}; the names count {counted}."
    )


def devices(topology: Topology) -> list[Any]:
    """Its chips, as `mesh.make_mesh` takes them; programs can be compiled for them and not run.

    Raises:
        WrongUse: the compiler for TPUs is not installed.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise WrongUse(
            "compiling for TPUs takes the package libtpu, which is not installed: pip install "
            f"'promptcot_jax[tpu]', or 'libtpu=={libtpu_of_jax() or 'VERSION'}', which this jax is made for."
        )
    options: dict[str, Any] = {"num_slices": topology.num_slices}
    if topology.kind == "v4":
        options["chip_config_name"] = "megacore"  # a chip's two cores are one device, as they are on machines
    if topology.num_hosts == topology.num_slices:
        sides = (*map(int, topology.grid.split("x")), 1)
        options["chips_per_host_bounds"] = sides[:3]
    described = jax_topologies.get_topology_desc(
        f"{topology.kind}:{topology.grid}", platform="tpu", **options
    )
    return list(described.devices)


def libtpu_of_jax() -> str:
    """The version of libtpu that the installed jax asks for in its extra `tpu`; "" where it names none."""
    for requirement in importlib.metadata.requires("jax") or []:
        if found := re.match(r"libtpu\s*==\s*([\d.*]+)", requirement):
            return found[1]
    return ""


def libtpu_mismatch() -> str:
    """A sentence where the installed libtpu is not the one that jax asks for, else ""."""
    wanted, installed = libtpu_of_jax(), importlib.metadata.version("libtpu")
    if not wanted or (installed + ".").startswith(wanted.rstrip("*")):
        return ""
    return (
        f"libtpu {installed} is installed, but jax {importlib.metadata.version('jax')} asks for {wanted}: "
        "figures may differ from those of a slice, which gets the pair of the extra 'tpu'."
    )
