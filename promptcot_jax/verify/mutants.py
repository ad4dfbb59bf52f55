"""Programs with one small fault each, to measure tests by: a suite that lets them pass tests little.

The faults are those of mutation testing (DeMillo, Lipton and Sayward 1978): another comparison, another
arithmetic or logical operator, a constant off by one, a condition turned around. Some mutants do what the
program does (`i < n` for `i != n`); no test can tell these, so that a kill rate of 1 is out of reach for many
a program.

A mutant is to be killed by what it does and not by the clock, and a program that is slow by itself would lose
all its mutants to a limit that it does not keep either. So the program is run first, as a control: a mutant
has the usual limit, or twice the time of the program's slowest test where that is more. A program that does
not pass its own tests once more says nothing of its mutants.
"""

import ast
import collections
import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from promptcot_jax.core.records import StdioTest
from promptcot_jax.verify import program_pool, programs
from promptcot_jax.verify.programs import ProgramSettings, TestReport

Control = Literal["none", "passed", "failed"]

_LIMIT_FACTOR = 2  # the limit of a mutant, in times of the program's slowest test

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
}
_BOOLEANS: dict[type[ast.boolop], type[ast.boolop]] = {ast.And: ast.Or, ast.Or: ast.And}

Change = Callable[[ast.AST], None]  # made in place, in the node of a copy


def mutants(program: str, limit: int) -> list[str]:
    """Different programs with one change each, at most `limit`, evenly over the text; [] of no valid Python.

    The same program always gives the same mutants. Nothing is run here.
    """
    try:
        tree = ast.parse(program)
        original = ast.unparse(tree)
        changes = [(i, change) for i, node in enumerate(ast.walk(tree)) for change in _changes(node)]
        step = max(len(changes) / max(limit, 1), 1.0)
        chosen = [changes[int(i * step)] for i in range(min(limit, len(changes)))]
        texts = dict.fromkeys(_changed(tree, place, change) for place, change in chosen)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    return [text for text in texts if text != original]


def _changed(tree: ast.Module, place: int, change: Change) -> str:
    mutant = copy.deepcopy(tree)
    for i, node in enumerate(ast.walk(mutant)):
        if i == place:
            change(node)
            break
    return ast.unparse(mutant)


def _changes(node: ast.AST) -> Iterator[Change]:
    """What can be changed in a node itself, its children apart."""
    if isinstance(node, ast.Compare):
        for i, operator in enumerate(node.ops):
            yield _set_comparison(i, _COMPARISONS[type(operator)])
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _OPERATORS:
        yield _set("op", _OPERATORS[type(node.op)]())
    elif isinstance(node, ast.BoolOp):
        yield _set("op", _BOOLEANS[type(node.op)]())
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield _set("value", not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield _set("value", node.value + 1)
        yield _set("value", node.value - 1)
    elif isinstance(node, ast.If | ast.While | ast.IfExp) and not isinstance(node.test, ast.Constant):
        yield _negate_test


def _set(name: str, value: object) -> Change:
    return lambda node: setattr(node, name, value)


def _set_comparison(i: int, operator: type[ast.cmpop]) -> Change:
    def change(node: ast.AST) -> None:
        assert isinstance(node, ast.Compare)
        node.ops[i] = operator()

    return change


def _negate_test(node: ast.AST) -> None:
    assert isinstance(node, ast.If | ast.While | ast.IfExp)
    node.test = ast.UnaryOp(op=ast.Not(), operand=node.test)


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
        jobs = [(i, mutant) for i in some for mutant in mutants(suites[i].program, max_mutants)]
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
    own = _LIMIT_FACTOR * max(result.seconds for result in control.results)
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
