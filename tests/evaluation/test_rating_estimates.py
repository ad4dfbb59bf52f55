"""Facts of the estimates, by simulation: players of known ratings in contests that follow Elo's formula."""

import numpy as np
import pytest

from promptcot_jax.evaluation import codeforces
from promptcot_jax.evaluation.codeforces import ContestProblem, Outcome, RatingConfig, codeforces_rating
from tests.evaluation import contests

NUM_CONTESTS, NUM_RATED = 30, 300


def some_contests(num_contests=NUM_CONTESTS, num_rated=NUM_RATED):
    """Contests of participants around 1400; their points are not looked at."""
    rng = np.random.default_rng(0)
    return [
        contests.contest(np.zeros(num_rated), rng.normal(1400, 400, num_rated).astype(int), contest_id=i)
        for i in range(num_contests)
    ]


def simulated_places(some, rating, num_players, rng):
    """[B, C]: places of players of one rating in each contest, everybody's performance drawn anew."""
    ratings = np.stack([one.ratings for one in some])
    return np.stack(
        [
            1
            + (
                contests.performances(ratings, rng)
                > contests.performances(np.full((len(some), 1), rating), rng)
            ).sum(1)
            for _ in range(num_players)
        ]
    )


@pytest.mark.parametrize(
    ("rating", "bias_of_mean"), [(600, -120), (1000, -45), (1400, 4), (1800, 41), (2200, 56)]
)
def test_the_pooled_rating_has_no_bias_and_the_mean_has_the_one_that_is_written_down(rating, bias_of_mean):
    some = some_contests()
    fields = codeforces.Fields(some)
    places = simulated_places(some, rating, 300, np.random.default_rng(1))
    means = fields.contest_ratings(places).mean(axis=1)
    pooled = fields.pooled_ratings(places, np.ones(places.shape))
    for estimates, bias in ((pooled, 0), (means, bias_of_mean)):
        error = estimates.std(ddof=1) / np.sqrt(len(places))
        assert error < 4.5
        assert estimates.mean() - rating == pytest.approx(bias, abs=4 * error)
    if rating >= 1400:  # the pooled rating of a weak player has the larger spread
        assert pooled.std() < means.std()
    assert ((pooled - rating) ** 2).mean() < ((means - rating) ** 2).mean()


@pytest.mark.parametrize("rating", [1000, 1900])
def test_the_interval_of_the_pooled_rating_covers_the_true_one_at_its_level(rating):
    some, rng = some_contests(), np.random.default_rng(2)
    fields = codeforces.Fields(some)
    every = simulated_places(some, rating, 300, rng)
    found = [  # with one attempt at each problem there is but one order
        fields.estimates(np.tile(places, (301, 1)), level=0.95, rng=rng) for places in every
    ]
    own = np.mean([one.mean for one in found])
    margin = 3 * np.sqrt(0.95 * 0.05 / 300)  # three standard errors of a share of 300 players
    for truth, estimate, interval in ((rating, "pooled", "pooled_interval"), (own, "mean", "interval")):
        bounds = np.array([getattr(one, interval) for one in found])
        covered = np.mean((bounds[:, 0] <= truth) & (truth <= bounds[:, 1]))
        assert covered == pytest.approx(0.95, abs=margin)
        spread = np.std([getattr(one, estimate) for one in found])
        assert (bounds[:, 1] - bounds[:, 0]).mean() == pytest.approx(2 * 2.08 * spread, rel=0.15)


@pytest.mark.parametrize("seed", range(3))
def test_the_pooled_rating_solves_its_equation(seed):
    rng = np.random.default_rng(seed)
    some = [
        contests.contest(np.zeros(n), rng.integers(500, 3000, n), contest_id=i)
        for i, n in enumerate((40, 300, 7, 90))
    ]
    places = np.array([[rng.integers(1, one.num_rated + 2) for one in some] for _ in range(6)])
    weights = rng.integers(0, 3, places.shape) + np.eye(4)[rng.integers(0, 4, 6)]
    for rating, row, weight in zip(
        codeforces.Fields(some).pooled_ratings(places, weights), places, weights, strict=True
    ):
        expected = [1 + (1 / (1 + 10 ** ((rating - one.ratings) / 400))).sum() for one in some]
        excess = sum(
            w * (e - p) / one.num_rated for w, e, p, one in zip(weight, expected, row, some, strict=True)
        )
        assert excess == pytest.approx(0, abs=1e-6)


def test_places_beyond_what_any_rating_expects_end_at_the_limits():
    some = some_contests(3, 50)
    fields = codeforces.Fields(some)
    limits = [one.highest_rating for one in some]
    places = np.array([[1, 1, 1], [51, 51, 51]])
    assert fields.contest_ratings(places).tolist() == [limits, [0, 0, 0]]
    assert fields.pooled_ratings(places, np.ones((2, 3))).tolist() == [max(limits), 0]


def binary_contest(rng, contest_id, num_problems=12):
    """A contest whose points are the performance itself, in steps of one point from 0 to 4,095."""
    ratings = rng.normal(1400, 400, 250).astype(int)
    return contests.contest(
        performed(ratings, rng).astype(float),
        ratings,
        contest_id=contest_id,
        problems=tuple(ContestProblem(index=f"P{i}", points=float(1 << i)) for i in range(num_problems)),
    )


def performed(rating, rng):
    return contests.performances(rating, rng).clip(0, 4095).astype(int)


def test_a_solver_of_a_known_rating_gets_it_from_its_outcomes():
    rng, rating, found = np.random.default_rng(3), 1700, []
    some = [binary_contest(rng, i) for i in range(40)]
    for _ in range(16):
        points = {one.contest_id: int(performed(rating, rng)) for one in some}
        outcomes = [
            Outcome(contest_id=one.contest_id, index=f"P{i}", passed=(bool(points[one.contest_id] >> i & 1),))
            for one in some
            for i in range(12)
        ]
        one = codeforces_rating(outcomes, some, config=RatingConfig(resamples=2))
        assert {row.contest_id: row.points for row in one.contests} == points
        found.append(one.pooled_rating)
    error = np.std(found, ddof=1) / np.sqrt(len(found))
    # The field's performances are those of one day, not drawn anew for every player, which adds to the error.
    day = 300 / np.sqrt(40 * 250)
    assert np.mean(found) == pytest.approx(rating, abs=3 * np.hypot(error, day))


def graded_contest(rng, contest_id, num_rated=400):
    """A contest of five problems and the chances with which a solver's single attempts at them pass."""
    values = np.array([500.0, 1000, 1500, 2000, 2500])
    ratings = rng.normal(1400, 400, num_rated).astype(int)
    difficulties = np.array([900, 1200, 1600, 2000, 2400]) + rng.normal(0, 150, 5)
    solved = rng.random((num_rated, 5)) < logistic(ratings[:, None] - difficulties)
    points = (solved * values * rng.uniform(0.5, 1, (num_rated, 5))).sum(axis=1)
    problems = tuple(ContestProblem(index=str(i), points=value) for i, value in enumerate(values))
    contest = contests.contest(points, ratings, contest_id=contest_id, problems=problems)
    return contest, logistic(1200 - difficulties + rng.normal(0, 300, 5))


def logistic(difference):
    return 1 / (1 + np.exp(-difference / contests.LOGISTIC))


@pytest.mark.parametrize(
    ("num_solvers", "num_contests"), [(60, 12), pytest.param(400, 24, marks=pytest.mark.slow)]
)
def test_intervals_cover_over_contests_and_attempts(num_solvers, num_contests):
    """Contests and attempts are drawn anew for every solver; the truth is the mean of all their estimates."""
    rng, found = np.random.default_rng(4), []
    for _ in range(num_solvers):
        drawn = [graded_contest(rng, i) for i in range(num_contests)]
        outcomes = [
            Outcome(contest_id=one.contest_id, index=str(i), passed=tuple(map(bool, rng.random(8) < chance)))
            for one, chances in drawn
            for i, chance in enumerate(chances)
        ]
        config = RatingConfig(resamples=200)
        found.append(codeforces_rating(outcomes, [one for one, _ in drawn], config=config))
    for estimate, interval in (("rating", "interval"), ("pooled_rating", "pooled_interval")):
        truth = np.mean([getattr(one, estimate) for one in found])
        bounds = np.array([getattr(one, interval) for one in found])
        covered = np.mean((bounds[:, 0] <= truth) & (truth <= bounds[:, 1]))
        assert covered == pytest.approx(0.95, abs=3 * np.sqrt(0.95 * 0.05 / num_solvers))
        spread = np.std([getattr(one, estimate) for one in found])
        assert (bounds[:, 1] - bounds[:, 0]).mean() == pytest.approx(2 * 2.15 * spread, rel=0.2)


def test_attempts_in_another_order_widen_an_interval_and_do_not_shift_it():
    problems = tuple(ContestProblem(index=str(i), points=1000.0) for i in range(6))
    ratings = np.random.default_rng(5).integers(800, 2400, 300)
    same = [
        contests.contest(np.linspace(0, 6000, 300), ratings, contest_id=i, problems=problems)
        for i in range(5)
    ]

    def rated(even, odd):
        outcomes = [
            Outcome(contest_id=i, index=str(k), passed=odd if k % 2 else even)
            for i in range(5)
            for k in range(6)
        ]
        return codeforces_rating(outcomes, same, config=RatingConfig(level=0.9))

    fixed = rated((True,) * 8, (False,) * 8)
    assert fixed.interval == pytest.approx((fixed.rating, fixed.rating))  # contests alike, nothing to reorder
    # One success in eight is on average the attempt after 3.5 failures; here it is that after 3 and after 4.
    free = rated(tuple(i == 3 for i in range(8)), tuple(i == 4 for i in range(8)))
    assert free.interval[0] < free.rating < free.interval[1]
    middle = sum(free.interval) / 2
    assert middle == pytest.approx(free.rating, abs=0.15 * (free.interval[1] - free.interval[0]))


def test_one_contest_has_no_interval():
    [field] = some_contests(1)
    found = codeforces.Fields([field]).estimates(
        np.full((6, 1), 40), level=0.95, rng=np.random.default_rng(0)
    )
    assert (found.interval, found.pooled_interval) == (None, None)
    assert found.mean == pytest.approx(found.pooled)
    assert found.of_contests == (found.mean,)


def test_pooling_weighs_shares_of_the_field_and_not_places():
    """A large and a small contest, in which the place is a player's of 1,500 and of 1,700."""
    small, large = some_contests(2, 200)[0], some_contests(2, 4000)[1]
    places = [round(float(one.expected_places(2000)[r])) for one, r in ((small, 1500), (large, 1700))]
    found = codeforces.Fields([small, large]).estimates(
        np.array([places] * 2), level=0.95, rng=np.random.default_rng(0)
    )
    assert found.of_contests == pytest.approx((1500, 1700), abs=5)
    assert 1560 < found.pooled < 1640
