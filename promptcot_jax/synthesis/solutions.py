"""Solutions of open problems by a model: what they box, or the programs in their last fence."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from etils import epath

from promptcot_jax.data import templates
from promptcot_jax.sampling.text_model import FinishReason, Reply, TextModel, TextRequest
from promptcot_jax.synthesis import input_requests
from promptcot_jax.synthesis.annotation_requests import Unusable
from promptcot_jax.synthesis.open_problems import OpenProblem
from promptcot_jax.verify import boxes

Ending = Literal["answered", "no_answer", FinishReason]  # a finish reason: the solution does not count


@dataclasses.dataclass(frozen=True, kw_only=True)
class SolveConfig:
    """How many solutions a problem gets, and which count.

    Attributes:
        num_solutions: of each problem; the paper's 8.
        truncated_vote: whether a solution that ran out of tokens counts if it has an answer by then.
    """

    num_solutions: int = 8
    truncated_vote: bool = False

    def __post_init__(self):
        if self.num_solutions < 2:
            raise ValueError(f"num_solutions must be at least 2 for a vote, got {self.num_solutions}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Solution:
    """What one sample came to."""

    answer: str  # boxed, or a program; empty where there is none that counts
    ending: Ending
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


def solve(
    problems: Sequence[OpenProblem], solver: TextModel, directory: epath.PathLike, config: SolveConfig
) -> tuple[list[tuple[Solution, ...]], list[Reply]]:
    """The solutions of each problem, and the replies, which stay in `directory`.

    Raises:
        WrongUse: as the solver.
    """
    size = config.num_solutions
    replies = solver.complete(requests(problems, size), epath.Path(directory) / "solutions.jsonl")
    return [
        tuple(_solution(problem, reply, config) for reply in replies[i * size : (i + 1) * size])
        for i, problem in enumerate(problems)
    ], replies


def _solution(problem: OpenProblem, reply: Reply, config: SolveConfig) -> Solution:
    counts = reply.finish_reason == "stop" or (reply.finish_reason == "length" and config.truncated_vote)
    answer = _answer(problem, reply.text) if counts else ""
    ending: Ending = "answered" if answer else "no_answer" if counts else reply.finish_reason
    return Solution(answer=answer, ending=ending, num_tokens=reply.completion_tokens)


def _answer(problem: OpenProblem, text: str) -> str:
    if problem.domain == "math":
        parts = boxes.answer_parts(text)  # several boxes may be one answer
        return ", ".join(part for part in parts if not boxes.is_placeholder(part))
    try:
        return input_requests.read_program(text)
    except Unusable:
        return ""


def mean_tokens(some: Sequence[Solution]) -> float:
    """Of a problem's solutions."""
    return round(sum(solution.num_tokens for solution in some) / len(some), 2)
