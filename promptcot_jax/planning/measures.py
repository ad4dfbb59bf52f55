"""Compiling a program, and what the compiler then says: peak memory by part, collectives, least time.

The peak is the compiler's own, of one chip and one program; what else lies on the chip is added. Parts are
the program's arguments by what they are, as the chip with most of them holds them; "activations" is the rest
of the peak: kept activations, gradients, gathered weights, results.

What is compiled for a topology cannot be run here. Every figure is of a program that was compiled only.

The estimate is of one call and one chip, from what a chip can do at most; nothing was timed:

    compute = FLOPs / chips / peak FLOP/s          FLOPs by formula (`models/flops.py`), not by the compiler
    memory  = bytes read and written / bandwidth   weights once for each pass, optimizer, cache, activations
    links   = bytes sent / half the links' rate    of all collectives; a stated rate counts both directions
    step    = max(compute, memory, links)          as if all three overlapped perfectly
"""

import dataclasses
import math
import re
import time
from collections.abc import Mapping
from typing import Any

import jax
from jax.errors import JaxRuntimeError

from promptcot_jax.parallel.hardware import Hardware
from promptcot_jax.parallel.programs import Program, Work
from promptcot_jax.planning import collectives

# Share of a chip's memory left for what no program shows: the runtime, programs themselves, fragments.
RESERVE = 0.02

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_NEEDED = re.compile(r"(?:required[^()]*\(|Used )(\d+(?:\.\d+)?)([KMGT]?)B?\)?[^()]*?(?:of|exceeds)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """Seconds of one call by each bound."""

    compute: float
    memory: float
    links: float
    tokens: int

    @property
    def seconds(self) -> float:
        return max(self.compute, self.memory, self.links)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def bound(self) -> str:
        """Which of them it is."""
        times = {"compute": self.compute, "memory": self.memory, "links": self.links}
        return max(times, key=times.__getitem__)


def estimate(work: Work, hardware: Hardware, num_chips: int, bytes_sent: float) -> Estimate:
    """The bounds of one call.

    Args:
        bytes_sent: by a chip in all collectives of the call.
    """
    return Estimate(
        compute=work.flops / num_chips / hardware.bf16_flops,
        memory=work.memory_bytes / hardware.hbm_bandwidth,
        links=bytes_sent / (hardware.link_bandwidth / 2),
        tokens=work.tokens,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """What became of a program; bytes are of one chip.

    Attributes:
        peak_bytes: of the program; None where it did not compile for want of memory and does not say.
        parts: arguments and "activations", which add up to the peak.
        resident: what lies on the chip besides.
        limit_bytes: what there may be in all.
        refusal: what the compiler said where it refused.
    """

    name: str
    peak_bytes: float | None
    parts: Mapping[str, float]
    resident: Mapping[str, float]
    limit_bytes: float
    compile_seconds: float
    traffic: Mapping[str, collectives.Traffic] = dataclasses.field(default_factory=dict)
    estimate: Estimate | None = None
    refusal: str = ""

    @property
    def total_bytes(self) -> float | None:
        """Program and all that is resident."""
        return None if self.peak_bytes is None else self.peak_bytes + sum(self.resident.values())

    @property
    def fits(self) -> bool:
        return not self.refusal and self.total_bytes is not None and self.total_bytes <= self.limit_bytes


def compiled(program: Program, hardware: Hardware) -> Measured:
    """Compiles a program for its chips and measures it; a program too large for them is measured as such."""
    start = time.perf_counter()
    known: dict[str, Any] = {
        "name": program.name,
        "resident": {name: bytes_of_chip(tree) for name, tree in program.resident.items()},
        "limit_bytes": limit_bytes(hardware),
    }
    parts = {name: bytes_of_chip(tree) for name, tree in program.parts.items()}
    try:
        with jax.set_mesh(program.mesh):
            compiled_program = program.lower().compile()
    except JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        seconds = time.perf_counter() - start
        needed = bytes_needed(str(error))
        return Measured(
            **known, peak_bytes=needed, parts=parts, compile_seconds=seconds, refusal=first_line(str(error))
        )
    seconds = time.perf_counter() - start
    memory, text = compiled_program.memory_analysis(), compiled_program.as_text()
    assert memory is not None, "the compiler for TPUs reports its peaks"
    assert text is not None, "and its programs"
    peak = float(memory.peak_memory_in_bytes)
    traffic = collectives.traffic(text, loop_steps=program.loop_steps)
    sent = sum(one.bytes for one in traffic.values())
    return Measured(
        **known,
        peak_bytes=peak,
        parts=parts | {"activations": max(0.0, peak - sum(parts.values()))},
        compile_seconds=seconds,
        traffic=traffic,
        estimate=estimate(program.work, hardware, program.mesh.size, sent),
    )


def least_bytes(program: Program) -> float:
    """What a program needs on each chip before any activation: its arguments and all that is resident."""
    return sum(bytes_of_chip(tree) for tree in (*program.parts.values(), *program.resident.values()))


def limit_bytes(hardware: Hardware) -> float:
    """What programs and arrays may take of a chip's memory."""
    return hardware.hbm_bytes * (1 - RESERVE)


def bytes_of_chip(tree: Any) -> float:
    """Bytes of shapes with shardings on each chip."""
    return float(sum(_bytes_of_shard(leaf) for leaf in jax.tree.leaves(tree)))


def _bytes_of_shard(leaf: Any) -> int:
    shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
    return math.prod(shape) * leaf.dtype.itemsize


def bytes_needed(message: str) -> float | None:
    """The bytes that the compiler's refusal names, if it does."""
    found = _NEEDED.search(message)
    return float(found[1]) * _UNITS[found[2]] if found else None


def first_line(message: str) -> str:
    """A refusal without the report that may follow it."""
    return " ".join(message.split("\n\n", 1)[0].split())[:300]
