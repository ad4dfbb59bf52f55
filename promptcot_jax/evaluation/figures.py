"""Figures for documents, drawn with matplotlib: the paper's study of the NLL over EM steps.

Four variants on one pair of axes: EM with the E-step, EM with rationales sampled once and kept, and the two
cold-started models with and without rationale, which are flat lines. Bands are one standard deviation over
seeds.
"""

import collections
import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from etils import epath
from matplotlib import figure as mpl_figure
from matplotlib import ticker

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse

# Names of the curves in `nll.jsonl` rows, their label, colour (distinct to the colour-blind too) and dash.
CURVES: dict[str, tuple[str, str, str]] = {
    "with_e_step": ("EM with E-step", "#0072B2", "-"),
    "without_e_step": ("EM without E-step (fixed rationales)", "#D55E00", "-"),
    "cold_start": ("cold start, with rationale", "#009E73", "--"),
    "cold_start_direct": ("cold start, without rationale", "#555555", ":"),
}
FLAT = ("cold_start", "cold_start_direct")
X_LABELS = {"round": "EM round (\u22121: cold start)", "theta_tokens_seen": "training tokens of p_theta"}


def with_flat_variants(
    rows: Sequence[Mapping[str, Any]], metric: str = "nll_x_given_q"
) -> list[dict[str, Any]]:
    """Rows of `nll.jsonl` files of several runs, plus the two flat variants that their round -1 holds.

    One row per seed and flat variant; with a metric of their own runs differ only by seed there.
    """
    flat: dict[tuple[str, int], dict[str, Any]] = {}
    for row in rows:
        if row["round"] == -1:
            for variant, field in (("cold_start", metric), ("cold_start_direct", "nll_direct")):
                if row.get(field) is not None:
                    shown = {"variant": variant, "seed": row["seed"], "round": -1, metric: row[field]}
                    flat.setdefault((variant, row["seed"]), shown)
    return [*(dict(row) for row in rows), *flat.values()]


def nll_statistics(
    rows: Sequence[Mapping[str, Any]], *, metric: str = "nll_x_given_q", x: str = "round"
) -> list[dict[str, Any]]:
    """Mean and standard deviation over seeds for each variant and round: what the figure shows, as numbers.

    Raises:
        WrongUse: a row names no variant of this study, or no row has the metric.
    """
    values: dict[tuple[str, int], dict[int, tuple[float, float]]] = collections.defaultdict(dict)
    for row in rows:
        if row.get("variant") not in CURVES:
            raise WrongUse(
                f"Variant {row.get('variant')!r} is none of {sorted(CURVES)}; set it in the study's rows."
            )
        if row.get(metric) is not None:
            where = float(row.get(x, math.nan) if row["variant"] not in FLAT else math.nan)
            values[row["variant"], row["round"]][row["seed"]] = (where, float(row[metric]))
    if not values:
        raise WrongUse(f"No row of the study has the figure {metric!r}.")
    statistics = []
    for variant, round_index in sorted(values, key=lambda k: (list(CURVES).index(k[0]), k[1])):
        seeds = values[variant, round_index]
        wheres, nlls = np.array(list(seeds.values())).T
        statistics.append(
            {
                "variant": variant,
                "round": round_index,
                "x": None if variant in FLAT else float(wheres.mean()),
                "mean": float(nlls.mean()),
                "deviation": float(nlls.std(ddof=1)) if len(nlls) > 1 else 0.0,
                "seeds": len(nlls),
            }
        )
    return statistics


def nll_study_figure(
    rows: Sequence[Mapping[str, Any]],
    path: epath.PathLike,
    *,
    metric: str = "nll_x_given_q",
    x: str = "round",
    y_label: str = "held-out NLL, nats per token of the problem",
) -> list[dict[str, Any]]:
    """Draws the study to `path` with the suffixes .svg and .png, its numbers to .csv; returns the numbers.

    Args:
        rows: `nll.jsonl` rows of all runs, see `with_flat_variants`.
        path: without a suffix.
        x: "round" or "theta_tokens_seen".

    Raises:
        WrongUse: see `nll_statistics`.
    """
    statistics = nll_statistics(rows, metric=metric, x=x)
    with matplotlib.rc_context({"svg.hashsalt": "promptcot", "svg.fonttype": "path", "font.size": 10.5}):
        # No pyplot: it keeps a global state.
        figure = mpl_figure.Figure(figsize=(7.2, 4.3), layout="constrained")
        axes = figure.subplots()
        for variant, (label, colour, dash) in CURVES.items():
            curve = [row for row in statistics if row["variant"] == variant]
            if curve:
                _draw(axes, curve, label, colour, dash, is_flat=variant in FLAT)
        axes.set_xlabel(X_LABELS.get(x, x.replace("_", " ")))
        axes.set_ylabel(y_label)
        if x == "round":
            axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd", linewidth=0.8)
        axes.set_axisbelow(True)
        figure.legend(loc="outside upper left", ncols=2, frameon=False)
        stem = epath.Path(path)
        for suffix, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            drawing = io.BytesIO()
            figure.savefig(drawing, format=suffix, dpi=160, metadata=metadata)
            jsonl.write_atomically(stem.parent / f"{stem.name}.{suffix}", drawing.getvalue())
    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=list(statistics[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(statistics)
    jsonl.write_atomically(stem.parent / f"{stem.name}.csv", table.getvalue().encode())
    return statistics


def _draw(
    axes: Any, curve: Sequence[Mapping[str, Any]], label: str, colour: str, dash: str, *, is_flat: bool
) -> None:
    """One variant: a flat line with its band across the axes, or a line with markers and a band."""
    mean = np.array([row["mean"] for row in curve])
    deviation = np.array([row["deviation"] for row in curve])
    if is_flat:
        axes.axhline(mean[0], color=colour, linestyle=dash, linewidth=1.8, label=label)
        axes.axhspan(mean[0] - deviation[0], mean[0] + deviation[0], color=colour, alpha=0.12, linewidth=0)
        return
    xs = np.array([row["x"] for row in curve])
    axes.plot(xs, mean, color=colour, linestyle=dash, marker="o", markersize=4, linewidth=1.8, label=label)
    axes.fill_between(xs, mean - deviation, mean + deviation, color=colour, alpha=0.18, linewidth=0)
