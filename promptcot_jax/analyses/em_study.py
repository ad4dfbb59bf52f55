"""The paper's study of EM: held-out NLL over rounds for each arm, and what the E-step did in each round.

On one pair of axes: EM with the E-step, the arms that were run beside it, such as rationales written once and
kept, and the two cold-started models with and without rationale, which are flat lines. Bands are one standard
deviation over seeds. Seeds stop in different rounds; a mean over those that went on would be one of other
seeds, so a curve ends with the last round that all its seeds have. The paper breaks the axis before the flat
lines; here the curves of EM stand by themselves in a second panel. Beyond the paper: reward, bounds,
effective sample size, length of z and copying, round by round.
"""

import collections
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
from matplotlib import ticker

from promptcot_jax.analyses import figures
from promptcot_jax.analyses.figures import AnalysisResult, NoRecords, counted
from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.report import workdir_files

Row = Mapping[str, Any]

_SHARES = (0.25, 0.5, 0.75, 1.0)  # of a round, at which its fit is drawn

# Names of the curves in `nll.jsonl` rows, which are those of the arms, their label, colour and dash.
CURVES: dict[str, tuple[str, str, str]] = {
    "e_step": ("EM with E-step", "#0072B2", "-"),
    "self_training": ("one sample a pair (self-training)", "#CC79A7", "-"),
    "reward_weighted": ("E-step with all samples, weighted", "#56B4E9", "-"),
    "fixed": ("fixed rationales of the cold start", "#D55E00", "-"),
    "fixed_sampled": ("fixed rationales, sampled", "#E69F00", "-"),
    "given": ("the rows' own rationales", "#000000", "-"),
    "cold_start": ("cold start, with rationale", "#009E73", "--"),
    "cold_start_direct": ("cold start, without rationale", "#555555", ":"),
}
FLAT = ("cold_start", "cold_start_direct")
METRICS = {
    "nll_x_given_q": "-log p(x | z, c) with the greedy rationale of q_phi",
    "nll_bound": "the importance-weighted bound on -log p(x | c), which a z that copies x cannot game",
}
# Of `diagnostics.jsonl`: title of the panel and unit.
PANELS = {
    "reward_mean": ("mean reward R", "nats a pair"),
    "elbo_mean": ("ELBO", "nats a pair"),
    "importance_bound_mean": ("importance bound", "nats a pair"),
    "effective_samples": ("effective sample size", "rationales"),
    "length_mean": ("length of z", "tokens"),
    "copy_rate": ("share of x copied into z", "share"),
}


def study(workdirs: Sequence[epath.PathLike]) -> list[AnalysisResult]:
    """The figures of EM runs: of each workdir's `seed_N/em/` where there are seeds, else of its `em/`.

    Raises:
        NoRecords: no workdir holds an EM run.
        WrongUse: a row lacks its variant or seed, or two runs of one variant share a seed.
    """
    runs = [run for workdir in workdirs for run in _runs(epath.Path(workdir))]
    if not runs:
        raise NoRecords(
            f"no EM run in {', '.join(map(str, workdirs))}: neither em/nll.jsonl nor seed_N/em/nll.jsonl; "
            "run 'promptcot em', or the study with runs/em_study.gin."
        )
    return [*nll_figures(runs), *_within_rounds(runs), *_rounds(runs)]


def nll_figures(runs: Sequence[epath.Path]) -> list[AnalysisResult]:
    """The paper's figure for each held-out NLL that the runs have.

    Raises:
        WrongUse: as `study`, or no row has any.
    """
    rows = nll_rows(runs)
    results = [
        _nll_figure(with_flat_variants(rows, metric), metric, what)
        for metric, what in METRICS.items()
        if any(row.get(metric) is not None for row in rows)
    ]
    if not results:
        files = ", ".join(f"{run}/nll.jsonl" for run in runs) or "nll.jsonl of the study"
        raise WrongUse(f"{files}: no row has {' or '.join(METRICS)}; 'promptcot em' writes them.")
    return results


def _runs(workdir: epath.Path) -> list[epath.Path]:
    """The directories of a workdir's EM runs, those of further arms too."""
    named = [path for path in workdir.glob("seed_*") if re.fullmatch(r"seed_\d+", path.name)]
    seeds = sorted((path for path in named if path.is_dir()), key=lambda path: (len(path.name), path.name))
    runs = [run for seed in seeds or [workdir] for run in runs_of(seed)]
    if seeds and not runs:
        raise NoRecords(
            f"{workdir} has {', '.join(seed.name for seed in seeds)}, but none with em/nll.jsonl: EM has not "
            "finished a round there; let the study end, or name other workdirs with EM_WORKDIRS."
        )
    return runs


def runs_of(workdir: epath.Path) -> list[epath.Path]:
    """The directories of EM and of the arms beside it, as far as they are there."""
    directories = (workdir / "em", *(workdir / "em" / curve for curve in CURVES))
    return [path for path in directories if workdir_files.exists(path / "nll.jsonl")]


def nll_rows(runs: Sequence[epath.Path]) -> list[dict[str, Any]]:
    """The rows of `nll.jsonl` of EM runs.

    Raises:
        WrongUse: a row lacks its variant or seed, or two runs of one variant share a seed.
    """
    rows, run_of = [], {}
    for run in runs:
        for file, number, row in jsonl.iter_rows(run / "nll.jsonl"):
            if missing := [name for name in ("variant", "seed", "round") if row.get(name) is None]:
                raise WrongUse(
                    f"{file}:{number}: field '{missing[0]}' is missing: 'promptcot em' writes it; without it "
                    "the row belongs to no curve."
                )
            other = run_of.setdefault((row["variant"], row["seed"]), run)
            if other != run:
                raise WrongUse(
                    f"{run} and {other} are both '{row['variant']}' with seed {row['seed']}; bands are over "
                    "different seeds, so leave one of them out."
                )
            rows.append(row)
    return rows


def with_flat_variants(rows: Iterable[Row], metric: str = "nll_x_given_q") -> list[dict[str, Any]]:
    """Rows of `nll.jsonl` files of several runs, plus the two flat variants that their round -1 holds.

    One row per seed and flat variant; with a metric of their own runs differ only by seed there.
    """
    rows = [dict(row) for row in rows]
    flat: dict[tuple[str, int], dict[str, Any]] = {}
    for row in rows:
        if row["round"] == -1:
            for variant, field in (("cold_start", metric), ("cold_start_direct", "nll_direct")):
                if row.get(field) is not None:
                    shown = {"variant": variant, "seed": row["seed"], "round": -1, metric: row[field]}
                    flat.setdefault((variant, row["seed"]), shown)
    return [*rows, *flat.values()]


def nll_statistics(rows: Iterable[Row], *, metric: str = "nll_x_given_q") -> list[dict[str, Any]]:
    """Mean and standard deviation over seeds for each variant and round: what the figure shows, as numbers.

    `of_seeds` is the number of seeds that the variant has in any round.

    Raises:
        WrongUse: a row names no variant of this study, or no row has the metric.
    """
    values: dict[tuple[str, int], dict[int, float]] = collections.defaultdict(dict)
    for row in rows:
        if row.get("variant") not in CURVES:
            raise WrongUse(
                f"Variant {row.get('variant')!r} is none of {sorted(CURVES)}; set it in the study's rows."
            )
        if row.get(metric) is not None:
            values[row["variant"], row["round"]][row["seed"]] = float(row[metric])
    if not values:
        raise WrongUse(f"No row of the study has the figure {metric!r}.")
    statistics = _statistics(values, ("variant", "round"), list(CURVES))
    return [
        {"variant": row["variant"], "round": row["round"]}
        | {"x": None if row["variant"] in FLAT else float(row["round"])}
        | row
        for row in statistics
    ]


def _statistics(
    values: Mapping[tuple[Any, ...], Mapping[Any, float]], names: Sequence[str], order: Sequence[str]
) -> list[dict[str, Any]]:
    """Statistics over seeds of values by curve and round, which `names` name; `order` is the curves'."""
    seeds_of: dict[tuple[Any, ...], set[Any]] = collections.defaultdict(set)
    for (*curve, _), own in values.items():
        seeds_of[tuple(curve)] |= own.keys()
    return [
        dict(zip(names, key, strict=True))
        | figures.spread(list(values[key].values()))
        | {"of_seeds": len(seeds_of[key[:-1]])}
        for key in sorted(values, key=lambda key: (order.index(key[0]), *key[1:]))
    ]


def _nll_figure(rows: Sequence[Row], metric: str, what: str) -> AnalysisResult:
    statistics = nll_statistics(rows, metric=metric)
    is_single = max(row["of_seeds"] for row in statistics) == 1
    spread = (
        "one seed, so there are no bands"
        if is_single
        else f"bands: one standard deviation over {_numbers(statistics, 'seed')}"
    )
    return AnalysisResult(
        name=f"em_study_{metric}",
        title=f"EM: held-out NLL ({metric})",
        caption=f"Held-out NLL per token of the problem: {what}. EM over its rounds, and the cold-started "
        f"models as flat lines; {spread}.{_stopped(statistics, 'seed')}",
        rows=statistics,
        figure=draw_nll(statistics),
    )


def _numbers(statistics: Sequence[Row], one: str) -> str:
    """Of how many seeds or runs the curves are."""
    numbers = [row["of_seeds"] for row in statistics]
    least, most = min(numbers), max(numbers)
    return (f"{least} to " if least < most else "") + counted(most, one)


def _stopped(statistics: Sequence[Row], one: str) -> str:
    """Says that rounds are not drawn, where that is so."""
    if len(_of_all_seeds(statistics)) == len(statistics):
        return ""
    return f" Some stopped earlier: rounds that not every {one} of a curve has are only in the CSV."


def _of_all_seeds(statistics: Sequence[Row]) -> list[Row]:
    return [row for row in statistics if row["seeds"] == row["of_seeds"]]


@figures.drawing()
def draw_nll(
    statistics: Sequence[Row], label: str = "held-out NLL per token of x (nats)"
) -> mpl_figure.Figure:
    """The figure of the study's numbers, see `nll_statistics`; of each curve the rounds of all its seeds.

    Beside them the arms of EM by themselves: the flat lines may be so far away that its curves are one line.
    """
    statistics = _of_all_seeds(statistics)
    of_em = [row for row in statistics if row["variant"] not in FLAT]
    parts = [statistics, of_em] if 0 < len(of_em) < len(statistics) else [statistics]
    figure, grid = figures.panels(len(parts), panel=(3.6, 4.0))
    for axes, rows in zip(grid, parts, strict=True):
        _draw_curves(axes, rows, "x")
        axes.set_xlabel("EM round (\u22121: cold start)")
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    grid[0].set_ylabel(label)
    figure.legend(
        *grid[0].get_legend_handles_labels(), loc="outside upper left", ncols=len(parts), frameon=False
    )
    return figure


def fit_statistics(runs: Sequence[epath.Path]) -> list[dict[str, Any]]:
    """Mean and deviation over runs of the held-out NLL that theta's fits measured, by variant and `x`.

    `x` is the round before plus a share of the round, in quarters: 0.5 is in the middle of round 1, and 1 its
    end. Between the evaluations, of which runs have other numbers, it is interpolated; nothing is drawn
    before a round's first.
    """
    values: dict[tuple[str, float], dict[epath.Path, float]] = collections.defaultdict(dict)
    for run in runs:
        of_rounds = {(row["variant"], row["round"]) for row in workdir_files.rows(run / "nll.jsonl")}
        for variant, index in of_rounds:
            rows = workdir_files.rows(run / f"round_{index:03d}" / "theta_training" / "metrics.jsonl")
            measured = [row["eval/nll"] for row in rows if "eval/nll" in row]
            shares = np.arange(1, len(measured) + 1) / max(len(measured), 1)
            for share in _SHARES:
                if measured and share >= shares[0]:
                    values[variant, index - 1 + share][run] = float(np.interp(share, shares, measured))
    return _statistics(values, ("variant", "x"), list(CURVES))


def _within_rounds(runs: Sequence[epath.Path]) -> list[AnalysisResult]:
    """The curve over training steps; none where no fit was measured on the way."""
    statistics = fit_statistics(runs)
    if not statistics:
        return []
    return [
        AnalysisResult(
            name="em_study_within_rounds",
            title="EM: held-out NLL while p_theta is fitted",
            caption="Held-out NLL of p_theta per token of z and x, the loss that it is fitted by, during the "
            "M-steps; z is what q_phi writes greedily in that round, so that curves begin anew with each; "
            f"mean and deviation over {_numbers(statistics, 'run')}.{_stopped(statistics, 'run')}",
            rows=statistics,
            figure=draw_nll(statistics, "held-out NLL per token of z and x (nats)"),
        )
    ]


def _draw_curves(axes: mpl_axes.Axes, statistics: Sequence[Row], x: str) -> None:
    for variant, (label, colour, dash) in CURVES.items():
        curve = [row for row in statistics if row["variant"] == variant]
        if curve and variant in FLAT:
            figures.flat(axes, curve[0], label=label, colour=colour, dash=dash)
        elif curve:
            figures.band(axes, curve, x, label=label, colour=colour, dash=dash)


def round_statistics(runs: Sequence[epath.Path]) -> list[dict[str, Any]]:
    """Mean and deviation over runs of each figure of `diagnostics.jsonl`, by variant and round.

    `of_seeds` is the number of runs that have the figure in any round.
    """
    values: dict[tuple[str, str, int], dict[epath.Path, float]] = collections.defaultdict(dict)
    for run in runs:
        (variant,) = {row["variant"] for row in workdir_files.rows(run / "nll.jsonl")}
        for row in workdir_files.rows(run / "diagnostics.jsonl"):
            for name in PANELS:
                if isinstance(row.get(name), int | float):
                    values[name, variant, row["round"]][run] = float(row[name])
    return _statistics(values, ("figure", "variant", "round"), list(PANELS))


def _rounds(runs: Sequence[epath.Path]) -> list[AnalysisResult]:
    """The small multiples; none where no run kept its diagnostics."""
    statistics = round_statistics(runs)
    if not statistics:
        return []
    caption = (
        "Over all sampled rationales of each round, as em/diagnostics.jsonl has them; mean and deviation "
        f"over {_numbers(statistics, 'run')}.{_stopped(statistics, 'run')}"
    )
    return [
        AnalysisResult(
            name="em_study_rounds",
            title="EM: what the E-step saw",
            caption=caption,
            rows=statistics,
            figure=_draw_rounds(statistics),
        )
    ]


@figures.drawing()
def _draw_rounds(statistics: Sequence[Row]) -> mpl_figure.Figure:
    shown = [name for name in PANELS if any(row["figure"] == name for row in statistics)]
    statistics = _of_all_seeds(statistics)
    figure, grid = figures.panels(len(shown), columns=3, panel=(2.6, 2.2))
    rounds = sorted({row["round"] for row in statistics})
    for axes, name in zip(grid, shown, strict=True):
        _draw_curves(axes, [row for row in statistics if row["figure"] == name], "round")
        title, unit = PANELS[name]
        axes.set_title(title)
        axes.set_ylabel(unit)
        axes.set_xlabel("EM round")
        if len(rounds) > 1:
            axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        else:  # whose axis has no other whole number
            axes.set_xticks(rounds)
    if len({row["variant"] for row in statistics}) > 1:
        figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper left", ncols=2, frameon=False)
    return figure
