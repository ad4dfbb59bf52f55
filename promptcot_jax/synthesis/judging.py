"""Is a statement well posed? A judge reads each problem several times; its agreement with itself is measured.

The paper has no such step. Four questions are to be answered with true or false, as a JSON object in a code
fence. They come in another order for each judging of a problem, so that two judgings by one model are two
readings even where it is sampled greedily.

A judge that answers at random agrees with itself only by chance, which Cohen's kappa shows and the bare share
of equal verdicts does not: where almost every verdict is the same, that share is high for any judge. What
cannot be read as a verdict is no verdict, and counted.
"""

import collections
import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from promptcot_jax.core.records import Domain
from promptcot_jax.core.settings import PositiveInt, PositiveShare, settings
from promptcot_jax.data import templates
from promptcot_jax.sampling.text_model import Reply, TextRequest, user_turn
from promptcot_jax.synthesis import outcomes, teacher_replies
from promptcot_jax.synthesis.problem_files import OpenProblem
from promptcot_jax.synthesis.teacher_replies import Unusable

QUESTIONS: Mapping[Domain, Mapping[str, str]] = {
    "math": {
        "self_contained": "can it be worked on with nothing but this text: no missing figure, table, earlier "
        "part or definition, and nothing cut off?",
        "quantities_given": "is every number, condition and symbol that the question depends on stated, and "
        "do the statements not contradict each other?",
        "one_question": "does it ask for exactly one thing?",
        "unique_answer": "is there exactly one right answer, the same for every careful reader?",
    },
    "code": {
        "self_contained": "can a program be written from nothing but this text: no missing example, figure, "
        "earlier part or definition, and nothing cut off?",
        "quantities_given": "is the form of the input stated, with all limits and parameters that the task "
        "depends on, and do the statements not contradict each other?",
        "one_question": "is there exactly one task, with one thing to print?",
        "unique_answer": "does each valid input have exactly one right output?",
    },
}
CRITERIA = tuple(QUESTIONS["math"])


@settings
class JudgeConfig:
    """How often a judge reads a problem, and when one is kept."""

    judgings: PositiveInt = 2  # of a problem
    # Of the judgings that can be read, which must find it well posed. A problem of which none can be read is
    # not kept.
    min_sound_share: PositiveShare = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one judging found."""

    self_contained: bool
    quantities_given: bool
    one_question: bool
    unique_answer: bool

    @property
    def is_well_posed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    @property
    def faults(self) -> tuple[str, ...]:
        """The criteria that are not met."""
        return tuple(name for name in CRITERIA if not getattr(self, name))


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
        return max(CRITERIA, key=lambda name: missed[name])  # the first of equals


def request(problem: str, domain: Domain, judging: int) -> str:
    """Asks for a verdict, for the `judging`-th time: the questions begin elsewhere each time."""
    first = judging % len(CRITERIA)
    names = CRITERIA[first:] + CRITERIA[:first]
    listed = "\n".join(f"- {name}: {QUESTIONS[domain][name]}" for name in names)
    form = ", ".join(f'"{name}": ...' for name in names)
    return (
        f"You review {templates.KINDS[domain]} problems before they are published. Do not solve the one "
        "below; decide whether its statement can stand as it is. A hard problem is fine, a doubtful "
        f"statement is not. Answer each question with true or false:\n{listed}\n\n"
        f"Problem:\n{problem.strip()}\n\n"
        "After any reasoning, end with a JSON object of exactly these four keys in a code fence:\n"
        f"```json\n{{{form}}}\n```"
    )


def read_verdict(text: str) -> Verdict:
    """The verdict in the last code fence of a judge's answer.

    Raises:
        Unusable: the fence is missing or does not hold exactly the four keys with true or false.
    """
    found = teacher_replies.fenced_json(text)
    if not isinstance(found, dict) or found.keys() != set(CRITERIA):
        raise Unusable("no_verdict", f"the object does not have exactly the keys {', '.join(CRITERIA)}")
    if not all(isinstance(value, bool) for value in found.values()):
        raise Unusable("not_boolean", "a value is neither true nor false")
    return Verdict(**found)


def requests(problems: Sequence[OpenProblem], config: JudgeConfig) -> list[TextRequest]:
    """What is asked, the judgings of a problem side by side."""
    return [
        TextRequest(
            id=problem.id,
            messages=user_turn(request(problem.problem, problem.domain, judging)),
            sample=judging,
        )
        for problem in problems
        for judging in range(config.judgings)
    ]


def judgements_of(replies: Sequence[Reply], config: JudgeConfig) -> list[Judgement]:
    """The judgement on each problem, from the replies to `requests`."""
    verdicts = [teacher_replies.read(reply, read_verdict) for reply in replies]
    size = config.judgings
    return [Judgement(tuple(verdicts[i : i + size])) for i in range(0, len(verdicts), size)]


def agreement(judgements: Sequence[Judgement]) -> dict[str, dict[str, float | int | None]]:
    """How the judgings of a problem agree: on the whole, and by criterion; see `agreement_of`."""
    tables = {
        name: [
            [getattr(v, attribute) if isinstance(v, Verdict) else None for v in judgement.verdicts]
            for judgement in judgements
        ]
        for name, attribute in {"well_posed": "is_well_posed", **{name: name for name in CRITERIA}}.items()
    }
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
        "kappa": outcomes.mean(kappas),
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
    readable = [verdict for verdict in verdicts if isinstance(verdict, Verdict)]
    return {
        "judgings": len(verdicts),
        "unreadable": outcomes.counted(v.reason for v in verdicts if isinstance(v, Unusable)),
        "well_posed_share": (
            round(sum(verdict.is_well_posed for verdict in readable) / len(readable), 4) if readable else None
        ),
        "agreement": agreement(judgements),
    }
