"""Small charts of the report as inline SVG and HTML, in the page's own colours, light or dark.

Hand-written rather than by a plotting library: a plotted SVG carries fixed colours and text sizes, which a
dark page or a narrow screen cannot change. `figures` draws what goes into documents, with matplotlib. Every
chart says in words where its lines begin and end, and has its values in a table, for who cannot see it.
"""

import dataclasses
import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEIGHT = 460, 270  # of the drawing's own units; narrow, so that its text stays legible on a telephone
LEFT, RIGHT, TOP, BOTTOM = 60, 14, 12, 40
NUM_COLOURS = 7
NUM_ROWS_TOLD = 24  # of the table of a chart's values
_DASH = "\u2013"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart; a flat line has a single value for all x."""

    label: str
    points: tuple[tuple[float, float], ...]
    errors: tuple[float, ...] = ()  # of the points, up and down; empty: none are known
    colour: int  # 0 .. NUM_COLOURS - 1
    is_dashed: bool = False
    is_flat: bool = False


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    note: str = "",
    y_range: tuple[float, float] | None = None,
) -> str:
    """A figure with a legend, axes, lines and a marker at each point that tells its value."""
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    xs = [x for line in lines if not line.is_flat for x, _ in line.points] or [0.0]
    x_low, x_high = min(xs), max(xs)
    if x_low == x_high:
        x_low, x_high = x_low - 0.5, x_high + 0.5
    y_low, y_high = y_range or _padded([y for line in lines for _, *ys in _bars(line) for y in ys])

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    told = _escaped(_in_words(title, lines))
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{told}">']
    for y in ticks(y_low, y_high):
        _, down = place(x_low, y)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down:.1f}" y2="{down:.1f}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{down + 4:.1f}" text-anchor="end">{number(y)}</text>')
    for x in _x_ticks(sorted(set(xs)), x_low, x_high):
        across, _ = place(x, y_low)
        parts.append(
            f'<text x="{across:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{number(x)}</text>'
        )
    base = HEIGHT - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{_escaped(x_label)}</text>')
    for line in lines:
        points = (
            [(x_low, line.points[0][1]), (x_high, line.points[0][1])]
            if line.is_flat
            else _thinned(line.points, WIDTH)
        )
        path = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in points)
        dashes = " dashed" if line.is_dashed or line.is_flat else ""
        parts.append(f'<polyline class="line c{line.colour}{dashes}" points="{path}"/>')
        for x, low, high in _bars(line) if line.errors else ():
            (across, bottom), (_, top) = place(x, low), place(x, high)
            parts.append(
                f'<line class="line error c{line.colour}" x1="{across:.1f}" x2="{across:.1f}" '
                f'y1="{bottom:.1f}" y2="{top:.1f}"/>'
            )
        if not line.is_flat and len(points) <= 40:
            errors = line.errors or (0.0,) * len(points)
            for (x, y), error in zip(points, errors, strict=True):  # so few points are not thinned
                across, down = place(x, y)
                spread = f" \u00b1 {number(error)}" if error else ""
                hint = _escaped(f"{line.label}: {number(y, 4)}{spread} at {number(x)}")
                parts.append(
                    f'<circle class="dot c{line.colour}" cx="{across:.1f}" cy="{down:.1f}" r="3.2">'
                    f"<title>{hint}</title></circle>"
                )
    parts.append("</svg>")
    return _figure(
        title,
        _legend([(line.label, line.colour, line.is_dashed or line.is_flat) for line in lines]),
        "".join(parts),
        note,
        _values(title, lines, x_label),
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


def share_bars(
    title: str, rows: Sequence[tuple[str, Mapping[str, float]]], *, names: Sequence[str], note: str = ""
) -> str:
    """A figure of horizontal bars, each cut into named shares of one; `names` fixes each name's colour."""
    if not rows:
        return ""
    bars = []
    for label, shares in rows:
        pieces = "".join(
            f'<span class="piece b{names.index(name) % NUM_COLOURS}" style="width:{100 * share:.2f}%" '
            f'title="{_escaped(name)}: {share:.1%}">{f"{share:.0%}" if share >= 0.12 else ""}</span>'
            for name, share in sorted(shares.items())
        )
        told = ", ".join(f"{name} {share:.1%}" for name, share in sorted(shares.items()))
        bars.append(
            f'<div class="bar-row"><span class="bar-label">{_escaped(label)}</span>'
            f'<span class="bar" role="img" aria-label="{_escaped(f"{label}: {told}")}">{pieces}</span></div>'
        )
    legend = _legend([(name, i % NUM_COLOURS, False) for i, name in enumerate(names)])
    return _figure(title, legend, f'<div class="bars">{"".join(bars)}</div>', note)


def number(value: float | int, digits: int = 3) -> str:
    """A number for people: grouped integers, otherwise so many significant digits."""
    if value != value or math.isinf(value):
        return "undefined"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}".replace("-", "\u2212")
    if abs(value) < 1e-4:
        text = f"{value:.1e}"
    else:
        text = f"{value:.{digits}g}"
        if abs(value) >= 1000 or "e" in text:  # 999.7, whose three digits would be 1e+03
            text = f"{value:,.0f}"
    return text.replace("-", "\u2212")


def ticks(low: float | int, high: float | int, about: int = 6) -> list[float]:
    """Round values between two bounds."""
    raw = (high - low) / about
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first
    return [round((first + i) * step, 12) for i in range(count + 1)]


def _bars(line: Line) -> list[tuple[float, float, float]]:
    """The points as (x, least y, largest y) with their errors."""
    errors = line.errors or (0.0,) * len(line.points)
    return [(x, y - error, y + error) for (x, y), error in zip(line.points, errors, strict=True)]


def _x_ticks(xs: Sequence[float], low: float, high: float) -> list[float]:
    """Every x where they are few integers (rounds), otherwise round values."""
    if len(xs) <= 10 and all(float(x).is_integer() for x in xs):
        return list(xs)
    return [x for x in ticks(low, high) if low <= x <= high]


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * 0.08 or max(abs(high) * 0.1, 0.1)
    return low - room, high + room


def _thinned(points: Sequence[tuple[float, float]], limit: int) -> list[tuple[float, float]]:
    """At most about `limit` points, the first and the last among them."""
    step = max(len(points) // limit, 1)
    kept = list(points[::step])
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def _legend(entries: Sequence[tuple[str, int, bool]]) -> str:
    keys = "".join(
        f'<span class="key"><i class="swatch b{colour}{" dashed" if is_dashed else ""}"></i>'
        f"{_escaped(label)}</span>"
        for label, colour, is_dashed in entries
    )
    return f'<div class="legend">{keys}</div>'


def _in_words(title: str, lines: Sequence[Line]) -> str:
    """What a chart shows, said: of each line where it begins and ends."""
    said = []
    for line in lines:
        (first_x, first), (last_x, last) = line.points[0], line.points[-1]
        moves = f" at {number(first_x)} to {number(last, 4)} at {number(last_x)}"
        is_still = line.is_flat or len(line.points) == 1
        said.append(f"{line.label}: {number(first, 4)}{'' if is_still else moves}")
    return f"{title}. " + "; ".join(said)


def _values(title: str, lines: Sequence[Line], x_label: str) -> str:
    """The values of a chart as a folded table, of at most `NUM_ROWS_TOLD` places on its axis."""
    values = [dict(line.points) for line in lines]
    xs = sorted({x for line, own in zip(lines, values, strict=True) if not line.is_flat for x in own})
    shown = [xs[round(i * (len(xs) - 1) / (NUM_ROWS_TOLD - 1))] for i in range(NUM_ROWS_TOLD)]
    shown = xs if len(xs) <= NUM_ROWS_TOLD else list(dict.fromkeys(shown))
    head = "".join(f'<th scope="col">{_escaped(name)}</th>' for name in (x_label, *(n.label for n in lines)))
    rows = []
    for x in shown or [0.0]:
        cells = [
            line.points[0][1] if line.is_flat else own.get(x) for line, own in zip(lines, values, strict=True)
        ]
        told = "".join(f"<td>{_DASH if value is None else number(value, 4)}</td>" for value in cells)
        rows.append(f'<tr><th scope="row">{number(x)}</th>{told}</tr>')
    which = "" if len(shown) == len(xs) else f" ({len(shown)} of {len(xs):,} points)"
    return (
        f'<details class="screen"><summary>Values<span class="hidden-text"> of {_escaped(title)}</span>'
        f'{which}</summary><div class="scroll" role="group" tabindex="0" '
        f'aria-label="Values of {_escaped(title)}">'
        f'<table><caption class="hidden-text">{_escaped(title)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def _figure(title: str, legend: str, drawing: str, note: str, more: str = "") -> str:
    caption = f"<figcaption>{_escaped(title)}</figcaption>"
    remark = f'<p class="note">{_escaped(note)}</p>' if note else ""
    return f"<figure>{caption}{legend}{drawing}{remark}{more}</figure>"


def _escaped(text: str) -> str:
    return html.escape(text, quote=True)
