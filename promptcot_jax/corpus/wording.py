"""Texts that may be said in several ways: `[a|b]` in a template stands for one of its alternatives.

Alternatives may nest and may be empty. A template can be drawn from, for a new text, and turned into a
regular expression that knows every text which it can give, with the numbers in its gaps.
"""

import dataclasses
import math
import random
import re
from collections.abc import Mapping

_PARTS = re.compile(r"[\[\]|]|[^\[\]|]+")
_GAP = re.compile(r"\{(\w+)\}")


@dataclasses.dataclass
class _Choice:
    """The alternatives at one place of a template, each in pieces."""

    alternatives: list["_Pieces"] = dataclasses.field(default_factory=lambda: [[]])


# A template in pieces: texts and the choices between them.
_Pieces = list[str | _Choice]


def draw_wording(template: str, draw: random.Random) -> str:
    """One wording of a template; its gaps `{name}` stay. A text without alternatives draws nothing."""
    return _drawn(_pieces(template), draw)


def filled(template: str, draw: random.Random, values: Mapping[str, int | str]) -> str:
    """One wording of a template with its gaps filled."""
    return draw_wording(template, draw).format(**values)


def pattern(template: str, gaps: Mapping[str, str], number: str = r"\d+") -> str:
    """A regular expression of all wordings, in which the group `NAME__I` is the I-th gap `{NAME}`.

    Args:
        gaps: the regular expressions of gaps that hold no number, by name.
        number: that of all others.
    """
    taken: dict[str, int] = {}

    def of_gap(match: re.Match[str]) -> str:
        name = match[1]
        taken[name] = taken.get(name, 0) + 1
        return f"(?P<{name}__{taken[name]}>{gaps.get(name, number)})"

    def of_text(text: str) -> str:
        ends = [*(match.span() for match in _GAP.finditer(text)), (len(text), len(text))]
        written, start = "", 0
        for begin, end in ends:
            written += re.escape(text[start:begin])
            if gap := _GAP.fullmatch(text[begin:end]):
                written += of_gap(gap)
            start = end
        return written

    def of_pieces(pieces: _Pieces) -> str:
        return "".join(
            of_text(piece)
            if isinstance(piece, str)
            else f"(?:{'|'.join(map(of_pieces, piece.alternatives))})"
            for piece in pieces
        )

    return of_pieces(_pieces(template))


def groups(match: re.Match[str]) -> dict[str, str] | None:
    """What the gaps hold, by name; None where one gap holds two different texts."""
    values: dict[str, str] = {}
    for group, text in match.groupdict().items():
        name = group.rpartition("__")[0]
        if text is not None and values.setdefault(name, text) != text:
            return None
    return values


def num_wordings(template: str) -> int:
    """How many texts a template can give, different or not."""
    return _count(_pieces(template))


def _pieces(template: str) -> _Pieces:
    """Raises ValueError where brackets do not match."""
    stack = [_Choice()]
    for part in _PARTS.findall(template):
        match part:
            case "[":
                stack.append(_Choice())
            case "|" if len(stack) > 1:
                stack[-1].alternatives.append([])
            case "]" if len(stack) > 1:
                choice = stack.pop()
                stack[-1].alternatives[-1].append(choice)
            case "]" | "|":
                raise ValueError(f"'{part}' outside of brackets in the template {template!r}.")
            case _:
                stack[-1].alternatives[-1].append(part)
    if len(stack) > 1:
        raise ValueError(f"A bracket is not closed in the template {template!r}.")
    return stack[0].alternatives[0]


def _drawn(pieces: _Pieces, draw: random.Random) -> str:
    return "".join(
        piece if isinstance(piece, str) else _drawn(draw.choice(piece.alternatives), draw) for piece in pieces
    )


def _count(pieces: _Pieces) -> int:
    return math.prod(sum(map(_count, piece.alternatives)) for piece in pieces if isinstance(piece, _Choice))
