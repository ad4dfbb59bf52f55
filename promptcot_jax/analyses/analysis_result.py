"""What an analysis gives: figures or pages with the numbers that they show, before any is written."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import figure as mpl_figure

from promptcot_jax.core.errors import WrongUse


class NoRecords(WrongUse):
    """There is nothing to make an analysis of: left out among all, refused where it is named."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnalysisResult:
    """One figure, or one page, of an analysis."""

    name: str  # of its files, without suffix
    title: str
    caption: str  # what is shown, of how many, and what was left out
    rows: Sequence[Mapping[str, Any]]  # the numbers shown, of the same fields, at least one
    figure: mpl_figure.Figure | None = None  # None: there is a page instead
    html: str = ""


def counted(count: int, one: str, several: str = "") -> str:
    """A number with its noun."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"
