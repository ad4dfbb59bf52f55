"""Standings of Codeforces contests, as saved replies of the public API; which problems of a set are of which
contest; and a set's rating from its attempts (paper section 3.6). Nothing is downloaded.

The directory holds, each as the API returned it, or compressed (`.json.gz`):

* `contest_ID.standings.json`: `contest.standings?contestId=ID`,
* `contest_ID.rating_changes.json`: `contest.ratingChanges?contestId=ID`,
* `rated_users.json`, for the percentile and if there is to be one: `user.ratedList`. Two other shapes are
  read too: a list of ratings, and an object of how many users have each rating.

`docs/codeforces.md` says how to save them and names the fields. Of the rows of the standings those count that
are a contestant's (not virtual, in practice or out of competition) and whose handle the rating changes name.
"""

import collections
import dataclasses
import gzip
import json
import logging
import math
import os
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from promptcot_jax.core.arrays import Float
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import AttemptRecord
from promptcot_jax.data import rows
from promptcot_jax.evaluation import codeforces
from promptcot_jax.evaluation.codeforces import Contest, ContestProblem
from promptcot_jax.verify import problem_accuracy

log = logging.getLogger(__name__)

Slot = tuple[int, str]  # contest and index, e.g. (1998, "A")

_PROBLEM_NAME = re.compile(r"(?:(?:CF|codeforces)[-_/ ]?)?(\d+)[-_/ ]?([A-Z]\d{0,2})", re.IGNORECASE)


MIN_MATCHED = 0.95  # of the rating changes, with a row in the standings; the rest may be renamed handles

_NUMBER = (int, float)


def read_contests(directory: epath.PathLike, contest_ids: Iterable[int]) -> list[Contest]:
    """The contests of which the directory has replies, in the order of their ids; the others are left out.

    Raises:
        WrongUse: there is no such directory, a contest has but one of its two files, or a file is not the
            whole reply that its name says; the message names file and field.
    """
    directory = epath.Path(directory)
    if not directory.is_dir():
        raise WrongUse(
            f"{os.fspath(directory)}: no such directory; it must hold replies of the Codeforces API, see "
            "docs/codeforces.md."
        )
    contests = []
    for contest_id in sorted(set(contest_ids)):
        wanted = [directory / f"contest_{contest_id}.{kind}.json" for kind in ("standings", "rating_changes")]
        standings, changes = [_file_of(path) for path in wanted]
        if standings and changes:
            contests.append(_contest(contest_id, standings, changes))
        elif standings or changes:
            missing = wanted[1] if standings else wanted[0]
            raise WrongUse(
                f"{os.fspath(missing)}: no such file; a contest needs its standings and its rating changes."
            )
    return contests


def read_user_ratings(directory: epath.PathLike) -> Float[np.ndarray, " N"]:
    """Ratings of all users, for percentiles; empty where the directory has no `rated_users.json`.

    Raises:
        WrongUse: the file has none of the shapes that are read.
    """
    file = _file_of(epath.Path(directory) / "rated_users.json")
    if file is None:
        return np.zeros(0)
    reply = _read(file)
    if isinstance(reply, dict) and "status" not in reply:
        ratings = _from_histogram(reply, file)
    else:
        users = reply if isinstance(reply, list) else _result(reply, list, file)
        ratings = [
            float(user if type(user) in _NUMBER else _Object(user, file, f"[{i}]").get("rating", _NUMBER))
            for i, user in enumerate(users)
        ]
    if not ratings or not all(map(math.isfinite, ratings)):
        raise WrongUse(f"{os.fspath(file)}: it must hold one user's rating at least, and finite ones.")
    return np.array(ratings, float)


def _from_histogram(histogram: Mapping[str, Any], file: epath.Path) -> list[float]:
    ratings = []
    for rating, count in histogram.items():
        if type(count) is not int or count < 0:
            raise WrongUse(f"{os.fspath(file)}: field '{rating}' must be a number of users, got {count!r}.")
        try:
            ratings += [float(rating)] * count
        except ValueError:
            raise WrongUse(f"{os.fspath(file)}: field '{rating}' is no rating.") from None
    return ratings


def _contest(contest_id: int, standings_file: epath.Path, changes_file: epath.Path) -> Contest:
    path = os.fspath(standings_file)
    standings = _Object(_result(_read(standings_file), dict, standings_file), standings_file, "result")
    about = _Object(standings.get("contest", dict), standings_file, "result.contest")
    if about.get("id", int) != contest_id:
        raise WrongUse(f"{path}: field 'result.contest.id' must be {contest_id}, got {about.get('id', int)}.")
    changes = enumerate(_result(_read(changes_file), list, changes_file))
    changed = [_Object(change, changes_file, f"result[{i}]") for i, change in changes]
    old_ratings = {change.get("handle", str): change.get("oldRating", int) for change in changed}
    contestants = filter(None, map(_contestant, standings.objects("rows")))
    rows = [row for row in contestants if row[0] in old_ratings]
    if len({handle for handle, _, _ in rows}) < len(rows):
        raise WrongUse(f"{path}: a handle has two rows as contestant in field 'result.rows'.")
    if len(rows) < MIN_MATCHED * len(old_ratings):
        raise WrongUse(
            f"{path}: field 'result.rows' has {len(rows)} of the {len(old_ratings)} participants that "
            f"{os.fspath(changes_file)} names; save the whole standings, without from, count, "
            "room or handles."
        )
    if len(rows) < len(old_ratings):
        log.warning(
            "contest %d: %d of %d rated participants are not in its standings and do not count",
            contest_id,
            len(old_ratings) - len(rows),
            len(old_ratings),
        )
    name = about.get("name", str)
    problems = []
    for problem in standings.objects("problems"):
        index = problem.get("index", str)
        points = float(problem.get("points", _NUMBER)) if "points" in problem.value else None
        problems.append(ContestProblem(index=index, points=points))
    try:
        return Contest(
            contest_id=contest_id,
            name=name,
            problems=tuple(problems),
            points=np.array([points for _, points, _ in rows], float),
            penalties=np.array([penalty for _, _, penalty in rows], float),
            ratings=np.array([old_ratings[handle] for handle, _, _ in rows], int),
        )
    except WrongUse as error:
        raise WrongUse(f"{path}: {error}") from None


def _contestant(row: "_Object") -> tuple[str, float, float] | None:
    """Handle, points and penalty of a contestant on their own; None for other rows."""
    party = _Object(row.get("party", dict), row.file, f"{row.path}.party")
    members = party.objects("members")
    if party.get("participantType", str) != "CONTESTANT" or len(members) != 1:
        return None
    return (
        members[0].get("handle", str),
        float(row.get("points", _NUMBER)),
        float(row.get("penalty", _NUMBER)),
    )


@dataclasses.dataclass(frozen=True)
class _Object:
    """An object of a reply, with its file and its place there, as a dotted path, for messages."""

    value: Any
    file: epath.Path
    path: str

    def get(self, name: str, kind: Any) -> Any:
        """A field, of a type that is checked; booleans are no numbers."""
        where = f"{os.fspath(self.file)}: field '{self.path}.{name}'"
        if not isinstance(self.value, dict):
            raise WrongUse(f"{where}: what should have it is no object but {type(self.value).__name__}.")
        if name not in self.value:
            raise WrongUse(f"{where} is missing; save the reply of the API as it comes.")
        found = self.value[name]
        if not isinstance(found, kind) or isinstance(found, bool):
            expected = "number" if kind is _NUMBER else kind.__name__
            raise WrongUse(f"{where} must be {expected}, got {type(found).__name__}.")
        return found

    def objects(self, name: str) -> list["_Object"]:
        """The objects of a field that is a list."""
        found = enumerate(self.get(name, list))
        return [_Object(value, self.file, f"{self.path}.{name}[{i}]") for i, value in found]


def _result(reply: Any, kind: type, file: epath.Path) -> Any:
    """The result of a reply that says OK."""
    path = os.fspath(file)
    if not isinstance(reply, dict) or "status" not in reply:
        raise WrongUse(f"{path}: not a reply of the Codeforces API, which has 'status' and 'result'.")
    if reply["status"] != "OK":
        raise WrongUse(
            f"{path}: the reply's status is {reply['status']!r} ({reply.get('comment', 'no comment')}); save "
            "it again, or remove the contest's files to have the contest skipped."
        )
    if not isinstance(reply.get("result"), kind):
        raise WrongUse(
            f"{path}: field 'result' must be {kind.__name__}, got {type(reply.get('result')).__name__}."
        )
    return reply["result"]


def _file_of(path: epath.Path) -> epath.Path | None:
    """The file, or its compressed form; None if there is neither."""
    packed = path.parent / f"{path.name}.gz"
    if path.exists() and packed.exists():
        raise WrongUse(f"{os.fspath(path)}: the file is there plain and compressed; remove one.")
    return path if path.exists() else packed if packed.exists() else None


def _read(file: epath.Path) -> Any:
    data = file.read_bytes()
    try:
        return json.loads(gzip.decompress(data) if file.name.endswith(".gz") else data)
    except (ValueError, RecursionError, EOFError, OSError, zlib.error) as error:
        raise WrongUse(f"{os.fspath(file)}: not a JSON document ({error}).") from None


def slots_by_id(slots: Sequence[tuple[str, str, Slot | None]]) -> dict[str, Slot]:
    """Contest and index of each problem of a set, by the problem's id; empty if no row is of a contest.

    Args:
        slots: of each problem its id, where its row is, and what `slot_of` says of that.

    Raises:
        WrongUse: some rows say their place and others do not.
    """
    found = {problem_id: slot for problem_id, _, slot in slots if slot is not None}
    unplaced = next((where for _, where, slot in slots if slot is None), "")
    if found and unplaced:
        raise WrongUse(
            f"{unplaced}: the problem's contest is not stated, as that of others is; give the row "
            "the fields contest_id and index."
        )
    return found


def slot_of(row: rows.Row) -> Slot | None:
    """Contest and index in `contest_id` and `index`, or in `problem_id` or else `id`: 1998A, CF-1998-A.

    Raises:
        WrongUse: the contest's id is no number.
    """
    fields = row.fields
    if fields.get("contest_id") not in (None, "") and fields.get("index"):
        try:
            return int(fields["contest_id"]), str(fields["index"]).upper()
        except (TypeError, ValueError):
            raise WrongUse(
                f"{row.where}: field 'contest_id' must be a number, got {fields['contest_id']!r}."
            ) from None
    for name in ("problem_id", "id"):
        if match := _PROBLEM_NAME.fullmatch(str(fields.get(name, ""))):
            return int(match[1]), match[2].upper()
    return None


def rate_attempts(
    attempts: Sequence[AttemptRecord],
    placed: Mapping[str, Slot],
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
        placed: contest and index by the problem's id, see `slots_by_id`; other attempts are passed over.

    Raises:
        WrongUse: a problem is placed where its contest has none.
    """
    verdicts: dict[Slot, list[tuple[int, bool]]] = collections.defaultdict(list)
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


Rater = Callable[[Sequence[AttemptRecord]], dict[str, Any]]


def rater(
    placed: Mapping[str, Slot], directory: epath.PathLike, config: codeforces.RatingConfig
) -> Rater | None:
    """`rate_attempts` by the standings of a directory; None where no problem is of a contest."""
    if not placed:
        return None
    contests = read_contests(directory, {contest_id for contest_id, _ in placed.values()})
    users = read_user_ratings(directory)
    return lambda attempts: rate_attempts(attempts, placed, contests, users, config)
