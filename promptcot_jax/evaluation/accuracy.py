"""Accuracy of a policy: greedy, or over k samples (the paper reports avg@16), with pass@k and maj@k.

Every attempt is kept. An attempt that ran out of tokens is graded like any other and counted as cut off; one
whose prompt leaves no room, or whose reply the server held back, is wrong. A programming problem needs a
sandbox: where none works it is left out and counted as not graded. An attempt over which the grader or the
server itself failed has no part in the accuracy.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from promptcot_jax.core import jsonl, shards
from promptcot_jax.core.records import AttemptRecord, MathPrompt, ProgramPrompt, Prompt
from promptcot_jax.evaluation.solver_prompts import SolverPrompts
from promptcot_jax.parallel import hosts
from promptcot_jax.sampling.text_model import Reply, TextModel, TextRequest
from promptcot_jax.trainers import grading
from promptcot_jax.verify import math_answers, problem_accuracy, programs, voting
from promptcot_jax.verify.program_pool import Job
from promptcot_jax.verify.rewards import RunMany

_SHARD = 128  # attempts that are graded between two writes


def requests(
    problems: Sequence[Prompt], prompts: SolverPrompts, attempts_per_problem: int
) -> list[TextRequest]:
    """What the policy is asked, the attempts at a problem side by side."""
    return [
        TextRequest(id=problem.id, messages=prompts.messages(problem), sample=sample)
        for problem in problems
        for sample in range(attempts_per_problem)
    ]


def attempt_all(
    problems: Sequence[Prompt],
    policy: TextModel,
    directory: epath.PathLike,
    *,
    prompts: SolverPrompts,
    attempts_per_problem: int,
    run_programs: RunMany,
) -> list[AttemptRecord]:
    """Asks for all attempts (`replies.jsonl`), and grades them shard by shard (`attempts.jsonl`).

    All hosts ask; the first grades, since time limits could make verdicts differ, and all read them.

    Args:
        run_programs: see `program_pool.run_many`.
    """
    directory = epath.Path(directory)
    asked = requests(problems, prompts, attempts_per_problem)
    replies = policy.complete(asked, directory / "replies.jsonl")
    pairs = [(problems[i // attempts_per_problem], reply) for i, reply in enumerate(replies)]

    def grade() -> None:
        shards.map_in_shards(
            directory / "attempts.jsonl",
            pairs,
            lambda some: graded([problem for problem, _ in some], [reply for _, reply in some], run_programs),
            AttemptRecord,
            shard_size=_SHARD,
            name="grading",
        )

    hosts.wait_for_first("grade attempts", grade)
    return jsonl.read_file(directory / "attempts.jsonl", AttemptRecord)


def graded(
    problems: Sequence[Prompt], replies: Sequence[Reply], run_programs: RunMany
) -> list[AttemptRecord]:
    """The verdicts on replies: only a boxed answer, or the program in the last code fence, can be right."""
    pairs = list(zip(problems, replies, strict=True))
    answers = [grading.answer_of(problem, reply.text) for problem, reply in pairs]
    verdicts = _verdicts(pairs, answers, run_programs)
    return [
        AttemptRecord(
            problem_id=problem.id,
            sample=reply.sample,
            completion=reply.text,
            answer=answers[i],
            reference=problem.answer if isinstance(problem, MathPrompt) else "",
            correct=verdicts[i][0] if i in verdicts else False,
            status=verdicts[i][1] if i in verdicts else _why_no_answer(reply),
            finish_reason=reply.finish_reason,
            num_tokens=reply.completion_tokens,
        )
        for i, (problem, reply) in enumerate(pairs)
    ]


def _verdicts(
    pairs: Sequence[tuple[Prompt, Reply]], answers: Sequence[str], run_programs: RunMany
) -> dict[int, tuple[bool, str]]:
    """Whether the i-th reply is right, and the verdict's status, of the replies that have an answer."""
    jobs: dict[int, Job] = {}
    answered: dict[int, tuple[str, str]] = {}
    for i, ((problem, reply), answer) in enumerate(zip(pairs, answers, strict=True)):
        if answer and isinstance(problem, ProgramPrompt):
            jobs[i] = (programs.with_prelude(problem.prelude, answer), problem.tests)
        elif answer and isinstance(problem, MathPrompt):
            answered[i] = (problem.answer, reply.text)  # in full, since several boxes may be one answer
    reports = run_programs(list(jobs.values())) if jobs else ()
    grades = math_answers.grade_many(list(answered.values()))
    return {i: (report.passed, report.status) for i, report in zip(jobs, reports, strict=True)} | {
        i: (grade.match, grade.status) for i, grade in zip(answered, grades, strict=True)
    }


def _why_no_answer(reply: Reply) -> str:
    return "no_answer" if reply.finish_reason in ("stop", "length") else reply.finish_reason


def maj_at_k(attempts: Sequence[AttemptRecord]) -> float | None:
    """Share of mathematics problems whose most frequent answer is right, of all attempts at each.

    Equivalent answers vote together; attempts without an answer have no vote, and a problem without any vote
    is wrong. Of answers with equally many votes each counts by its share, as if one were drawn at random.
    None where nothing was graded.
    """
    by_problem: dict[str, list[AttemptRecord]] = collections.defaultdict(list)
    for attempt in attempts:
        if attempt.status not in problem_accuracy.NOT_GRADED:
            by_problem[attempt.problem_id].append(attempt)
    shares = []
    for own in by_problem.values():
        groups = voting.answer_groups([attempt.answer for attempt in own])
        tied = [group for group in groups if len(group.samples) == len(groups[0].samples)]
        right = [own[group.samples[0]].correct for group in tied]
        shares.append(float(np.mean(right)) if right else 0.0)
    return float(np.mean(shares)) if shares else None


def summary(
    attempts: Sequence[AttemptRecord],
    problems: Sequence[Prompt],
    *,
    why_not_graded: str = "",
    splits: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, Any]:
    """Accuracy with its errors and interval, pass@k, maj@k, and how the attempts ended.

    `problems` are those with an attempt that could be graded, which the accuracy is over; `not_graded` the
    others.

    Args:
        why_not_graded: why the problems without an attempt have none.
        splits: further groupings, e.g. {"family": {problem id: family}}, beside "level" and "domain".
    """
    attempts_of = collections.Counter(attempt.problem_id for attempt in attempts)
    attempted = [problem for problem in problems if problem.id in attempts_of]
    own_splits = {
        "level": {problem.id: problem.level or "not stated" for problem in attempted},
        "domain": {problem.id: problem.domain for problem in attempted},
    }
    graded_ids = problem_accuracy.verdicts_by_problem(attempts).keys()
    reasons = [why_not_graded] if len(attempted) < len(problems) and why_not_graded else []
    if lost := len(attempted) - len(graded_ids):
        reasons.append(f"grader or server failed over all attempts at {lost}")
    statuses = collections.Counter(attempt.status for attempt in attempts)
    most = max(attempts_of.values(), default=0)
    of_math = {problem.id for problem in attempted if isinstance(problem, MathPrompt)}
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64, 128) if k < most] + ([most] if most else [])
    return {
        **problem_accuracy.over_problems(attempts),
        "standard_error_samples": problem_accuracy.error_over_samples(attempts),
        "interval": problem_accuracy.interval(attempts),
        "pass_at_k": {str(k): problem_accuracy.pass_at_k(attempts, k) for k in ks},
        "maj_at_k": maj_at_k([a for a in attempts if a.problem_id in of_math]) if most > 1 else None,
        "problems": len(graded_ids),
        "attempts_per_problem": most,
        "correct_attempts": sum(attempt.correct for attempt in attempts),
        "cut_off_share": _share([attempt.finish_reason == "length" for attempt in attempts]),
        "no_answer_share": _share([not attempt.answer for attempt in attempts]),
        "status_shares": {status: count / len(attempts) for status, count in sorted(statuses.items())},
        "mean_tokens": float(np.mean([attempt.num_tokens for attempt in attempts])) if attempts else None,
        "not_graded": len(problems) - len(graded_ids),
        "not_graded_reason": "; ".join(reasons),
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
            "interval": problem_accuracy.interval(rows),
            "problems": len(problem_accuracy.verdicts_by_problem(rows)),
        }
        for group, rows in sorted(groups.items())
    }


def _share(flags: Sequence[bool]) -> float | None:
    return float(np.mean(flags)) if flags else None
