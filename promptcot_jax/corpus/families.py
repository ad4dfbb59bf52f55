"""What a family of problems and an ending declare; the generator turns one of each into a row.

A family is mostly text with named gaps: the scenes a problem may be set in, the thoughts of its designer from
general to exact, the worked solution. Two small functions supply the numbers. An ending is the last question
put to the family's result ("the remainder on division by 7"), and brings a concept of its own: family times
ending gives the concept pairs, of which some are held out.

Texts are templates: `[a|b]` leaves a choice of wording (`corpus/wording.py`), and `str.format` fills the gaps
with the parameters (in a worked solution, with the derived values too). The files of `texts/` hold them,
under the names of the fields.
"""

import dataclasses
import importlib.resources
import random
import tomllib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

Values = Mapping[str, int | str]  # what fills the gaps of a text, by name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """A setting: the facts of the problem (may use `{name}`) and the quantity asked for, a noun phrase."""

    label: str  # begins with "bare" where no story is told
    facts: str
    quantity: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """Problems of one structure, and a designer's reasons for it. No text of these names the answer."""

    name: str
    # The first names the family and appears in every row of it, and in no other family.
    concepts: Sequence[str]
    level: int
    goals: Sequence[str]  # completes "a problem that ..."; no parameters
    difficulties: Sequence[str]  # completes "the hard part is that ..."; no parameters
    reason: str  # completes "this works because ...": how the concepts depend on each other
    skeleton: str  # noun phrase for the chosen structure with a few of the parameters
    steps: Sequence[str]  # sentences that fix every decisive parameter, in the order of the design
    blueprint: Sequence[str]  # every parameter, in the order in which the problem uses it
    scenes: Sequence[Scene]
    draw: Callable[[random.Random], Values]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MathFamily(Family):
    """Problems whose result is a positive integer."""

    work: str  # worked solution up to `{value}`, with every step of the arithmetic
    solve: Callable[..., Values]  # parameters by name -> "value" and whatever else `work` shows


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgramFamily(Family):
    """Programming tasks: every instance (one input) has one integer as its result."""

    input_format: str  # completes "... reads"
    program: str  # body of `def solve():`, which takes words from `tokens` and returns the result
    instance: Callable[[random.Random, Values], str]  # a small valid input
    reference: Callable[[list[str], Values], int]  # plain search over the words of an input


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ending:
    """What a problem does with the result of its family."""

    name: str
    concept: str  # empty for the plain question
    extra_level: int
    goal: str  # completes "a problem that ..., and that ..."
    skeleton: str  # completes "build on ..., then ..."
    step: str
    blueprint: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class MathEnding(Ending):
    """A last question about the result of a mathematics family."""

    questions: Sequence[str]  # over {quantity} and the ending's parameters
    work: str  # from `{value}` to `{result}`
    draw: Callable[[random.Random, int], Values | None]  # None: this result does not suit the question
    solve: Callable[..., Values]  # value and parameters by name -> "result" and whatever else `work` shows


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgramEnding(Ending):
    """How a task wraps the instances of a programming family: one, several, a decision, a sum."""

    question: str  # over {reads}, {quantity} and the ending's parameters
    has_cases: bool  # the input starts with the number of instances
    program: str  # what follows `def solve()`
    draw: Callable[[random.Random, list[int]], Values]  # sees the results of the drawn instances
    report: Callable[..., str]  # results of the instances of one test, parameters by name -> expected output


def texts_of(file: str) -> dict[str, dict[str, Any]]:
    """What `texts/FILE.toml` says of each family or ending, by its name: fields of its class."""
    texts = _toml(file)
    for fields in texts.values():
        if "scenes" in fields:
            fields["scenes"] = tuple(Scene(**scene) for scene in fields["scenes"])
    return texts


def worked_solutions(kind: Literal["families", "endings"]) -> dict[str, str]:
    """The template of the worked solution of each mathematics family or ending, by its name."""
    return _toml("worked_solutions")[kind]


def _toml(file: str) -> dict[str, Any]:
    path = importlib.resources.files("promptcot_jax.corpus") / "texts" / f"{file}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))
