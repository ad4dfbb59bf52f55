"""Plans a stage: compiles its programs for a topology, and looks for settings with which they fit."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.parallel.hardware import Hardware
from promptcot_jax.parallel.programs import Program
from promptcot_jax.planning import measures, search
from promptcot_jax.planning.measures import Measured
from promptcot_jax.planning.search import Change

log = logging.getLogger(__name__)

Compile = Callable[[Program, Hardware], Measured]
_MOST_TRIES = 6  # settings that are compiled; each may take minutes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Advice:
    """Settings with which a stage fits, and its measures with them."""

    change: Change
    measured: Sequence[Measured]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StagePlan:
    """A stage's programs as its settings have them and, where they do not fit, what was found instead."""

    stage: str
    measured: Sequence[Measured]
    tried: Sequence[Change] = ()
    advice: Advice | None = None

    @property
    def fits(self) -> bool:
        return all(one.fits for one in self.measured)


def plan_stage(
    stage: str,
    arguments: Mapping[str, Any],
    programs_of: Callable[[Mapping[str, Any]], Sequence[Program]],
    hardware: Hardware,
    *,
    compile_program: Compile = measures.compiled,
    searches: bool = True,
) -> StagePlan:
    """Measures every program; where one does not fit, tries other settings until all do.

    Args:
        programs_of: the stage's programs from its arguments.

    Raises:
        WrongUse: the settings as they are do not go together.
    """
    programs = programs_of(arguments)
    measured = []
    for program in programs:
        measured.append(compile_program(program, hardware))
        log.info("%s: %s", program.name, "fits" if measured[-1].fits else "does not fit")
    plan = StagePlan(stage=stage, measured=measured)
    if plan.fits or not searches:
        return plan
    return _with_advice(plan, programs, arguments, programs_of, hardware, compile_program)


def _with_advice(
    plan: StagePlan,
    programs: Sequence[Program],
    arguments: Mapping[str, Any],
    programs_of: Callable[[Mapping[str, Any]], Sequence[Program]],
    hardware: Hardware,
    compile_program: Compile,
) -> StagePlan:
    """The plan with the first settings tried that make every program fit."""
    fitting = {one.name: one for one in plan.measured if one.fits}
    tight = {one.name for one in plan.measured if not one.fits}
    settings = tuple(
        dict.fromkeys(name for program in programs if program.name in tight for name in program.settings)
    )
    tried: list[Change] = []
    for change in search.changes(arguments, settings, programs[0].mesh.size):
        if len(tried) == _MOST_TRIES:
            break
        try:
            changed = programs_of(search.apply(arguments, change))
        except (WrongUse, ValueError):  # a mesh that the model or the batch does not divide over
            continue
        if any(measures.least_bytes(program) > measures.limit_bytes(hardware) for program in changed):
            continue
        tried.append(change)
        log.info("trying %s", change)
        # what fits stays as it is, unless the mesh is another; what did not fit comes first
        kept = {} if any(name.endswith("mesh") for name in change) else fitting
        found: dict[str, Measured] = {}
        for program in sorted(changed, key=lambda program: program.name not in tight):
            found[program.name] = kept.get(program.name) or compile_program(program, hardware)
            if not found[program.name].fits:
                break
        else:
            advice = Advice(change=change, measured=[found[program.name] for program in changed])
            return dataclasses.replace(plan, tried=tried, advice=advice)
    return dataclasses.replace(plan, tried=tried)
