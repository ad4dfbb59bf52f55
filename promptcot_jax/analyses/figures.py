"""What an analysis gives, and how its figures are drawn and stored: matplotlib without global state.

The same rows give the same bytes: SVG, PNG and CSV of one figure side by side, in colours that the
colour-blind can tell apart. Pages draw their own charts (`report/charts.py` says why).
"""

import contextlib
import csv
import dataclasses
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure

from promptcot_jax.core.errors import WrongUse

# Okabe and Ito's, in an order in which neighbours differ in lightness too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
OTHER, NOT_STATED = "other", "not stated"
_QUIET = {OTHER: "#999999", NOT_STATED: "#dddddd"}  # names that are no name
WIDTH = 7.2  # inches, of a text column
PANEL = (3.4, 2.5)  # inches, of one panel of several
_DOTS_PER_INCH = 160
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_STYLE: Any = {
    "svg.hashsalt": "promptcot",
    "svg.fonttype": "path",
    "font.size": 10.5,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.formatter.use_mathtext": False,
    "text.parse_math": False,  # names come from users' files: "$5 a piece" is no formula
}


Number = float | int
Panels = tuple[mpl_figure.Figure, list[mpl_axes.Axes]]
Point = tuple[
    Number | None, Number | tuple[Number, Number] | None
]  # and its error: both ways, or below and above


class NoRecords(WrongUse):
    """There are no records for an analysis: left out among all, refused where it is named."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnalysisResult:
    """One figure, or one page, of an analysis."""

    name: str  # of its files, without suffix
    title: str
    caption: str  # what is shown, of how many, and what was left out
    rows: Sequence[Mapping[str, Any]]  # the numbers shown, of the same fields, at least one
    figure: mpl_figure.Figure | None = None  # None: there is a page instead
    html: str = ""

    def files(self) -> dict[str, bytes]:
        """Its files by suffix."""
        files = encoded(self.figure) if self.figure is not None else {}
        if self.html:
            files["html"] = self.html.encode("utf-8", errors="replace")
        return files | {"csv": table(self.rows)}


def counted(count: int, one: str, several: str = "") -> str:
    """A number with its noun."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation (0 of a single value) and number of seeds."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"mean": float(np.mean(values)), "deviation": deviation, "seeds": len(values)}


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """The style of all figures, where one is drawn and where it is encoded; a decorator too."""
    with matplotlib.rc_context(_STYLE):
        yield


def colour(i: int) -> str:
    """Colour of the i-th curve or set."""
    return COLOURS[i % len(COLOURS)]


def marker(i: int) -> str:
    """Marker of the i-th curve or set: beyond the seventh the colours come again with another one."""
    return MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]


def blank(width: float = WIDTH, height: float = 4.3) -> mpl_figure.Figure:
    """An empty figure, in inches. No pyplot: it keeps a global state."""
    return mpl_figure.Figure(figsize=(width, height), layout="constrained")


def panels(count: int, *, columns: int = 2, panel: tuple[float, float] = PANEL) -> Panels:
    """A figure of equal panels in rows, and its axes in order; what is left over stays empty."""
    columns = min(columns, count)
    num_rows = -(-count // columns)
    width = max(WIDTH if columns > 1 else 5.2, columns * panel[0])
    figure = blank(width, num_rows * panel[1] + 0.5)
    grid = figure.subplots(num_rows, columns, squeeze=False).flatten()
    for spare in grid[count:]:
        spare.remove()
    for one in grid[:count]:
        plain(one)
    return figure, list(grid[:count])


def plain(axes: mpl_axes.Axes, grid: Literal["x", "y", "both"] = "y") -> None:
    """Axes without a box, with faint lines to read values along."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)


def band(
    axes: mpl_axes.Axes,
    rows: Sequence[Mapping[str, Any]],
    x: str,
    *,
    label: str,
    colour: str,
    dash: str = "-",
    marker: str = "o",
) -> None:
    """A curve of rows from `spread`, with a marker at each point and a band of one deviation."""
    xs, mean, deviation = ([row[field] for row in rows] for field in (x, "mean", "deviation"))
    low, high = np.subtract(mean, deviation), np.add(mean, deviation)
    axes.plot(xs, mean, color=colour, linestyle=dash, marker=marker, markersize=4, linewidth=1.8, label=label)
    axes.fill_between(xs, low, high, color=colour, alpha=0.18, linewidth=0)


def flat(axes: mpl_axes.Axes, row: Mapping[str, Any], *, label: str, colour: str, dash: str = "--") -> None:
    """A line across the axes with its band."""
    mean, deviation = row["mean"], row["deviation"]
    axes.axhline(mean, color=colour, linestyle=dash, linewidth=1.8, label=label)
    axes.axhspan(mean - deviation, mean + deviation, color=colour, alpha=0.12, linewidth=0)


def points_with_errors(
    axes: mpl_axes.Axes,
    labels: Sequence[str],
    groups: Mapping[str, Sequence[Point]],
) -> None:
    """One row per label, and in it a point with its error for each group; None where there is none."""
    rows = np.arange(len(labels))[::-1]
    for i, (name, values) in enumerate(groups.items()):
        shift = (0.5 * (len(groups) - 1) - i) * min(0.22, 0.7 / len(groups))
        there = [
            (rows[j] + shift, value, *(error if isinstance(error, tuple) else (error or 0.0, error or 0.0)))
            for j, (value, error) in enumerate(values)
            if value is not None
        ]
        heights, middles, below, above = zip(*there, strict=True) if there else ((), (), (), ())
        axes.errorbar(
            middles,
            heights,
            xerr=(below, above),
            fmt=marker(i),
            markersize=5,
            color=colour(i),
            capsize=2.5,
            linewidth=1.4,
            label=short(name),
        )
    axes.set_yticks(rows, [short(label) for label in labels])
    axes.set_ylim(-0.6, len(labels) - 0.4)
    plain(axes, "x")


def stacked_shares(axes: mpl_axes.Axes, shares: Mapping[str, Mapping[str, Number]], most: int = 7) -> None:
    """A bar per set cut into named shares of one; names beyond the `most` largest are drawn as one."""
    totals: dict[str, float] = {}
    for own in shares.values():
        for name, share in own.items():
            totals[name] = totals.get(name, 0.0) + share
    names = sorted(totals, key=lambda name: (name in _QUIET, -totals[name], name))
    shown = names if len(names) <= most else names[: most - 1]
    parts = {name: np.array([own.get(name, 0.0) for own in shares.values()]) for name in shown}
    if len(shown) < len(names):
        rest = [name for name in names if name not in shown]
        parts[OTHER] = np.array([sum(own.get(name, 0.0) for name in rest) for own in shares.values()])
    left, rows = np.zeros(len(shares)), np.arange(len(shares))[::-1]
    for i, (name, widths) in enumerate(parts.items()):
        ink = _QUIET.get(name, colour(i))
        axes.barh(rows, widths, left=left, height=0.62, color=ink, label=short(name), linewidth=0)
        left = left + widths
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(percent)
    rows_of_sets(axes, list(shares))


def rows_of_sets(axes: mpl_axes.Axes, names: Sequence[str]) -> None:
    """A row for each set, the first at the top, and the legend at the right."""
    axes.set_yticks(np.arange(len(names))[::-1], [short(name) for name in names])
    axes.set_ylim(-0.6, len(names) - 0.4)
    plain(axes, "x")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.04), frameon=False, fontsize=8.5)


def percent(share: Number, _: object = None) -> str:
    """A share as axes show it."""
    return f"{round(100 * share, 1):g} %"


def short(name: str, most: int = 28) -> str:
    """A name that fits beside an axis or in a legend, without characters that an SVG cannot hold."""
    name = " ".join(_NOT_XML.sub("", name).split())
    return name if len(name) <= most else name[: most - 1].rstrip() + "\u2026"


def encoded(figure: mpl_figure.Figure) -> dict[str, bytes]:
    """The figure as SVG and PNG, without dates and versions."""
    files = {}
    with drawing():
        for suffix, metadata in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
            stream = io.BytesIO()
            figure.savefig(stream, format=suffix, dpi=_DOTS_PER_INCH, metadata=metadata)
            files[suffix] = stream.getvalue()
            figure.set_layout_engine("none")  # it is laid out by now, which takes as long as drawing
    return files


def table(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows of the same fields as CSV; a number keeps all its digits, None is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
