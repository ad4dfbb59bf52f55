"""Is a statement well posed? A judge reads each problem several times; its agreement with itself is measured.

The paper has no such step. A judge that answers at random agrees with itself only by chance, which Cohen's
kappa shows and the bare share of equal verdicts does not: where almost every verdict is the same, that share
is high for any judge. What cannot be read as a verdict is no verdict, and counted.
"""

import collections
import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from promptcot_jax.sampling.text_model import Reply, TextModel, TextRequest, user_turn
from promptcot_jax.synthesis import rubric
from promptcot_jax.synthesis.annotation_requests import Unusable
from promptcot_jax.synthesis.open_problems import OpenProblem
from promptcot_jax.synthesis.rubric import Verdict


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """How often a judge reads a problem, and when one is kept.

    Attributes:
        judgings: of a problem.
        min_sound_share: of the judgings that can be read, which must find it well posed. A problem of which
            none can be read is not kept.
    """

    judgings: int = 2
    min_sound_share: float = 1.0

    def __post_init__(self):
        if self.judgings < 1:
            raise ValueError(f"judgings must be at least 1, got {self.judgings}.")
        if not 0.0 < self.min_sound_share <= 1.0:
            raise ValueError(f"min_sound_share must lie in (0, 1], got {self.min_sound_share}.")


@dataclasses.dataclass(frozen=True)
class Judgement:
    """All judgings of a problem, in order; a fault in place of one that cannot be read."""

    verdicts: tuple[Verdict | Unusable, ...]

    @property
    def readable(self) -> list[Verdict]:
        """The verdicts that can be read."""
        return [verdict for verdict in self.verdicts if isinstance(verdict, Verdict)]

    @property
    def sound_share(self) -> float | None:
        """Share of the verdicts that find nothing wrong; None where none can be read."""
        found = [verdict.is_well_posed for verdict in self.readable]
        return sum(found) / len(found) if found else None

    def fault(self, config: JudgeConfig) -> str | None:
        """Why the problem is not kept: the criterion that most judgings miss, or that there is no verdict."""
        if self.sound_share is None:
            return "no_verdict"
        if self.sound_share >= config.min_sound_share:
            return None
        missed = collections.Counter(name for verdict in self.readable for name in verdict.faults)
        return max(rubric.CRITERIA, key=lambda name: missed[name])  # the first of equals


def requests(problems: Sequence[OpenProblem], config: JudgeConfig) -> list[TextRequest]:
    """What is asked, the judgings of a problem side by side."""
    return [
        TextRequest(
            id=problem.id,
            messages=user_turn(rubric.request(problem.problem, problem.domain, judging)),
            sample=judging,
        )
        for problem in problems
        for judging in range(config.judgings)
    ]


def judge(
    problems: Sequence[OpenProblem], model: TextModel, directory: epath.PathLike, config: JudgeConfig
) -> tuple[list[Judgement], list[Reply]]:
    """The judgement on each problem, and the replies, which stay in `directory`.

    Raises:
        WrongUse: as the model.
    """
    replies = model.complete(requests(problems, config), epath.Path(directory) / "judgings.jsonl")
    verdicts = [_verdict(reply) for reply in replies]
    size = config.judgings
    judgements = [Judgement(tuple(verdicts[i * size : (i + 1) * size])) for i in range(len(problems))]
    return judgements, replies


def _verdict(reply: Reply) -> Verdict | Unusable:
    if reply.finish_reason != "stop":
        return Unusable(reply.finish_reason, "the answer did not come to its end")
    try:
        return rubric.read_verdict(reply.text)
    except Unusable as fault:
        return fault


def agreement(judgements: Sequence[Judgement]) -> dict[str, dict[str, float | int | None]]:
    """How the judgings of a problem agree: on the whole, and by criterion; see `agreement_of`."""
    tables: dict[str, list[list[bool | None]]] = {
        "well_posed": [
            [v.is_well_posed if isinstance(v, Verdict) else None for v in judgement.verdicts]
            for judgement in judgements
        ]
    }
    for name in rubric.CRITERIA:
        tables[name] = [
            [getattr(v, name) if isinstance(v, Verdict) else None for v in judgement.verdicts]
            for judgement in judgements
        ]
    return {name: agreement_of(table) for name, table in tables.items()}


def agreement_of(table: Sequence[Sequence[bool | None]]) -> dict[str, float | int | None]:
    """Share of equal verdicts and Cohen's kappa of raters, the mean over their pairs.

    Args:
        table: one row a problem, one column a rater; None: no verdict, and no part in the figures.

    Kappa is None where it is not defined: nothing was judged twice, or both raters always said the same one
    thing (Cohen 1960). A pair of raters for which it is not defined has no part in the mean.
    """
    pairs = list(itertools.combinations(range(len(table[0]) if table else 0), 2))
    compared, equal, kappas = 0, 0, []
    for one, other in pairs:
        both = [(row[one], row[other]) for row in table if row[one] is not None and row[other] is not None]
        compared += len(both)
        equal += sum(a == b for a, b in both)
        if (kappa := _kappa(both)) is not None:
            kappas.append(kappa)
    return {
        "compared": compared,
        "equal_share": round(equal / compared, 4) if compared else None,
        "kappa": round(float(np.mean(kappas)), 4) if kappas else None,
    }


def _kappa(both: Sequence[tuple[bool | None, bool | None]]) -> float | None:
    if not both:
        return None
    observed = np.mean([a == b for a, b in both])
    first, second = np.mean([bool(a) for a, _ in both]), np.mean([bool(b) for _, b in both])
    by_chance = first * second + (1 - first) * (1 - second)
    return None if by_chance == 1.0 else float((observed - by_chance) / (1 - by_chance))


def report(judgements: Sequence[Judgement]) -> Mapping[str, object]:
    """Figures of all judgings."""
    verdicts = [verdict for judgement in judgements for verdict in judgement.verdicts]
    unreadable = collections.Counter(v.reason for v in verdicts if isinstance(v, Unusable))
    readable = [verdict for verdict in verdicts if isinstance(verdict, Verdict)]
    return {
        "judgings": len(verdicts),
        "unreadable": dict(sorted(unreadable.items())),
        "well_posed_share": (
            round(sum(verdict.is_well_posed for verdict in readable) / len(readable), 4) if readable else None
        ),
        "agreement": agreement(judgements),
    }
