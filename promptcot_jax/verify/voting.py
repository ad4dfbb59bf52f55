"""Majority voting over sampled answers, in which equivalent answers vote together (`1/2` with `0.5`)."""

import collections
import dataclasses
from collections.abc import Sequence

from promptcot_jax.verify import math_answers


@dataclasses.dataclass(frozen=True)
class Vote:
    """The answer that most samples gave."""

    answer: str  # as its first voter wrote it
    num_votes: int
    agreement: float  # its share of all samples, those without an answer included


def majority_vote(answers: Sequence[str | None]) -> Vote | None:
    """The answer with the most votes; on a tie, the one given first. None where no sample has an answer.

    Args:
        answers: one of each sample, None or empty where it gave none.
    """
    counts = collections.Counter(answer.strip() for answer in answers if answer and answer.strip())
    votes: dict[str, int] = {}  # of the groups, by their first answer; both dicts keep the order of samples
    for answer, count in counts.items():
        grades = math_answers.grade_many([(first, answer) for first in votes])
        group = next((first for first, grade in zip(votes, grades, strict=True) if grade.match), answer)
        votes[group] = votes.get(group, 0) + count
    if not votes:
        return None
    answer = max(votes, key=lambda group: votes[group])  # the first of equals
    return Vote(answer, votes[answer], votes[answer] / len(answers))
