"""avg@k, its error and pass@k against values by hand."""

import math

import pytest

from promptcot_jax.core.records import AttemptRecord
from promptcot_jax.verify import problem_accuracy


def attempts(**statuses: str) -> list[AttemptRecord]:
    """Of each problem one attempt for each letter: right, wrong, or a sandbox that failed."""
    names = {"r": "match", "w": "mismatch", "s": "sandbox_error"}
    return [
        AttemptRecord(
            problem_id=problem,
            sample=sample,
            completion="",
            answer="",
            reference="",
            correct=letter == "r",
            status=names[letter],
            finish_reason="stop",
            num_tokens=1,
        )
        for problem, letters in statuses.items()
        for sample, letter in enumerate(letters)
    ]


def test_each_problem_counts_once_and_is_a_cluster_of_its_attempts():
    """Shares 1, 1/2 and 0, though 6 of the 10 attempts are right; of these the error would be 0.155."""
    found = problem_accuracy.over_problems(attempts(a="rrrr", b="rwrw", c="ww"))
    assert found["accuracy"] == pytest.approx(0.5)
    assert found["standard_error"] == pytest.approx(0.5 / math.sqrt(3))


def test_what_the_sandbox_failed_over_has_no_part():
    found = problem_accuracy.over_problems(attempts(a="rs", b="ss", c="wr"))
    assert found["accuracy"] == pytest.approx((1 + 0.5) / 2)
    assert problem_accuracy.pass_at_k(attempts(a="sw", b="ss", c="wr")) == pytest.approx(1 / 2)


def test_pass_at_k_asks_for_one_right_attempt():
    assert problem_accuracy.pass_at_k(attempts(a="wwwr", b="wwww", c="rrrr")) == pytest.approx(2 / 3)


def test_what_is_undefined_is_none():
    assert problem_accuracy.over_problems([]) == {"accuracy": None, "standard_error": None}
    assert problem_accuracy.over_problems(attempts(a="rw"))["standard_error"] is None
    assert problem_accuracy.pass_at_k(attempts(a="ss")) is None
