"""Reads a problem statement back, whoever wrote it: its family, its numbers, and the exact answer.

A statement is well-posed if each of its words fits one wording of one scene, with one last question, and its
numbers make sense there: moduli are coprime, a triangle closes, a mixture lies between its parts. The
templates of `texts/` are the grammar, so any mixture of their wordings is understood, also with names and
numbers that the generator never draws. Anything else counts as not well-posed, though a person might make
sense of it: shares of well-posed problems are lower bounds.
"""

import dataclasses
import functools
import inspect
import re
from collections.abc import Mapping

from promptcot_jax.corpus import conditions, endings, generator, wording
from promptcot_jax.corpus.families import (
    MathEnding,
    MathFamily,
    ProgramEnding,
    ProgramFamily,
    Scene,
    Values,
)

_MAX_STATEMENT = 2000  # characters; the longest of the generator has under 600
_LARGEST = 10**6  # of the numbers in a statement
_LARGEST_RESULT = 10**12  # of a family: a larger one takes long to factor
_NUMBER = r"(?:0|-?[1-9][0-9]*)"
_GAPS = {  # of gaps that hold no number
    "name": "(?!(?:Nobody|Everybody|Nothing|Somebody|Anybody|Everyone|Someone|Anyone)\\b)[A-Z][a-z]+",
    "event": "equal|different",
    "wanted": "perimeter|area",
    "letters": "[a-z](?:, [a-z])* and [a-z]",
    "kind": "round|square|angle",
}
_ENDING_GAPS = ("divisor", "radix", "threshold", "limit")

Ending = MathEnding | ProgramEnding


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """What a statement says. `answer` is None for a programming task, which has an answer for every input."""

    family: str
    ending: str
    level: int
    parameters: Values
    ending_parameters: Values
    answer: str | None


def read(statement: str) -> Reading | None:
    """What a statement says; None where its wording is unknown or it is not well-posed."""
    text = " ".join(statement.split())
    if len(text) > _MAX_STATEMENT:
        return None
    for family, number, facts in _facts():
        if facts.match(text) is None:
            continue
        for ending, whole in _statements(family.name, number):
            stated = whole.fullmatch(text)
            values = stated and wording.groups(stated)
            if values and (reading := _understood(family, ending, values)):
                return reading
    return None


def concepts_of(reading: Reading) -> tuple[str, str]:
    """The leading concept of the family, and that of the ending ("" for the plain question)."""
    family = generator.families()[reading.family]
    return family.concepts[0], _endings_of(family)[reading.ending].concept


@functools.cache
def _facts() -> tuple[tuple[MathFamily | ProgramFamily, int, re.Pattern[str]], ...]:
    """The facts of every scene: a family, the scene's number in it, and how its statements begin."""
    return tuple(
        (family, number, re.compile(wording.pattern(scene.facts, _GAPS, _NUMBER)))
        for family in generator.families().values()
        for number, scene in enumerate(family.scenes)
    )


@functools.cache
def _statements(name: str, number: int) -> tuple[tuple[Ending, re.Pattern[str]], ...]:
    """For each ending the statements that ask it of one scene's quantity, facts included."""
    family = generator.families()[name]
    scene: Scene = family.scenes[number]
    patterns = []
    for ending in _endings_of(family).values():
        asked = ending.questions if isinstance(ending, MathEnding) else (ending.question,)
        reads = family.input_format if isinstance(family, ProgramFamily) else ""
        question = f"[{'|'.join(asked)}]".replace("{quantity}", scene.quantity).replace("{reads}", reads)
        whole = f"{scene.facts} {question}".strip()
        patterns.append((ending, re.compile(wording.pattern(whole, _GAPS, _NUMBER))))
    return tuple(patterns)


def _endings_of(family: MathFamily | ProgramFamily) -> dict[str, Ending]:
    of_domain: tuple[Ending, ...] = (
        endings.math_endings() if isinstance(family, MathFamily) else endings.program_endings()
    )
    return {ending.name: ending for ending in of_domain}


def _understood(
    family: MathFamily | ProgramFamily, ending: Ending, stated: Mapping[str, str]
) -> Reading | None:
    """The reading of a statement whose gaps hold these texts; None where they make no sense."""
    values: dict[str, int | str] = {
        name: text if name in _GAPS else int(text) for name, text in stated.items() if name != "name"
    }
    if any(isinstance(value, int) and abs(value) > _LARGEST for value in values.values()):
        return None
    of_ending = {name: values.pop(name) for name in _ENDING_GAPS if name in values}
    answer, makes_sense = None, conditions.OF_FAMILY[family.name]
    try:
        inspect.signature(makes_sense).bind(**values)
    except TypeError:  # another scene's number, or one too few
        return None
    if not makes_sense(**values):
        return None
    if isinstance(family, ProgramFamily):
        if not conditions.PROGRAM_ENDINGS[ending.name](**of_ending):
            return None
    else:
        assert isinstance(ending, MathEnding)
        value = int(family.solve(**values)["value"])
        if not 1 <= value <= _LARGEST_RESULT or not conditions.OF_ENDING[ending.name](value, **of_ending):
            return None
        answer = str(ending.solve(value, **of_ending)["result"])
    return Reading(
        family=family.name,
        ending=ending.name,
        level=min(family.level + ending.extra_level, 5),
        parameters=values,
        ending_parameters=of_ending,
        answer=answer,
    )
