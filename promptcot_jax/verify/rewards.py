"""From verdicts to rewards: the paper's u(x, y), 1 where the answer is right or all tests pass, else 0.

Beyond the paper there are two named terms, off by default: the form of a response and its length. They are
added to the correctness, and never change it. Every reward carries the status of its verdict, so that
time-outs and missing answers show as rates of their own; what could not be graded for a reason that is not
the response's has no reward at all and is to be dropped from the batch.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

from promptcot_jax.core.records import ProgramTest
from promptcot_jax.core.settings import NonNegativeFloat, NonNegativeInt, PositiveFloat, settings
from promptcot_jax.verify import math_answers
from promptcot_jax.verify.math_answers import MathGrade
from promptcot_jax.verify.program_pool import Job
from promptcot_jax.verify.programs import TestReport

GradeMany = Callable[[Sequence[tuple[str, str]]], Sequence[MathGrade]]  # (reference, response) pairs
RunMany = Callable[[Sequence[Job]], Sequence[TestReport]]
# Statuses that say nothing of the response. A program that is too slow is wrong; an answer that takes long to
# compare may be right.
UNGRADED = frozenset({"sandbox_error", "error"})
UNGRADED_ANSWER = UNGRADED | {"timeout"}


@settings
class RewardConfig:
    """Which completions can be right, and weights of the terms beside correctness; the paper has none."""

    # Rules of `data.validity` that a completion must keep, as a teacher's trace must; "off": those of answers
    # alone, by which unfinished thinking has none.
    validity: Literal["off", "paper", "release"] = "paper"

    format_weight: NonNegativeFloat = 0.0
    length_weight: NonNegativeFloat = 0.0
    # Tokens at which the length term has reached -1; 0: there is no such term.
    length_limit: NonNegativeInt = 0
    length_buffer: NonNegativeInt = 0  # tokens before the limit over which it falls from 0 to -1

    # 'module:function' of (prompt, completion), in place of the graders: see `user_rewards`.
    function: str | None = None
    function_seconds: PositiveFloat = 60.0  # for one completion, by the clock

    def __post_init__(self) -> None:
        if self.length_buffer > self.length_limit:
            raise ValueError(
                f"length_buffer must be at most length_limit ({self.length_limit}), got {self.length_buffer}."
            )
        if self.length_weight and not self.length_limit:
            raise ValueError(f"length_weight is {self.length_weight}, but length_limit is not set.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reward:
    """One response's reward: correctness and the other terms, each by itself."""

    correct: float  # 0.0 or 1.0; of a user's own reward, anything between too
    format: float  # 1.0 where there is an answer, or a program, to grade; else 0.0
    length: float  # 0.0 for a short response down to -1.0 for one at the limit
    status: str  # of the verdict

    def total(self, config: RewardConfig) -> float:
        """Correctness and the weighted terms."""
        return self.correct + config.format_weight * self.format + config.length_weight * self.length


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ungraded:
    """A response without a verdict, through no fault of its own."""

    status: str


def math_rewards(
    references: Sequence[str],
    responses: Sequence[str],
    num_tokens: Sequence[int],
    config: RewardConfig,
    *,
    grade_many: GradeMany = math_answers.grade_many,
) -> list[Reward | Ungraded]:
    """Rewards of responses to mathematics problems, graded in one batch; only a boxed answer can be right."""
    boxed = [math_answers.extract_answer(response) is not None for response in responses]
    pairs = zip(references, responses, boxed, strict=True)
    grades = iter(grade_many([(reference, response) for reference, response, is_boxed in pairs if is_boxed]))
    unboxed = MathGrade(False, "no_answer")
    of_all = [next(grades) if is_boxed else unboxed for is_boxed in boxed]
    return [
        Ungraded(status=grade.status)
        if grade.status in UNGRADED_ANSWER
        else _reward(grade.status, grade.match, grade.status != "no_answer", length, config)
        for grade, length in zip(of_all, num_tokens, strict=True)
    ]


def program_rewards(
    programs: Sequence[str | None],
    tests: Sequence[Sequence[ProgramTest]],
    num_tokens: Sequence[int],
    config: RewardConfig,
    *,
    run_many: RunMany,
) -> list[Reward | Ungraded]:
    """Rewards of responses to programming problems, graded in one batch.

    Args:
        programs: None for a response without a program, which has status `no_program`.
        tests: of each response's problem.
        run_many: see `program_pool.run_many`, with its settings filled in.
    """
    jobs = [(p, t) for p, t in zip(programs, tests, strict=True) if p is not None]
    reports = iter(run_many(jobs))
    of_all = [None if program is None else next(reports) for program in programs]
    return [
        _reward("no_program", False, False, length, config)
        if report is None
        else _reward(report.status, report.passed, True, length, config)
        for report, length in zip(of_all, num_tokens, strict=True)
    ]


def _reward(
    status: str, is_right: bool, has_answer: bool, num_tokens: int, config: RewardConfig
) -> Reward | Ungraded:
    if status in UNGRADED:
        return Ungraded(status=status)
    return Reward(
        correct=float(is_right),
        format=float(has_answer),
        length=length_term(num_tokens, config),
        status=status,
    )


def length_term(num_tokens: int, config: RewardConfig) -> float:
    """0 up to the buffer before the limit, then linearly down to -1 (DAPO, arXiv 2503.14476, equation 13)."""
    if not config.length_limit:
        return 0.0
    excess = num_tokens - (config.length_limit - config.length_buffer)
    if excess <= 0:
        return 0.0
    return -1.0 if excess >= config.length_buffer else -excess / config.length_buffer
