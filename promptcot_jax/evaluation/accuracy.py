"""Accuracy of a solver: greedy, or the average over k samples (avg@k; the paper reports avg@16).

Every attempt is kept. The standard error is over problems, since attempts at one problem are not independent.
An attempt that ran out of tokens is graded like any other and counted as cut off. A programming problem is
counted as not graded: its verdict needs the sandbox, which is not part of the system yet, and a guess would
be worse than none.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from etils import epath

from promptcot_jax.core import jsonl, shards
from promptcot_jax.core.records import SolvedMathProblem, SolvedProgramProblem
from promptcot_jax.sampling.rollouts import Request, RolloutConfig, requests_of
from promptcot_jax.verify import math_answers

WHY_NOT_GRADED = "programs are graded by running their tests in a sandbox, which is not built yet"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Solution:
    """What the solver wrote for one request."""

    text: str
    finish_reason: Literal["stop", "length"]
    num_tokens: int  # the end token included


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttemptRecord:
    """One graded attempt."""

    problem_id: str
    sample: int
    completion: str
    answer: str  # as extracted; empty where there is no box, and then never correct
    reference: str
    correct: bool
    finish_reason: Literal["stop", "length"]
    num_tokens: int


Solve = Callable[[Sequence[Request[SolvedMathProblem]]], list[Solution]]


def attempt_all(
    problems: Sequence[SolvedMathProblem | SolvedProgramProblem],
    *,
    solve: Solve,
    config: RolloutConfig,
    attempts_path: epath.PathLike,
) -> list[AttemptRecord]:
    """Attempts every mathematics problem and writes the graded attempts, shard by shard.

    Args:
        solve: samples one shard of requests, see `solver.solution_sampler`.
    """
    mathematical = [problem for problem in problems if isinstance(problem, SolvedMathProblem)]

    def solve_and_grade(shard: Sequence[Request[SolvedMathProblem]]) -> list[AttemptRecord]:
        return [graded(request, solution) for request, solution in zip(shard, solve(shard), strict=True)]

    return shards.map_in_shards(
        attempts_path,
        requests_of(mathematical, config.samples_per_row),
        solve_and_grade,
        AttemptRecord,
        shard_size=config.requests_per_shard,
        name="evaluate",
    )


def graded(request: Request[SolvedMathProblem], solution: Solution) -> AttemptRecord:
    """The verdict on one solution: only a boxed answer can be right."""
    answer = math_answers.extract_answer(solution.text) or ""
    return AttemptRecord(
        problem_id=request.row.id,
        sample=request.sample,
        completion=solution.text,
        answer=answer,
        reference=request.row.answer,
        correct=math_answers.grade_math(request.row.answer, answer),
        finish_reason=solution.finish_reason,
        num_tokens=solution.num_tokens,
    )


def summary(
    attempts: Sequence[AttemptRecord],
    problems: Sequence[SolvedMathProblem | SolvedProgramProblem],
    *,
    splits: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, Any]:
    """Accuracy with its standard error, and how the attempts ended.

    Args:
        splits: further groupings, e.g. {"family": {problem id: family}}; "level" is always there.
    """
    mathematical = [problem for problem in problems if isinstance(problem, SolvedMathProblem)]
    splits = {"level": {problem.id: problem.level or "not stated" for problem in mathematical}} | dict(
        splits or {}
    )
    attempts_of = collections.Counter(attempt.problem_id for attempt in attempts)
    num_programs = len(problems) - len(mathematical)
    return {
        **accuracy_over_problems(attempts),
        "problems": len(attempts_of),
        "attempts_per_problem": max(attempts_of.values(), default=0),
        "correct_attempts": sum(attempt.correct for attempt in attempts),
        "cut_off_share": _share([attempt.finish_reason == "length" for attempt in attempts]),
        "no_answer_share": _share([not attempt.answer for attempt in attempts]),
        "mean_tokens": float(np.mean([attempt.num_tokens for attempt in attempts])) if attempts else None,
        "not_graded": num_programs,
        "not_graded_reason": WHY_NOT_GRADED if num_programs else "",
        "splits": {name: _by_group(attempts, group_of) for name, group_of in splits.items()},
    }


def accuracy_over_problems(attempts: Sequence[AttemptRecord]) -> dict[str, float | None]:
    """Mean over problems of the share of right attempts, and its standard error; None where undefined."""
    verdicts: dict[str, list[bool]] = collections.defaultdict(list)
    for attempt in attempts:
        verdicts[attempt.problem_id].append(attempt.correct)
    shares = np.array([np.mean(row) for row in verdicts.values()])
    return {
        "accuracy": float(shares.mean()) if len(shares) else None,
        "standard_error": float(shares.std(ddof=1) / math.sqrt(len(shares))) if len(shares) > 1 else None,
    }


def _by_group(attempts: Sequence[AttemptRecord], group_of: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[AttemptRecord]] = collections.defaultdict(list)
    for attempt in attempts:
        if attempt.problem_id in group_of:
            groups[group_of[attempt.problem_id]].append(attempt)
    return {
        group: {
            **accuracy_over_problems(rows),
            "problems": len({row.problem_id for row in rows}),
        }
        for group, rows in sorted(groups.items())
    }


def _share(flags: Sequence[bool]) -> float | None:
    return float(np.mean(flags)) if flags else None


def write_results(path: epath.PathLike, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes `results.json`: {"results": {data set: summary with the solver and settings it belongs to}}."""
    jsonl.write_json(path, {"results": {name: dict(result) for name, result in results.items()}})
