"""Python values in rows: JSON where JSON has them, else the text of a literal; each comes back as it was.

`[1, {"a": null}]` stands for itself. What JSON would change or does not know (a tuple, a set, bytes, a
complex number, a dict whose keys are not all texts) is an object of one key, `{"python": "{(1, 2), (3,)}"}`;
so is a dict of just that key. Only the whole value may be written so, no part of one.
"""

import ast
import math
from typing import Any

from promptcot_jax.core.errors import WrongUse

_KEY = "python"


def encode(value: Any) -> Any:
    """What stands for a value in a row.

    Raises:
        ValueError: the value is not written as a literal (an infinity, an object).
    """
    if _is_json(value) and not _is_written_out(value):
        return value
    written = repr(value)
    try:
        if ast.literal_eval(written) == value:
            return {_KEY: written}
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    raise ValueError(f"a value of type {type(value).__name__} has no form in a row: {written[:80]}.")


def decode(value: Any, where: str) -> Any:
    """The value that a row has.

    Raises:
        WrongUse: its text is no literal; the message begins with `where`.
    """
    if not _is_written_out(value):
        return value
    try:
        return ast.literal_eval(value[_KEY])
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise WrongUse(f"{where}: {value[_KEY]!r:.80} is not the text of a Python literal.") from None


def _is_written_out(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {_KEY}


def _is_json(value: Any) -> bool:
    """Whether JSON gives the value back just as it is."""
    if type(value) is dict:
        return all(type(key) is str and _is_json(item) for key, item in value.items())
    if type(value) is list:
        return all(map(_is_json, value))
    return value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value))
