"""Facts about answers that attack the grader: a plain non-match, soon, in bounds, and nothing run."""

import os
import pathlib
import random
import time
from typing import Any

import pytest

from promptcot_jax.verify import grading_pool, math_answers
from tests.verify import hostile_answers


@pytest.fixture
def canary(tmp_path, monkeypatch) -> pathlib.Path:
    monkeypatch.chdir(tmp_path)  # where a payload without a path would leave its trace
    return tmp_path / "canary"


def test_there_are_enough_of_them():
    answers = hostile_answers.hostile_answers("canary")
    assert len(set(answers)) >= 120


def test_code_in_disguise_and_strange_texts_do_not_match(canary):
    answers = hostile_answers.code_in_disguise(str(canary)) + list(hostile_answers.STRANGE)
    _assert_plain_non_matches(answers)
    assert os.listdir(canary.parent) == []


def test_large_texts_and_towers_do_not_match(canary):
    _assert_plain_non_matches(hostile_answers.LARGE + hostile_answers.TOWERS)


def test_random_bytes_do_not_match(canary):
    draw = random.Random(0)
    texts: list[Any] = [draw.randbytes(draw.randint(1, 60)) for _ in range(10_000)]
    assert not any(math_answers.grade_math("3", text) for text in texts)
    as_texts = [text.decode("latin-1" if i % 2 else "utf-8", "replace") for i, text in enumerate(texts)]
    begun = time.monotonic()
    grades = math_answers.grade_many([("x+3", text) for text in as_texts])
    assert time.monotonic() - begun < 100.0
    assert {grade.status for grade in grades} <= {"mismatch", "no_answer"}


@pytest.mark.slow
def test_endless_computations_do_not_match(canary):
    _assert_plain_non_matches(hostile_answers.ENDLESS)


def _assert_plain_non_matches(answers):
    math_answers.grade_many([("x+1", "1+x")])  # a worker is there
    for answer in answers:
        start = time.monotonic()
        (grade,) = math_answers.grade_many([("3", answer)])
        assert not grade.match, answer[:100]
        assert grade.status in ("mismatch", "no_answer", "timeout"), answer[:100]
        assert time.monotonic() - start < 15.0, answer[:100]  # of 2 s of processor time, on a busy machine
    for worker in grading_pool.shared_pool()._workers:
        status = pathlib.Path(f"/proc/{worker._process.pid}/status").read_text()
        assert int(status.partition("VmPeak:")[2].split()[0]) * 1_024 < 2**30
