"""A plan in words, and as the record `plan.json`."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.planning.measures import Measured
from promptcot_jax.planning.planner import StagePlan
from promptcot_jax.planning.search import Change

COMPILED_ONLY = "compiled only, not run"
_GB = 1e9

# Name below a stage's arguments -> name in gin; a stage's own settings are in a scope of its name.
_IN_GIN = {
    "loop_config.micro_batches": "{stage}/loop.LoopConfig.micro_batches",
    "loop_config.remat": "{stage}/loop.LoopConfig.remat",
    "batch_sizes.engine.num_slots": "{stage}/engine.EngineConfig.num_slots",
    "config.engine.num_slots": "{stage}/engine.EngineConfig.num_slots",
    "teacher.config.engine.num_slots": "NUM_SLOTS",
    "solver.config.engine.num_slots": "{stage}/engine.EngineConfig.num_slots",
    "rollouts.engine.num_slots": "NUM_SLOTS",
    "config.micro_batches": "iterations.SelfPlayConfig.micro_batches",
    "config.remat": "iterations.SelfPlayConfig.remat",
    "batch_sizes.score_tokens": "settings.BatchSizes.score_tokens",
}


def lines(plan: StagePlan) -> Iterator[str]:
    """The plan of a stage, for people."""
    for one in plan.measured:
        yield from _of_program(one)
    if plan.fits:
        return
    if plan.advice is None:
        yield f"{plan.stage}: no setting was found with which it fits ({len(plan.tried)} tried)"
        return
    yield f"{plan.stage}: fits with  " + "  ".join(
        f"--gin.{name}={value!r}" for name, value in in_gin(plan.stage, plan.advice.change).items()
    )
    for one in plan.advice.measured:
        yield from _of_program(one)


def _of_program(one: Measured) -> Iterator[str]:
    parts = ", ".join(f"{name} {size / _GB:.2f}" for name, size in one.parts.items())
    resident = ", ".join(f"{name} {size / _GB:.2f}" for name, size in one.resident.items())
    total = "unknown" if one.total_bytes is None else f"{one.total_bytes / _GB:.2f}"
    verdict = "fits" if one.fits else "DOES NOT FIT"
    yield (
        f"{one.name}: {verdict}: {total} of {one.limit_bytes / _GB:.2f} GB a chip "
        f"({parts}{f'; besides: {resident}' if resident else ''}); compiled in {one.compile_seconds:.0f} s"
    )
    if one.refusal:
        yield f"  the compiler: {one.refusal}"
    if one.traffic:
        sent = ", ".join(
            f"{kind} {of_kind.count} x {of_kind.bytes / _GB:.3f} GB" for kind, of_kind in one.traffic.items()
        )
        yield f"  a chip sends in one call: {sent}"
    if one.estimate is not None:
        yield (
            f"  estimate, {COMPILED_ONLY}: a call takes at least {one.estimate.seconds:.4f} s "
            f"(compute {one.estimate.compute:.4f}, memory {one.estimate.memory:.4f}, links "
            f"{one.estimate.links:.4f}), at most {one.estimate.tokens_per_second:,.0f} tokens/s"
        )


def in_gin(stage: str, change: Change) -> dict[str, Any]:
    """A change by gin's names."""
    found: dict[str, Any] = {}
    for name, value in change.items():
        if isinstance(value, mesh_lib.MeshConfig):
            found |= {f"mesh.MeshConfig.{axis}": getattr(value, axis) for axis in mesh_lib.AXES}
        else:
            found[_IN_GIN[name].format(stage=stage)] = value
    return found


def record(plans: Sequence[StagePlan], about: Mapping[str, Any]) -> dict[str, Any]:
    """What `plan.json` holds; bytes are of one chip.

    Args:
        about: topology, versions.
    """
    return {
        "label": COMPILED_ONLY,
        **about,
        "fits": all(plan.fits for plan in plans),
        "stages": [
            {
                "stage": plan.stage,
                "fits": plan.fits,
                "phases": [_recorded(one) for one in plan.measured],
                "tried": [in_gin(plan.stage, change) for change in plan.tried],
                "fits_with": None
                if plan.advice is None
                else {
                    "settings": in_gin(plan.stage, plan.advice.change),
                    "phases": [_recorded(one) for one in plan.advice.measured],
                },
            }
            for plan in plans
        ],
    }


def _recorded(one: Measured) -> dict[str, Any]:
    fields = dataclasses.asdict(one)
    if one.estimate is not None:
        estimate = one.estimate
        fields["estimate"] |= {
            "seconds": estimate.seconds,
            "tokens_per_second": estimate.tokens_per_second,
            "bound": estimate.bound,
        }
    return fields | {"total_bytes": one.total_bytes, "fits": one.fits}
