"""Facts of mutants: one change each, always the same, all over the program; weak suites let them pass."""

import ast
import difflib

import pytest

from promptcot_jax.core.records import StdioTest
from promptcot_jax.verify import mutants, program_pool

PROGRAM = """\
n = int(input())
total = 0
for i in range(1, n + 1):
    if i % 3 == 0 or i > 90:
        total += i * 2
    else:
        total -= 1
print(total if total >= 0 else -total)
"""


def changed_lines(mutant: str) -> list[str]:
    difference = difflib.ndiff(ast.unparse(ast.parse(PROGRAM)).splitlines(), mutant.splitlines())
    return [line[2:] for line in difference if line.startswith("+ ")]


def test_each_mutant_is_another_program_with_one_changed_line():
    found = mutants.mutants(PROGRAM, 1_000)
    assert len(found) == len(set(found)) > 15
    for mutant in found:
        ast.parse(mutant)
        assert len(changed_lines(mutant)) == 1


@pytest.mark.parametrize(
    ("program", "changes"),
    [
        ("print(a < b)", {"print(a <= b)"}),
        ("print(a != b)", {"print(a == b)"}),
        ("print(a in b)", {"print(a not in b)"}),
        ("print(a and b)", {"print(a or b)"}),
        ("print(a // b)", {"print(a * b)"}),
        ("a += b", {"a -= b"}),
        ("print(a[5])", {"print(a[6])", "print(a[4])"}),
        ("print(True)", {"print(False)"}),
        ("while a:\n    b()", {"while not a:\n    b()"}),
        ("while True:\n    break", {"while False:\n    break"}),
        ("print(1 < a)", {"print(1 <= a)", "print(2 < a)", "print(0 < a)"}),
        ("print(a < b < c)", {"print(a <= b < c)", "print(a < b <= c)"}),
        ("print('text')", set()),
        ("print(", set()),
    ],
)
def test_what_is_changed(program: str, changes: set[str]):
    assert set(mutants.mutants(program, 100)) == changes


def test_a_limit_takes_mutants_from_all_over_the_program_and_always_the_same():
    few = mutants.mutants(PROGRAM, 6)
    assert few == mutants.mutants(PROGRAM, 6)
    assert len(few) == 6
    assert len({line for mutant in few for line in changed_lines(mutant)}) == 6
    assert mutants.mutants(PROGRAM, 0) == []


def test_hopelessly_deep_programs_have_no_mutants():
    assert mutants.mutants("x = " + "-" * 100_000 + "1", 5) == []


def kill_rate(tests: list[StdioTest]) -> float:
    reports = program_pool.run_many([(mutant, tests) for mutant in mutants.mutants(PROGRAM, 40)])
    return sum(not report.passed for report in reports) / len(reports)


@pytest.mark.slow
def test_a_planted_weak_suite_kills_few_mutants_and_a_good_one_most():
    answers = {"0": "0", "1": "1", "7": "13", "95": "3660"}
    [outputs] = program_pool.outputs_of_many([(PROGRAM, list(answers))])
    assert [output.output.strip() for output in outputs] == list(answers.values())
    good = [StdioTest(text, output.output) for text, output in zip(answers, outputs, strict=True)]
    assert kill_rate(good) > 0.8
    assert kill_rate([good[0], good[0], good[0]]) < 0.5
