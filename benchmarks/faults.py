"""Faults planted in problems of the corpus, whose truth is known, to measure checks by (see `verify`).

Each kind comes in forms: what a rule is made for, and what only a reader or a solver could notice. A planted
problem keeps its id, with the fault's name behind it.
"""

import dataclasses
import random
import re
from collections.abc import Callable, Mapping
from typing import Literal

from promptcot_jax.core.records import MathCorpusRow

FaultKind = Literal[
    "missing_quantity",
    "contradictory_data",
    "two_questions",
    "no_question",
    "missing_context",
    "wrong_answer",
    "leaked_answer",
]
# Those after which the statement itself can no longer be answered by everyone alike.
ILL_POSED: tuple[FaultKind, ...] = (
    "missing_quantity",
    "contradictory_data",
    "two_questions",
    "no_question",
    "missing_context",
)

_SENTENCE = re.compile(r"(?<=[.?!])\s+")
_NUMBER = re.compile(r"\d+")
_COMMAND = re.compile(r"(?:Write|Consider|Factor|Express|Convert|Add|Divide|Split)\b")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planted:
    """A problem with a fault, or an answer that is not its own."""

    kind: FaultKind
    form: str
    row: MathCorpusRow


@dataclasses.dataclass(frozen=True)
class _Text:
    """A statement's parts, and its answer."""

    facts: tuple[str, ...]  # sentences
    question: str
    answer: str

    def where_numbers_are(self) -> list[int]:
        """The sentences of the facts that have a number."""
        return [i for i, sentence in enumerate(self.facts) if _NUMBER.search(sentence)]

    def with_fact(self, i: int, *sentences: str) -> "_Text":
        """With other sentences in place of one of the facts."""
        return dataclasses.replace(self, facts=(*self.facts[:i], *sentences, *self.facts[i + 1 :]))


_Form = Callable[[_Text, random.Random], _Text]


def plant(row: MathCorpusRow, kind: FaultKind, seed: int) -> Planted:
    """The row with a fault of a kind, in a form that is drawn; the same for the same row and seed."""
    draw = random.Random(f"{seed}/{row.id}/{kind}")
    *facts, question = _SENTENCE.split(row.problem)
    form = draw.choice(sorted(_FORMS[kind]))
    text = _FORMS[kind][form](_Text(tuple(facts), question, row.answer), draw)
    problem = " ".join(filter(None, (*text.facts, text.question)))
    planted = dataclasses.replace(
        row, id=f"{row.id}-{kind}", problem=problem, answer=text.answer, solution="", rationale=""
    )
    return Planted(kind=kind, form=form, row=planted)


def _replace_number(sentence: str, draw: random.Random, replacement: Callable[[int], str]) -> str:
    match = draw.choice(list(_NUMBER.finditer(sentence)))
    return sentence[: match.start()] + replacement(int(match[0])) + sentence[match.end() :]


def _in_a_fact(replacement: Callable[[int], str]) -> _Form:
    def form(text: _Text, draw: random.Random) -> _Text:
        i = draw.choice(text.where_numbers_are())
        return text.with_fact(i, _replace_number(text.facts[i], draw, replacement))

    return form


def _cut(text: _Text, draw: random.Random) -> _Text:
    """Without a sentence that has a number; of a single sentence, without what follows its last comma."""
    places = text.where_numbers_are()
    i = draw.choice(places)
    if len(text.facts) > 1:
        return text.with_fact(i)
    kept, comma, _ = text.facts[i].rpartition(", ")
    return text.with_fact(i, *([f"{kept}."] if comma else []))


def _retold(text: _Text, draw: random.Random) -> _Text:
    i = draw.choice(text.where_numbers_are())
    other = _replace_number(text.facts[i], draw, lambda number: str(number + draw.randint(1, 9)))
    return text.with_fact(i, text.facts[i], other)


def _denied(text: _Text, draw: random.Random) -> _Text:
    i = draw.choice(text.where_numbers_are())
    number = int(draw.choice(_NUMBER.findall(text.facts[i])))
    return text.with_fact(i, text.facts[i], f"Note that {number} is in truth {number + draw.randint(1, 9)}.")


def _without_question(text: _Text, draw: random.Random) -> _Text:
    """Nothing asked: a command that leads up to the question goes with it."""
    facts = text.facts[:-1] if _COMMAND.match(text.facts[-1]) else text.facts
    return dataclasses.replace(text, facts=facts, question="")


def _second_clause(text: _Text, draw: random.Random) -> _Text:
    more = ", and what is its last digit?" if text.question.endswith("?") else ", and find its last digit."
    return dataclasses.replace(text, question=text.question[:-1] + more)


def _asks_also(sentence: str) -> _Form:
    return lambda text, draw: dataclasses.replace(text, question=f"{text.question} {sentence}")


def _points_elsewhere(sentence: str) -> _Form:
    return lambda text, draw: text.with_fact(draw.choice(text.where_numbers_are()), sentence)


def _another_answer(change: Callable[[int, random.Random], int]) -> _Form:
    return lambda text, draw: dataclasses.replace(text, answer=str(change(int(text.answer), draw)))


def _tells(words: str) -> _Form:
    return lambda text, draw: dataclasses.replace(text, facts=(*text.facts, words.format(answer=text.answer)))


_FORMS: Mapping[FaultKind, Mapping[str, _Form]] = {
    "missing_quantity": {
        "gap": _in_a_fact(lambda _: "___"),
        "vague": _in_a_fact(lambda _: "some"),
        "cut": _cut,
    },
    "contradictory_data": {"retold": _retold, "denied": _denied},
    "two_questions": {
        "sentence": _asks_also("What is its square?"),
        "clause": _second_clause,
        "request": _asks_also("Give its number of digits too."),
        "wish": _asks_also("Its last digit is wanted as well."),
    },
    "no_question": {"dropped": _without_question},
    "missing_context": {
        "figure": _points_elsewhere("The sizes are those of the figure below."),
        "earlier": _points_elsewhere("Everything else is as in the previous problem."),
        "notes": _points_elsewhere("The rest was written on the blackboard."),
    },
    "wrong_answer": {
        "near": _another_answer(lambda answer, draw: answer + draw.choice((-2, -1, 1, 2))),
        "far": _another_answer(lambda answer, draw: 2 * answer + draw.randint(3, 50)),
    },
    "leaked_answer": {
        "stated": _tells("The answer is {answer}."),
        "hinted": _tells("It comes out as {answer}."),
    },
}
