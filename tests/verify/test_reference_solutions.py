"""The grader on the public sets' own solutions, and on answers that differ from theirs in one character."""

import re

import pytest

from promptcot_jax.core import jsonl
from promptcot_jax.verify import boxes, math_answers
from tests import toys

# It boxes a mixed number, then "or" the improper fraction: two boxes, read as one answer of two parts.
MISSES = {"math500": {"math500-451"}, "gsm8k_test": set()}


def own_solution(row: dict) -> str:
    """MATH boxes its answers; GSM8K ends in a line with the answer alone, which is boxed for it."""
    solution = row["solution"]
    return solution if boxes.answer_parts(solution) else f"{solution}\n\\boxed{{{row['answer']}}}"


def altered(answer: str) -> str:
    """Another answer of the same form: its last digit, or letter, is another one."""
    changed = re.sub(r"\d(?!.*\d)", lambda digit: str((int(digit[0]) + 1) % 10), answer, flags=re.DOTALL)
    if changed != answer:
        return changed
    return re.sub(r"[A-Za-z](?=[^A-Za-z]*$)", lambda x: "q" if x[0] != "q" else "z", answer)


@pytest.mark.parametrize("name", MISSES)
def test_own_solutions_are_accepted_and_altered_answers_refused(name: str):
    path = toys.SHARED / "data" / "eval" / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    rows = [dict(row) for _, _, row in jsonl.iter_rows(path)]
    own = math_answers.grade_many([(row["answer"], own_solution(row)) for row in rows])
    assert {row["id"] for row, grade in zip(rows, own, strict=True) if not grade.match} == MISSES[name]
    other = math_answers.grade_many([(row["answer"], f"\\boxed{{{altered(row['answer'])}}}") for row in rows])
    assert [row["answer"] for row, grade in zip(rows, other, strict=True) if grade.match] == []


@pytest.mark.parametrize(
    ("answer", "other"),
    [("18", "19"), (r"\frac{14}{3}", r"\frac{14}{4}"), (r"\text{Evelyn}", r"\text{Evelyq}")],
)
def test_an_altered_answer_differs_in_one_character(answer: str, other: str):
    assert altered(answer) == other
