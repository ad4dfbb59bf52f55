"""Ratings from places in contests: CodeElo's mean over contests (paper section 3.6), and a pooled one.

A contest's rating is the r at which the expected place is the place. Their mean has a bias, as a place is a
random number and its rating not linear in it: among participants around 1400 who play as Elo's formula says,
the mean gives a player of 2200 some 60 points too many, one of 1000 some 45 too few, one of 600 120 too few
(`tests/evaluation/test_rating_estimates.py`). The pooled rating is the r at which the share of the field that
is expected to be ahead, summed over contests, is the share that was: no such bias, and but for weak players
less spread. Published ratings are means.

Intervals are a bootstrap over contests and attempts. Contests are drawn with replacement; the attempts at a
problem, alike but for their order, take another order. Attempts drawn with replacement would lose the one
success of eight in a third of the draws and never win one, which would put the whole interval too low.
Nothing is missing for it: contests that are drawn bring the luck of their attempts with them. The tails are
those of a t interval of so few contests (Hesterberg 2015, "expanded percentile"). An interval is one of its
estimate: that of the mean does not cover the mean's bias.
"""

import dataclasses
import math
import statistics
from collections.abc import Sequence

import numpy as np

from promptcot_jax.core.arrays import Float, Int
from promptcot_jax.evaluation.contest_standings import LOWEST_RATING, Contest

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Estimates:
    """Ratings from the places as they were; the intervals are None for a single contest."""

    of_contests: tuple[float, ...]
    mean: float
    interval: Interval | None
    pooled: float
    pooled_interval: Interval | None


class Fields:
    """The participants of at least one contest, as the expected place of every rating."""

    def __init__(self, contests: Sequence[Contest]):
        self._limits = np.array([contest.highest_rating for contest in contests])
        self._sizes = np.array([contest.num_rated for contest in contests])
        curves = [contest.expected_places(int(self._limits.max())) for contest in contests]
        self._curves = np.stack(curves, axis=1)  # [R, C], falling along R, which begins at LOWEST_RATING

    def estimates(
        self, places: Int[np.ndarray, "B C"], *, level: float, rng: np.random.Generator
    ) -> Estimates:
        """What places in these contests say of who took them.

        Args:
            places: in the first row as they were, in the others with the attempts in other orders.
            level: of the intervals.
        """
        resamples, num_contests = len(places) - 1, len(self._sizes)
        drawn = rng.multinomial(num_contests, np.full(num_contests, 1 / num_contests), resamples)
        weights = np.vstack([np.ones(num_contests), drawn])  # how often each contest is drawn
        ratings = self.contest_ratings(places)
        means = (weights * ratings).sum(axis=1) / num_contests
        pooled = self.pooled_ratings(places, weights)
        return Estimates(
            tuple(map(float, ratings[0])),
            float(means[0]),
            _interval(means[1:], num_contests, level),
            float(pooled[0]),
            _interval(pooled[1:], num_contests, level),
        )

    def contest_ratings(self, places: Int[np.ndarray, "B C"]) -> Float[np.ndarray, "B C"]:
        """The rating of every place by itself, between the limits of its contest."""
        grid = LOWEST_RATING + np.arange(len(self._curves))
        ratings = [
            np.interp(-of_contest, -curve, grid)
            for of_contest, curve in zip(places.T, self._curves.T, strict=True)
        ]
        return np.minimum(np.stack(ratings, axis=1), self._limits)

    def pooled_ratings(
        self, places: Int[np.ndarray, "B C"], weights: Float[np.ndarray, "B C"]
    ) -> Float[np.ndarray, " B"]:
        """One rating for each row, by bisection, between the lowest and the highest limit of the contests.

        Args:
            weights: how often each contest counts.
        """
        by_size = weights / self._sizes
        targets = (by_size * places).sum(axis=1)
        low, high = np.zeros(len(places), int), np.full(len(places), len(self._curves) - 1)

        def expected(ratings: Int[np.ndarray, " B"]) -> Float[np.ndarray, " B"]:
            return (by_size * self._curves[ratings]).sum(axis=1)

        while (high - low).max() > 1:
            middle = (low + high) // 2
            above = expected(middle) > targets  # the root is
            low, high = np.where(above, middle, low), np.where(above, high, np.maximum(middle, low + 1))
        at_low, at_high = expected(low), expected(high)
        share = np.clip((at_low - targets) / (at_low - at_high), 0, 1)
        return LOWEST_RATING + low + share * (high - low)


def _interval(values: Float[np.ndarray, " B"], num_contests: int, level: float) -> Interval | None:
    if num_contests < 2:
        return None
    normal = statistics.NormalDist()
    z = normal.inv_cdf((1 + level) / 2)
    t = z * (1 + (z**2 + 1) / (4 * (num_contests - 1)))  # Student's quantile, to first order
    tail = normal.cdf(-t * math.sqrt(num_contests / (num_contests - 1)))
    low, high = np.quantile(values, (tail, 1 - tail))
    return float(low), float(high)
