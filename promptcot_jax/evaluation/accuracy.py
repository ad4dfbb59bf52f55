"""Accuracy of a solver: greedy, or the average over k samples (avg@k; the paper reports avg@16).

Every attempt is kept. The standard error is over problems, since attempts at one problem are not independent.
An attempt that ran out of tokens is graded like any other and counted as cut off. A programming problem needs
a sandbox: where none works it is left out and counted as not graded. An attempt over which the grader itself
failed has no part in the accuracy.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.core.records import AttemptRecord, VerifiedMathPrompt, VerifiedProgramPrompt
from promptcot_jax.sampling.rollouts import Draw, draws_of
from promptcot_jax.trainers import grading
from promptcot_jax.verify import math_answers, problem_accuracy, programs
from promptcot_jax.verify.program_pool import Job
from promptcot_jax.verify.programs import TestReport
from promptcot_jax.verify.rewards import RunMany

Problem = VerifiedMathPrompt | VerifiedProgramPrompt


@dataclasses.dataclass(frozen=True, kw_only=True)
class Solution:
    """What the solver wrote for one request."""

    text: str
    finish_reason: Literal["stop", "length"]
    num_tokens: int  # the end token included


Grade = Callable[[Sequence[Draw[Problem]], Sequence[Solution]], list[AttemptRecord]]
Solve = Callable[[epath.PathLike, Sequence[Draw[Problem]], Grade], list[AttemptRecord]]


def attempt_all(
    problems: Sequence[Problem],
    *,
    solve: Solve,
    run_programs: RunMany | None,
    attempts_per_problem: int,
    attempts_path: epath.PathLike,
) -> list[AttemptRecord]:
    """Attempts every problem that can be graded and writes the graded attempts, shard by shard.

    Args:
        solve: samples all draws and grades them into a file, see `solver.solution_sampler`.
        run_programs: see `program_pool.run_many`; None leaves programming problems out.
    """
    attempted = [p for p in problems if run_programs is not None or isinstance(p, VerifiedMathPrompt)]

    def grade(draws: Sequence[Draw[Problem]], solutions: Sequence[Solution]) -> list[AttemptRecord]:
        return graded(draws, solutions, run_programs or _no_programs)

    return solve(attempts_path, draws_of(attempted, attempts_per_problem), grade)


def _no_programs(jobs: Sequence[Job]) -> list[TestReport]:
    return []


def graded(
    draws: Sequence[Draw[Problem]], solutions: Sequence[Solution], run_programs: RunMany
) -> list[AttemptRecord]:
    """The verdicts on solutions: only a boxed answer, or the program in the last code fence, can be right."""
    answers = [
        grading.answer_of(draw.row, solution.text) for draw, solution in zip(draws, solutions, strict=True)
    ]
    reports = iter(
        run_programs(
            [
                (programs.with_prelude(draw.row.prelude, answer), draw.row.tests)
                for draw, answer in zip(draws, answers, strict=True)
                if answer and isinstance(draw.row, VerifiedProgramPrompt)
            ]
        )
    )
    grades = iter(
        math_answers.grade_many(
            (draw.row.answer, solution.text)  # in full, since several boxes may be one answer
            for draw, solution, answer in zip(draws, solutions, answers, strict=True)
            if answer and isinstance(draw.row, VerifiedMathPrompt)
        )
    )
    records = []
    for draw, solution, answer in zip(draws, solutions, answers, strict=True):
        problem, correct, status = draw.row, False, "no_answer"
        if answer and isinstance(problem, VerifiedProgramPrompt):
            report = next(reports)
            correct, status = report.passed, report.status
        elif answer and isinstance(problem, VerifiedMathPrompt):
            grade = next(grades)
            correct, status = grade.match, grade.status
        records.append(
            AttemptRecord(
                problem_id=problem.id,
                sample=draw.sample,
                completion=solution.text,
                answer=answer,
                reference=problem.answer if isinstance(problem, VerifiedMathPrompt) else "",
                correct=correct,
                status=status,
                finish_reason=solution.finish_reason,
                num_tokens=solution.num_tokens,
            )
        )
    return records


def summary(
    attempts: Sequence[AttemptRecord],
    problems: Sequence[Problem],
    *,
    why_not_graded: str = "",
    splits: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, Any]:
    """Accuracy with its standard error, and how the attempts ended.

    Args:
        why_not_graded: why the problems without an attempt have none.
        splits: further groupings, e.g. {"family": {problem id: family}}, beside "level" and "domain".
    """
    attempts_of = collections.Counter(attempt.problem_id for attempt in attempts)
    attempted = [problem for problem in problems if problem.id in attempts_of]
    own_splits = {
        "level": {problem.id: problem.level or "not stated" for problem in attempted},
        "domain": {p.id: "math" if isinstance(p, VerifiedMathPrompt) else "code" for p in attempted},
    }
    not_graded = len(problems) - len(attempted)
    statuses = collections.Counter(attempt.status for attempt in attempts)
    return {
        **problem_accuracy.over_problems(attempts),
        "problems": len(attempts_of),
        "attempts_per_problem": max(attempts_of.values(), default=0),
        "correct_attempts": sum(attempt.correct for attempt in attempts),
        "cut_off_share": _share([attempt.finish_reason == "length" for attempt in attempts]),
        "no_answer_share": _share([not attempt.answer for attempt in attempts]),
        "status_shares": {status: count / len(attempts) for status, count in sorted(statuses.items())},
        "mean_tokens": float(np.mean([attempt.num_tokens for attempt in attempts])) if attempts else None,
        "not_graded": not_graded,
        "not_graded_reason": why_not_graded if not_graded else "",
        "splits": {
            name: _by_group(attempts, group_of)
            for name, group_of in (own_splits | dict(splits or {})).items()
        },
    }


def _by_group(attempts: Sequence[AttemptRecord], group_of: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[AttemptRecord]] = collections.defaultdict(list)
    for attempt in attempts:
        if attempt.problem_id in group_of:
            groups[group_of[attempt.problem_id]].append(attempt)
    return {
        group: {
            **problem_accuracy.over_problems(rows),
            "problems": len({row.problem_id for row in rows}),
        }
        for group, rows in sorted(groups.items())
    }


def _share(flags: Sequence[bool]) -> float | None:
    return float(np.mean(flags)) if flags else None


def write_results(path: epath.PathLike, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes `results.json`: {"results": {data set: summary with the solver and settings it belongs to}}."""
    jsonl.write_json(path, {"results": {name: dict(result) for name, result in results.items()}})
