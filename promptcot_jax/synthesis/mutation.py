"""How many mutants of a program its tests fail, each killed by what it does and not by the clock.

A program that is slow by itself would lose all its mutants to a limit that it does not keep either. So the
program is run first, as a control: a mutant has the usual limit, or twice the time of the program's slowest
test where that is more. A program that does not pass its own tests once more says nothing of its mutants.
"""

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

from promptcot_jax.core.records import StdioTest
from promptcot_jax.verify import mutants, program_pool, programs
from promptcot_jax.verify.programs import ProgramSettings, TestReport

Control = Literal["none", "passed", "failed"]

_TIMES_ITS_OWN = 2  # the limit of a mutant, in times of the program's slowest test


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suite:
    """A program and the tests that it passed; an empty program has no mutants."""

    program: str
    tests: Sequence[StdioTest]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kills:
    """What became of a program's mutants."""

    control: Control = "none"  # how the program itself came out; none: it was not run, or could not be
    num_mutants: int = 0  # that were judged
    num_killed: int = 0
    num_lost: int = 0  # runs of the program and its mutants of which the sandbox failed


def kill(
    suites: Sequence[Suite], settings: ProgramSettings, *, max_mutants: int, mutant_seconds: float
) -> list[Kills]:
    """Runs each program, then its mutants, on its tests.

    Args:
        settings: with the time limit that the programs had when they passed.
        mutant_seconds: least time limit of a mutant, where that of `settings` is not less.

    Raises:
        SandboxUnavailable: no program can be run here.
    """
    tried = [i for i, suite in enumerate(suites) if suite.program and max_mutants]
    num_tests = max((len(suites[i].tests) for i in tried), default=1)
    limited = _limited(settings, settings.time_limit_s, num_tests)
    controls = program_pool.run_many([(suites[i].program, suites[i].tests) for i in tried], limited)
    kills = [Kills()] * len(suites)
    by_limit = collections.defaultdict[float, list[int]](list)
    for i, control in zip(tried, controls, strict=True):
        kills[i] = _of_control(control)
        if control.passed:
            by_limit[_limit(control, min(mutant_seconds, settings.time_limit_s))].append(i)
    for limit, some in by_limit.items():
        limited = _limited(settings, limit, num_tests)
        jobs = [(i, mutant) for i in some for mutant in mutants.mutants(suites[i].program, max_mutants)]
        reports = program_pool.run_many([(mutant, suites[i].tests) for i, mutant in jobs], limited)
        for (i, _), report in zip(jobs, reports, strict=True):
            kills[i] = _with_mutant(kills[i], report)
    return kills


def _limited(settings: ProgramSettings, limit: float, num_tests: int) -> ProgramSettings:
    """With a limit for each test, and one for all together that comes after these."""
    return dataclasses.replace(
        settings,
        time_limit_s=limit,
        total_time_limit_s=(num_tests + programs.TESTS_IN_TOTAL_TIME) * limit,
        stop_at_first_failure=True,
    )


def _limit(control: TestReport, least: float) -> float:
    own = _TIMES_ITS_OWN * max(result.seconds for result in control.results)
    return least if own <= least else float(math.ceil(own))  # whole seconds: few limits, run together


def _of_control(report: TestReport) -> Kills:
    if report.status == "sandbox_error":
        return Kills(num_lost=1)
    return Kills(control="passed" if report.passed else "failed")


def _with_mutant(kills: Kills, report: TestReport) -> Kills:
    if report.status == "sandbox_error":
        return dataclasses.replace(kills, num_lost=kills.num_lost + 1)
    return dataclasses.replace(
        kills,
        num_mutants=kills.num_mutants + 1,
        num_killed=kills.num_killed + (not report.passed),
    )
