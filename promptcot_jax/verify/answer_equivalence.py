r"""Whether two normalised answers say the same, structure by structure.

Numbers are compared exactly here; every expression that is more than a number goes to the `symbolic`
argument. The conventions are listed in `math_answers`.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

from promptcot_jax.verify import answer_reading, answer_values
from promptcot_jax.verify.answer_reading import Reading
from promptcot_jax.verify.answer_values import Number

MAX_ITEMS = 64
MAX_DEPTH = 40  # of brackets; bounds the recursion here and in the parser
MAX_EXPRESSION = 600  # characters of what goes to the parser, whose time grows faster than the text
MAX_COMPARISONS = 5_000  # of parts with parts; lists of lists in any order would take time without end

Symbolic = Callable[[str, str], bool]  # on two expressions, equations or sets, as normalised LaTeX

_OPTION = re.compile(r"\(?([A-J])\)?[.:]?", re.IGNORECASE)
_OPTION_WITH_TEXT = re.compile(r"\(?([A-J])[).:]\s*[\\A-Za-z0-9$](?!.*\([A-J]\)).*", re.DOTALL)
_THOUSANDS = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+")
_NOT_SYMBOLIC = re.compile(
    r"[^\x20-\x7e]|[\"#@`~?:]"  # not the LaTeX of an expression; a ratio is not the number it makes
    r"|\\text\{[^{}]*[A-Za-z]{2}|(?<![\\A-Za-z])[A-Za-z]{4}|^[A-Za-z]{3,}$"  # words
    r"|[0-9]_"  # the base of a number
)


class TooMany(Exception):
    """Two answers have so many parts that comparing them takes more than MAX_COMPARISONS steps."""


def equivalent(reference: str, candidate: str, symbolic: Symbolic) -> bool:
    """Whether a normalised answer says what the normalised reference says.

    Args:
        symbolic: decides what is more than numbers; its exceptions pass through.

    Raises:
        TooMany: the answers have too many parts.
    """
    if max(answer_reading.depth(reference), answer_reading.depth(candidate)) > MAX_DEPTH:
        return reference == candidate
    return _same_option(reference, candidate) or _Comparison(symbolic).equivalent(reference, candidate)


class _Comparison:
    """One comparison of two answers, which counts its steps."""

    def __init__(self, symbolic: Symbolic):
        self._symbolic = symbolic
        self._steps = 0

    def equivalent(self, first: str, second: str) -> bool:
        self._steps += 1
        if self._steps > MAX_COMPARISONS:
            raise TooMany
        if not first or not second:
            return False
        if _same_text(first, second):
            return True
        one, two = answer_reading.read(first), answer_reading.read(second)
        if one.name and two.name:
            if answer_reading.same_name(_letters(one.name), _letters(two.name)):
                return self._same_structure(one, two)
            return self._related(first, second)
        are_equations = all(reading.kind == "relation" or reading.name for reading in (one, two))
        return (are_equations and self._related(first, second)) or self._same_structure(one, two)

    def _same_structure(self, one: Reading, two: Reading) -> bool:
        if max(len(one.items), len(two.items)) > MAX_ITEMS:
            return False
        one, two = _as_list(one, two), _as_list(two, one)
        kinds = {one.kind, two.kind}
        if kinds == {"relation"}:
            return False  # `_related` has had its say
        if "relation" in kinds:
            return self.equivalent(self._agreed_side(one), self._agreed_side(two))
        if kinds == {"value"}:
            return self._same_value(one.items[0], two.items[0])
        if kinds == {"list"}:
            return self._same_lists(one.items, two.items)
        if "set" in kinds and kinds <= {"set", "list", "value"}:
            return self._same_members(one.items, two.items)
        if kinds == {"tuple"}:
            # Brackets around two items may be those of an interval; around more they are those of a vector.
            is_same_form = one.form == two.form or len(one.items) > 2
            return is_same_form and self._same_in_order(one.items, two.items)
        if kinds == {"tuple", "list"}:
            return self._same_coordinates(one.items, two.items, one.form or two.form)
        if kinds == {"tuple", "matrix"}:
            matrix, other = (one, two) if one.kind == "matrix" else (two, one)
            if "()" in (one.form, two.form):
                return self._same_in_order(one.items, two.items)  # a column
            rows = [answer_reading.read(item) for item in other.items if item]
            are_rows = all((row.kind, row.form, row.name) == ("tuple", "[]", "") for row in rows)
            is_matrix = (matrix.form, other.form) == ("matrix", "[]") and are_rows
            cells = ["&".join(row.items) for row in rows]
            return is_matrix and self._same_matrices(matrix.items, cells)
        if kinds == {"matrix"}:
            return one.form == two.form and self._same_matrices(one.items, two.items)
        if kinds == {"union"} and self._same_in_any_order(one.items, two.items):
            return True
        are_sets = bool(kinds & {"union", "sets"}) or kinds == {"tuple", "set"}
        return are_sets and self._symbolic(one.text, two.text)

    def _same_lists(self, one: Sequence[str], two: Sequence[str]) -> bool:
        """In any order; but `1, 2` beside `x=1, y=2` in the order of the names."""
        names, values = _names_and_values(one)
        other_names, other_values = _names_and_values(two)
        if all(names) != all(other_names) and len({*names, *other_names}) > 2:
            return self._same_in_order(values, other_values)
        return self._same_in_any_order(one, two)

    def _same_coordinates(self, one: Sequence[str], two: Sequence[str], form: str) -> bool:
        """A tuple beside a bare list: the same vector, unless the tuple may be an interval."""
        names, values = _names_and_values(one)
        other_names, other_values = _names_and_values(two)
        is_vector = len(one) > 2 or (form == "()" and len({*names, *other_names}) > 2)
        return is_vector and self._same_in_order(values, other_values)

    def _same_in_order(self, one: Sequence[str], two: Sequence[str]) -> bool:
        return len(one) == len(two) and all(map(self.equivalent, one, two))

    def _same_in_any_order(self, one: Sequence[str], two: Sequence[str]) -> bool:
        if len(one) != len(two):
            return False
        left = list(two)
        for item in one:
            left.sort(key=lambda other: other != item)  # an equal text first spares the costly comparisons
            place = next((i for i, other in enumerate(left) if self.equivalent(item, other)), None)
            if place is None:
                return False
            del left[place]
        return True

    def _same_members(self, one: Sequence[str], two: Sequence[str]) -> bool:
        """Without order and counting, so that values of several names are no set of numbers."""
        names, other_names = set(_names_and_values(one)[0]), set(_names_and_values(two)[0])
        if names != other_names and len(names | other_names) > 2:
            return False
        return self._covers(one, two) and self._covers(two, one)

    def _covers(self, one: Sequence[str], two: Sequence[str]) -> bool:
        return all(any(self.equivalent(item, other) for item in one) for other in two)

    def _same_matrices(self, one: Sequence[str], two: Sequence[str]) -> bool:
        rows, other_rows = ([row.split("&") for row in rows] for rows in (one, two))
        return len(rows) == len(other_rows) and all(map(self._same_in_order, rows, other_rows))

    def _same_value(self, one: str, two: str) -> bool:
        first, second = answer_values.split_unit(one), answer_values.split_unit(two)
        if first.unit and second.unit and first.unit != second.unit:
            return False
        if _same_text(first.body, second.body):
            return first.factor == second.factor
        number, other = (answer_values.exact_number(each.body) for each in (first, second))
        if number and other:
            return _same_number(
                number.scaled(first.factor), first.unit, other.scaled(second.factor), second.unit
            )
        if first.factor != second.factor:
            return False
        bodies = [(first.body, second.body)]
        if (first.unit == "%") != (second.unit == "%"):
            one, two = (
                rf"\frac{{{each.body}}}{{100}}" if each.unit == "%" else each.body for each in (first, second)
            )
            bodies.append((one, two))
        return any(_may_be_symbolic(*pair) and self._symbolic(*pair) for pair in bodies)

    def _related(self, first: str, second: str) -> bool:
        """Whether two equations or inequalities have the same solutions."""
        is_single = all(len(answer_reading.split(text, ",", ";")) == 1 for text in (first, second))
        return is_single and _may_be_symbolic(first, second) and self._symbolic(first, second)

    def _agreed_side(self, reading: Reading) -> str:
        """The last side of `2+3=5` if the others agree with it, else nothing; all of what is no relation."""
        if reading.kind != "relation":
            return reading.text
        *sides, last = answer_reading.split(reading.text, "=")
        return last if sides and all(self.equivalent(side, last) for side in sides) else ""


def _same_number(number: Number, unit: str, other: Number, other_unit: str) -> bool:
    """Whether two numbers are equal; a percentage beside a bare number, also as the hundredth that it is."""
    if answer_values.same_value(number, other):
        return True
    if (unit == "%") == (other_unit == "%"):
        return False
    percent = answer_values.PERCENT
    number, other = (number.scaled(percent), other) if unit == "%" else (number, other.scaled(percent))
    return answer_values.same_value(number, other)


def _names_and_values(items: Sequence[str]) -> tuple[list[str], list[str]]:
    names, values = zip(*map(answer_reading.named, items), strict=True)
    return [_letters(name) for name in names], list(values)


def _may_be_symbolic(one: str, two: str) -> bool:
    """Whether both are expressions, and nothing is in them that the parser would drop or read otherwise."""
    return (
        max(len(one), len(two)) <= MAX_EXPRESSION
        and not _NOT_SYMBOLIC.search(one)
        and not _NOT_SYMBOLIC.search(two)
        and one.count("'") == two.count("'")
    )


def _as_list(reading: Reading, other: Reading) -> Reading:
    """`1,234` is a number, but beside a list of several it is a list as well."""
    if reading.kind == "value" and other.kind in ("list", "set") and _THOUSANDS.fullmatch(reading.text):
        return dataclasses.replace(reading, kind="list", items=tuple(reading.text.split(",")))
    return reading


def _letters(text: str) -> str:
    r"""A text without the `\text` around words and without spaces but for those between digits."""
    words = re.sub(r"\\(?:text|operatorname)\{([^{}]*)\}", r"\1", text)
    return re.sub(r"(?<![0-9]) | (?![0-9])", "", words)


def _same_text(one: str, two: str) -> bool:
    """The same letters; whole words may differ in their capital."""
    one, two = _letters(one), _letters(two)
    if not one or not two:
        return False
    return one == two or (_is_word(one) and _is_word(two) and one.lower() == two.lower())


def _is_word(text: str) -> bool:
    if text in ("YES", "NO", "TRUE", "FALSE"):  # other capitals are rather points and variables
        return True
    return text.isalpha() and (text.islower() or text.istitle()) and (len(text) > 2 or text.lower() == "no")


def _same_option(reference: str, candidate: str) -> bool:
    """Choices: `C`, `(C)`, `c` and `(C) 5` all choose C, if one of the two is no more than the letter."""
    wanted, given = _letters(reference), _letters(candidate)
    letter, other = _OPTION.fullmatch(wanted), _OPTION.fullmatch(given)
    if letter and other:
        return letter[1].upper() == other[1].upper() and letter[1].isupper()
    if letter:
        other = _OPTION_WITH_TEXT.fullmatch(given)
    elif other:
        letter = _OPTION_WITH_TEXT.fullmatch(wanted)
    return bool(letter and other and letter[1] == other[1])
