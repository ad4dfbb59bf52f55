"""`evaluate` and `compare` from the command line: endpoints, prompts, resumption, words, wrong use."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from promptcot_jax.core import jsonl
from promptcot_jax.core.records import AttemptedProblem, AttemptRecord
from promptcot_jax.run import cli
from tests import openai_server
from tests.evaluation import contests
from tests.openai_server import OpenAIServer, Say

PROBLEMS = [{"id": f"p{i}", "problem": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(4)]


def answer(body: dict[str, Any], number: int) -> openai_server.Play:
    """Right for two of the four problems; one reply is cut off."""
    asked = openai_server.question(body)
    i = next(i for i in range(4) if f"What is {i} + {i}?" in asked)
    if i == 3:
        return Say("I think so", finish_reason="length")
    return Say(f"So \\boxed{{{2 * i if i < 2 else 77}}}")


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PROBLEMS))
    return path


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer(answer) as running:
        yield running


def command(server: OpenAIServer, problems: Path, workdir: Path, *more: str) -> list[str]:
    return [
        "evaluate",
        "--gin_file=stages/evaluate_endpoint.gin",
        "--gin.SOLVER='oracle'",
        f"--gin.BASE_URL='{server.base_url}'",
        f"--gin.PROBLEMS=('{problems}',)",
        "--gin.ATTEMPTS=2",
        "--gin.CONCURRENCY=1",
        "--gin.ATTEMPT_TEMPERATURE=0.6",
        *more,
        f"--workdir={workdir}",
    ]


def results(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / "results.json").read_text())["results"]["sums"]


def test_a_policy_behind_an_endpoint_is_asked_once_for_each_attempt(
    tmp_path: Path, server: OpenAIServer, problems: Path
):
    arguments = command(server, problems, tmp_path / "run")
    assert cli.main(arguments) == 0
    found = results(tmp_path / "run")
    assert (found["accuracy"], found["maj_at_k"], found["pass_at_k"]) == (0.5, 0.5, {"1": 0.5, "2": 0.5})
    assert (found["cut_off_share"], found["no_answer_share"]) == (0.25, 0.25)
    assert found["standard_error_samples"] == 0.0
    low, high = found["interval"]
    assert 0.0 < low < 0.2
    assert 0.8 < high < 1.0
    assert (found["solver"], found["sampling"]["sampling"]["temperature"]) == ("oracle", 0.6)
    attempts = jsonl.read_records(tmp_path / "run" / "evaluate" / "attempts.jsonl", AttemptRecord)
    assert [(a.problem_id, a.sample) for a in attempts] == [(f"p{i}", k) for i in range(4) for k in range(2)]
    shutil.rmtree(tmp_path / "run" / "evaluate")
    (tmp_path / "run" / "results.json").unlink()
    assert cli.main(arguments) == 0  # replies that were paid are not asked for again
    assert sum(server.served.values()) == 8
    assert results(tmp_path / "run") == found


def test_rows_without_ids_are_rated_by_their_contest_and_bad_rows_left_out(
    tmp_path: Path, server: OpenAIServer
):
    rows = [
        {"problem": f"What is {i} + {i}?", "answer": str(2 * i), "contest_id": 12, "index": "AB"[i]}
        | {"family": ["sums", None][i]}
        for i in range(2)
    ]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"half": \n')
    ratings = {f"user{i}": 1000 + 4 * i for i in range(250)}
    standings = [([name], "CONTESTANT", 7.0 * i, 0) for i, name in enumerate(ratings)]
    problems = [{"index": "A", "points": 500.0}, {"index": "B", "points": 1000.0}]
    (tmp_path / "saved").mkdir()
    contests.write(
        tmp_path / "saved",
        12,
        contests.standings_reply(12, problems, standings),
        contests.changes_reply(12, ratings),
    )
    arguments = command(
        server, tmp_path / "sums.jsonl", tmp_path / "run", f"--gin.STANDINGS='{tmp_path / 'saved'}'"
    )
    assert cli.main(arguments) == 2  # the half row
    assert cli.main([*arguments, "--gin.BAD_ROWS='skip'"]) == 0
    found = results(tmp_path / "run")
    assert found["codeforces"]["num_contests"] == 1
    assert found["codeforces"]["rating"] > 1500
    assert {name: own["problems"] for name, own in found["splits"]["family"].items()} == {"sums": 1}
    asked = jsonl.read_records(tmp_path / "run" / "evaluate" / "problems.jsonl", AttemptedProblem)
    assert [(one.id, one.set) for one in asked] == [("sums-1", "sums"), ("sums-2", "sums")]


def test_the_wording_around_a_problem_is_a_setting(tmp_path: Path, server: OpenAIServer, problems: Path):
    wording = "--gin.solver_prompts.SolverPrompts.math_instruction='Box it.'"
    system = "--gin.solver_prompts.SolverPrompts.system='You add.'"
    assert cli.main(command(server, problems, tmp_path / "run", wording, system)) == 0
    assert server.asked[0]["messages"] == [
        {"role": "system", "content": "You add."},
        {"role": "user", "content": "What is 0 + 0?\n\nBox it."},
    ]
    assert results(tmp_path / "run")["prompts"]["math_instruction"] == "Box it."


def write_attempts(workdir: Path, right: str) -> None:
    records = [
        AttemptRecord(
            problem_id=f"p{i}",
            sample=0,
            completion="",
            answer="1",
            reference="1",
            correct=letter == "r",
            status="match" if letter == "r" else "mismatch",
            finish_reason="stop",
            num_tokens=3,
        )
        for i, letter in enumerate(right)
    ]
    jsonl.write_records(workdir / "evaluate" / "attempts.jsonl", records)


def test_two_workdirs_are_compared_by_their_names_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    first, second = tmp_path / "first", tmp_path / "second"
    write_attempts(first, "w" * 30 + "r" * 10)
    write_attempts(second, "r" * 30 + "r" * 10)
    assert cli.main(["compare", str(first), str(second)]) == 0
    found = json.loads((second / "comparisons" / "first.json").read_text())
    assert (found["first"], found["second"], found["difference"]) == (0.25, 1.0, 0.75)
    assert not found["is_within_noise"]
    assert found["p_value"] < 0.001
    write_attempts(second, "w" * 29 + "r" * 11)
    assert cli.main(["compare", str(first), str(second)]) == 0
    assert json.loads((second / "comparisons" / "first.json").read_text())["is_within_noise"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{tmp}/first"], "takes BASELINE and OTHER, got 1"),
        (["{tmp}/first", "{tmp}/nowhere"], "nowhere is no workdir"),
        (["{tmp}/empty", "{tmp}/first"], "empty has no attempts.*'evaluate' was done"),
        (["{tmp}/first", "{tmp}/others"], "no graded problem in common"),
        (["--gin_file=stages/compare.gin", "--workdir={tmp}/x"], "not set, though required: BASELINE"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path: Path, words: list[str], message: str, capsys):
    write_attempts(tmp_path / "first", "rw")
    (tmp_path / "empty").mkdir()
    rows = jsonl.read_records(tmp_path / "first" / "evaluate" / "attempts.jsonl", AttemptRecord)
    renamed = [jsonl.record_from_row(AttemptRecord, {**vars(r), "problem_id": "q"}, where="x") for r in rows]
    jsonl.write_records(tmp_path / "others" / "evaluate" / "attempts.jsonl", renamed)
    assert cli.main(["compare", *(word.format(tmp=tmp_path) for word in words)]) == 2
    said = capsys.readouterr().err
    assert re.search(message, said), said
    assert not (tmp_path / "nowhere").exists()
