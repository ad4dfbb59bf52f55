"""Facts of the Codeforces rating: scores by hand, CodeElo's own loops, limits, what is skipped or refused."""

import dataclasses

import numpy as np
import pytest

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.evaluation.codeforces import ContestProblem, Outcome, RatingConfig, codeforces_rating
from tests.evaluation import contests

FEW = RatingConfig(min_rated=0, resamples=20)


def outcome(index, *passed, contest_id=1):
    return Outcome(contest_id=contest_id, index=index, passed=tuple(map(bool, passed)))


def rated(outcomes, *some, config=FEW, users=()):
    return codeforces_rating(outcomes, some, users, config)


def test_points_fall_by_fifty_for_each_failure_before_the_first_success():
    field = contests.contest([1400, 1300, 400], [1800, 1500, 1200])
    [row] = rated([outcome("A", 0, 0, 1, 0, 1), outcome("B", 0, 1)], field).contests
    assert (row.points, row.penalty) == (400 + 950, 0)
    assert (row.place, row.num_rated, row.solved, row.attempted, row.problems) == (2, 3, 2, 2, 2)
    cheap = contests.contest([10], [1500], problems=(ContestProblem(index="A", points=120.0),))
    assert rated([outcome("A", 0, 0, 1)], cheap).contests[0].points == 20
    assert rated([outcome("A", 0, 0, 0, 1)], cheap).contests[0].points == 0


def test_problems_without_points_count_one_and_failures_cost_minutes():
    problems = tuple(ContestProblem(index=index) for index in "ABC")
    field = contests.contest(
        [2, 2, 2, 1], [1900, 1700, 1500, 1300], penalties=[29, 30, 31, 0], problems=problems
    )
    [row] = rated([outcome("A", 0, 0, 1), outcome("B", 0, 1), outcome("C", 0, 0)], field).contests
    assert (row.points, row.penalty, row.place) == (2, 30, 2)
    assert (row.solved, row.attempted) == (2, 3)


def test_attempts_beyond_the_eighth_and_problems_without_any_are_not_solved():
    field = contests.contest([200, 100], [1800, 1500])
    [row] = rated([outcome("A", *[0] * 8, 1)], field).contests
    assert (row.points, row.solved, row.attempted, row.place) == (0, 0, 1, 3)
    many = dataclasses.replace(FEW, max_attempts=9)
    assert rated([outcome("A", *[0] * 8, 1)], field, config=many).contests[0].points == 100


def test_the_rating_is_where_the_expected_place_is_the_place():
    rng = np.random.default_rng(0)
    points, ratings = rng.permutation(np.arange(300) * 5.0), rng.integers(800, 2600, 300)
    [row] = rated([outcome("A", 0, 1)], contests.contest(points, ratings)).contests
    assert row.place == 1 + (points > 450).sum()
    expected = 1 + (1 / (1 + 10 ** ((row.rating - ratings) / 400))).sum()
    assert expected == pytest.approx(row.place, abs=1e-4)


def codeelo_rating(problems, rows, outcomes):
    """CodeElo's rules in plain loops; rows are (points, penalty, old rating), as the standings have them."""
    score = penalty = 0
    for problem in problems:
        verdicts = outcomes.get(problem.index, ())
        if True in verdicts:
            failures = verdicts.index(True)
            if problem.points is None:
                score, penalty = score + 1, penalty + 10 * failures
            else:
                score += max(0, problem.points - 50 * failures)
    worse = [row[0] < score or (row[0] == score and row[1] > penalty) for row in rows]
    place = worse.index(True) if True in worse else len(rows)
    low, high = 0, max(row[2] for row in rows) + 100
    while high - low > 1:
        middle = (low + high) // 2
        if 1 + sum(1 / (1 + 10 ** ((middle - row[2]) / 400)) for row in rows) < place:
            high = middle
        else:
            low = middle
    return low


@pytest.mark.parametrize("with_points", [True, False])
def test_ties_of_codeelo_give_the_ratings_of_its_program(with_points):
    rng = np.random.default_rng(1)
    problems = tuple(
        ContestProblem(index=index, points=500.0 * (i + 1) if with_points else None)
        for i, index in enumerate("ABCD")
    )
    totals = rng.integers(0, 5, 240) * (450.0 if with_points else 1.0)
    minutes = np.zeros(240) if with_points else rng.integers(0, 60, 240).astype(float)
    old_ratings = rng.integers(600, 2500, 240)
    rows = sorted(zip(totals, minutes, old_ratings, strict=True), key=lambda row: (-row[0], row[1]))
    field = contests.contest(totals, old_ratings, penalties=minutes, problems=problems)
    config = dataclasses.replace(FEW, ties="codeelo", resamples=1)
    for _ in range(12):
        verdicts = {index: tuple(rng.random(8) < rng.choice([0.0, 0.1, 0.4])) for index in "ABCD"}
        verdicts = {index: tuple(map(bool, passed)) for index, passed in verdicts.items()}
        outcomes = [outcome(index, *passed) for index, passed in verdicts.items()]
        found = rated(outcomes, field, config=config).rating
        assert found == pytest.approx(codeelo_rating(problems, rows, verdicts), abs=1.0)


def test_a_rating_at_a_limit_says_so():
    ratings = [1100, 1500, 2000]
    field = contests.contest([900, 800, 700], ratings)
    best = rated([outcome("A", 1), outcome("B", 1)], field)
    assert (best.contests[0].place, best.contests[0].bound, best.rating) == (1, "highest", 2100)
    assert (best.pooled_rating, best.pooled_bound) == (2100, "highest")
    worst = rated([outcome("A", 0), outcome("B", 0)], field)
    assert (worst.contests[0].place, worst.contests[0].bound, worst.rating) == (4, "lowest", 0)
    assert (worst.pooled_rating, worst.pooled_bound) == (0, "lowest")
    tied = rated([outcome("A", 0)], contests.contest([900, 0, 0], ratings))
    assert (tied.contests[0].place, tied.contests[0].bound, tied.pooled_bound) == (2, "", "")
    codeelo = dataclasses.replace(FEW, ties="codeelo")
    assert (
        rated([outcome("A", 0)], contests.contest([900, 0, 0], ratings), config=codeelo).contests[0].place
        == 3
    )


def test_small_contests_and_contests_without_standings_are_skipped_and_named():
    small = contests.contest([100.0] * 200, [1500] * 200)
    large = contests.contest([100.0] * 201, [1500] * 201, contest_id=2)
    outcomes = [outcome("A", 1, contest_id=contest_id) for contest_id in (3, 1, 2, 9)]
    found = codeforces_rating(outcomes, [small, large], config=RatingConfig(resamples=5))
    assert found.skipped == {"few_rated": (1,), "no_standings": (3, 9)}
    assert [row.contest_id for row in found.contests] == [2]
    nothing = codeforces_rating(outcomes[:2], [small, large], [1500.0])
    assert (nothing.rating, nothing.interval, nothing.percentile, nothing.pooled_rating) == (None,) * 4
    assert (nothing.contests, nothing.skipped) == ((), {"no_standings": (3,), "few_rated": (1,)})


def test_the_rating_is_the_mean_over_contests_and_its_percentile_counts_users_below():
    fields = [
        contests.contest([700, 600, 100], [1900, 1700, 1100], contest_id=1),
        contests.contest([700, 100, 100], [2100, 1500, 900], contest_id=2),
    ]
    outcomes = [outcome("A", 1, contest_id=1), outcome("A", 1, contest_id=2)]
    found = rated(outcomes, *fields)
    assert found.rating == pytest.approx(np.mean([row.rating for row in found.contests]))
    assert found.percentile is None
    users = [found.rating - 1] * 3 + [found.rating] + [found.rating + 1] * 4
    assert rated(outcomes, *fields, users=users).percentile == pytest.approx(100 * 3 / 8)


def test_a_rating_is_the_same_whatever_the_order_of_outcomes_and_contests():
    rng = np.random.default_rng(2)
    fields = [
        contests.contest(rng.integers(0, 30, 50) * 50.0, rng.integers(900, 2000, 50), contest_id=i)
        for i in range(6)
    ]
    outcomes = [outcome(index, *(rng.random(8) < 0.2), contest_id=i) for i in range(6) for index in "AB"]
    found, shuffled = rated(outcomes, *fields), rated(outcomes[::-1], *fields[::-1])
    assert found == shuffled
    other_seed = rated(outcomes, *fields, config=dataclasses.replace(FEW, seed=1))
    assert other_seed.rating == found.rating
    assert other_seed.interval != found.interval


@pytest.mark.parametrize(
    ("outcomes", "message"),
    [
        ([outcome("A", 1), outcome("A", 0)], "problem A of contest 1: it is there twice"),
        ([outcome("A")], "problem A of contest 1: it has no attempts"),
        ([outcome("Z", 1)], "problem Z of contest 1: the contest has no such problem, only A, B"),
    ],
)
def test_outcomes_that_cannot_be_placed_are_refused(outcomes, message):
    with pytest.raises(WrongUse, match=message):
        rated(outcomes, contests.contest([100.0], [1500]))


def test_two_contests_of_one_id_are_refused():
    field = contests.contest([100.0], [1500])
    with pytest.raises(WrongUse, match="contest 1 is there twice"):
        rated([outcome("A", 1)], field, field)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("max_attempts", 0), ("min_rated", -1), ("ties", "best"), ("level", 1.0), ("resamples", 0)],
)
def test_settings_out_of_range_are_refused(setting, value):
    with pytest.raises(Exception, match=setting):
        RatingConfig(**{setting: value})
