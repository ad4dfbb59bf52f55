"""Facts of grading benchmarks in the sandbox: right programs pass each layout, wrong ones fail."""

import functools

import pytest

from promptcot_jax.evaluation import accuracy, benchmarks
from promptcot_jax.sampling.text_model import Reply
from promptcot_jax.verify import program_pool, programs, sandbox_host
from tests.evaluation import benchmark_rows
from tests.evaluation.benchmark_rows import call_problem, stdin_problem, write

# As starter code has it: `List` is imported by nobody, and `deque` by the judge's prelude.
ABOVE = """
class Solution:
    def above(self, nums: List[int], limit: int) -> List[int]:
        left = deque(nums)
        return tuple(n for n in left if n > limit)
"""
DEEP = """
from __future__ import annotations
class Solution:
    def above(self, nums: Unknown, limit):
        def kept(i):
            if i == len(nums):
                return []
            return ([nums[i]] if nums[i] > limit else []) + kept(i + 1)
        return kept(0) if down(3000) == 0 else None
def down(n):
    return n and down(n - 1)
"""
SUM = "print(sum(map(int, input().split())), end='  \\n\\n')"
UNSHIFTED = "def unshifted(numbers: List[int]) -> List[int]:\n    return [n - 1 for n in numbers]"
AREA = "from math import pi\ndef area(r):\n    return pi * r ** 2"
# A program that would make every comparison true, were it where the comparison is made.
LYING = """
class Yes(int):
    def __eq__(self, other):
        return True
def double(n):
    return Yes(5)
"""

CASES = {
    "stdin": (stdin_problem(), SUM, "passed"),
    "stdin, wrong hidden test": (stdin_problem(), "print(3)", "wrong_answer"),
    "stdin, in one line less": (stdin_problem(), "print('3 ' * 2)", "wrong_answer"),
    "calls of a class": (call_problem(), ABOVE, "passed"),
    "calls, deep and from the future": (call_problem(), DEEP, "passed"),
    "calls of a function": (call_problem(), "def above(a, b):\n    return [n for n in a if n > b]", "passed"),
    "calls, wrong": (call_problem(), ABOVE.replace("> limit", ">= limit - 1"), "wrong_answer"),
    "calls, printed": (
        call_problem(),
        "def above(a, b):\n    print([n for n in a if n > b])",
        "wrong_answer",
    ),
    "calls, not there": (call_problem(), "def below(a, b):\n    return a", "runtime_error"),
    "human eval": (benchmark_rows.HUMAN_EVAL, UNSHIFTED, "passed"),
    "human eval, wrong": (benchmark_rows.HUMAN_EVAL, UNSHIFTED.replace("- 1", "- 2"), "wrong_answer"),
    "human eval, its own helper": (
        benchmark_rows.HUMAN_EVAL,
        "def shifted(n):\n    return n\ndef unshifted(numbers):\n    return numbers",
        "wrong_answer",
    ),
    "mbpp": (benchmark_rows.MBPP, "def double(n):\n    return n + n", "passed"),
    "mbpp, wrong": (benchmark_rows.MBPP, "def double(n):\n    return n * n", "wrong_answer"),
    "mbpp, lying": (benchmark_rows.MBPP, LYING, "wrong_answer"),
    "mbpp with imports": (benchmark_rows.SANITIZED_MBPP, AREA, "passed"),
    "mbpp with imports, wrong": (benchmark_rows.SANITIZED_MBPP, AREA.replace("2", "3"), "wrong_answer"),
    "no program": (benchmark_rows.MBPP, None, "no_answer"),
}


@pytest.fixture(scope="module")
def run_programs():
    try:
        sandbox_host.find_host()
    except sandbox_host.SandboxUnavailable as reason:
        pytest.skip(str(reason))
    settings = programs.ProgramSettings(time_limit_s=10.0, stop_at_first_failure=True)
    return functools.partial(program_pool.run_many, settings=settings)


def attempts_at(path, rows_and_programs, run_programs):
    problems = [
        problem
        for i, (row, _) in enumerate(rows_and_programs)
        for problem in benchmarks.read_set(write(path / f"{i}.jsonl", row)).problems
    ]
    texts = [
        "none" if program is None else f"<think>```\nno\n```</think>So:\n```python\n{program}\n```\nDone."
        for _, program in rows_and_programs
    ]
    replies = [
        Reply(id=p.id, sample=0, text=text, finish_reason="stop", prompt_tokens=1, completion_tokens=1)
        for p, text in zip(problems, texts, strict=True)
    ]
    return accuracy.graded(problems, replies, run_programs)


def test_each_layouts_programs_are_judged(tmp_path, run_programs):
    records = attempts_at(tmp_path, [case[:2] for case in CASES.values()], run_programs)
    found = {name: record.status for name, record in zip(CASES, records, strict=True)}
    assert found == {name: status for name, (_, _, status) in CASES.items()}
    assert [record.correct for record in records] == [record.status == "passed" for record in records]
    assert records[0].answer.strip() == SUM  # the solver's own program, without the prelude


@pytest.mark.parametrize(
    ("tolerance", "printed", "status"),
    [(None, "3.0", "wrong_answer"), (0.0, "3.0", "passed"), (0.0, "3.1", "wrong_answer")],
)
def test_numbers_are_compared_as_the_settings_say(tmp_path, run_programs, tolerance, printed, status):
    settings = programs.ProgramSettings(time_limit_s=10.0, float_tolerance=tolerance)
    row = stdin_problem(private_test_cases="[]")
    (record,) = attempts_at(
        tmp_path, [(row, f"print({printed!r})")], functools.partial(program_pool.run_many, settings=settings)
    )
    assert record.status == status


def test_assertions_are_marked_as_of_lower_trust(tmp_path, run_programs):
    (problem,) = benchmarks.read_set(write(tmp_path / "set.jsonl", benchmark_rows.HUMAN_EVAL)).problems
    program = programs.with_prelude(problem.prelude, UNSHIFTED)
    (report,) = run_programs([(program, problem.tests)])
    assert [result.is_lower_trust for result in report.results] == [True]
