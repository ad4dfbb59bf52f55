"""Pieces of Markdown, as lines: tables, and any text as itself."""

import re
from collections.abc import Iterator, Mapping, Sequence

_NUM_SHOWN = 25  # of the things counted


def plain(text: str) -> str:
    """Any text in a line of Markdown, as itself."""
    return re.sub(r"([\\`|<\[])", r"\\\1", " ".join(text.split()))


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    """A table; nothing without rows."""
    if not rows:
        return
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(f'{c:,}' if isinstance(c, int) else plain(str(c)) for c in row)} |"


def counted(what: str, counts: Mapping[str, int]) -> Iterator[str]:
    """The most common first, those of one count by name."""
    order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    yield from table((what, "rows"), order[:_NUM_SHOWN])
    if len(order) > _NUM_SHOWN:
        yield ""
        yield f"and {len(order) - _NUM_SHOWN:,} more."


def spreads(figures: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """A row of each figure's spread, see `cold_start_report.spread`; nothing without figures."""
    if figures:
        names = next(iter(figures.values()))
        rows = [(name, *(f"{value:g}" for value in of.values())) for name, of in figures.items()]
        yield from table(("", *names), rows)
