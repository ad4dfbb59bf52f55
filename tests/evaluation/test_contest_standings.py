"""Facts of standings: places with ties, the expected place against its sum, what is refused."""

import numpy as np
import pytest

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.evaluation.codeforces import Contest, ContestProblem
from tests.evaluation import contests


@pytest.mark.parametrize(
    "ratings", [[1500], [0, 4000], [-30, 812, 812, 1999, 3500], list(range(900, 2400, 7))]
)
def test_expected_place_is_one_and_each_chance_of_being_beaten(ratings):
    found = contests.contest([0.0] * len(ratings), ratings).expected_places(4200)
    assert len(found) == 4201
    for rating in (0, 1, 799, 1500, 2601, 4200):
        expected = 1 + sum(1 / (1 + 10 ** ((rating - other) / 400)) for other in ratings)
        assert found[rating] == pytest.approx(expected, abs=1e-9)
    assert (np.diff(found) < 0).all()


def test_expected_places_of_a_large_field_fall_all_the_way():
    rng = np.random.default_rng(0)
    ratings = rng.normal(1400, 450, 30_000).clip(0, 3900).astype(int)
    found = contests.contest(np.zeros(30_000), ratings).expected_places(4000)
    assert (np.diff(found) < 0).all()
    for rating in (0, 2000, 4000):
        assert found[rating] == pytest.approx(
            1 + (1 / (1 + 10 ** ((rating - ratings) / 400))).sum(), abs=1e-6
        )


def test_places_are_behind_those_who_are_strictly_better():
    field = contests.contest(
        points=[300, 500, 300, 0, 300, 500],
        penalties=[20, 70, 10, 0, 20, 60],
        ratings=[1000] * 6,
    )
    #           best first: (500, 60) (500, 70) (300, 10) (300, 20) (300, 20) (0, 0)
    points = np.array([600.0, 500.0, 500.0, 300.0, 300.0, 300.0, 0.0, 0.0])
    penalties = np.array([99.0, 60.0, 65.0, 20.0, 15.0, 21.0, 0.0, 10.0])
    assert list(field.places(points, penalties, "shared")) == [1, 1, 2, 4, 4, 6, 6, 7]
    assert list(field.places(points, penalties, "codeelo")) == [0, 1, 1, 5, 3, 5, 6, 6]


def test_a_place_is_that_of_counting():
    rng = np.random.default_rng(0)
    points, penalties = rng.integers(0, 6, 400).astype(float), rng.integers(0, 5, 400).astype(float)
    field = contests.contest(points, rng.integers(0, 3000, 400), penalties=penalties)
    for score, penalty in [(p, q) for p in range(-1, 7) for q in range(6)]:
        better = sum(
            p > score or (p == score and q < penalty) for p, q in zip(points, penalties, strict=True)
        )
        equal = sum((p, q) == (score, penalty) for p, q in zip(points, penalties, strict=True))
        asked = np.array([float(score)]), np.array([float(penalty)])
        assert field.places(*asked, "shared") == [1 + better]
        assert field.places(*asked, "codeelo") == [better + equal]


def test_the_highest_rating_is_a_hundred_above_the_best():
    assert contests.contest([0, 0], [1200, 3100]).highest_rating == 3200
    assert contests.contest([], []).highest_rating == 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"problems": ()}, "contest 7: problems must have different indices"),
        ({"problems": (ContestProblem(index="A"), ContestProblem(index="A"))}, "different indices"),
        ({"ratings": [1500]}, r"must be of one length, got \[2, 2, 1\]"),
        ({"points": [1.0, float("nan")]}, "finite numbers"),
        ({"ratings": np.array([1500, 1400.5])}, "whole numbers"),
        ({"ratings": [1500, -20_000]}, "those of Codeforces, got -20000"),
        ({"problems": (ContestProblem(index="A", points=-5.0),)}, r"0 or more, or None; got \[-5.0\]"),
        ({"problems": (ContestProblem(index="A", points=float("nan")),)}, "0 or more"),
    ],
)
def test_what_is_no_contest_is_refused(change, message):
    given = {
        "contest_id": 7,
        "problems": (ContestProblem(index="A"),),
        "points": [2.0, 1.0],
        "penalties": [0.0, 0.0],
        "ratings": [1500, 1400],
    }
    assert Contest(**given).num_rated == 2
    with pytest.raises(WrongUse, match=message):
        Contest(**{**given, **change})
