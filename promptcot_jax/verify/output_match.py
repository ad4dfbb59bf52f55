"""Whether what a program printed or returned is what was expected; runs in the parent, on hostile bytes.

Printed text is compared as a contest's judge does: line by line, white space at the end of a line and empty
lines at the end of the output aside. With a tolerance, fields of a line that are both decimal numbers are
compared as numbers, |given - expected| <= tolerance * max(1, |expected|), unless both are integers, which
must be equal whatever their size.

Returned values are compared as typed JSON (`sandbox_driver`): a tuple equals a list, True is not 1, 1 equals
1.0, NaN equals nothing, a set is compared without order. The tolerance applies to floats outside of sets and
keys. Where an assertion was written in Python, its `==` counts: a tuple is no list, and True is 1.
"""

import json
import math
import re
from typing import Any

_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,5})?")
_NAN = re.compile(r"[+-]?nan", re.IGNORECASE)
_LONGEST_NUMBER = 400  # characters; a longer field is compared as text

_TAGS = {"tuple": "list", "frozenset": "set"}


def outputs_match(expected: str, printed: bytes, float_tolerance: int | float | None = None) -> bool:
    """Whether a program's standard output is the expected one."""
    # Bytes that are no UTF-8 become lone surrogates, which no expectation holds.
    wanted, given = _lines(expected), _lines(printed.decode("utf-8", "surrogateescape"))
    if float_tolerance is None:
        return wanted == given
    return len(wanted) == len(given) and all(
        _lines_match(a, b, float_tolerance) for a, b in zip(wanted, given, strict=True)
    )


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _lines_match(expected: str, given: str, tolerance: int | float) -> bool:
    wanted, fields = expected.split(), given.split()
    return len(wanted) == len(fields) and all(
        _fields_match(a, b, tolerance) for a, b in zip(wanted, fields, strict=True)
    )


def _fields_match(expected: str, given: str, tolerance: int | float) -> bool:
    if max(len(expected), len(given)) > _LONGEST_NUMBER:
        return expected == given
    if _INTEGER.fullmatch(expected) and _INTEGER.fullmatch(given):
        return int(expected) == int(given)
    if _NUMBER.fullmatch(expected) and _NUMBER.fullmatch(given):
        return expected == given or _is_close(float(expected), float(given), tolerance)
    return expected == given and not _NAN.fullmatch(expected)


def _is_close(expected: float, given: float, tolerance: int | float) -> bool:
    return math.isfinite(expected) and abs(given - expected) <= tolerance * max(1.0, abs(expected))


def value_matches(
    wanted: Any, result: bytes, float_tolerance: int | float | None = None, *, as_python: bool = False
) -> bool:
    """Whether what a program's process wrote is the expected value; `wanted` is the latter's typed JSON.

    Args:
        as_python: values are equal as Python has it, see above.
    """
    try:
        given = json.loads(result)
        # Only values of equal size can match. That also bounds the work below by the expectation: a program
        # cannot fill a hash table of this process with values that collide.
        return _size(wanted) == _size(given) and _match(wanted, given, float_tolerance or 0.0, as_python)
    except (ValueError, TypeError, OverflowError, RecursionError):
        return False  # not typed JSON


def _size(typed: Any) -> int:
    if isinstance(typed, dict):
        return sum(map(_size, typed.values()))
    return 1 + sum(map(_size, typed)) if isinstance(typed, list) else 1


def _parts(typed: Any, as_python: bool) -> tuple[str, Any]:
    """Kind and content; a frozenset is a set, and a tuple a list or, in Python, True a number."""
    if as_python and isinstance(typed, bool):
        return "number", int(typed)
    if typed is None or isinstance(typed, bool | str | list):
        return type(typed).__name__, typed
    if isinstance(typed, int | float):
        return "number", typed
    [(tag, content)] = typed.items()
    if tag == "int":
        return "number", int(content, 16)
    if tag == "float":
        return "number", float(content)
    return tag if as_python and tag == "tuple" else _TAGS.get(tag) or tag, content


def _match(expected: Any, given: Any, tolerance: int | float, as_python: bool) -> bool:
    kind, wanted = _parts(expected, as_python)
    other_kind, value = _parts(given, as_python)
    if kind != other_kind:
        return False
    if kind == "number":
        if not tolerance or (isinstance(wanted, int) and isinstance(value, int)):
            return wanted == value  # exact between an integer and a float as well
        return wanted == value or _is_close(float(wanted), float(value), tolerance)
    if kind in ("list", "tuple", "complex"):
        return len(wanted) == len(value) and all(
            _match(a, b, tolerance, as_python) for a, b in zip(wanted, value, strict=True)
        )
    if kind == "set":
        missing = {_key(item, as_python) for item in wanted}
        return len(missing) == len(value) and all(_take(missing, _key(item, as_python)) for item in value)
    if kind == "dict":
        entries = {_key(key, as_python): content for key, content in wanted}
        return len(entries) == len(value) and all(
            (name := _key(key, as_python)) in entries
            and _match(entries.pop(name), content, tolerance, as_python)
            for key, content in value
        )
    return wanted == value


def _take(missing: set[Any], key: Any) -> bool:
    """Removes a key from those not seen yet; False where it is none of them."""
    is_missing = key in missing
    missing.discard(key)
    return is_missing


def _key(typed: Any, as_python: bool) -> Any:
    """A hashable stand-in: equal for equal values, never equal for NaN."""
    kind, content = _parts(typed, as_python)
    if kind == "set":
        return kind, frozenset(_key(item, as_python) for item in content)
    if isinstance(content, list):
        return kind, tuple(_key(item, as_python) for item in content)
    return kind, object() if content != content else content
