"""A solver's Codeforces rating, offline: CodeElo's protocol over saved standings (paper section 3.6).

Outcomes are grouped by contest. The first passing attempt i (from 0, of up to 8) at a problem scores
max(0, points - 50 i), or 1 with a penalty of 10 i minutes where the problem has no points. The total is
placed among the rated participants, and the contest's rating is the r at which the expected place
(`contest_standings`) is that place. The solver's rating is the mean over contests.

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
  joined by handle, and `contest_cache` says how many are missing.
* Search. It bisects whole numbers from 0 to the best participant's rating + 100. The range is the same here,
  the root is not rounded, and a contest that ends at a limit says so: its place has no rating of its own.
* A second estimate, `pooled_rating`, which has no bias, and intervals (`rating_estimates`).
"""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal

import numpy as np

from promptcot_jax.core.arrays import Float, Int
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.settings import NonNegativeInt, PositiveInt, Range, settings
from promptcot_jax.evaluation import rating_estimates
from promptcot_jax.evaluation.contest_standings import LOWEST_RATING, Contest, Ties
from promptcot_jax.evaluation.rating_estimates import Interval

POINTS_PER_FAILURE = 50
MINUTES_PER_FAILURE = 10

_UNSOLVED = -1


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

    rating: float | None
    interval: Interval | None
    percentile: float | None  # share of users below, in 0 .. 100; None also where users' ratings are missing
    pooled_rating: float | None
    pooled_interval: Interval | None
    pooled_bound: Bound  # of the search, if the pooled rating is that
    contests: tuple[ContestRating, ...]
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
    by_contest = _by_contest(outcomes)
    standings = _by_id(contests)
    skipped: dict[str, list[int]] = collections.defaultdict(list)
    for contest_id in by_contest:
        if contest_id not in standings:
            skipped["no_standings"].append(contest_id)
        elif standings[contest_id].num_rated <= config.min_rated:
            skipped["few_rated"].append(contest_id)
    left_out = {contest_id for ids in skipped.values() for contest_id in ids}
    rng = np.random.default_rng(config.seed)
    scored = [
        _score(standings[contest_id], of_contest, config, rng)
        for contest_id, of_contest in by_contest.items()
        if contest_id not in left_out
    ]
    reasons = {reason: tuple(ids) for reason, ids in skipped.items()}
    if not scored:
        return Rating(
            rating=None,
            interval=None,
            percentile=None,
            pooled_rating=None,
            pooled_interval=None,
            pooled_bound="",
            contests=(),
            skipped=reasons,
        )
    places = np.stack([one.places for one in scored], axis=1)
    fields = rating_estimates.Fields([one.contest for one in scored])
    found = fields.estimates(places, level=config.level, rng=rng)
    return Rating(
        rating=found.mean,
        interval=found.interval,
        percentile=_percentile(found.mean, user_ratings),
        pooled_rating=found.pooled,
        pooled_interval=found.pooled_interval,
        pooled_bound=_bound(found.pooled, max(one.contest.highest_rating for one in scored)),
        contests=tuple(
            _contest_rating(one, rating) for one, rating in zip(scored, found.of_contests, strict=True)
        ),
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


def _percentile(rating: float, user_ratings: Sequence[int | float] | np.ndarray) -> float | None:
    """Percentage of users strictly below, as CodeElo counts."""
    if len(user_ratings) == 0:
        return None
    return float(100 * np.mean(np.asarray(user_ratings) < rating))
