"""Accuracy against the size of the training set (the paper's scaling curves), from finished runs.

The paper trains on random subsets, self-play on 0 to 48,000 problems and SFT on 0 to 4.8 million, and
averages over the benchmarks of a domain; baselines are other data sets. `subsets` draws such subsets; each is
trained on and evaluated by the stages, and this draws what came out: a curve with a band over seeds, and
lines across for runs that have no size.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
from matplotlib import ticker

from promptcot_jax.analyses import figures, results
from promptcot_jax.analyses.figures import AnalysisResult, NoRecords
from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One row of RUNS: a finished run, or with `{size}` and `{seed}` in its path all runs of a curve.

    Attributes:
        curve: what was trained on, as the legend names it.
        results: `results.json`, the workdir that holds it, or `attempts.jsonl`.
        size: problems trained on, from 0; -1: none is given, the run is a line across its panel.
        method: with `domain` it names the panel, such as "self-play" and "math".
        sets: benchmarks of `results.json` whose accuracies are averaged; all where none is named, which then
            are the same in all such runs of a panel.
    """

    curve: str
    results: str
    size: int = -1
    seed: int = 0
    method: str = ""
    domain: str = ""
    sets: tuple[str, ...] = ()

    @property
    def panel(self) -> str:
        return ", ".join(part for part in (self.method, self.domain) if part)


def read_runs(
    given: str | Sequence[Mapping[str, Any]], place_of: Callable[[str], str] = lambda path: path
) -> list[Run]:
    """The runs of a file of rows, or of rows in settings.

    Args:
        place_of: what a path of results, or of the file of rows, stands for: it may be one in the workdir.

    Raises:
        NoRecords: none are given.
        WrongUse: a row lacks a field, has one that is not known, or its files are not there.
    """
    if not given:
        raise NoRecords(
            "RUNS is empty; name finished runs: --gin.RUNS=\"({'curve': 'ours', 'results': "
            "'runs/size_{size}_seed_{seed}/results.json'},)\"."
        )
    if isinstance(given, str):
        rows = [(f"{file}:{number}", row) for file, number, row in jsonl.iter_rows(place_of(given))]
    else:
        rows = [(f"RUNS[{i}]", dict(row)) for i, row in enumerate(given)]
    if not rows:
        raise WrongUse(f"{given}: there are no runs in it; add a row for each.")
    return [run for where, row in rows for run in _runs_of(row, where, place_of)]


def _runs_of(row: dict[str, Any], where: str, place_of: Callable[[str], str]) -> list[Run]:
    row = {name: value for name, value in row.items() if value is not None}
    known = [field.name for field in dataclasses.fields(Run)]
    if unknown := [name for name in row if name not in known]:
        raise WrongUse(f"{where}: field '{unknown[0]}' is not known; a run has {', '.join(known)}.")
    run = jsonl.record_from_row(Run, row, where=where)
    if run.size < 0 and "size" in row:
        raise WrongUse(f"{where}: size must be at least 0, got {run.size}; leave it out for a line across.")
    return [
        dataclasses.replace(run, results=path, **numbers)
        for numbers, path in results.matches(place_of(run.results), ("size", "seed"))
    ]


def figures_of(runs: Sequence[Run]) -> list[AnalysisResult]:
    """The figure of all panels.

    Raises:
        WrongUse: results are not there, two runs of a curve have the same size and seed, or runs of a panel
            have different sets and do not name those to average.
    """
    table = statistics(runs)
    seeds = [row["seeds"] for row in table]
    return [
        AnalysisResult(
            name="scaling",
            title="Accuracy against training-set size",
            caption="Mean over benchmarks, each counting alike; points and bands: mean and one standard "
            f"deviation over {min(seeds)}{f' to {max(seeds)}' if max(seeds) > min(seeds) else ''} seeds of "
            "a size. Lines across are runs without a size.",
            rows=table,
            figure=_draw(table),
        )
    ]


def statistics(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """Mean and deviation over seeds for each panel, curve and size; of lines across the size is None."""
    values: dict[tuple[str, str, int], dict[int, tuple[str, float]]] = collections.defaultdict(dict)
    found = [(run, results.accuracies(run.results)) for run in runs]
    _check_sets(found)
    for run, accuracies in found:
        of_size = values[run.panel, run.curve, run.size]
        if run.seed in of_size:
            raise WrongUse(
                f"{of_size[run.seed][0]} and {run.results} are both '{run.curve}' of size {run.size} and "
                f"seed {run.seed}; give each run its own seed."
            )
        accuracy = results.mean_accuracy(accuracies, run.sets, path=run.results)
        of_size[run.seed] = (run.results, accuracy)
    panels = list(dict.fromkeys(panel for panel, _, _ in values))
    curves = list(dict.fromkeys(curve for _, curve, _ in values))
    return [
        {
            "panel": panel,
            "curve": curve,
            "size": None if size < 0 else size,
            **figures.spread([accuracy for _, accuracy in own.values()]),
        }
        for (panel, curve, size), own in sorted(
            values.items(), key=lambda item: (panels.index(item[0][0]), curves.index(item[0][1]), item[0][2])
        )
    ]


def _check_sets(found: Iterable[tuple[Run, Mapping[str, float | None]]]) -> None:
    """Refuses means of different benchmarks in one panel, where no sets are named."""
    firsts: dict[str, tuple[Run, set[str]]] = {}
    for run, accuracies in found:
        graded = {name for name, accuracy in accuracies.items() if accuracy is not None}
        beside, others = firsts.setdefault(run.panel, (run, graded)) if not run.sets else (run, graded)
        if missing := sorted(graded ^ others):
            has_not, has = (beside, run) if missing[0] in graded else (run, beside)
            raise WrongUse(
                f"{has_not.results} has no accuracy of the set '{missing[0]}', unlike {has.results} in the "
                "same panel, so their means would be of different benchmarks; evaluate it on that set, or "
                "name in `sets` of RUNS those that all runs of the panel have."
            )


@figures.drawing()
def _draw(table: Sequence[Mapping[str, Any]]) -> mpl_figure.Figure:
    panels = list(dict.fromkeys(row["panel"] for row in table))
    curves = list(dict.fromkeys(row["curve"] for row in table))
    figure, grid = figures.panels(len(panels), panel=(3.5, 2.8))
    labels: dict[str, Any] = {}
    for axes, panel in zip(grid, panels, strict=True):
        _draw_panel(axes, [row for row in table if row["panel"] == panel], curves)
        axes.set_title(figures.short(panel, 40))
        handles, names = axes.get_legend_handles_labels()
        labels |= dict(zip(names, handles, strict=True))
    shown = [curve for curve in curves if curve in labels]
    handles, names = [labels[curve] for curve in shown], [figures.short(curve, 40) for curve in shown]
    figure.legend(handles, names, loc="outside upper left", ncols=2, frameon=False)
    return figure


def _draw_panel(axes: mpl_axes.Axes, rows: Sequence[Mapping[str, Any]], curves: Sequence[str]) -> None:
    for i, curve in enumerate(curves):
        own = [row for row in rows if row["curve"] == curve]
        if sized := [row for row in own if row["size"] is not None]:
            style = {"colour": figures.colour(i), "marker": figures.marker(i)}
            figures.band(axes, sized, "size", label=curve, **style)
        for row in own:
            if row["size"] is None:
                figures.flat(axes, row, label=curve, colour=figures.colour(i))
    axes.set_xlabel("training problems")
    axes.set_ylabel("accuracy")
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(_size))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5))
    low, high = axes.get_ylim()
    digits = 0 if high - low > 0.04 else 1
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda share, _: f"{100 * share:.{digits}f} %"))


def _size(size: float | int, _: object = None) -> str:
    """24000 as 24k, 4800000 as 4.8M."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if size >= unit:
            return f"{size / unit:g}{letter}"
    return f"{size:g}"
