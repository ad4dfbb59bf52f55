"""Charts of the report: points on scale in Python, drawn by `templates/charts.html` as inline SVG and HTML.

Why not matplotlib, which draws the files of the analyses (`analyses/figures.py`): its SVG carries fixed
colours and text sizes, so that it follows neither a dark page nor a narrow screen, and its points tell no
values. A picture file has to look alike everywhere and needs a PNG beside it, which a template cannot make.
So each of the two does what the other cannot. Every chart here says in words where its lines begin and end,
and has its values in a table.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from promptcot_jax.report import page

WIDTH, HEIGHT = 460, 270  # of the drawing's own units; narrow, so that its text stays legible on a telephone
LEFT, RIGHT, TOP, BOTTOM = 60, 14, 12, 40  # margins
NUM_COLOURS = 7
NUM_VALUE_ROWS = 24  # of the table of a chart's values
_MAX_DOTS = 40  # of a line; with more it has none

Point = tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart; a flat line has a single value for all x."""

    label: str
    points: tuple[Point, ...]
    errors: tuple[float, ...] = ()  # of the points, up and down; empty: none are known
    colour: int  # 0 .. NUM_COLOURS - 1
    is_dashed: bool = False
    is_flat: bool = False

    @property
    def bars(self) -> list[tuple[float, float, float]]:
        """The points as (x, least y, largest y) with their errors."""
        errors = self.errors or (0.0,) * len(self.points)
        return [(x, y - error, y + error) for (x, y), error in zip(self.points, errors, strict=True)]

    @property
    def dots(self) -> list[tuple[float, float, str]]:
        """x, y and what a dot tells; none where there are too many."""
        if self.is_flat or len(self.points) > _MAX_DOTS:
            return []
        dots = []
        for (x, y), (_, _, high) in zip(self.points, self.bars, strict=True):
            error = f" \u00b1 {page.number(high - y)}" if self.errors and high > y else ""
            dots.append((x, y, f"{self.label}: {page.number(y, 4)}{error} at {page.number(x)}"))
        return dots

    @property
    def in_words(self) -> str:
        (first_x, first), (last_x, last) = self.points[0], self.points[-1]
        if self.is_flat or len(self.points) == 1:
            return f"{self.label}: {page.number(first, 4)}"
        moved = f"{page.number(first, 4)} at {page.number(first_x)} to {page.number(last, 4)}"
        return f"{self.label}: {moved} at {page.number(last_x)}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LineChart:
    """A figure with a legend, axes, lines and dots; `x` and `y` are a value's position in the drawing."""

    width: ClassVar[int] = WIDTH
    height: ClassVar[int] = HEIGHT
    left: ClassVar[int] = LEFT
    right: ClassVar[int] = WIDTH - RIGHT
    base: ClassVar[int] = HEIGHT - BOTTOM  # of the axis below
    title: str
    lines: tuple[Line, ...]
    x_label: str
    note: str
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def x(self, value: float) -> str:
        low, high = self.x_range
        return f"{LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT):.1f}"

    def y(self, value: float) -> str:
        low, high = self.y_range
        return f"{HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM):.1f}"

    @property
    def legend(self) -> list[tuple[str, int, bool]]:
        """Label, colour and whether it is dashed."""
        return [(line.label, line.colour, line.is_dashed or line.is_flat) for line in self.lines]

    def path(self, line: Line) -> str:
        """The line's points in the drawing, at most about one for each unit of its width."""
        points = [(x, line.points[0][1]) for x in self.x_range] if line.is_flat else list(line.points)
        step = max(len(points) // WIDTH, 1)
        thinned = points[::step]
        thinned += points[-1:] if thinned[-1] != points[-1] else []
        return " ".join(f"{self.x(x)},{self.y(y)}" for x, y in thinned)

    @property
    def xs(self) -> list[float]:
        """Every x at which a line has a point."""
        return sorted({x for line in self.lines if not line.is_flat for x, _ in line.points})

    @property
    def x_ticks(self) -> list[float]:
        """Every x where they are few integers (rounds), otherwise round values."""
        xs = self.xs
        if len(xs) <= 10 and all(float(x).is_integer() for x in xs):
            return xs
        return ticks(*self.x_range)

    @property
    def y_ticks(self) -> list[float]:
        return ticks(*self.y_range)

    @property
    def in_words(self) -> str:
        """What the chart shows: of each line where it begins and ends."""
        return f"{self.title}. " + "; ".join(line.in_words for line in self.lines)

    @property
    def values(self) -> list[list[Any]]:
        """A row for each x, or for `NUM_VALUE_ROWS` of them: x, and the value of each line."""
        xs, last = self.xs or [0.0], NUM_VALUE_ROWS - 1
        if len(xs) > NUM_VALUE_ROWS:
            xs = list(dict.fromkeys(xs[round(i * (len(xs) - 1) / last)] for i in range(NUM_VALUE_ROWS)))
        by_x = [dict(line.points) for line in self.lines]
        return [
            [
                page.number(x),
                *(
                    line.points[0][1] if line.is_flat else own.get(x)
                    for line, own in zip(self.lines, by_x, strict=True)
                ),
            ]
            for x in xs
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShareBars:
    """A figure of horizontal bars, each cut into named shares of one; `names` fixes each name's colour."""

    title: str
    rows: Sequence[tuple[str, Mapping[str, float]]]
    names: Sequence[str]
    note: str = ""

    @property
    def legend(self) -> list[tuple[str, int, bool]]:
        return [(name, i % NUM_COLOURS, False) for i, name in enumerate(self.names)]

    def pieces(self, shares: Mapping[str, float]) -> list[tuple[str, float, int]]:
        """Name, share and colour."""
        return [(name, share, self.names.index(name) % NUM_COLOURS) for name, share in sorted(shares.items())]


@dataclasses.dataclass(frozen=True)
class Panel:
    """A line chart of fields of rows: their labels by name."""

    title: str
    fields: Mapping[str, str]
    note: str = ""
    y_range: tuple[float, float] | None = None

    def of(self, rows: Sequence[Mapping[str, Any]], x: str, x_label: str) -> LineChart | None:
        lines = [
            line_of_rows(rows, field, text, colour % NUM_COLOURS, x=x)
            for colour, (field, text) in enumerate(self.fields.items())
        ]
        return line_chart(self.title, lines, x_label=x_label, note=self.note, y_range=self.y_range)


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    note: str = "",
    y_range: tuple[float, float] | None = None,
) -> LineChart | None:
    """A chart of the lines that have points; None where none has."""
    lines = tuple(line for line in lines if line.points)
    if not lines:
        return None
    xs = [x for line in lines if not line.is_flat for x, _ in line.points] or [0.0]
    x_low, x_high = min(xs), max(xs)
    if x_low == x_high:
        x_low, x_high = x_low - 0.5, x_high + 0.5
    if y_range is None:
        ends = [y for line in lines for _, *both in line.bars for y in both]
        low, high = min(ends), max(ends)
        room = (high - low) * 0.08 or max(abs(high) * 0.1, 0.1)
        y_range = low - room, high + room
    return LineChart(
        title=title, lines=lines, x_label=x_label, note=note, x_range=(x_low, x_high), y_range=y_range
    )


def line_of_rows(
    rows: Sequence[Mapping[str, Any]],
    field: str,
    label: str,
    colour: int,
    is_dashed: bool = False,
    x: str = "round",
    error: str = "",
) -> Line:
    """The line of one field of records; rows without it are passed over.

    Args:
        error: the field of its standard error, where it has one.
    """
    rows = [row for row in rows if isinstance(row.get(field), int | float) and row.get(x) is not None]
    points = tuple((float(row[x]), float(row[field])) for row in rows)
    errors = tuple(float(row.get(error) or 0.0) for row in rows) if error else ()
    return Line(label=label, points=points, errors=errors, colour=colour, is_dashed=is_dashed)


def ticks(low: float | int, high: float | int, about: int = 6) -> list[float]:
    """Round values between two bounds."""
    raw = (high - low) / about
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first
    return [round((first + i) * step, 12) for i in range(count + 1)]
