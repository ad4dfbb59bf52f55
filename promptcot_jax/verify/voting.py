"""Majority voting over sampled answers, in which equivalent answers vote together (`1/2` with `0.5`)."""

import collections
from collections.abc import Sequence

from promptcot_jax.core.records import AnswerGroup
from promptcot_jax.verify import math_answers


def answer_groups(answers: Sequence[str | None]) -> list[AnswerGroup]:
    """Equivalent answers together, most votes first; on a tie, the one given first.

    Args:
        answers: one of each sample, None or empty where it gave none: such a sample is in no group.
    """
    given = [(answer or "").strip() for answer in answers]
    group_of: dict[str, str] = {}  # each spelling's group, named by its first answer
    for spelling in dict.fromkeys(filter(None, given)):
        firsts = list(dict.fromkeys(group_of.values()))
        grades = math_answers.grade_many([(first, spelling) for first in firsts])
        group_of[spelling] = next(
            (first for first, grade in zip(firsts, grades, strict=True) if grade.match), spelling
        )
    samples = collections.defaultdict[str, list[int]](list)
    for i, spelling in enumerate(given):
        if spelling:
            samples[group_of[spelling]].append(i)
    groups = [AnswerGroup(answer, tuple(members)) for answer, members in samples.items()]
    return sorted(groups, key=lambda group: -len(group.samples))
