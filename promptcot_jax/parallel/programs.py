"""What a room offers the planner: its compiled programs, beside the code that runs them.

A program is described by the shapes of its arguments, and where they lie; nothing is loaded. What lies on the
chips while it runs, and what it does not see, is listed beside it (`resident`): while q_phi trains, p_theta's
float32 parameters lie there too.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """Of one call: products over all chips, bytes of memory of one chip, and tokens that come of it."""

    flops: float
    memory_bytes: float
    tokens: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """One compiled program; `parts` and `resident` are trees of `jax.ShapeDtypeStruct`s with shardings."""

    name: str
    mesh: Mesh
    lower: Callable[[], jax.stages.Lowered]  # called inside `jax.set_mesh(mesh)`
    parts: Mapping[str, Any]  # its arguments by what they are: "parameters", "optimizer", "batch", "cache"
    resident: Mapping[str, Any]  # what lies on the chips besides
    work: Work  # for the roofline estimate
    settings: tuple[str, ...]  # that can make it smaller, in the order in which they are tried
    loop_steps: int = 1  # of each loop whose number of steps is data, at most
