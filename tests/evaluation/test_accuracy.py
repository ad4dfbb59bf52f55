"""Facts of solver accuracy: hand-computed means and errors, verdicts, what is not graded, resumption."""

import dataclasses
import json
import math

import pytest

from promptcot_jax.core import shards
from promptcot_jax.core.records import AttemptRecord, StdioTest, VerifiedMathPrompt, VerifiedProgramPrompt
from promptcot_jax.evaluation import accuracy
from promptcot_jax.verify import programs


def problem(name, answer, level="1"):
    return VerifiedMathPrompt(
        id=name, concepts=("sums",), level=level, problem=f"problem {name}", answer=answer
    )


PROBLEMS = [
    problem("a", "1/2"),
    problem("b", "7", level="2"),
    problem("c", "9", level="2"),
    VerifiedProgramPrompt(
        id="p",
        concepts=("loops",),
        problem="Add.",
        tests=(StdioTest(input="1", output="1"),),
    ),
]
TEXTS = {
    ("a", 0): r"\boxed{0.5}",
    ("a", 1): r"\boxed{\frac12}",
    ("b", 0): r"<think>\boxed{7}</think> so \boxed{8}",
    ("b", 1): r"\boxed{7}",
    ("c", 0): "the answer is 9",  # right, but not boxed
    ("c", 1): r"\boxed{",
}


def solve(requests):
    return [
        accuracy.Solution(
            text=TEXTS[r.row.id, r.sample],
            finish_reason="length" if r.row.id == "c" and r.sample == 1 else "stop",
            num_tokens=10 + r.index,
        )
        for r in requests
    ]


def attempt_all(problems, directory, *, solve=solve, run_programs=None):
    def in_shards(path, draws, grade):
        def work(some):
            return grade(some, solve(some))

        return shards.map_in_shards(path, draws, work, AttemptRecord, shard_size=4, name="attempts")

    return accuracy.attempt_all(
        problems,
        solve=in_shards,
        run_programs=run_programs,
        attempts_per_problem=2,
        attempts_path=directory / "attempts.jsonl",
    )


def test_accuracy_and_its_error_are_over_problems(tmp_path):
    attempts = attempt_all(PROBLEMS, tmp_path)
    assert [(a.problem_id, a.answer, a.correct) for a in attempts] == [
        ("a", "0.5", True),
        ("a", r"\frac12", True),
        ("b", "8", False),
        ("b", "7", True),
        ("c", "", False),
        ("c", "", False),
    ]
    result = accuracy.summary(attempts, PROBLEMS, splits={"family": {"a": "halves", "b": "primes"}})
    # Shares per problem: 1, 1/2, 0. Mean 1/2, sample variance 1/4, over three problems.
    assert result["accuracy"] == pytest.approx(0.5)
    assert result["standard_error"] == pytest.approx(math.sqrt(0.25 / 3))
    assert (result["problems"], result["attempts_per_problem"], result["correct_attempts"]) == (3, 2, 3)
    assert result["cut_off_share"] == pytest.approx(1 / 6)
    assert result["no_answer_share"] == pytest.approx(2 / 6)
    assert result["mean_tokens"] == pytest.approx(12.5)
    assert result["splits"]["level"]["2"]["accuracy"] == pytest.approx(0.25)
    assert result["splits"]["family"]["halves"] == {"accuracy": 1.0, "standard_error": None, "problems": 1}


def test_programs_without_a_sandbox_are_counted_and_never_scored(tmp_path):
    only_programs = [PROBLEMS[3]]
    attempts = attempt_all(only_programs, tmp_path)
    result = accuracy.summary(attempts, only_programs, why_not_graded="no sandbox works here")
    assert attempts == []
    assert (result["not_graded"], result["accuracy"], result["mean_tokens"]) == (1, None, None)
    assert "sandbox" in result["not_graded_reason"]
    accuracy.write_results(tmp_path / "results.json", {"held-out": result})
    assert json.loads((tmp_path / "results.json").read_text())["results"]["held-out"]["not_graded"] == 1


def test_programs_are_graded_beside_answers_and_failures_of_the_sandbox_do_not_count(tmp_path):
    writes = {
        ("p", 0): "<think>```python\nno\n```</think>First\n```\nno\n```\nthen\n```python\nright\n```",
        ("p", 1): "no fence",
        ("q", 0): "```python\nbroken\n```",
        ("q", 1): "```python\nright\n```",
        ("a", 0): r"\boxed{0.5}",
        ("a", 1): r"\boxed{2}",
    }
    verdicts = {"right": "passed", "broken": "sandbox_error"}
    problems = [PROBLEMS[3], dataclasses.replace(PROBLEMS[3], id="q"), PROBLEMS[0]]

    def solve(requests):
        return [
            accuracy.Solution(text=writes[r.row.id, r.sample], finish_reason="stop", num_tokens=1)
            for r in requests
        ]

    def run_programs(jobs):
        assert all(tests == PROBLEMS[3].tests for _, tests in jobs)
        statuses = [verdicts[program.strip()] for program, _ in jobs]
        return [programs.TestReport(passed=s == "passed", status=s, results=()) for s in statuses]

    attempts = attempt_all(problems, tmp_path, solve=solve, run_programs=run_programs)
    assert [(a.status, a.correct) for a in attempts] == [
        ("passed", True),
        ("no_answer", False),
        ("sandbox_error", False),
        ("passed", True),
        ("match", True),
        ("mismatch", False),
    ]
    result = accuracy.summary(attempts, problems)
    assert result["accuracy"] == pytest.approx((0.5 + 1.0 + 0.5) / 3)
    assert result["splits"]["domain"]["code"]["accuracy"] == pytest.approx(0.75)
    assert result["status_shares"]["sandbox_error"] == pytest.approx(1 / 6)
    assert (result["not_graded"], result["not_graded_reason"]) == (0, "")


def test_a_killed_evaluation_ends_in_the_same_bytes(tmp_path):
    attempt_all(PROBLEMS, tmp_path / "whole")
    calls = []

    def dies_once(requests):
        calls.append(len(requests))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return solve(requests)

    with pytest.raises(KeyboardInterrupt):
        attempt_all(PROBLEMS, tmp_path / "killed", solve=dies_once)
    attempt_all(PROBLEMS, tmp_path / "killed", solve=dies_once)
    assert calls == [4, 2, 2]
    assert (tmp_path / "killed" / "attempts.jsonl").read_bytes() == (
        tmp_path / "whole" / "attempts.jsonl"
    ).read_bytes()
