"""Standings of Codeforces contests out of a directory of the public API's own replies; nothing is downloaded.

The directory holds, each as the API returned it, or compressed (`.json.gz`):

* `contest_ID.standings.json`: `contest.standings?contestId=ID`,
* `contest_ID.rating_changes.json`: `contest.ratingChanges?contestId=ID`,
* `rated_users.json`, for the percentile and if there is to be one: `user.ratedList`. Two other shapes are
  read too: a list of ratings, and an object of how many users have each rating.

`docs/codeforces.md` says how to save them and names the fields. Of the rows of the standings those count that
are a contestant's (not virtual, in practice or out of competition) and whose handle the rating changes name.
"""

import gzip
import json
import logging
import math
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from promptcot_jax.core.arrays import Float
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.evaluation.contest_standings import Contest, ContestProblem

log = logging.getLogger(__name__)

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
        return _from_histogram(reply, file)
    users = reply if isinstance(reply, list) else _result(reply, list, file)
    ratings = [
        float(user if type(user) in _NUMBER else _field(user, "rating", _NUMBER, _At(file, f"[{i}]")))
        for i, user in enumerate(users)
    ]
    return _finite(ratings, file)


def _from_histogram(histogram: Mapping[str, Any], file: epath.Path) -> Float[np.ndarray, " N"]:
    ratings, counts = [], []
    for rating, count in histogram.items():
        if type(count) is not int or count < 0:
            raise WrongUse(f"{os.fspath(file)}: field '{rating}' must be a number of users, got {count!r}.")
        try:
            ratings.append(float(rating))
        except ValueError:
            raise WrongUse(f"{os.fspath(file)}: field '{rating}' is no rating.") from None
        counts.append(count)
    return np.repeat(_finite(ratings, file), counts)


def _finite(ratings: Sequence[float], file: epath.Path) -> Float[np.ndarray, " N"]:
    if not ratings or not all(map(math.isfinite, ratings)):
        raise WrongUse(f"{os.fspath(file)}: it must hold one user's rating at least, and finite ones.")
    return np.array(ratings, float)


def _contest(contest_id: int, standings_file: epath.Path, changes_file: epath.Path) -> Contest:
    standings = _result(_read(standings_file), dict, standings_file)
    at = _At(standings_file, "result")
    about = _field(standings, "contest", dict, at)
    if _field(about, "id", int, at + ".contest") != contest_id:
        raise WrongUse(f"{at.path}: field 'result.contest.id' must be {contest_id}, got {about['id']}.")
    old_ratings = _old_ratings(changes_file)
    rows = [
        row
        for i, one in enumerate(_field(standings, "rows", list, at))
        if (row := _row(one, at + f".rows[{i}]")) and row[0] in old_ratings
    ]
    handles = {handle for handle, _, _ in rows}
    if len(handles) < len(rows):
        raise WrongUse(f"{at.path}: a handle has two rows as contestant in field 'result.rows'.")
    if len(rows) < MIN_MATCHED * len(old_ratings):
        raise WrongUse(
            f"{at.path}: field 'result.rows' has {len(rows)} of the {len(old_ratings)} participants that "
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
    problems = tuple(
        _problem(problem, at + f".problems[{i}]")
        for i, problem in enumerate(_field(standings, "problems", list, at))
    )
    name = _field(about, "name", str, at + ".contest")
    try:
        return Contest(
            contest_id=contest_id,
            name=name,
            problems=problems,
            points=np.array([points for _, points, _ in rows], float),
            penalties=np.array([penalty for _, _, penalty in rows], float),
            ratings=np.array([old_ratings[handle] for handle, _, _ in rows], int),
        )
    except WrongUse as error:
        raise WrongUse(f"{at.path}: {error}") from None


def _old_ratings(file: epath.Path) -> dict[str, int]:
    """Rating of each rated participant before the contest."""
    ratings = {}
    for i, change in enumerate(_result(_read(file), list, file)):
        at = _At(file, f"result[{i}]")
        ratings[_field(change, "handle", str, at)] = _field(change, "oldRating", int, at)
    return ratings


def _problem(problem: Any, at: "_At") -> ContestProblem:
    index = _field(problem, "index", str, at)
    points = float(_field(problem, "points", _NUMBER, at)) if "points" in problem else None
    return ContestProblem(index=index, points=points)


def _row(row: Any, at: "_At") -> tuple[str, float, float] | None:
    """Handle, points and penalty of a contestant on their own; None for other rows."""
    party = _field(row, "party", dict, at)
    members = _field(party, "members", list, at + ".party")
    contestant = _field(party, "participantType", str, at + ".party") == "CONTESTANT"
    if not contestant or len(members) != 1:
        return None
    handle = _field(members[0], "handle", str, at + ".party.members[0]")
    return handle, float(_field(row, "points", _NUMBER, at)), float(_field(row, "penalty", _NUMBER, at))


class _At:
    """A place in a file, for messages: its fields as a dotted path."""

    def __init__(self, file: epath.Path, fields: str):
        self._file, self._fields = file, fields

    def __add__(self, more: str) -> "_At":
        return _At(self._file, self._fields + more)

    @property
    def path(self) -> str:
        return os.fspath(self._file)

    def field(self, name: str) -> str:
        return f"{self.path}: field '{self._fields}.{name}'"


def _field(value: Any, name: str, kind: Any, at: _At) -> Any:
    """A field of an object of the reply, of a type that is checked; booleans are no numbers."""
    if not isinstance(value, dict):
        raise WrongUse(f"{at.field(name)}: what should have it is no object but {type(value).__name__}.")
    if name not in value:
        raise WrongUse(f"{at.field(name)} is missing; save the reply of the API as it comes.")
    found = value[name]
    if not isinstance(found, kind) or isinstance(found, bool):
        names = "number" if kind is _NUMBER else kind.__name__
        raise WrongUse(f"{at.field(name)} must be {names}, got {type(found).__name__}.")
    return found


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
