"""A solver's Codeforces rating, offline: CodeElo's protocol over saved standings (paper section 3.6).

Outcomes are grouped by contest. The first passing attempt i (from 0, of up to 8) at a problem scores
max(0, points - 50 i), or 1 with a penalty of 10 i minutes where the problem has no points. The total is
placed among the rated participants, each with the rating they came with. CodeElo expects of a player of
rating r the place 1 + sum_j 1 / (1 + 10^((r - r_j) / 400)): one, and for every participant the chance of
being beaten by them. The contest's rating is the r at which the expected place is the place that was taken;
the solver's rating is the mean over contests.

As in CodeElo's program and what others made of it, where a contest on Codeforces is otherwise:

* A solved problem loses nothing with time, and minutes are lost to failures alone. So a solver is ahead of
  nearly everybody with as many problems solved. A score may fall to nothing; Codeforces leaves 30 % of it.
* Participants have the rating that was shown before the contest. For those with fewer than six contests that
  is less than what Codeforces reckons with, by 1400 in the first; the solver's rating comes out lower for it.
* The solver is none of the field. A problem without an outcome is not solved.

Where we differ from it:

* Place. It takes the position, from 0, of the first participant who is strictly worse: one better than the
  announced place where nobody ties, and behind all who tie. Here it is 1 + how many are strictly better.
  Above all it matters for a contest of which nothing was solved: that rates 0 there, and here as those do who
  solved nothing either. `ties` = "codeelo" places as it does, for comparison with published ratings.
* Who counts. It drops a contest unless standings and rating changes have equally many rows. Here the two are
  joined by handle, and `contest_files` says how many are missing.
* Search. It bisects whole numbers from 0 to the best participant's rating + 100. The range is the same here,
  the root is not rounded, and a contest that ends at a limit says so: its place has no rating of its own.
* A second estimate, the pooled rating: the r at which the share of the field that is expected to be ahead,
  summed over contests, is the share that was. The mean, which is what is published, has a bias, as a place's
  rating is not linear in it (`docs/codeforces.md` has figures); the pooled rating has none.

Intervals are a bootstrap over contests, which bring the luck of their attempts with them, and over the order
of the attempts: drawn with replacement, the one success of eight would be lost in a third of the draws. The
tails are those of a t interval of so few contests (Hesterberg 2015, "expanded percentile").
"""

import collections
import dataclasses
import functools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal

import numpy as np

from promptcot_jax.core.arrays import Float, Int
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.settings import NonNegativeInt, PositiveInt, Range, settings

POINTS_PER_FAILURE = 50
MINUTES_PER_FAILURE = 10

_UNSOLVED = -1

LOWEST_RATING = 0  # where CodeElo's search begins
HEADROOM = 100  # and how far beyond the best participant's rating it ends

_BEYOND_ANY_RATING = 10_000

Ties = Literal["shared", "codeelo"]
Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContestProblem:
    """A problem by its letter; `points` is what it brings if solved at once, None where all count as one."""

    index: str
    points: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Contest:
    """A contest; `points`, `penalties` and `ratings` have an entry for each rated participant, in any order.

    Args:
        penalties: minutes, where problems have no points; of equal points the smaller penalty is the better.
        ratings: whole numbers, from before the contest.

    Raises:
        WrongUse: there are no problems, or two of one index; the three differ in length; or a number is none
            that a contest can have.
    """

    contest_id: int
    name: str = ""
    problems: tuple[ContestProblem, ...]
    points: Sequence[int | float] | np.ndarray
    penalties: Sequence[int | float] | np.ndarray
    ratings: Sequence[int] | np.ndarray

    def __post_init__(self):
        where = f"contest {self.contest_id}"
        indices = [problem.index for problem in self.problems]
        if not indices or len(set(indices)) < len(indices):
            raise WrongUse(f"{where}: problems must have different indices, got {indices}.")
        given = [problem.points for problem in self.problems if problem.points is not None]
        if not all(math.isfinite(points) and points >= 0 for points in given):
            raise WrongUse(f"{where}: a problem's points must be 0 or more, or None; got {given}.")
        lengths = [len(values) for values in (self.points, self.penalties, self.ratings)]
        if len(set(lengths)) > 1:
            raise WrongUse(f"{where}: points, penalties and ratings must be of one length, got {lengths}.")
        numbers = (self.points, self.penalties, self.ratings)
        if not all(np.isfinite(np.asarray(values, float)).all() for values in numbers):
            raise WrongUse(f"{where}: points, penalties and ratings must be finite numbers.")
        if not np.array_equal(self._ratings, np.asarray(self.ratings)):
            raise WrongUse(f"{where}: ratings must be whole numbers, as Codeforces has them.")
        if (np.abs(self._ratings) > _BEYOND_ANY_RATING).any():
            raise WrongUse(f"{where}: ratings must be those of Codeforces, got {max(self.ratings, key=abs)}.")

    @property
    def num_rated(self) -> int:
        return len(self.ratings)

    @property
    def highest_rating(self) -> int:
        """The best rating that a place in this contest can stand for."""
        return max(int(self._ratings.max(initial=0)), LOWEST_RATING) + HEADROOM

    def places(
        self, points: Float[np.ndarray, " B"], penalties: Float[np.ndarray, " B"], ties: Ties
    ) -> Int[np.ndarray, " B"]:
        """Where each score would have stood.

        Args:
            ties: "shared": 1 + how many are strictly better, as places are announced. "codeelo": how many are
                better or equal, as its program counts.
        """
        side = "left" if ties == "shared" else "right"
        ahead = np.searchsorted(self._keys, _keys(points, penalties), side=side)
        return ahead + (1 if ties == "shared" else 0)

    def expected_places(self, highest: int) -> Float[np.ndarray, " R"]:
        """The expected place of each whole rating from `LOWEST_RATING` to `highest`; it falls strictly.

        A sum for every rating over every participant is a convolution of how many have each rating with the
        chances by difference; done by FFT, its error is far below a thousandth of a place.
        """
        lowest = int(self._ratings.min(initial=LOWEST_RATING))
        counts = np.bincount(self._ratings - lowest).astype(float)
        most = lowest + len(counts) - 1
        differences = np.arange(LOWEST_RATING - most, highest - lowest + 1)  # of a player to one
        beaten = 1 / (1 + 10 ** (differences / 400))
        size = 1 << (len(counts) + len(beaten)).bit_length()  # room for the whole convolution
        sums = np.fft.irfft(np.fft.rfft(counts, size) * np.fft.rfft(beaten, size), size)
        return 1 + sums[len(counts) - 1 : len(beaten)]

    @functools.cached_property
    def _ratings(self) -> Int[np.ndarray, " N"]:
        return np.asarray(self.ratings, float).astype(np.int64)

    @functools.cached_property
    def _keys(self) -> np.ndarray:
        return np.sort(_keys(np.asarray(self.points, float), np.asarray(self.penalties, float)))


def _keys(points: Float[np.ndarray, " N"], penalties: Float[np.ndarray, " N"]) -> np.ndarray:
    """Scores as numbers that sort best first: NumPy orders complex ones by the real part, then the other."""
    keys = np.empty(len(points), np.complex128)
    keys.real, keys.imag = -points, penalties
    return keys


@settings
class RatingConfig:
    """How outcomes become a rating; the defaults are the paper's."""

    max_attempts: PositiveInt = 8  # of a problem; later ones are left out
    min_rated: NonNegativeInt = 200  # contests with so many rated participants or fewer are skipped
    ties: Ties = "shared"  # see `Contest.places`
    level: Annotated[float, Range(above=0, below=1)] = 0.95  # of the intervals
    resamples: PositiveInt = 1000
    seed: int = 0


DEFAULT = RatingConfig()

Bound = Literal["", "lowest", "highest"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """Verdicts on the attempts at one problem of a contest, in the order in which they were made."""

    contest_id: int
    index: str
    passed: tuple[bool, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContestRating:
    """What one contest says."""

    contest_id: int
    name: str
    rating: float
    bound: Bound  # of the search, if the rating is that
    place: int
    num_rated: int  # participants
    points: float
    penalty: float
    solved: int
    attempted: int
    problems: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rating:
    """A solver's rating; None where no contest could be rated, or but one for the intervals."""

    rating: float | None = None
    interval: Interval | None = None
    percentile: float | None = None  # of users that are below, 0 .. 100; None also without users' ratings
    pooled_rating: float | None = None
    pooled_interval: Interval | None = None
    pooled_bound: Bound = ""  # of the search, if the pooled rating is that
    contests: tuple[ContestRating, ...] = ()
    skipped: Mapping[str, tuple[int, ...]]  # contests by reason: no_standings, few_rated


def codeforces_rating(
    outcomes: Iterable[Outcome],
    contests: Iterable[Contest],
    user_ratings: Sequence[int | float] | np.ndarray = (),
    config: RatingConfig = DEFAULT,
) -> Rating:
    """The rating at which a player would be expected to do as well as these outcomes.

    Args:
        outcomes: in any order; a contest is rated if it has one.
        user_ratings: of all users, for the percentile.

    Raises:
        WrongUse: an outcome is there twice, without attempts, or of a problem that its contest does not have,
            or two contests have one id.
    """
    by_contest, standings = _by_contest(outcomes), _by_id(contests)
    skipped: dict[str, list[int]] = collections.defaultdict(list)
    rng = np.random.default_rng(config.seed)
    scored = []
    for contest_id, of_contest in by_contest.items():
        if contest_id not in standings:
            skipped["no_standings"].append(contest_id)
        elif standings[contest_id].num_rated <= config.min_rated:
            skipped["few_rated"].append(contest_id)
        else:
            scored.append(_score(standings[contest_id], of_contest, config, rng))
    reasons = {reason: tuple(ids) for reason, ids in skipped.items()}
    if not scored:
        return Rating(skipped=reasons)
    places = np.stack([one.places for one in scored], axis=1)
    fields = Fields([one.contest for one in scored])
    found = fields.estimates(places, level=config.level, rng=rng)
    return Rating(
        rating=found.mean,
        interval=found.interval,
        percentile=100 * float(np.mean(np.asarray(user_ratings) < found.mean)) if len(user_ratings) else None,
        pooled_rating=found.pooled,
        pooled_interval=found.pooled_interval,
        pooled_bound=_bound(found.pooled, max(one.contest.highest_rating for one in scored)),
        contests=tuple(map(_contest_rating, scored, found.of_contests)),
        skipped=reasons,
    )


def _by_contest(outcomes: Iterable[Outcome]) -> dict[int, dict[str, Outcome]]:
    """Outcomes by contest and problem, the contests in the order of their ids."""
    found: dict[int, dict[str, Outcome]] = collections.defaultdict(dict)
    for outcome in outcomes:
        where = f"outcome of problem {outcome.index} of contest {outcome.contest_id}"
        if not outcome.passed:
            raise WrongUse(f"{where}: it has no attempts; leave it out.")
        if outcome.index in found[outcome.contest_id]:
            raise WrongUse(f"{where}: it is there twice; put all attempts at a problem into one.")
        found[outcome.contest_id][outcome.index] = outcome
    return dict(sorted(found.items()))


def _by_id(contests: Iterable[Contest]) -> dict[int, Contest]:
    found: dict[int, Contest] = {}
    for contest in contests:
        if contest.contest_id in found:
            raise WrongUse(f"contest {contest.contest_id} is there twice; leave one out.")
        found[contest.contest_id] = contest
    return found


@dataclasses.dataclass(frozen=True)
class _Scored:
    """A contest with the solver's score and place: first as it was, then for each resample of attempts."""

    contest: Contest
    points: Float[np.ndarray, " B"]
    penalties: Float[np.ndarray, " B"]
    places: Int[np.ndarray, " B"]
    solved: int
    attempted: int


def _score(
    contest: Contest, outcomes: Mapping[str, Outcome], config: RatingConfig, rng: np.random.Generator
) -> _Scored:
    indices = {problem.index for problem in contest.problems}
    if unknown := sorted(outcomes.keys() - indices):
        raise WrongUse(
            f"outcome of problem {unknown[0]} of contest {contest.contest_id}: the contest has no such "
            f"problem, only {', '.join(sorted(indices))}."
        )
    points, penalties = np.zeros((2, 1 + config.resamples))
    solved = 0
    for problem in contest.problems:
        if problem.index not in outcomes:
            continue
        failures = _failures(outcomes[problem.index].passed[: config.max_attempts], config.resamples, rng)
        solved += failures[0] != _UNSOLVED
        if problem.points is None:
            points += failures != _UNSOLVED
            penalties += MINUTES_PER_FAILURE * np.maximum(failures, 0)
        else:
            left = np.maximum(problem.points - POINTS_PER_FAILURE * failures, 0)
            points += np.where(failures == _UNSOLVED, 0, left)
    places = contest.places(points, penalties, config.ties)
    return _Scored(contest, points, penalties, places, int(solved), len(outcomes))


def _failures(passed: Sequence[bool], resamples: int, rng: np.random.Generator) -> Int[np.ndarray, " B"]:
    """Failures before the first success, or `_UNSOLVED`: as it was, then in other orders of the attempts."""
    attempts = np.asarray(passed, bool)
    if not attempts.any():
        return np.full(1 + resamples, _UNSOLVED)
    orders = np.tile(attempts, (1 + resamples, 1))
    if not attempts.all():
        orders[1:] = rng.permuted(orders[1:], axis=1)
    return orders.argmax(axis=1)


def _contest_rating(scored: _Scored, rating: float) -> ContestRating:
    contest = scored.contest
    return ContestRating(
        contest_id=contest.contest_id,
        name=contest.name,
        rating=rating,
        bound=_bound(rating, contest.highest_rating),
        place=int(scored.places[0]),
        num_rated=contest.num_rated,
        points=float(scored.points[0]),
        penalty=float(scored.penalties[0]),
        solved=scored.solved,
        attempted=scored.attempted,
        problems=len(contest.problems),
    )


def _bound(rating: float, highest: int) -> Bound:
    return "lowest" if rating == LOWEST_RATING else "highest" if rating == highest else ""


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
