r"""Exact values of numeric answers, as `fractions.Fraction`: nothing rounds, nothing overflows.

Read are integers, decimals, fractions, mixed numbers (`1 1/2`, `1\frac12`), powers of ten (`2.5E3`,
`2.5\times10^3`), thousands separated by commas or spaces, `thousand` to `trillion`, percent, degrees, and a
unit behind any of them.
"""

import dataclasses
import fractions
import re
from typing import NamedTuple

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
_HEDGES = frozenset(
    "about almost and approximately around at but either else except if least less maybe more most nearly nor"
    " not or perhaps plus possibly roughly some than unless without wrong".split()
)
_UNIT_WORDS = (
    "mm cm dm km mi ft yd inch inches feet foot yard mile meter metre centimeter centimetre millimeter"
    " kilometer kilometre mg kg lb oz gram kilogram pound ounce ton tonne ml liter litre gallon quart pint"
    " cup sec min hr second minute hour day week month year mph kmh kph km/h m/s cm/s ft/s deg degree radian"
    " rad hz khz mhz kj kw cent dollar euro rupee yuan usd unit people person student way time step point"
    " item piece coin ball card apple book page percent"
).split()
_UNIT_WORD = "(?:" + "|".join(sorted(map(re.escape, _UNIT_WORDS), key=len, reverse=True)) + ")(?:s|es)?"
_FACTOR_WORD = f"(?:{'|'.join(_FACTORS)})"
_POWER = r"(?:\^(?:[0-9]|\{-?[0-9]\}))?"
_UNIT = re.compile(
    r"(?:(?<=[0-9)}.|!])|(?<=\\pi))(?:"
    r"(?P<percent>\\?%)"
    r"|(?P<degree>\^\\circ)(?P<scale>[CF]|\\text\{ ?[CF] ?\})?"
    rf"|(?P<text>(?:(?:sq |square |cubic )?\\text\{{[^{{}}]*\}}{_POWER}(?:/|\\cdot)?)+)"
    rf"|(?P<bare>{_FACTOR_WORD}|(?:{_FACTOR_WORD} )?(?:sq\.? ?|square |cubic )?{_UNIT_WORD}{_POWER}"
    rf"(?:(?:/| per ){_UNIT_WORD}{_POWER})?)"
    r")$",
    re.IGNORECASE,
)
_ANGLE_OF = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")  # its degree sign makes a difference
_SPELLINGS = {
    "centimeter": "cm", "centimetre": "cm", "millimeter": "mm", "kilometer": "km", "kilometre": "km",
    "meter": "m", "metre": "m", "inches": "inch", "in": "inch", "foot": "ft", "feet": "ft", "yard": "yd",
    "mile": "mi", "gram": "g", "kilogram": "kg", "pound": "lb", "lbs": "lb", "ounce": "oz", "liter": "l",
    "litre": "l", "second": "s", "sec": "s", "minute": "min", "hour": "h", "hr": "h", "person": "people",
    "usd": "dollar", "percent": "%", "degree": "", "deg": "", "unit": "", "square": "", "cubic": "",
}  # fmt: skip


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

    `5\text{ million dollars}` gives ("5", "dollar", 10**6), `10\%` gives ("10", "%", 1). A degree sign and
    "units" are no unit. Bare words are units only where they are known ones, so that `10ab` stays a product,
    and a bare letter is never one.
    """
    match = _UNIT.search(text)
    body = text[: match.start()] if match else ""
    if not match or not body or r"\text" in body or (match["degree"] and _ANGLE_OF.search(body)):
        return Quantity(text)
    if match["percent"]:
        return Quantity(body, "%")
    written = match["text"] or match["bare"] or match["scale"] or ""
    words = re.sub(r"\\text|\\cdot|[{}]", " ", written.lower()).replace(" ^", "^").split()
    if any(word in _HEDGES or re.search("[0-9]", word.partition("^")[0]) for word in words):
        return Quantity(text)
    factor = ONE
    while words and words[0] in _FACTORS:
        factor *= _FACTORS[words.pop(0)]
    return Quantity(body, " ".join(filter(None, map(_one_spelling, words))), factor)


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


def _one_spelling(word: str) -> str:
    name, caret, power = word.partition("^")
    for form in (name, name.removesuffix("s"), name.removesuffix("es")):
        if form in _SPELLINGS:
            name = _SPELLINGS[form]
            break
    else:
        name = name.removesuffix("s") if len(name) > 3 else name
    return f"{name}{caret}{power}" if name else ""


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
