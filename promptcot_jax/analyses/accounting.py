"""What is in sets of problems, side by side: counts, repetitions, contamination, lengths.

The paper states sizes by domain and names the rules of its cleaning; here each is counted on the user's own
rows. Near-duplicates are found by the same rules as in `synthesize`, contamination as in `decontaminate`.
"""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure

from promptcot_jax.analyses import figures
from promptcot_jax.analyses.figures import AnalysisResult, NoRecords
from promptcot_jax.analyses.problem_sets import ProblemSets, SetRow
from promptcot_jax.data import decontamination

# For each text the rule by which it repeats an earlier one, "" for the first of its kind.
FindRepeats = Callable[[Sequence[str]], Sequence[str]]

_PERCENTILES = (10, 50, 90)
_SHARES: Mapping[str, Callable[[SetRow], str]] = {
    "domain": lambda row: row.domain,
    "source": lambda row: row.source or figures.NOT_STATED,
    "level": lambda row: row.level or figures.NOT_STATED,
}
_LENGTHS: Mapping[str, Callable[[SetRow], str]] = {
    "words of a problem": lambda row: row.problem,
    "words of a rationale": lambda row: row.rationale,
    "words of a solution": lambda row: row.solution,
}
_CLEANLINESS = "repeated or contaminated"


def figures_of(
    sets: ProblemSets, find_repeats: FindRepeats, index: decontamination.Index | None
) -> list[AnalysisResult]:
    """The counts of the sets.

    Args:
        index: of the benchmarks; None: there are none to compare with.

    Raises:
        NoRecords: there are no sets.
    """
    if not sets:
        raise NoRecords(
            "no set of problems; the workdir has no triples.jsonl, problems.jsonl or "
            "verified_prompts.jsonl, and SETS "
            "names none."
        )
    table = [row for name, rows in sets.items() for row in _accounts(name, rows, find_repeats, index)]
    numbers = ", ".join(f"{name} {len(rows):,}" for name, rows in sets.items())
    against = (
        "overlap: 13 words in a row with a benchmark"
        if index
        else "no benchmarks were named (SET_BENCHMARKS)"
    )
    return [
        AnalysisResult(
            name="accounting",
            title="What is in the sets",
            caption=f"Rows: {numbers}. Repeats are rows like an earlier one of their set, but for case, "
            "spacing and Unicode form (exact) or in most of their word sequences (near); "
            f"{against}. Lengths: median, and from the 10th to the 90th of 100.",
            rows=table,
            figure=_draw(table, list(sets)),
        )
    ]


def _accounts(
    name: str, rows: Sequence[SetRow], find_repeats: FindRepeats, index: decontamination.Index | None
) -> Iterator[dict[str, Any]]:
    """Every number of one set: a count with its share of the rows, or the value of a length."""

    def account(what: str, group: str, value: float | int, share: float | None) -> dict[str, Any]:
        return {"set": name, "what": what, "group": group, "value": value, "share": share}

    yield account("rows", "all", len(rows), 1.0)
    for what, group_of in _SHARES.items():
        for group, count in sorted(collections.Counter(map(group_of, rows)).items()):
            yield account(what, group, count, count / len(rows))
    repeats = collections.Counter(find_repeats([row.problem for row in rows]))
    unclean = {
        "exact repeat": repeats["exact"],
        "near repeat": repeats.total() - repeats[""] - repeats["exact"],
    }
    if index is not None:
        unclean |= _contaminated(rows, index)
    for group, count in unclean.items():
        yield account(_CLEANLINESS, group, count, count / len(rows))
    for what, text_of in _LENGTHS.items():
        lengths = [len(decontamination.words(text)) for row in rows if (text := text_of(row))]
        if lengths:
            yield account(what, "rows", len(lengths), len(lengths) / len(rows))
            yield account(what, "mean", float(np.mean(lengths)), None)
            for percentile in _PERCENTILES:
                yield account(
                    what, f"percentile {percentile}", float(np.percentile(lengths, percentile)), None
                )


def _contaminated(rows: Sequence[SetRow], index: decontamination.Index) -> dict[str, int]:
    """Rows that overlap with a benchmark: with any, and with each."""
    counts: collections.Counter[str] = collections.Counter()
    for _, overlaps in decontamination.with_overlaps(rows, index, lambda row: (row.problem,)):
        counts["overlap"] += bool(overlaps)
        counts.update({f"overlap with {one.source.benchmark}" for one in overlaps})
    return {"overlap": 0} | dict(sorted(counts.items()))


@figures.drawing()
def _draw(table: Sequence[Mapping[str, Any]], names: Sequence[str]) -> mpl_figure.Figure:
    shown = [
        what
        for what in _SHARES
        if {row["group"] for row in table if row["what"] == what} != {figures.NOT_STATED}
    ]
    height = max(0.65 + 0.3 * len(names), 1.55)  # of a panel; its legend has up to seven lines
    figure = figures.blank(figures.WIDTH, height * (len(shown) + 2))
    *grid, unclean, lengths = figure.subplots(len(shown) + 2, 1)
    for axes, what in zip(grid, shown, strict=True):
        shares = {
            name: {row["group"]: row["share"] for row in table if (row["set"], row["what"]) == (name, what)}
            for name in names
        }
        figures.stacked_shares(axes, shares)
        axes.set_title(what)
    _draw_unclean(unclean, table, names)
    _draw_lengths(lengths, table, names)
    return figure


def _draw_unclean(axes: mpl_axes.Axes, table: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    own = [
        row for row in table if row["what"] == _CLEANLINESS and not row["group"].startswith("overlap with")
    ]
    groups = list(dict.fromkeys(row["group"] for row in own))
    shares = {(row["set"], row["group"]): row["share"] for row in own}
    height, middles = 0.74 / len(groups), np.arange(len(names))[::-1]
    for i, group in enumerate(groups):
        heights = middles + (0.5 * (len(groups) - 1) - i) * height
        widths = [shares[name, group] for name in names]
        axes.barh(heights, widths, height=height, color=figures.colour(i), label=group)
    most = max(0.01, 1.05 * max(shares.values()))
    axes.set_xlim(0, most)
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.{0 if most > 0.05 else 1}f} %")
    figures.rows_of_sets(axes, names)
    axes.set_title(_CLEANLINESS)


def _draw_lengths(axes: mpl_axes.Axes, table: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    kinds = [what for what in _LENGTHS if any(row["what"] == what for row in table)]
    values = {(row["set"], row["what"], row["group"]): row["value"] for row in table}
    heights = np.arange(len(names))[::-1]
    for i, what in enumerate(kinds):
        there = [j for j, name in enumerate(names) if (name, what, "mean") in values]
        low, middle, high = (
            np.array([values[names[j], what, f"percentile {percentile}"] for j in there])
            for percentile in _PERCENTILES
        )
        axes.errorbar(
            middle,
            [heights[j] + (0.5 * (len(kinds) - 1) - i) * 0.24 for j in there],
            xerr=[middle - low, high - middle],
            fmt=figures.marker(i),
            markersize=5,
            color=figures.colour(i),
            capsize=2.5,
            label=what,
        )
    axes.set_xlim(left=0)
    figures.rows_of_sets(axes, names)
    axes.set_title("lengths")
