"""Solutions of open problems by a model: what they box, or the programs in their last fence."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal

from promptcot_jax.core.settings import Range, settings
from promptcot_jax.data import templates
from promptcot_jax.sampling.text_model import FinishReason, Reply, TextRequest
from promptcot_jax.synthesis import teacher_replies
from promptcot_jax.synthesis.problem_files import OpenProblem
from promptcot_jax.synthesis.teacher_replies import Unusable
from promptcot_jax.verify import boxes

SolutionStatus = Literal[
    "answered", "no_answer", FinishReason
]  # a finish reason: the solution does not count


@settings
class SolveConfig:
    """How many solutions a problem gets, and which count."""

    num_solutions: Annotated[int, Range(at_least=2, note="for a vote")] = 8  # of each problem; the paper's 8
    # Whether a solution that ran out of tokens counts if it has an answer by then.
    truncated_vote: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Solution:
    """What one sample came to."""

    answer: str  # boxed, or a program; empty where there is none that counts
    status: SolutionStatus
    num_tokens: int


def requests(problems: Sequence[OpenProblem], group_size: int) -> list[TextRequest]:
    """What is asked, the samples of a problem side by side; the conversation that `sft` trains on."""
    return [
        TextRequest(
            id=problem.id,
            messages=tuple(templates.solver_messages(problem.problem, problem.domain)),
            sample=sample,
        )
        for problem in problems
        for sample in range(group_size)
    ]


def read(
    problems: Sequence[OpenProblem], replies: Sequence[Reply], config: SolveConfig
) -> list[tuple[Solution, ...]]:
    """The solutions of each problem, from the replies to `requests`."""
    size = config.num_solutions
    return [
        tuple(_solution(problem, reply, config) for reply in replies[i * size : (i + 1) * size])
        for i, problem in enumerate(problems)
    ]


def _solution(problem: OpenProblem, reply: Reply, config: SolveConfig) -> Solution:
    counts = reply.finish_reason == "stop" or (reply.finish_reason == "length" and config.truncated_vote)
    answer = _answer(problem, reply.text) if counts else ""
    status: SolutionStatus = "answered" if answer else "no_answer" if counts else reply.finish_reason
    return Solution(answer=answer, status=status, num_tokens=reply.completion_tokens)


def _answer(problem: OpenProblem, text: str) -> str:
    if problem.domain == "math":
        parts = boxes.answer_parts(text)  # several boxes may be one answer
        return ", ".join(part for part in parts if not boxes.is_placeholder(part))
    try:
        return teacher_replies.fenced_program(text)
    except Unusable:
        return ""


def mean_tokens(some: Sequence[Solution]) -> float:
    """Of a problem's solutions."""
    return round(sum(solution.num_tokens for solution in some) / len(some), 2)
