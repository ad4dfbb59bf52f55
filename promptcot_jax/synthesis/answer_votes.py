"""Answers of mathematics problems by vote of a solver's samples (paper section 3.4: 8 of one model).

The paper takes the majority. Here it must have a share of all samples, those without an answer included, and
no equal beside it; every vote stays on the row. An answer that the problem's row stated must be the
majority's. Solutions that were cut off do not vote, unless a setting says so. How often such a majority is
wrong, by its share, is in `docs/results/verification.md`: samples of one model err alike.

The released scripts drop problems whose answer contains "no", "none" or "inf", and those whose answer is 0 or
1. Here a majority that states no value is refused, by its words: also yes and true, or questions would stay
whose answer is yes and go whose answer is no; not an interval to infinity. 0 and 1 are values and stay.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, Literal

from etils import epath

from promptcot_jax.core import shards
from promptcot_jax.core.records import AnswerGroup
from promptcot_jax.core.settings import PositiveShare, settings
from promptcot_jax.synthesis import solutions as solutions_lib
from promptcot_jax.synthesis.problem_files import OpenProblem
from promptcot_jax.synthesis.solutions import Solution
from promptcot_jax.verify import math_answers, voting

GivenAnswer = Literal["none", "confirmed", "outvoted", "unconfirmed"]  # of a row; unconfirmed: nobody voted

_SHARD = 128  # problems whose votes are counted between two writes


@settings
class VoteConfig:
    """Which majority is an answer."""

    min_agreement: PositiveShare = 0.5  # share of all solutions that must give it
    # Whether one that states no value is refused: none, no solution, undefined, infinity, yes.
    values_only: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class VoteTally:
    """All votes on one problem, a row of `verify/votes.jsonl`."""

    id: str
    votes: tuple[AnswerGroup, ...]  # most first
    endings: tuple[str, ...]  # of each solution, in order
    mean_tokens: float
    given_answer: GivenAnswer

    @property
    def agreement(self) -> float:
        """Share of all solutions that gave the first answer."""
        return len(self.votes[0].samples) / len(self.endings) if self.votes else 0.0

    @property
    def is_tied(self) -> bool:
        """Whether two answers have most votes."""
        return len(self.votes) > 1 and len(self.votes[0].samples) == len(self.votes[1].samples)


def count(
    problems: Sequence[OpenProblem], solutions: Sequence[Sequence[Solution]], path: epath.PathLike
) -> list[VoteTally]:
    """Groups the answers to each problem and writes them to `path`, shard by shard."""

    def work(some: Sequence[tuple[OpenProblem, Sequence[Solution]]]) -> list[VoteTally]:
        return [_tally(problem, own) for problem, own in some]

    rows = list(zip(problems, solutions, strict=True))
    return shards.map_in_shards(path, rows, work, VoteTally, shard_size=_SHARD, name="votes")


def _tally(problem: OpenProblem, solutions: Sequence[Solution]) -> VoteTally:
    groups = voting.answer_groups([solution.answer for solution in solutions])
    given: GivenAnswer = "none"
    if problem.answer.strip():
        given = "unconfirmed"
        if groups:
            is_right = math_answers.grade_math(problem.answer, groups[0].answer)
            given = "confirmed" if is_right else "outvoted"
    return VoteTally(
        id=problem.id,
        votes=tuple(groups),
        endings=tuple(solution.status for solution in solutions),
        mean_tokens=solutions_lib.mean_tokens(solutions),
        given_answer=given,
    )


def fault(tally: VoteTally, config: VoteConfig) -> tuple[str, str] | None:
    """Why a tally gives no answer: the reason, and a sentence on it."""
    if not tally.votes:
        return "no_valid_vote", f"none of {len(tally.endings)} solutions has an answer that counts"
    first = tally.votes[0]
    if tally.agreement < config.min_agreement:
        return "low_agreement", f"{len(first.samples)} of {len(tally.endings)} solutions say {first.answer}"
    if tally.is_tied:
        return "tied", f"{first.answer} and {tally.votes[1].answer} have {len(first.samples)} votes each"
    if config.values_only and states_no_value(first.answer):
        return "no_value", f"the majority's answer is no value: {first.answer}"
    if tally.given_answer == "outvoted":
        return "given_answer_outvoted", f"the row's answer is not the majority's, {first.answer}"
    return None


_TYPESETTING = re.compile(r"\\(?:text|math)[a-z]*|\\[mh]box|\\[ ,;:!]|[\s{}()$~.,;:!]")
_NO_VALUE = re.compile(  # with single spaces
    r"(?i:(?<![a-z\\])(?:no|none|can(?:'|\u2019)t|can ?not|(?:do|does) not exist|(?:do|does)n['\u2019]t exist"
    r"|not (?:possible|defined|enough|unique|determined|determinable)|undefined|impossible|insufficient"
    r"|indeterminate|undetermined|unknown|infinite|infinitely|diverges?|divergent)(?![a-z])"
    r"|^(?:[a-z] ?= ?)?[+-]? ?(?:inf|\\?infty|infinity|\u221e|oo)$"
    r"|^(?:null|yes|true|false)$)|^(?:N ?/ ?A|DNE|NaN|nan)$"  # n / a is a quotient
)


def states_no_value(answer: str) -> bool:
    """Whether an answer says that there is none, that it is infinite or unknown, or yes or no."""
    return bool(_NO_VALUE.search(" ".join(_TYPESETTING.sub(" ", answer).split())))


def found(tally: VoteTally) -> dict[str, Any]:
    """What the votes say of a problem, as fields of `VerifiedMathPrompt`."""
    return {
        "answer": tally.votes[0].answer,
        "agreement": tally.agreement,
        "votes": tally.votes,
        "num_solutions": len(tally.endings),
        "pass_share": tally.agreement,
        "mean_tokens": tally.mean_tokens,
    }
