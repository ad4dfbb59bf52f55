"""What a judge is asked about a problem, and what it answers: is the statement well posed?

The paper has no such check. Four questions, each to be answered with true or false, as a JSON object in a
code fence. The questions come in another order for each judging of a problem, so that two judgings by one
model are two readings even where it is sampled greedily.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from promptcot_jax.core.records import Domain
from promptcot_jax.data import templates
from promptcot_jax.synthesis.annotation_requests import Unusable

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
    found = fenced_json(text)
    if not isinstance(found, dict) or found.keys() != set(CRITERIA):
        raise Unusable("no_verdict", f"the object does not have exactly the keys {', '.join(CRITERIA)}")
    if not all(isinstance(value, bool) for value in found.values()):
        raise Unusable("not_boolean", "a value is neither true nor false")
    return Verdict(**found)


def fenced_json(text: str) -> Any:
    """What the last closed code fence of an answer, its thinking aside, says as JSON.

    Raises:
        Unusable: there is no fence, or no JSON in it.
    """
    if (written := templates.last_code_fence(templates.answer_part(text))) is None:
        raise Unusable("no_fence", "there is no closed code fence")
    try:
        return json.loads(written)
    except (ValueError, RecursionError):
        raise Unusable("no_json", "the code fence holds no JSON") from None
