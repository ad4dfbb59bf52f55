"""avg@k, its error and pass@k against values by hand."""

import itertools
import math

import numpy as np
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


@pytest.mark.parametrize("letters", ["rwwww", "rrwww", "rrrrw", "wwwww", "rrrrr"])
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_pass_at_k_is_the_share_of_subsets_of_k_with_a_right_attempt(letters: str, k: int):
    subsets = list(itertools.combinations(letters, k))
    expected = sum("r" in subset for subset in subsets) / len(subsets)
    assert problem_accuracy.pass_at_k(attempts(a=letters), k) == pytest.approx(expected)
    both = problem_accuracy.pass_at_k(attempts(a=letters, b="wwwww"), k)
    assert both == pytest.approx(expected / 2)


def test_pass_at_k_needs_k_attempts_at_every_problem():
    assert problem_accuracy.pass_at_k(attempts(a="rw", b="rrw"), 3) is None
    assert problem_accuracy.pass_at_k(attempts(a="rws", b="rw"), 2) == 1.0  # a failed sandbox is no attempt


def test_the_error_over_samples_is_that_of_repeated_runs():
    random = np.random.default_rng(0)
    chances = np.array([0.1, 0.5, 0.9, 1.0])
    runs = random.random((20_000, 4, 6)) < chances[:, None]
    spread = runs.mean(axis=(1, 2)).std()
    errors = [
        problem_accuracy.error_over_samples(
            attempts(**{f"p{i}": "".join("rw"[not x] for x in row) for i, row in enumerate(run)})
        )
        for run in runs[:200]
    ]
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(spread, rel=0.05)
    assert problem_accuracy.error_over_samples(attempts(a="rw", b="r")) is None


@pytest.mark.parametrize(
    ("num_problems", "k", "alpha", "beta"),
    [(30, 16, 0.4, 0.6), (30, 16, 5.0, 5.0), (30, 1, 0.2, 0.8), (50, 4, 0.1, 2.0), (200, 8, 1.0, 1.0)],
)
def test_intervals_cover_the_accuracy_on_the_source_of_the_problems(
    num_problems: int, k: int, alpha: float, beta: float
):
    """Problems of Beta(alpha, beta) difficulty; of 600 evaluations 93.2 to 96.8 % are expected (2 sd)."""
    random = np.random.default_rng(1)
    hits = 0
    for _ in range(600):
        right = random.binomial(k, random.beta(alpha, beta, size=num_problems))
        low, high = problem_accuracy.interval_of_shares(right / k, k * num_problems)
        hits += low <= alpha / (alpha + beta) <= high
    assert 0.925 <= hits / 600 <= 0.985


def test_an_interval_is_sensible_where_nothing_or_all_is_right():
    """By Wilson's formula: z squared / (n + z squared) for n = 50 problems, however often each was tried."""
    none = problem_accuracy.interval(attempts(**{f"p{i}": "wwww" for i in range(50)}))
    assert none == (0.0, pytest.approx(3.8415 / 53.8415, rel=1e-4))
    assert problem_accuracy.interval(attempts(**{f"p{i}": "r" for i in range(50)})) == (
        pytest.approx(50 / 53.8415, rel=1e-4),
        1.0,
    )
    assert problem_accuracy.interval(attempts(a="ss")) is None
