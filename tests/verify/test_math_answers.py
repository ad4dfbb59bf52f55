"""Facts of the narrow answer grader: exact, total, linear in time."""

import json
import os
import pathlib
import time

import pytest

from promptcot_jax.verify import math_answers

CASES = (
    pathlib.Path(os.environ.get("PROMPTCOT_SHARED", pathlib.Path(__file__).parents[3] / "shared")) / "cases"
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{7}, no: \boxed{42}.", "42"),
        (r"\fbox{7}", "7"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"<think>\boxed{1}</think> thus \boxed {2}", "2"),
        (r"<think>\boxed{1}</think> the answer is 1", None),
        (r"a set { and then \boxed{3}", "3"),
        (r"closed } too early \boxed{3} }", "3"),
        (r"\boxed{5} and again \boxed{5", "5"),
        (r"\boxed{never", None),
        (r"\boxed{\boxed{8}}", "8"),
        (r"\boxed{ }", ""),
        ("42", None),
    ],
)
def test_the_last_balanced_box_after_the_thinking_is_the_answer(text, answer):
    assert math_answers.extract_answer(text) == answer


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        ("42", r"The answer is \boxed{042}."),
        ("1/2", "0.50"),
        (r"\frac{1}{2}", r"\dfrac12"),
        (r"\frac{-3}{4}", "-0.75"),
        ("8/46", r"\tfrac{4}{23}"),
        ("1,234,567", "1234567"),
        ("1234.5", "$1{,}234.50$"),
        ("3/2", r"1\frac{1}{2}"),
        ("-1.5", "-1 1/2"),
        ("90", r"90^\circ"),
        ("(1,2)", r"\left( 1, 2 \right)"),
        ("odd", r"\text{odd}"),
        ("-5", "\u22125"),
        ("5", "5."),
    ],
)
def test_equal_answers_are_accepted_in_either_order(reference, candidate):
    assert math_answers.grade_math(reference, candidate)
    assert math_answers.grade_math(candidate, reference)


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        ("", ""),
        (r"\boxed{}", r"\boxed{}"),
        ("0", ""),
        ("$", "$"),
        ("11/2", "1 1/2"),
        ("12", "1 2"),
        ("1/3", "0.3333333333333333"),
        ("10%", "10"),
        ("10%", "0.1"),
        ("1,2", "12"),
        ("1,23", "123"),
        ("[1,2]", "(1,2)"),
        ("1/0", "2/0"),
        ("10", "10m"),
        ("42", r"plain 42"),
        ("42", r"it is 42, so \boxed{43}"),
        ("42", r"42 \boxed{"),
        ("2.5", "2 5"),
        ("x", "X"),
        ("10/3", r"2\frac{5}{3}"),
    ],
)
def test_different_answers_are_refused_in_either_order(reference, candidate):
    assert not math_answers.grade_math(reference, candidate)
    assert not math_answers.grade_math(candidate, reference)


@pytest.mark.parametrize(
    "hostile",
    [
        "9" * 1_000_000,
        "\\boxed{" * 200_000,
        "\\boxed{" * 100_000 + "}" * 100_000,
        "\\frac" * 200_000,
        "\\boxed" + " " * 1_000_000,
        "{" * 500_000 + "\\boxed{1}",
        "1," * 500_000,
        "\ud800\x00\u0663",
        "-" * 1_990 + "1",
    ],
)
def test_hostile_text_is_graded_in_linear_time_and_without_an_error(hostile):
    start = time.process_time()
    math_answers.extract_answer(hostile)
    assert not math_answers.grade_math("3", hostile)
    assert time.process_time() - start < 5.0


def test_digits_of_other_scripts_are_not_numbers():
    assert not math_answers.grade_math("3", "\u0663")


def test_the_public_cases_hold_no_false_accept():
    path = CASES / "math_equivalence.jsonl"
    if not path.exists():
        pytest.skip("the public grading cases are not here")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    scored = [row for row in rows if row["form"] != "unboxed" and row["kind"] != "disputed"]
    wrong = [row for row in scored if not row["match"] and math_answers.grade_math(row["gold"], row["pred"])]
    assert not wrong
    agreed = sum(math_answers.grade_math(row["gold"], row["pred"]) == row["match"] for row in scored)
    assert agreed / len(scored) > 0.5
