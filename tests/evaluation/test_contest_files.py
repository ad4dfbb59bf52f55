"""Facts of the directory of saved API replies: who counts, what is skipped, what messages name."""

import copy
import gzip
import json

import numpy as np
import pytest

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.evaluation import contest_files
from promptcot_jax.evaluation.codeforces import ContestProblem
from tests.evaluation import contests

PROBLEMS = [{"index": "A", "points": 500.0}, {"index": "B1"}]
ROWS = [
    (["ann"], "CONTESTANT", 900.0, 0),
    (["bob"], "OUT_OF_COMPETITION", 800.0, 0),
    (["eve", "di"], "CONTESTANT", 700.0, 0),
    (["eve"], "CONTESTANT", 500, 7),
    (["flo"], "CONTESTANT", 400.0, 0),
    (["ann"], "PRACTICE", 900.0, 0),
]
OLD = {"eve": 1500, "ann": 2100}
STANDINGS = contests.standings_reply(12, PROBLEMS, ROWS)
CHANGES = contests.changes_reply(12, OLD)


def test_rated_contestants_count_with_the_rating_they_came_with(tmp_path):
    contests.write(tmp_path, 12, STANDINGS, CHANGES)
    [contest] = contest_files.read_contests(tmp_path, [12])
    assert (contest.contest_id, contest.name) == (12, "Round 12")
    assert contest.problems == (
        ContestProblem(index="A", points=500.0),
        ContestProblem(index="B1", points=None),
    )
    assert list(contest.points) == [900, 500]
    assert list(contest.penalties) == [0, 7]
    assert list(contest.ratings) == [2100, 1500]


def test_contests_without_files_are_left_out_and_compressed_files_read(tmp_path):
    contests.write(tmp_path, 12, STANDINGS, CHANGES)
    for file in list(tmp_path.iterdir()):
        (tmp_path / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    contests.write(tmp_path, 7, contests.standings_reply(7, PROBLEMS, ROWS), contests.changes_reply(7, OLD))
    found = contest_files.read_contests(tmp_path, [99, 12, 7, 12])
    assert [contest.contest_id for contest in found] == [7, 12]
    assert list(found[1].ratings) == [2100, 1500]


def test_an_unrated_contest_has_nobody(tmp_path):
    contests.write(tmp_path, 12, STANDINGS, contests.changes_reply(12, {}))
    assert contest_files.read_contests(tmp_path, [12])[0].num_rated == 0


def test_a_few_renamed_handles_are_missed_and_logged_and_many_refused(tmp_path, caplog):
    rows = [([f"user{i}"], "CONTESTANT", 1000.0 - i, 0) for i in range(40)]
    old = {f"user{i}": 1500 + i for i in range(40)}
    standings = contests.standings_reply(12, PROBLEMS, rows)
    contests.write(tmp_path, 12, standings, contests.changes_reply(12, {**old, "renamed": 1700}))
    assert contest_files.read_contests(tmp_path, [12])[0].num_rated == 40
    assert "1 of 41 rated participants" in caplog.text
    standings["result"]["rows"] = standings["result"]["rows"][:30]
    contests.write(tmp_path, 12, standings, contests.changes_reply(12, old))
    with pytest.raises(
        WrongUse, match=r"'result.rows' has 30 of the 40 participants .* save the whole standings"
    ):
        contest_files.read_contests(tmp_path, [12])


def changed(reply, path, value):
    """The reply with the field at the path set; None removes it."""
    reply = copy.deepcopy(reply)
    *parents, last = path
    inner = reply
    for part in parents:
        inner = inner[part]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return reply


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["status"], "FAILED", "status is 'FAILED'"),
        (["status"], None, "not a reply of the Codeforces API"),
        (["result"], [], "'result' must be dict, got list"),
        (["result"], None, "'result' must be dict, got NoneType"),
        (["result", "contest"], None, "'result.contest' is missing"),
        (["result", "contest", "id"], 13, "'result.contest.id' must be 12, got 13"),
        (["result", "problems"], None, "'result.problems' is missing"),
        (["result", "problems", 1, "index"], 3, r"'result.problems\[1\].index' must be str, got int"),
        (["result", "problems", 0, "points"], "x", r"'result.problems\[0\].points' must be number, got str"),
        (["result", "problems", 0], "x", r"'result.problems\[0\].index': what should have it is no object"),
        (["result", "rows", 3, "points"], True, r"'result.rows\[3\].points' must be number, got bool"),
        (["result", "rows", 3, "penalty"], None, r"'result.rows\[3\].penalty' is missing"),
        (["result", "rows", 2, "party"], None, r"'result.rows\[2\].party' is missing"),
        (["result", "rows", 3, "party", "members"], {}, r"\[3\].party.members' must be list, got dict"),
        (["result", "rows", 4, "party", "members", 0, "handle"], None, r"\[4\].*\[0\].handle' is missing"),
        (["result", "rows", 5, "party", "participantType"], "CONTESTANT", "a handle has two rows"),
        (["result", "problems", 1, "index"], "A", "different indices"),
    ],
)  # fmt: skip
def test_bad_standings_are_refused_by_file_and_field(tmp_path, path, value, message):
    contests.write(tmp_path, 12, changed(STANDINGS, path, value), CHANGES)
    with pytest.raises(WrongUse, match=message) as error:
        contest_files.read_contests(tmp_path, [12])
    assert "contest_12.standings.json: " in str(error.value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["status"], "FAILED", "status is 'FAILED'"),
        (["result"], {}, "'result' must be list, got dict"),
        (["result", 1, "oldRating"], None, r"'result\[1\].oldRating' is missing"),
        (["result", 1, "oldRating"], 1400.5, r"'result\[1\].oldRating' must be int, got float"),
        (["result", 0, "handle"], 7, r"'result\[0\].handle' must be str, got int"),
    ],
)
def test_bad_rating_changes_are_refused_by_file_and_field(tmp_path, path, value, message):
    contests.write(tmp_path, 12, STANDINGS, changed(CHANGES, path, value))
    with pytest.raises(WrongUse, match=r"contest_12\.rating_changes\.json.*" + message):
        contest_files.read_contests(tmp_path, [12])


def test_the_comment_of_a_failed_reply_is_shown(tmp_path):
    contests.write(tmp_path, 12, STANDINGS, {"status": "FAILED", "comment": "Call limit exceeded"})
    with pytest.raises(WrongUse, match="'FAILED' .Call limit exceeded.; save it again"):
        contest_files.read_contests(tmp_path, [12])


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 200_000])
def test_files_that_are_no_json_are_refused(tmp_path, data):
    contests.write(tmp_path, 12, STANDINGS, CHANGES)
    (tmp_path / "contest_12.standings.json").write_bytes(data)
    with pytest.raises(WrongUse, match=r"contest_12\.standings\.json: not a JSON document"):
        contest_files.read_contests(tmp_path, [12])


@pytest.mark.parametrize("cut", [5, 60, None])
def test_broken_compressed_files_are_refused(tmp_path, cut):
    contests.write(tmp_path, 12, STANDINGS, CHANGES)
    file = tmp_path / "contest_12.standings.json"
    packed = gzip.compress(file.read_bytes())[:cut] if cut else b"not gzip at all"
    file.unlink()
    (tmp_path / f"{file.name}.gz").write_bytes(packed)
    with pytest.raises(WrongUse, match=r"contest_12\.standings\.json\.gz: not a JSON document"):
        contest_files.read_contests(tmp_path, [12])


def test_files_that_are_missing_or_there_twice_are_refused(tmp_path):
    with pytest.raises(WrongUse, match="nowhere: no such directory"):
        contest_files.read_contests(tmp_path / "nowhere", [12])
    contests.write(tmp_path, 12, STANDINGS, CHANGES)
    (tmp_path / "contest_12.standings.json.gz").write_bytes(b"")
    with pytest.raises(WrongUse, match="plain and compressed"):
        contest_files.read_contests(tmp_path, [12])
    (tmp_path / "contest_12.standings.json.gz").unlink()
    (tmp_path / "contest_12.rating_changes.json").unlink()
    with pytest.raises(WrongUse, match=r"contest_12\.rating_changes\.json: no such file"):
        contest_files.read_contests(tmp_path, [12])


@pytest.mark.parametrize(
    "users",
    [
        {"status": "OK", "result": [{"handle": "a", "rating": 900}, {"handle": "b", "rating": 1500}] * 2},
        [900, 1500, 900.0, 1500],
        {"900": 2, "1500": 2, "1600": 0},
    ],
)
def test_users_ratings_are_read_in_three_shapes(tmp_path, users):
    (tmp_path / "rated_users.json").write_text(json.dumps(users))
    np.testing.assert_array_equal(np.sort(contest_files.read_user_ratings(tmp_path)), [900, 900, 1500, 1500])


def test_without_users_ratings_there_are_none(tmp_path):
    assert len(contest_files.read_user_ratings(tmp_path)) == 0


@pytest.mark.parametrize(
    ("users", "message"),
    [
        ({"status": "OK", "result": [{"handle": "a"}]}, r"\[0\].rating' is missing"),
        ({"status": "FAILED"}, "status is 'FAILED'"),
        ([900, "x"], r"'\[1\].rating': what should have it is no object"),
        ([True], "no object but bool"),
        ({"900": -1}, "'900' must be a number of users, got -1"),
        ({"high": 1}, "'high' is no rating"),
        ({"nan": 1}, "finite"),
        ([], "one user's rating at least"),
        ("x", "not a reply"),
    ],
)
def test_bad_users_ratings_are_refused(tmp_path, users, message):
    (tmp_path / "rated_users.json").write_text(json.dumps(users))
    with pytest.raises(WrongUse, match=r"rated_users\.json.*" + message):
        contest_files.read_user_ratings(tmp_path)
