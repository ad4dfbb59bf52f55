r"""The outermost structure of a normalised answer: a list, a set, a tuple or interval, a matrix, a relation.

`read` takes off one layer; the items are answers again, to be read in their turn. It only looks at brackets,
separators and signs, so that any text has a reading, the last resort being a value.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Literal

from promptcot_jax.verify import answer_values
from promptcot_jax.verify.answer_text import AND, OR, ROW

MAX_SIDES = 8  # of an equation

Kind = Literal["value", "list", "set", "tuple", "union", "sets", "matrix", "relation"]


@dataclasses.dataclass(frozen=True)
class Reading:
    """One layer of an answer."""

    kind: Kind
    text: str  # without the name
    items: tuple[str, ...] = ()  # a value is its own item
    name: str = ""  # `x` of `x=5`, `x\in S`, `x<5`
    form: str = ""  # brackets of a tuple, environment of a matrix


_SYMBOL = r"(?:[A-Za-z]|\\[A-Za-z]+)(?:_(?:[0-9A-Za-z]|\{[^{}]*\}))?'*"
_CALL = re.compile(rf"{_SYMBOL}\([^()=]*\)")
_BOUNDED = re.compile(rf"{_SYMBOL}(?:\([^()=]*\))?|\|{_SYMBOL}\|")  # x, f(x), |x|
_CALL_OF_VARIABLE = re.compile(r"[A-Za-z]\([A-Za-z]\)")
_TUPLE_OF_NAMES = re.compile(r"\((?:[A-Za-z_0-9]+,)*[A-Za-z][A-Za-z_0-9]*\)")
_CONSTANTS = re.compile(r"(?:e|i|\\pi|\\infty|\\emptyset)+")
_INDEX = re.compile(r"_(?:[0-9A-Za-z]|\{[^{}]*\})|\^\{-1\}(?=\()")  # of x_1, and of an inverse function
_NOT_A_NAME = re.compile(r"^-|[0-9<>^|]|\\(?:leq|geq|neq|pm|sqrt|ln|log|exp)(?![A-Za-z])")
_EQUALS = ("=", r"\in")
_ORDERS = {"<": ">", ">": "<", r"\leq": r"\geq", r"\geq": r"\leq"}  # each with its mirror image
_RELATIONS = (*_EQUALS, *_ORDERS, r"\neq", r"\subset", r"\equiv")
_NUMBER_SET = re.compile(r"\\mathbb\{[NZQRC]\}")
_VARIABLE = re.compile(rf"{_SYMBOL}(?:\\in ?\\mathbb\{{R\}})?")
_MATRIX = re.compile(
    r"(?P<open>[(\[]?)\\begin\{(?P<name>[a-zA-Z]*matrix|array|cases)\}(?:\{[lcr|]*\})?(?P<body>.*)"
    r"\\end\{(?P=name)\}(?P<close>[)\]]?)"
)
_MARK = re.compile(r"\\[A-Za-z]+|\\.|.", re.DOTALL)
_OPENING, _CLOSING = {"(", "[", "{", r"\{"}, {")", "]", "}", r"\}"}


def read(text: str) -> Reading:
    """The reading of a normalised answer, which must not be empty."""
    text = without_outer_parentheses(text)
    if answer_values.exact_number(answer_values.split_unit(text)[0]):
        return Reading("value", text, (text,))
    if matrix := _MATRIX.fullmatch(text):
        return _read_matrix(matrix)
    if region := _region(text):
        return region
    items = _items(text)
    if len(items) > 1 or r"\pm" in text:
        return _read_list(items)
    text = _exact_side(text)
    name, value = named(text)
    if name:
        return dataclasses.replace(read(value), name=name)
    if len(split(text, *_RELATIONS)) > 1:
        return Reading("relation", text)
    if len(split(text, r"\cap", r"\setminus")) > 1 or _NUMBER_SET.fullmatch(text):
        return Reading("sets", text)
    pieces = split(text, r"\cup")
    if len(pieces) > 1:
        return Reading("union", text, tuple(pieces))
    if members := _inside(text, r"\{", r"\}") or _inside(text, "{", "}"):
        condition = split(members, r"\mid", "|", ":")
        if len(condition) == 2 and _VARIABLE.fullmatch(condition[0]):
            return read(condition[1])  # {x | x > 3}
        return Reading("set", text, tuple(_items(members)))
    if (opening := text[0]) in "([" and (closing := text[-1]) in ")]" and _encloses(text):
        coordinates = split(text[1:-1], ",", ";")
        if len(coordinates) > 1:
            return Reading("tuple", text, tuple(coordinates), form=opening + closing)
    return Reading("value", text, (text,))


def named(text: str) -> tuple[str, str]:
    r"""("x", "5") of `x=5` or `x\in 5`; ("", text) where nothing is named."""
    sides = split(text, *_EQUALS)
    if len(sides) == 2 and "=" in text and not _is_name(sides[0]) and _is_name(sides[1]):
        return sides[1], sides[0]
    if 1 < len(sides) <= MAX_SIDES and _is_name(sides[0]):
        return sides[0], text[len(sides[0]) :].removeprefix("=").removeprefix(r"\in").strip()
    return "", text


def same_name(first: str, second: str) -> bool:
    """Equal names; a function's `f(x)` and the `y` of its graph are one as well."""
    if first == second:
        return True
    return "y" in (first, second) and any(map(_CALL_OF_VARIABLE.fullmatch, (first, second)))


def split(text: str, *separators: str) -> list[str]:
    """Parts between separators that stand outside all brackets, without empty ones; at least one part."""
    parts, depth, begin = [], 0, 0
    for mark in _MARK.finditer(text):
        if mark[0] in _OPENING:
            depth += 1
        elif mark[0] in _CLOSING:
            depth -= 1
        elif depth == 0 and mark[0] in separators:
            parts.append(text[begin : mark.start()].strip())
            begin = mark.end()
    parts.append(text[begin:].strip())
    return [part for part in parts if part] or [text]


def depth(text: str) -> int:
    """How deep brackets are nested."""
    level = deepest = 0
    for mark in _MARK.finditer(text):
        level += (mark[0] in _OPENING) - (mark[0] in _CLOSING)
        deepest = max(deepest, level)
    return deepest


def without_outer_parentheses(text: str) -> str:
    """`(x+1)` without its parentheses, unless they hold a tuple."""
    while (inner := _inside(text, "(", ")")) and len(split(inner, ",", ";")) == 1:
        text = inner
    return text


def _read_list(items: Sequence[str]) -> Reading:
    """A list whose plus-minus items are two each. A name before the first item only is the name of all."""
    names = [named(item)[0] for item in items]
    name = names[0] if names and names[0] and not any(names[1:]) else ""
    if name:
        items = [named(items[0])[1], *items[1:]]
    if len(items) == 1 and (members := _inside(items[0], r"\{", r"\}") or _inside(items[0], "{", "}")):
        items = _items(members)
    return Reading("list", ",".join(items), tuple(sign for item in items for sign in _both_signs(item)), name)


def _both_signs(item: str) -> list[str]:
    if r"\pm" not in item:
        return [item]
    upper = item.replace(r"\pm", "+").replace(r"\mp", "-")
    lower = item.replace(r"\pm", "-").replace(r"\mp", "+")
    return [re.sub(r"(^|[=({\[])\+", r"\1", sign) for sign in (upper, lower)]


def _read_matrix(matrix: re.Match[str]) -> Reading:
    environment, body = matrix["name"], matrix["body"]
    rows = tuple(row.strip() for row in body.split(ROW) if row.strip())
    if environment == "cases" and "&" not in body:
        return Reading("list", ",".join(rows), rows)
    form = environment if environment in ("vmatrix", "Vmatrix", "cases") else "matrix"
    return Reading("matrix", matrix[0], rows, form=form)


def _items(text: str) -> list[str]:
    """The items of a list. Semicolons part groups, and so do "and" / "or" between groups of equations."""
    groups = split(text, ";")
    if len(groups) > 1:
        return groups
    groups = split(text, AND, OR)
    if len(groups) > 1 and all("=" in group and len(split(group, ",")) > 1 for group in groups):
        return groups
    return split(text, ",", AND, OR)


def _is_name(text: str) -> bool:
    """Whether what stands left of an equals sign only names the right: x, f(2), AB, a+b, P(A), (x,y)."""
    if _CALL.fullmatch(text) or _TUPLE_OF_NAMES.fullmatch(text):
        return True
    bare = _INDEX.sub("", text)
    return not (_NOT_A_NAME.search(bare) or _CONSTANTS.fullmatch(bare) or not re.search("[A-Za-z]", bare))


def _exact_side(text: str) -> str:
    r"""What stands before `\approx`, unless that is only a name."""
    exact, *rounded = split(text, r"\approx")
    return f"{exact}={rounded[0]}" if len(rounded) == 1 and "=" not in exact and _is_name(exact) else exact


def _region(text: str) -> Reading | None:
    r"""What inequalities in one variable describe: `1\leq x<2`; `x>3`; `x<1` or `x>2`; `x\neq 1,2`."""
    items = split(text, ",", AND)
    name, *excluded = split(items[0], r"\neq")
    if len(excluded) == 1 and re.fullmatch(_SYMBOL, name):
        points = [*excluded, *(item.removeprefix(rf"{name}\neq") for item in items[1:])]
        return Reading("sets", rf"\mathbb{{R}}\setminus\{{{','.join(points)}\}}", name=name)
    items = items if len(items) > 1 else split(text, OR)
    intervals = [interval for item in items if (interval := _interval(item))]
    if len(intervals) != len(items) or len({interval.name for interval in intervals}) != 1:
        return None
    if len(items) == 1:
        return intervals[0]
    if any(interval.kind != "tuple" for interval in intervals):
        return None
    if OR in text and "," not in text and AND not in text:
        texts = tuple(interval.text for interval in intervals)
        return Reading("union", r"\cup".join(texts), texts, intervals[0].name)
    above, below = sorted(intervals, key=lambda interval: interval.items[0] == r"-\infty")[:: len(items) - 1]
    if len(items) > 2 or above.items[1] != r"\infty" or below.items[0] != r"-\infty":
        return None
    return _between(above.items[0], below.items[1], above.form[0] + below.form[1], above.name)


def _interval(text: str) -> Reading | None:
    terms = split(text, *_ORDERS)
    signs = [mark[0] for mark in _MARK.finditer(text) if mark[0] in _ORDERS]
    if len(terms) not in (2, 3) or len(signs) != len(terms) - 1:
        return None
    if len(terms) == 2 and _BOUNDED.fullmatch(terms[0]):
        terms, signs = [terms[1], terms[0]], [_ORDERS[signs[0]]]
    if signs[0] in (">", r"\geq"):
        terms, signs = terms[::-1], [_ORDERS[sign] for sign in signs[::-1]]
        if len(terms) == 2:  # x < high
            terms, signs = [r"-\infty", *terms], ["<", *signs]
    elif len(terms) == 2:  # low < x
        terms, signs = [*terms, r"\infty"], [*signs, "<"]
    low, variable, high = terms
    bounds = f"{low}{high}".replace(r"-\infty", "").replace(r"\infty", "")
    name = variable.strip("|")
    if not _BOUNDED.fullmatch(variable) or name in bounds or not set(signs) <= {"<", r"\leq"}:
        return None
    form = ("(" if signs[0] == "<" else "[") + (")" if signs[1] == "<" else "]")
    if name == variable:
        return _between(low, high, form, name)
    if re.search("[+-]", bounds):
        return None
    mirror = {"(": ")", "[": "]", ")": "(", "]": "["}
    if low == r"-\infty":
        return _between(f"-{high}", high, mirror[form[1]] + form[1], name)
    texts = (f"{mirror[form[1]]}-{high},-{low}{mirror[form[0]]}", f"{form[0]}{low},{high}{form[1]}")
    return Reading("union", r"\cup".join(texts), texts, name)


def _between(low: str, high: str, form: str, name: str) -> Reading:
    return Reading("tuple", f"{form[0]}{low},{high}{form[1]}", (low, high), name, form)


def _inside(text: str, opening: str, closing: str) -> str:
    """What a pair of brackets around the whole text holds; empty where there is none."""
    if text.startswith(opening) and text.endswith(closing) and _encloses(text):
        return text[len(opening) : -len(closing)].strip()
    return ""


def _encloses(text: str) -> bool:
    """Whether the bracket that begins the text closes at its end and no sooner."""
    level = 0
    for mark in _MARK.finditer(text):
        level += (mark[0] in _OPENING) - (mark[0] in _CLOSING)
        if level == 0:
            return mark.end() == len(text)
    return False
