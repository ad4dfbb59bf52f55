r"""Exact values of numeric answers, as `fractions.Fraction`: nothing rounds, nothing overflows.

Read are integers, decimals, fractions, mixed numbers (`1 1/2`, `1\frac12`), powers of ten (`2.5E3`,
`2.5\times10^3`), thousands separated by commas or spaces, `thousand` to `trillion`, percent, degrees, and a
unit behind any of them.
"""

import dataclasses
import fractions
import re

MAX_NUMBER_CHARACTERS = 400  # Python refuses to read integers beyond 4,300 digits, and no answer has as many
MAX_POWER_OF_TEN = 400

# A decimal with this many places may stand for a value that it cannot write exactly (1/3, a root, pi).
MIN_ROUNDED_PLACES = 6
# Noise of binary floating point: 17.999999999999996 stands for 18.
MIN_FLOAT_DIGITS = 15
FLOAT_TOLERANCE = fractions.Fraction(1, 10**13)

PERCENT = fractions.Fraction(1, 100)

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,3}(?: [0-9]{3})+|[0-9]+)"
_REAL = rf"(?:{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)"
_FACTORS = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_NUMBER = re.compile(
    r"(?P<sign>[+-]?)(?:"
    rf"(?P<whole>[0-9]+)(?: (?P<part>[0-9]+)/(?P<of>[0-9]+)|\\frac\{{(?P<part_tex>[0-9]+)\}}\{{(?P<of_tex>[0-9]+)\}})"
    rf"|\\frac\{{(?P<over_tex>[+-]?{_REAL})\}}\{{(?P<under_tex>[+-]?{_REAL})\}}"
    r"|(?P<terminating>[0-9]*\.[0-9]*)\\(?:overline|bar|dot)\{(?P<period>[0-9]+)\}"
    rf"|(?P<over>{_REAL})(?:/(?P<under>{_REAL}))?"
    rf"(?:(?:\\times|\\cdot|\*)10\^(?:(?P<power>[0-9])|\{{(?P<power_tex>[+-]?[0-9]+)\}})|[eE](?P<exponent>[+-]?[0-9]+))?"
    r"|10\^(?:(?P<bare_power>[0-9])|\{(?P<bare_power_tex>[+-]?[0-9]+)\})"
    r")"
)

_HEDGES = (
    "about almost and approximately around at but either else except if least less maybe minus more most nearly"
    " nor not or over perhaps plus possibly roughly some than times under unless without wrong"
).split()
_UNIT_WORDS = (
    "mm cm dm km mi ft yd inch inches feet foot yard mile meter metre centimeter centimetre millimeter kilometer"
    " kilometre mg kg lb oz gram kilogram pound ounce ton tonne ml liter litre gallon quart pint cup sec min hr"
    " second minute hour day week month year mph kmh kph km/h m/s cm/s ft/s deg degree radian rad hz khz mhz kj kw"
    " cent dollar euro rupee yuan usd unit people person student way time step point item piece coin ball card"
    " apple book page percent"
).split()
_UNIT_WORD = "(?:" + "|".join(sorted(map(re.escape, _UNIT_WORDS), key=len, reverse=True)) + ")(?:s|es)?"
_POWER = r"(?:\^(?:[0-9]|\{-?[0-9]\}))?"
_UNIT = re.compile(
    r"(?:(?<=[0-9)}.|!])|(?<=\\pi))(?:"
    r"(?P<percent>\\?%)"
    r"|\^\\circ(?P<scale>[CF]|\\text\{ ?[CF] ?\})?"
    rf"|(?P<text>(?:(?:sq |square |cubic )?\\text\{{[^{{}}]*\}}{_POWER}(?:/|\\cdot)?)+)"
    rf"|(?P<bare>(?:{'|'.join(_FACTORS)})|(?:(?:{'|'.join(_FACTORS)}) )?"
    rf"(?:sq\.? ?|square |cubic )?{_UNIT_WORD}{_POWER}(?:(?:/| per ){_UNIT_WORD}{_POWER})?)"
    r")$",
    re.IGNORECASE,
)
_ANGLE_OF = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")  # its degree sign makes a difference
_UNIT_SPELLINGS = {
    "centimeter": "cm", "centimetre": "cm", "millimeter": "mm", "kilometer": "km", "kilometre": "km",
    "meter": "m", "metre": "m", "inches": "inch", "in": "inch", "foot": "ft", "feet": "ft", "yard": "yd", "mile": "mi",
    "gram": "g", "kilogram": "kg", "pound": "lb", "lbs": "lb", "ounce": "oz", "liter": "l", "litre": "l",
    "second": "s", "sec": "s", "minute": "min", "hour": "h", "hr": "h", "person": "people", "degree": "", "deg": "",
    "unit": "", "usd": "dollar",
}  # fmt: skip


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
    part = match["part"] or match["part_tex"]
    power = int(match["power"] or match["power_tex"] or match["exponent"] or 0)
    bare_power = match["bare_power"] or match["bare_power_tex"]
    places, digits = None, 0
    if part:
        part_of_one = _ratio(part, match["of"] or match["of_tex"])
        if part_of_one is None or part_of_one >= 1:
            return None  # 2 5/3 is nobody's mixed number, and as a product it would be another value
        size = int(match["whole"]) + part_of_one
    elif match["period"]:
        size = _repeating(match["terminating"], match["period"])
    elif bare_power:
        size, power = fractions.Fraction(1), int(bare_power)
    else:
        over, under = match["over_tex"] or match["over"], match["under_tex"] or match["under"]
        size = _ratio(over, under or "1")
        if size is None:
            return None
        if "." in over and not under:
            places = len(over.rpartition(".")[2]) - power
            digits = len(re.sub("[^0-9]", "", over).lstrip("0"))
    if abs(power) > MAX_POWER_OF_TEN:
        return None
    size *= fractions.Fraction(10) ** power
    return Number(-size if match["sign"] == "-" else size, places, digits)


def same_value(first: Number, second: Number) -> bool:
    """Exact equality, or a decimal of many places beside a value that it stands for."""
    return first.value == second.value or stands_for(first, second.value) or stands_for(second, first.value)


def stands_for(decimal: Number, value: fractions.Fraction) -> bool:
    """Whether a long decimal is a value rounded or cut off at its last place, or printed from a float."""
    if decimal.places is None or decimal.places < MIN_ROUNDED_PLACES or decimal.digits < MIN_ROUNDED_PLACES:
        return False
    last_place = fractions.Fraction(1, 10**decimal.places)
    short_by = abs(value) - abs(decimal.value)
    if decimal.value * value > 0 and (0 <= short_by < last_place or 2 * abs(short_by) <= last_place):
        return True
    return decimal.digits >= MIN_FLOAT_DIGITS and abs(decimal.value - value) <= FLOAT_TOLERANCE * abs(value)


def split_unit(text: str) -> tuple[str, str, fractions.Fraction]:
    r"""A normalised answer without the unit at its end, the unit in one spelling, and the factor it stands for.

    `5\text{ million dollars}` gives ("5", "dollar", 10**6), `10\%` gives ("10", "%", 1). A degree sign and
    "units" are no unit. Bare words are units only where they are known ones, so that `10ab` stays a product, and
    a bare letter is never one.
    """
    match = _UNIT.search(text)
    if not match or not (body := text[: match.start()]):
        return text, "", fractions.Fraction(1)
    if "\\text" in body or (
        match["bare"] is match["text"] is match["percent"] is None and _ANGLE_OF.search(body)
    ):
        return text, "", fractions.Fraction(1)
    if match["percent"]:
        return body, "%", fractions.Fraction(1)
    written = match["text"] or match["bare"] or match["scale"] or ""
    words = re.sub(r"\\text|\\cdot|[{}]", " ", written.lower()).replace(" ^", "^").split()
    if any(word in _HEDGES or re.search(r"[0-9]", word.partition("^")[0]) for word in words):
        return text, "", fractions.Fraction(1)
    factor = fractions.Fraction(1)
    while words and words[0] in _FACTORS:
        factor *= _FACTORS[words.pop(0)]
    unit = " ".join(filter(None, (_one_spelling(word) for word in words)))
    return body, "%" if unit == "percent" else "" if unit in ("square", "cubic", "^2", "^3") else unit, factor


def _one_spelling(word: str) -> str:
    name, caret, power = word.partition("^")
    for form in (name, name.removesuffix("s"), name.removesuffix("es")):
        if form in _UNIT_SPELLINGS:
            name = _UNIT_SPELLINGS[form]
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
