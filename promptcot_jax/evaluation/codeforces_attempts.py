"""From attempts at a set's problems to its Codeforces rating in `results.json` (paper section 3.6)."""

import collections
import dataclasses
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import AttemptRecord
from promptcot_jax.data import rows
from promptcot_jax.evaluation import codeforces
from promptcot_jax.evaluation.contest_standings import Contest
from promptcot_jax.verify import problem_accuracy

log = logging.getLogger(__name__)

Place = tuple[int, str]  # contest and index, e.g. (1998, "A")

_PROBLEM = re.compile(r"(?:(?:CF|codeforces)[-_/ ]?)?(\d+)[-_/ ]?([A-Z]\d{0,2})", re.IGNORECASE)


class Placements:
    """Contest and index of each problem of a set, which its rows tell one by one.

    A row says it in `contest_id` and `index`, or in `problem_id` or else `id`: 1998A, 1998/A, CF-1998-A.
    """

    def __init__(self) -> None:
        self._placed: dict[str, Place] = {}
        self._where_of: dict[Place, str] = {}
        self._unplaced = ""

    def note(self, problem_id: str, row: rows.Row) -> None:
        """Takes up what a row says of the problem that it became.

        Raises:
            WrongUse: the contest's id is no number, or another problem has the same place.
        """
        place = _place(row.fields, row.where)
        if place is None:
            self._unplaced = self._unplaced or row.where
            return
        if place in self._where_of:
            raise WrongUse(
                f"{row.where}: problem {place[0]}{place[1]} is there twice, first at {self._where_of[place]}."
            )
        self._where_of[place] = row.where
        self._placed[problem_id] = place

    def found(self) -> dict[str, Place]:
        """The places by the problem's id; empty if no row is of a contest.

        Raises:
            WrongUse: some rows say it and others do not.
        """
        if self._placed and self._unplaced:
            raise WrongUse(
                f"{self._unplaced}: the problem's contest is not stated, as that of others is; give the row "
                "the fields contest_id and index."
            )
        return self._placed


def _place(fields: Mapping[str, Any], where: str) -> Place | None:
    if fields.get("contest_id") not in (None, "") and fields.get("index"):
        try:
            return int(fields["contest_id"]), str(fields["index"]).upper()
        except (TypeError, ValueError):
            raise WrongUse(
                f"{where}: field 'contest_id' must be a number, got {fields['contest_id']!r}."
            ) from None
    for name in ("problem_id", "id"):
        if match := _PROBLEM.fullmatch(str(fields.get(name, ""))):
            return int(match[1]), match[2].upper()
    return None


def rate_attempts(
    attempts: Sequence[AttemptRecord],
    placed: Mapping[str, Place],
    contests: Iterable[Contest],
    user_ratings: Sequence[int | float] | np.ndarray = (),
    config: codeforces.RatingConfig = codeforces.DEFAULT,
) -> dict[str, Any]:
    """The rating, its intervals and what it is made of, for a set's entry in `results.json`.

    Attempts at a problem count in the order of their samples. One over which the grader or the server itself
    failed has no part; a problem with no other is not attempted. A problem of a contest that was not
    attempted counts as not solved, as in CodeElo: such contests are named in a warning, since their ratings
    are too low.

    Args:
        placed: contest and index by the problem's id, see `Placements`; other attempts are passed over.

    Raises:
        WrongUse: a problem is placed where its contest has none.
    """
    verdicts: dict[Place, list[tuple[int, bool]]] = collections.defaultdict(list)
    ungraded = 0
    for attempt in attempts:
        if attempt.problem_id not in placed:
            continue
        if attempt.status in problem_accuracy.NOT_GRADED:
            ungraded += 1
        else:
            verdicts[placed[attempt.problem_id]].append((attempt.sample, attempt.correct))
    outcomes = [
        codeforces.Outcome(
            contest_id=contest_id, index=index, passed=tuple(correct for _, correct in sorted(of_problem))
        )
        for (contest_id, index), of_problem in verdicts.items()
    ]
    rating = codeforces.codeforces_rating(outcomes, contests, user_ratings, config)
    _warn(rating)
    bounds = collections.Counter(contest.bound for contest in rating.contests if contest.bound)
    return {
        **dataclasses.asdict(rating),
        "num_contests": len(rating.contests),
        "num_skipped": {reason: len(ids) for reason, ids in rating.skipped.items()},
        "num_at_bound": {bound: bounds[bound] for bound in ("lowest", "highest")},
        "ungraded_attempts": ungraded,
        "config": dataclasses.asdict(config),
    }


def _warn(rating: codeforces.Rating) -> None:
    partly = [contest for contest in rating.contests if contest.attempted < contest.problems]
    if partly:
        log.warning(
            "Codeforces rating: in %d of %d contests (%s) some problems were not attempted; they count as "
            "not solved, and the rating is too low",
            len(partly),
            len(rating.contests),
            _some([contest.contest_id for contest in partly]),
        )
    for reason, ids in rating.skipped.items():
        log.warning("Codeforces rating: %d contests (%s) are skipped: %s", len(ids), _some(ids), reason)
    if bounded := [contest.contest_id for contest in rating.contests if contest.bound]:
        log.warning(
            "Codeforces rating: %d contests (%s) end at a limit of the search; their places have no rating",
            len(bounded),
            _some(bounded),
        )


def _some(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids[:5])) + (", ..." if len(ids) > 5 else "")
