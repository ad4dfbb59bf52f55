"""Facts of solver accuracy: hand-computed means and errors, verdicts, what is not graded, resumption."""

import dataclasses
import json
import math

import pytest

from promptcot_jax.core import jsonl
from promptcot_jax.core.records import AttemptRecord, MathPrompt, ProgramPrompt, StdioTest
from promptcot_jax.evaluation import accuracy
from promptcot_jax.evaluation.solver_prompts import SolverPrompts
from promptcot_jax.sampling.text_model import Reply
from promptcot_jax.verify import programs


def problem(name, answer, level="1"):
    return MathPrompt(id=name, concepts=("sums",), level=level, problem=f"problem {name}", answer=answer)


PROBLEMS = [
    problem("a", "1/2"),
    problem("b", "7", level="2"),
    problem("c", "9", level="2"),
    ProgramPrompt(
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


@dataclasses.dataclass
class Solver:
    """Answers by a table, as `TextModel`s do."""

    texts: dict[tuple[str, int], str]
    endings: dict[tuple[str, int], str] = dataclasses.field(default_factory=dict)
    name: str = "table"

    def check_cost(self, requests):
        return 0.0

    def complete(self, requests, path):
        return [
            Reply(
                id=request.id,
                sample=request.sample,
                text=self.texts[request.id, request.sample],
                finish_reason=self.endings.get((request.id, request.sample), "stop"),
                prompt_tokens=1,
                completion_tokens=10 + i,
            )
            for i, request in enumerate(requests)
        ]


SOLVER = Solver(TEXTS, {("c", 1): "length"})


def attempt_all(problems, directory, *, solver=SOLVER, run_programs=None):
    return accuracy.attempt_all(
        problems,
        solver,
        directory,
        prompts=SolverPrompts(),
        attempts_per_problem=2,
        run_programs=run_programs or (lambda jobs: []),
    )


def test_accuracy_and_its_error_are_over_problems(tmp_path):
    attempts = attempt_all(PROBLEMS[:3], tmp_path)
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
    halves = result["splits"]["family"]["halves"]
    assert (halves["accuracy"], halves["standard_error"], halves["problems"]) == (1.0, None, 1)
    low, high = halves["interval"]  # one problem says little
    assert low < 0.4
    assert high == 1.0


def test_problems_without_a_graded_attempt_are_not_among_those_that_the_accuracy_is_over(tmp_path):
    attempts = attempt_all(PROBLEMS[:3], tmp_path)
    lost = [dataclasses.replace(a, status="error") if a.problem_id != "a" else a for a in attempts]
    result = accuracy.summary(lost, PROBLEMS, why_not_graded="no sandbox works here")
    assert (result["accuracy"], result["problems"], result["not_graded"]) == (1.0, 1, 3)
    assert result["not_graded_reason"] == (
        "no sandbox works here; grader or server failed over all attempts at 2"
    )
    level = result["splits"]["level"]["2"]
    assert (level["accuracy"], level["interval"], level["problems"]) == (None, None, 0)


def test_programs_without_a_sandbox_are_counted_and_never_scored(tmp_path):
    only_programs = [PROBLEMS[3]]
    result = accuracy.summary([], only_programs, why_not_graded="no sandbox works here")
    assert (result["not_graded"], result["accuracy"], result["mean_tokens"]) == (1, None, None)
    assert "sandbox" in result["not_graded_reason"]
    jsonl.write_json(tmp_path / "results.json", {"results": {"held-out": result}})
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

    def run_programs(jobs):
        assert all(tests == PROBLEMS[3].tests for _, tests in jobs)
        statuses = [verdicts[program.strip()] for program, _ in jobs]
        return [programs.TestReport(passed=s == "passed", status=s, results=()) for s in statuses]

    attempts = attempt_all(problems, tmp_path, solver=Solver(writes), run_programs=run_programs)
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


def test_a_killed_grading_ends_in_the_same_bytes_and_grades_nothing_twice(tmp_path, monkeypatch):
    attempt_all(PROBLEMS[:3], tmp_path / "whole")
    monkeypatch.setattr(accuracy, "_SHARD", 4)
    calls, graded = [], accuracy.graded

    def dies_once(problems, *rest):
        calls.append(len(problems))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return graded(problems, *rest)

    monkeypatch.setattr(accuracy, "graded", dies_once)
    with pytest.raises(KeyboardInterrupt):
        attempt_all(PROBLEMS[:3], tmp_path / "killed")
    attempt_all(PROBLEMS[:3], tmp_path / "killed")
    assert calls == [4, 2, 2]
    assert (tmp_path / "killed" / "attempts.jsonl").read_bytes() == (
        tmp_path / "whole" / "attempts.jsonl"
    ).read_bytes()


def test_replies_that_are_none_are_wrong_unless_the_server_failed(tmp_path):
    texts = {("a", 0): "", ("a", 1): r"\boxed{1/2}", ("b", 0): "", ("b", 1): ""}
    endings = {("a", 0): "malformed", ("b", 0): "filtered", ("b", 1): "too_long"}
    attempts = attempt_all(PROBLEMS[:2], tmp_path, solver=Solver(texts, endings))
    assert [a.status for a in attempts] == ["malformed", "match", "filtered", "too_long"]
    result = accuracy.summary(attempts, PROBLEMS[:2])
    assert result["accuracy"] == pytest.approx(0.5)  # a by its one graded attempt, b by two wrong ones
    assert result["pass_at_k"] == {"1": pytest.approx(0.5), "2": None}


def votes(**answers):
    """Attempts with the answers given; an upper-case one is right, a dot is none."""
    return [
        AttemptRecord(
            problem_id=name,
            sample=i,
            completion="",
            answer="" if letter == "." else letter.lower(),
            reference="",
            correct=letter.isupper(),
            status="no_answer" if letter == "." else "match" if letter.isupper() else "mismatch",
            finish_reason="stop",
            num_tokens=1,
        )
        for name, letters in answers.items()
        for i, letter in enumerate(letters)
    ]


@pytest.mark.parametrize(
    ("letters", "share"),
    [
        ("AAb.", 1.0),
        ("bbA.", 0.0),
        ("Ab..", 0.5),  # one vote each: a coin decides
        ("AAbbcc", 1 / 3),
        ("....", 0.0),  # nothing to vote on
        ("b...A", 0.5),  # attempts without an answer do not outvote
    ],
)
def test_the_most_frequent_answer_counts_and_ties_by_their_share(letters, share):
    assert accuracy.maj_at_k(votes(p=letters)) == pytest.approx(share)


def test_votes_are_means_over_problems_and_equivalent_answers_vote_together():
    assert accuracy.maj_at_k(votes(p="AAb", q="bbA", r="Ab")) == pytest.approx(0.5)
    halves = [
        dataclasses.replace(attempt, answer=answer)
        for attempt, answer in zip(votes(p="AAbb"), ("1/2", "0.5", "3", "4"), strict=True)
    ]
    assert accuracy.maj_at_k(halves) == 1.0
    assert accuracy.maj_at_k([]) is None
