r"""Answers of mathematics problems: taking them out of a response, and deciding whether they are right.

This is the reward's mathematics half (the paper's u(x, y): 1 where the boxed answer equals the reference,
else 0). Three stages, each only for what the one before left open: the normalised text (`answer_text`); the
structure and its numbers as exact fractions (`answer_reading`, `answer_values`, `answer_equivalence`); and
what is more than numbers by math-verify's LaTeX parser and judgement (`symbolic`), in worker processes that
are killed when their time is up (`grading_pool`).

Conventions, where public graders disagree:

* Boxes. The last box after the thinking counts, and none where the thinking is not finished; boxes with only
  commas, "and" or "or" between them are one answer of several values. Of a text without a box, what "The
  final answer is" or another plain announcement introduces counts, all of it. Empty equals nothing, another
  empty one included.
* Several values. One value never equals two (`2 or 3` is wrong for 2); "or", "and", commas, semicolons and
  `\pm` all make lists. A bare list is compared in any order, each value as often as it is written; a set in
  any order and without counting; coordinates in their order. `1, 2` equals `\{1, 2\}`, and 5 equals `\{5\}`.
  `(1, 2)` equals neither, being a point or an interval, but any `(1, 2)`, whichever the two are.
  `(1, 2, 3)`, `[1, 2, 3]` and `1, 2, 3` are one vector.
* Numbers. There is no tolerance: 5 is not 5.0000001, 1/3 is not 0.333. Only where no decimal is exact does
  one of six places or more stand for the value that it rounds or cuts off (0.333333, 0.8660254037844386);
  and 17.999999999999996 is 18, as a float prints it. Unreduced fractions and unevaluated expressions equal
  their value. `1 1/2` and `1\frac12` are mixed numbers; `2 5/3` is nothing. `1,234` and `1 234` are 1234;
  `1, 234` and `1,23` are lists. `4210_7` and `3:4` equal only themselves.
* Percent. `10\%` equals 10, and also 0.1; but 10 and 0.1 are not equal.
* Units. A unit behind a number does not matter, unless both have one and they differ (`5 cm`, `5 m`); nothing
  is converted. Words behind a number are its unit if one is known or a plural (`12 chickens`), but for those
  that deny, doubt, choose or reckon (`5 dozen`, `5 or so`, `5 tenths`). Without a space only known ones are
  (`10cm`); a bare letter is a variable, so that `10m` is not 10. Currency signs do not matter.
* Regions. `x<3` equals `(-\infty,3)`; a bound below and one above, with "and" or a comma, make an interval,
  inequalities with "or" a union; `x\neq 2` is all reals but 2. Only a variable that stands alone, or its
  absolute value, is bounded: `2x<6` is a relation, and not its solution.
* Equations. `x=5`, `x\in\{5\}` and `f(x)=5` equal 5; `x=5` is not `y=5`, but `f(x)=2x` is `y=2x`. `2+3=5`
  equals 5, `2+2=5` does not. Two equations are equal if one is a multiple of the other. Of `a \approx b`
  only a counts.
* Letters. What is not ASCII is read by what Unicode says of it: `x²`, `½`, `２`, `𝑥`, `α`; currency signs are
  dropped. `X` is not `x`, but whole words may differ in their capitals, and the choice C is `c`, `(C)` or
  `(C) 5`. i is the imaginary unit, e is Euler's number, and `\log` without a base has base 10. Symbols are
  real, so that `\sqrt{x^2}` is `|x|` and not x.
"""

import dataclasses
import logging
import re
from collections.abc import Iterable
from typing import Literal

from promptcot_jax.verify import answer_equivalence, answer_values, boxes, grading_pool
from promptcot_jax.verify.answer_text import in_latex, is_plain, normalise_answer

MAX_ANSWER_CHARACTERS = 2_000  # beyond this, or with more digits in a row, only the literal text is compared

Status = Literal["match", "mismatch", "timeout", "no_answer", "error"]

_LONG_NUMBER = re.compile(rf"[0-9]{{{answer_values.MAX_NUMBER_CHARACTERS + 1}}}")

extract_answer = boxes.extract_answer


@dataclasses.dataclass(frozen=True)
class MathGrade:
    """Whether an answer is right, and how that was found.

    `no_answer`: the candidate is empty, or its box is, or it is no text. `timeout`: the comparison took too
    much processor time or memory. `error`: there is no reference, or no worker could start. The last two say
    nothing of the candidate.
    """

    match: bool
    status: Status


def grade_math(reference: str | int | float, candidate: str | int | float) -> bool:
    r"""Whether a candidate answer equals the reference; see the module's conventions.

    Of a text with a box, the boxed answer counts; numbers are taken as their text, and what is neither text
    nor number (None, bytes) is no answer. Never raises, runs no code, and takes at most
    `grading_pool.TIME_LIMIT_S` of processor time for the comparison.
    """
    return grade_many([(reference, candidate)])[0].match


def grade_many(pairs: Iterable[tuple[str | int | float, str | int | float]]) -> list[MathGrade]:
    """The grade of each (reference, candidate), in order, on all cores; of what `grade_math` takes.

    Raises:
        TypeError, ValueError: `pairs` are no pairs.
    """
    grades = [_graded_at_once(reference, candidate) for reference, candidate in pairs]
    open_pairs = [(grade.reference, grade.candidate) for grade in grades if isinstance(grade, _OpenPair)]
    verdicts = iter(grading_pool.shared_pool().compare_many(open_pairs))
    return [_grade(next(verdicts)) if isinstance(grade, _OpenPair) else grade for grade in grades]


@dataclasses.dataclass(frozen=True)
class _OpenPair:
    """Two normalised answers that only a worker can compare."""

    reference: str
    candidate: str


class _Undecided(Exception):
    """A comparison came to something that is more than numbers."""


def _graded_at_once(reference: object, candidate: object) -> MathGrade | _OpenPair:
    wanted = given = ""
    try:
        wanted, given = _answer(reference), _answer(candidate)
        if not wanted:
            return _grade("error")
        if not given:
            return _grade("no_answer")
        if not _is_comparable(wanted) or not _is_comparable(given):
            return _grade("match" if wanted == given else "mismatch")
        wanted, given = normalise_answer(wanted), normalise_answer(given)
        is_match = answer_equivalence.equivalent(wanted, given, _leave_open)
    except _Undecided:
        return _OpenPair(wanted, given)
    except answer_equivalence.TooMany:
        is_match = False
    except Exception:  # a text that this code was not written for must not end a training run
        logging.exception("Grading failed on %r against %r.", given, wanted)
        return _grade("error")
    return _grade("match" if is_match else "mismatch")


def _answer(given: object) -> str:
    r"""The boxed answer of a text that has a box (closed or not), otherwise the text itself."""
    if not isinstance(given, str | int | float) or isinstance(given, bool):
        return ""
    text = str(given)
    if "\\boxed" in text or "\\fbox" in text:
        text = ", ".join(boxes.answer_parts(text))
    return boxes.announced(text).strip()


def _is_comparable(answer: str) -> bool:
    is_short = len(answer) <= MAX_ANSWER_CHARACTERS and len(in_latex(answer)) <= MAX_ANSWER_CHARACTERS
    return is_short and is_plain(answer) and not _LONG_NUMBER.search(answer)


def _leave_open(reference: str, candidate: str) -> bool:
    raise _Undecided


def _grade(status: Status) -> MathGrade:
    return MathGrade(status == "match", status)
