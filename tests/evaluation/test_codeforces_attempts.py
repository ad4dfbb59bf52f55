"""Facts of rating attempts: where problems are placed, which attempts count, what results.json gets."""

import json

import numpy as np
import pytest

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import AttemptRecord
from promptcot_jax.data import rows as data_rows
from promptcot_jax.evaluation import benchmarks, codeforces, contest_files
from tests.evaluation import contests

CONFIG = codeforces.RatingConfig(min_rated=10, resamples=50)


def placed(tmp_path, *rows):
    """The places of rows, by the ids of the problems that they become."""
    file = tmp_path / "codeforces.jsonl"
    file.write_text("".join(json.dumps({"problem": "x", "answer": "1"} | row) + "\n" for row in rows))
    found = benchmarks.read_set(file, of_contests=True)
    assert not found.slots or list(found.slots) == [problem.id for problem in found.problems]
    return found.slots


@pytest.mark.parametrize(
    ("row", "place"),
    [
        ({"contest_id": 1998, "index": "A", "problem_id": "2000B"}, (1998, "A")),
        ({"contest_id": "1998", "index": "c2"}, (1998, "C2")),
        ({"problem_id": "1998/E1"}, (1998, "E1")),
        ({"id": "1998A"}, (1998, "A")),
        ({"id": "CF-1998-A"}, (1998, "A")),
        ({"id": "codeforces_1998_a"}, (1998, "A")),
        ({"id": "x", "problem_id": "1998F"}, (1998, "F")),
        ({"id": 7, "contest_id": 1998, "index": "G"}, (1998, "G")),
        ({"task_id": "c1", "contest_id": 1998, "index": "H"}, (1998, "H")),
    ],
)
def test_a_row_says_its_contest_and_index(tmp_path, row, place):
    assert list(placed(tmp_path, row).values()) == [place]


@pytest.mark.parametrize("name", ["", "gsm8k-12", "12", "1998AB", "abc1998A", "A1998", "problem-12a-x"])
def test_rows_of_other_sets_have_no_place(tmp_path, name):
    assert placed(tmp_path, {"id": name}, {"problem": "x"}) == {}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "1998A"}, {"id": "sum"}], r"codeforces\.jsonl:2: the problem's contest is not stated"),
        ([{"id": "1998A"}, {"id": "1998/A"}], r"jsonl:2: problem 1998A is there twice, first at .*:1"),
        ([{"contest_id": "x", "index": "A"}], r"jsonl:1: field 'contest_id' must be a number, got 'x'"),
    ],
)  # fmt: skip
def test_sets_that_are_placed_in_part_or_twice_are_refused(tmp_path, rows, message):
    with pytest.raises(WrongUse, match=message):
        placed(tmp_path, *rows)


def test_rows_that_cannot_be_placed_can_be_skipped(tmp_path):
    file = tmp_path / "codeforces.jsonl"
    ids = [{"id": "1998A"}, {"contest_id": "x", "index": "A"}, {"id": "1998/A"}, {"id": "1998B"}]
    file.write_text("".join(json.dumps({"problem": "x", "answer": "1"} | row) + "\n" for row in ids))
    found = benchmarks.read_set(file, of_contests=True, bad_rows=data_rows.BadRows(action="skip"))
    assert found.slots == {"1998A": (1998, "A"), "1998B": (1998, "B")}


def attempt(problem, sample, status):
    return AttemptRecord(
        problem_id=problem,
        sample=sample,
        completion="",
        answer="",
        reference="",
        correct=status == "passed",
        status=status,
        finish_reason="stop",
        num_tokens=1,
    )


def contest(contest_id, num_rated=20):
    ratings = np.arange(num_rated) * 50 + 900
    return contests.contest(np.arange(num_rated) * 90.0, ratings, contest_id=contest_id)


def test_attempts_are_rated_in_the_order_of_their_samples(caplog):
    attempts = [
        attempt("one", 5, "passed"),
        attempt("one", 0, "wrong_answer"),
        attempt("one", 2, "timeout"),
        attempt("one", 1, "sandbox_error"),  # no part: two failures before the success, not four
        attempt("one", 4, "malformed"),
        attempt("two", 0, "passed"),
        attempt("lost", 0, "sandbox_error"),
        attempt("elsewhere", 0, "passed"),
        attempt("small", 0, "passed"),
        attempt("absent", 0, "passed"),
    ]
    placed = {"one": (1, "A"), "two": (1, "B"), "lost": (2, "A"), "small": (3, "A"), "absent": (4, "A")}
    some = [contest(1), contest(2), contest(3, 5)]
    found = contest_files.rate_attempts(attempts, placed, some, [1000, 4000], CONFIG)
    [row] = found["contests"]
    assert (row["contest_id"], row["points"], row["attempted"], row["problems"]) == (1, 400 + 1000, 2, 2)
    assert found["rating"] == row["rating"]
    assert (found["interval"], found["percentile"]) == (None, 50.0)
    assert found["skipped"] == {"few_rated": (3,), "no_standings": (4,)}
    assert (found["num_contests"], found["num_skipped"]) == (1, {"few_rated": 1, "no_standings": 1})
    assert found["ungraded_attempts"] == 3
    assert found["config"]["min_rated"] == 10
    assert json.loads(json.dumps(found, allow_nan=False))["contests"][0]["place"] == row["place"]
    assert "1 contests (3) are skipped: few_rated" in caplog.text


def test_problems_that_were_not_attempted_are_warned_of_and_not_solved(caplog):
    attempts = [attempt("a", 0, "passed"), attempt("b", 0, "passed")]
    both = {"a": (1, "A"), "b": (1, "B")}
    whole = contest_files.rate_attempts(attempts, both, [contest(1)], config=CONFIG)
    assert "not attempted" not in caplog.text
    part = contest_files.rate_attempts(attempts[:1], both, [contest(1)], config=CONFIG)
    assert "in 1 of 1 contests (1) some problems were not attempted" in caplog.text
    assert part["rating"] < whole["rating"]
    failed = [attempts[0], attempt("b", 0, "wrong_answer")]
    assert contest_files.rate_attempts(failed, both, [contest(1)], config=CONFIG)["rating"] == part["rating"]


def test_limits_are_counted_and_warned_of(caplog):
    attempts = [attempt("a", 0, "passed"), attempt("b", 0, "passed")]
    lone = contests.contest([10.0] * 20, [1500] * 20, contest_id=1)
    found = contest_files.rate_attempts(attempts, {"a": (1, "A"), "b": (1, "B")}, [lone], config=CONFIG)
    assert found["num_at_bound"] == {"lowest": 0, "highest": 1}
    assert found["rating"] == 1600
    assert "1 contests (1) end at a limit" in caplog.text


def test_nothing_to_rate_is_none_and_not_an_error():
    found = contest_files.rate_attempts([], {}, [contest(1)])
    assert (found["rating"], found["pooled_rating"], found["contests"], found["num_contests"]) == (
        None,
        None,
        (),
        0,
    )
