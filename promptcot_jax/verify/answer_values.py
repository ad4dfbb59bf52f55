r"""Exact values of numeric answers, as `fractions.Fraction`: nothing rounds, nothing overflows.

Read are integers, decimals, fractions, mixed numbers (`1 1/2`, `1\frac12`), powers of ten (`2.5E3`,
`2.5\times10^3`), thousands separated by commas or spaces, `thousand` to `trillion`, percent, degrees, and a
unit behind any of them.
"""

import dataclasses
import fractions
import re
from collections.abc import Sequence
from typing import NamedTuple

from promptcot_jax.verify.answer_text import DENYING

MAX_NUMBER_CHARACTERS = 400  # Python refuses to read integers beyond 4,300 digits, and no answer has as many
MAX_POWER_OF_TEN = 400

# A decimal with this many places may stand for a value that no decimal writes exactly (1/3, a root, pi).
MIN_ROUNDED_PLACES = 6
# Noise of binary floating point: 17.999999999999996 stands for 18.
MIN_FLOAT_DIGITS = 15
FLOAT_TOLERANCE = fractions.Fraction(1, 10**13)

ONE = fractions.Fraction(1)
PERCENT = fractions.Fraction(1, 100)

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,3}(?: [0-9]{3})+|[0-9]+)"
_REAL = rf"(?:{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)"
_FORMS = (
    r"(?P<whole>[0-9]+)(?: (?P<part>[0-9]+)/(?P<of>[0-9]+)|\\frac\{(?P<part_>[0-9]+)\}\{(?P<of_>[0-9]+)\})",
    rf"\\frac\{{(?P<over_>[+-]?{_REAL})\}}\{{(?P<under_>[+-]?{_REAL})\}}",
    r"(?P<terminating>[0-9]*\.[0-9]*)\\(?:overline|bar|dot)\{(?P<period>[0-9]+)\}",
    rf"(?P<over>{_REAL})(?:/(?P<under>{_REAL}))?"
    r"(?:[eE](?P<exponent>[+-]?[0-9]+)"
    r"|(?:\\times|\\cdot|\*)10\^(?:(?P<power>[0-9])|\{(?P<power_>[+-]?[0-9]+)\}))?",
    r"10\^(?:(?P<bare_power>[0-9])|\{(?P<bare_power_>[+-]?[0-9]+)\})",
)
_NUMBER = re.compile(rf"(?P<sign>[+-]?)(?:{'|'.join(_FORMS)})")

_FACTORS = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
# Each unit's spellings, the first of which stands for them all; a plural needs none of its own.
_MEASURES = (
    "mm millimeter millimetre|cm centimeter centimetre|dm|km kilometer kilometre|m meter metre|mi mile"
    "|ft foot feet|inch inches in|yd yard|mg|kg kilogram|g gram|lb pound|oz ounce|ton tonne|ml milliliter"
    "|l liter litre|gallon|quart|pint|cup|s sec second|min minute|h hr hour|day|week|month|year|rad radian"
    "|hz|khz|mhz|kj|kw|cent|dollar usd|euro|rupee|yuan|people person|% pct percent percentage|° degree deg"
)
_SPELLINGS = {word: unit.split()[0] for unit in _MEASURES.split("|") for word in unit.split()} | {
    "mph": "mi per h", "kph": "km per h", "kmh": "km per h", "unit": "",
}  # fmt: skip
# Words that may not stand in a unit, since they deny, doubt, choose or reckon.
_NO_UNIT_WORDS = DENYING | frozenset(
    "above and below choose cubed divided double dozen factorial greater half halve is minus mod modulo over"
    " plus quarter root sometimes squared third times twice under one two three four five six seven eight"
    " nine ten eleven twelve twenty thirty".split()
)
# Words of number, which make another value of it: 5 tenths, 5 hundreds, 5 dozens.
_NUMBER_WORDS = re.compile(
    r"(?:hundred|thousand|[mbtr]+illion)s|.*(?:half|halves|quarters?|thirds?|ths?)|dozens?|gross|scores?"
    r"|pairs?|lakhs?|crores?|couples?|triples?|ones|twos|threes|fours|fives|sixes|sevens|eights|nines|tens"
)
_PLURAL = re.compile(r"(?:[a-z]+[^ius]s|children|men|women|mice|sheep|dice)(?:\^.*)?")
_MAX_UNIT_WORDS = 6
_WORD_POWER = r"(?:\^(?:[0-9]|\{-?[0-9]\}))?"
_KNOWN = sorted((word for word in (*_SPELLINGS, *_FACTORS) if len(word) > 1 and word != "in"), key=len)
_GLUED = rf"(?:{'|'.join(reversed(_KNOWN))})(?:s|es)?(?![a-z])"
_BARE = rf"(?:{_GLUED}|(?:sq\.?|of|an|[a-z]{{3,}})(?![a-z]))"
_UNIT = re.compile(
    r"(?:(?<=[0-9)}.|!])|(?<=\\pi))(?:"
    r" ?(?P<percent>\\?%)"
    r"|(?P<degree>\^\\circ)(?P<scale>[CF]|\\text\{ ?[CF] ?\})?"
    rf"| ?(?P<text>(?:(?:sq |square |cubic )?\\text\{{[^{{}}]*\}}{_WORD_POWER}(?:/|\\cdot)?)+)"
    rf"|(?P<bare>(?: ?{_GLUED}| {_BARE}){_WORD_POWER}(?:[ /](?:{_BARE}|in|to|a){_WORD_POWER})*)"
    r")$",
    re.IGNORECASE,
)
_ANGLE_OF = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")  # its degree sign makes a difference


class Quantity(NamedTuple):
    """An answer without the unit at its end, that unit in one spelling, and what it multiplies by."""

    body: str
    unit: str = ""
    factor: fractions.Fraction = ONE


@dataclasses.dataclass(frozen=True)
class Number:
    """What a numeric answer is worth, and how it was written."""

    value: fractions.Fraction
    places: int | None = None  # digits behind the point, None where it is no decimal
    digits: int = 0  # significant ones

    def scaled(self, factor: fractions.Fraction) -> "Number":
        """The number times a factor, no longer as it was written."""
        return self if factor == 1 else Number(self.value * factor)


def exact_number(text: str) -> Number | None:
    """The value of a normalised number without a unit; None for anything else."""
    if len(text) > MAX_NUMBER_CHARACTERS or not (match := _NUMBER.fullmatch(text)):
        return None
    size, places, digits = _size(match)
    power = int(match["exponent"] or match["power"] or match["power_"] or 0)
    if bare_power := match["bare_power"] or match["bare_power_"]:
        size, power = ONE, int(bare_power)
    if size is None or abs(power) > MAX_POWER_OF_TEN:
        return None
    size *= fractions.Fraction(10) ** power
    return Number(-size if match["sign"] == "-" else size, None if places is None else places - power, digits)


def same_value(first: Number, second: Number) -> bool:
    """Exact equality; or a long decimal beside what it stands for."""
    return first.value == second.value or any(
        is_float_of(decimal, value) or (not _is_decimal(value) and rounds(decimal, value))
        for decimal, value in ((first, second.value), (second, first.value))
    )


def rounds(decimal: Number, value: fractions.Fraction) -> bool:
    """Whether a long decimal is a value rounded, or cut off, at its last place."""
    if decimal.places is None or min(decimal.places, decimal.digits) < MIN_ROUNDED_PLACES:
        return False
    last_place = fractions.Fraction(1, 10**decimal.places)
    short_by = abs(value) - abs(decimal.value)
    return decimal.value * value > 0 and (0 <= short_by < last_place or 2 * abs(short_by) <= last_place)


def is_float_of(decimal: Number, value: fractions.Fraction) -> bool:
    """Whether a decimal has all the digits of a float, and differs from a value only by a float's noise."""
    return (
        decimal.places is not None
        and decimal.digits >= MIN_FLOAT_DIGITS
        and abs(decimal.value - value) <= FLOAT_TOLERANCE * abs(value)
    )


def split_unit(text: str) -> Quantity:
    r"""A normalised answer parted from the unit at its end.

    `5\text{ million dollars}` gives ("5", "dollar", 10**6), `10\%` gives ("10", "%", 1); "units" are no unit.
    Words are one if one of them is known or a plural, and none says more of the number than what it counts;
    without a space before them only known ones, so that `10ab` stays a product. A bare letter is never one.
    """
    match = _UNIT.search(text)
    body = text[: match.start()] if match else ""
    if not match or not body or r"\text" in body or (match["degree"] and _ANGLE_OF.search(body)):
        return Quantity(text)
    if match["percent"]:
        return Quantity(body, "%")
    written = (match["text"] or match["bare"] or "°" + (match["scale"] or "")).lower()
    written = re.sub(r"\\text|\\cdot|[{}]", " ", written).replace("/", " per ").replace("per cent", "percent")
    words = written.replace(" ^", "^").replace("° ", "°").split()
    is_other = match["bare"] and words and (_is_product(words[0]) or not any(map(_counts, words)))
    is_other = is_other and words[0] != "of"  # of the cake
    if is_other or len(words) > _MAX_UNIT_WORDS or not all(map(_may_be_in_a_unit, words)):
        return Quantity(text)
    factor = ONE
    while words and words[0] in _FACTORS:
        factor *= _FACTORS[words.pop(0)]
    return Quantity(body, _one_spelling(words), factor)


def _may_be_in_a_unit(word: str) -> bool:
    name = word.partition("^")[0]
    is_known = _spelling(name) is not None
    is_number = bool(_NUMBER_WORDS.fullmatch(name)) and not is_known
    return name not in _NO_UNIT_WORDS and not is_number and not re.search("[0-9]", name)


def _counts(word: str) -> bool:
    """Whether a bare word is what a number may count: a known unit, or the plural of a noun."""
    name = word.partition("^")[0]
    return name in _FACTORS or _spelling(name) is not None or bool(_PLURAL.fullmatch(name))


def _spelling(name: str) -> str | None:
    """The one spelling of a known unit, singular or plural."""
    forms = (name, name.removesuffix("s"), name.removesuffix("es"))
    return next((_SPELLINGS[form] for form in forms if form in _SPELLINGS), None)


def _is_product(word: str) -> bool:
    """Whether a bare word is rather the product of its letters, as in `24 abcd`."""
    name = word.partition("^")[0]
    return len(name) > 2 and list(name) == sorted(name) and name not in _SPELLINGS


def _size(match: re.Match[str]) -> tuple[fractions.Fraction | None, int | None, int]:
    """Value, decimal places and significant digits of what stands before a power of ten."""
    if part := match["part"] or match["part_"]:
        part_of_one = _ratio(part, match["of"] or match["of_"])
        if part_of_one is None or part_of_one >= 1:
            return None, None, 0  # 2 5/3 is nobody's mixed number, and as a product it would be another value
        return int(match["whole"]) + part_of_one, None, 0
    if match["period"]:
        return _repeating(match["terminating"], match["period"]), None, 0
    over, under = match["over"] or match["over_"] or "1", match["under"] or match["under_"]
    if under or "." not in over:
        return _ratio(over, under or "1"), None, 0
    return _real(over), len(over.rpartition(".")[2]), len(re.sub("[^0-9]", "", over).lstrip("0"))


def _is_decimal(value: fractions.Fraction) -> bool:
    """Whether a value can be written as a decimal that ends."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1


def _one_spelling(words: Sequence[str]) -> str:
    """`square feet` and `ft^2` as `ft^2`, `mph` and `miles per hour` as `mi per h`."""
    power, unit = "", []
    for word in words:
        name, caret, of = word.partition("^")
        if name in ("sq", "sq.", "square", "cubic"):
            power = "^3" if name == "cubic" else "^2"
            continue
        spelling = _spelling(name)
        name = (name.removesuffix("s") if len(name) > 3 else name) if spelling is None else spelling
        unit += [name + (caret + of or power)] if name else []
        power = ""
    return " ".join(unit)


def _ratio(over: str, under: str) -> fractions.Fraction | None:
    divisor = _real(under)
    return _real(over) / divisor if divisor else None


def _repeating(terminating: str, period: str) -> fractions.Fraction:
    r"""The exact value of `1.2\overline{34}`."""
    last_place = fractions.Fraction(1, 10 ** len(terminating.rpartition(".")[2]))
    return _real(f"0{terminating}") + last_place * fractions.Fraction(int(period), 10 ** len(period) - 1)


def _real(digits: str) -> fractions.Fraction:
    """The exact value of a decimal such as `-1,234.50` or `.5`."""
    return fractions.Fraction(re.sub("[, ]", "", digits).rstrip("."))
