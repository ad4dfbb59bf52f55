"""The paired comparison: size under the null, coverage, brute force, what it refuses."""

import dataclasses
import itertools

import numpy as np
import pytest

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import AttemptRecord
from promptcot_jax.evaluation import comparing
from tests.cases import some_fast


@pytest.fixture
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "NUM_RESAMPLES", 1_000)


def attempts(**letters: str) -> list[AttemptRecord]:
    return [
        AttemptRecord(
            problem_id=name,
            sample=i,
            completion="",
            answer="",
            reference="",
            correct=letter == "r",
            status="sandbox_error" if letter == "s" else "match",
            finish_reason="stop",
            num_tokens=1,
        )
        for name, of_problem in letters.items()
        for i, letter in enumerate(of_problem)
    ]


def test_differences_are_paired_by_problem_and_only_those_graded_on_both_sides_count():
    first = attempts(a="rw", b="ww", c="rr", only_here="rrrr")
    second = attempts(c="rw", a="rr", b="ww", not_graded="ss")
    found = comparing.compare([first], [second])
    assert (found.first, found.second, found.num_problems) == (pytest.approx(0.5), pytest.approx(0.5), 3)
    assert (found.difference, found.better, found.worse) == (pytest.approx(0.0), 1, 1)
    assert found.is_within_noise


@pytest.mark.parametrize("seed", range(4))
def test_few_problems_are_tested_by_every_swap(seed: int):
    differences = np.random.default_rng(seed).integers(-4, 5, size=7) / 4
    as_large = [
        abs(np.dot(signs, differences)) >= abs(differences.sum()) - 1e-9
        for signs in itertools.product((1, -1), repeat=7)
    ]
    assert comparing.permutation_p_value(differences) == pytest.approx(np.mean(as_large))


def test_random_swaps_agree_with_all_of_them(monkeypatch: pytest.MonkeyPatch):
    differences = np.random.default_rng(5).integers(-3, 6, size=12) / 4
    exact = comparing.permutation_p_value(differences)
    monkeypatch.setattr(comparing, "_MOST_ENUMERATED", 0)
    assert comparing.permutation_p_value(differences) == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize(("num_problems", "k"), some_fast([(8, 4), (30, 1), (60, 8)]))
def test_equal_policies_differ_as_often_as_the_level_says(fewer_resamples, num_problems: int, k: int):
    """400 comparisons at 5 %: at most 7.2 % (2 sd) may come out; ties make the test keep below its level."""
    random = np.random.default_rng(2)
    rejected = shown = 0
    for seed in range(400):
        chances = random.beta(0.4, 0.6, size=num_problems)
        sides = random.binomial(k, chances, size=(2, num_problems)) / k
        found = comparing.of_shares(sides[:1], sides[1:], seed=seed)
        rejected += found.p_value <= 0.05
        shown += not found.is_within_noise
    assert shown <= rejected <= 0.072 * 400
    assert num_problems < 60 or rejected >= 0.028 * 400  # a test that never rejects would pass too


def test_a_true_difference_is_found_and_its_interval_covers_it(fewer_resamples):
    random = np.random.default_rng(3)
    found = []
    for seed in range(300):
        chances = random.beta(2, 2, size=100)
        sides = random.binomial(8, np.stack([chances, chances * 0.8])) / 8  # 0.5 against 0.4
        found.append(comparing.of_shares(sides[:1], sides[1:], seed=seed))
    covered = np.mean([one.interval[0] <= -0.1 <= one.interval[1] for one in found])
    assert 0.92 <= covered <= 0.98
    assert np.mean([not one.is_within_noise for one in found]) > 0.95


def test_several_runs_widen_the_interval_by_what_they_differ_among_themselves():
    problems = np.random.default_rng(4).random(50)
    alike = np.stack([problems] * 3)
    noise = np.array([0.0, 0.1, 0.2])[:, None]
    same = comparing.of_shares(alike, alike + 0.1)
    other = comparing.of_shares(alike, alike + noise)
    assert same.interval == (pytest.approx(0.1), pytest.approx(0.1))
    assert other.interval[1] - other.interval[0] > 0.1
    assert (same.num_runs, same.num_problems) == (3, 50)


def test_sides_that_cannot_be_paired_are_refused():
    with pytest.raises(WrongUse, match="no graded problem in common"):
        comparing.compare([attempts(a="rw")], [attempts(b="rw")])
    other = [dataclasses.replace(one, reference="8") for one in attempts(a="rw")]
    this = [dataclasses.replace(one, reference="7") for one in attempts(a="rw")]
    with pytest.raises(WrongUse, match="id 'a' has the answer '7' in one run and '8' in another"):
        comparing.compare([this], [other])
    assert comparing.compare([this], [attempts(a="rw")]).num_problems == 1  # programs have none
    with pytest.raises(WrongUse, match="1 and 2 runs"):
        comparing.compare([attempts(a="r")], [attempts(a="r"), attempts(a="w")])
