"""Facts on real programs: MBPP's reference solutions pass, and fail once a token of them is changed.

The data lie beside the repository and are not part of it; without them these tests are skipped. The mutants
that survive are printed: `pytest -m slow -s tests/verify/test_mbpp.py`.
"""

import io
import json
import random
import tokenize

import pytest

from promptcot_jax.core.records import AssertTest
from promptcot_jax.verify import program_pool, programs, sandbox_host
from tests import toys

MBPP = toys.SHARED / "data" / "code" / "mbpp_train.jsonl"
FOR_MUTANTS = programs.ProgramSettings(time_limit_s=3.0, total_time_limit_s=5.0)

SWAPS = {
    "+": "-",
    "-": "+",
    "*": "+",
    "/": "*",
    "//": "*",
    "%": "//",
    "<": ">=",
    ">": "<=",
    "<=": ">",
    ">=": "<",
    "==": "!=",
    "!=": "==",
    "and": "or",
    "or": "and",
    "True": "False",
    "False": "True",
    "min": "max",
    "max": "min",
}

pytestmark = pytest.mark.skipif(not MBPP.exists(), reason="the shared MBPP data are not here")


@pytest.fixture(scope="module")
def tasks():
    try:
        sandbox_host.find_host()
    except sandbox_host.SandboxUnavailable as reason:
        pytest.skip(str(reason))
    return [json.loads(line) for line in MBPP.read_text().splitlines()]


def assertions_of(task):
    setup = f"{task['test_setup']}\n" if task["test_setup"] else ""
    return [AssertTest(setup + source) for source in task["tests"]]


def mutants(task, count):
    """Up to `count` programs that differ from the solution in one operator, constant or number."""
    lines = task["solution"].replace("\r", "").splitlines(keepends=True)
    places = []
    for token in tokenize.generate_tokens(io.StringIO("".join(lines)).readline):
        if token.string in SWAPS and token.type in (tokenize.OP, tokenize.NAME):
            places.append((token, SWAPS[token.string]))
        elif token.type == tokenize.NUMBER and token.string.isdigit():
            places.append((token, str(int(token.string) + 1)))
    chosen = random.Random(task["id"]).sample(places, min(count, len(places)))
    for token, replacement in chosen:
        (row, begin), (_, end) = token.start, token.end
        changed = lines[row - 1][:begin] + replacement + lines[row - 1][end:]
        where = f"line {row}: {lines[row - 1].strip()} -> {changed.strip()}"
        yield where, "".join([*lines[: row - 1], changed, *lines[row:]])


def failures(tasks):
    settings = programs.ProgramSettings(time_limit_s=20.0)  # a busy machine's right program is a right one
    reports = program_pool.run_many([(task["solution"], assertions_of(task)) for task in tasks], settings)
    return [(task["id"], report) for task, report in zip(tasks, reports, strict=True) if not report.passed]


@pytest.mark.slow
def test_some_reference_solutions_pass(tasks):
    assert not failures(tasks[::12])


def test_most_assertions_are_call_tests(tasks):
    converted = [programs.call_test_of(test) for task in tasks for test in assertions_of(task)]
    assert converted.count(None) == 12  # of 1,416: classes of the program, types and `sys` in arguments


@pytest.mark.slow
def test_all_reference_solutions_pass(tasks):
    assert not failures(tasks)


@pytest.mark.slow
def test_most_mutants_fail(tasks):
    mutated = [(task, *mutant) for task in tasks for mutant in mutants(task, 1)]
    reports = program_pool.run_many([(text, assertions_of(task)) for task, _, text in mutated], FOR_MUTANTS)
    survivors = [
        (task["id"], where)
        for (task, where, _), report in zip(mutated, reports, strict=True)
        if report.passed
    ]
    print(f"{len(mutated) - len(survivors)} of {len(mutated)} mutants fail; these pass:")
    for name, where in survivors:
        print(f"  {name} {where}")
    assert len(survivors) < 0.15 * len(mutated)
    assert not [report for report in reports if report.status == "sandbox_error"]
