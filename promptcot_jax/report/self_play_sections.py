"""The report's section on self-play: how reward, lengths and the policy moved, and headline figures."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from promptcot_jax.core import manifest
from promptcot_jax.report import charts, samples_page, workdir_files
from promptcot_jax.report.charts import Panel
from promptcot_jax.report.page import duration, label, number, percent
from promptcot_jax.report.workdir_files import Missing, Row

Data = dict[str, Any]  # what a template shows

_DIRECTORY, _ACCURACY = "self_play", "eval/avg_at_k"
_PHASES = ("sampling", "grading", "scoring", "training", "other")
_ENDED = "completions/mean_terminated_length"
_PANELS = (
    Panel(
        "Reward",
        {"reward": "reward", "reward/correct": "share right"},
        "Means over all graded completions of an iteration; prompts differ from iteration to iteration.",
    ),
    Panel(
        "Contrast within a prompt",
        {
            "reward_std": "deviation of the reward",
            "frac_reward_zero_std": "prompts all right or all wrong",
        },
        "Prompts without contrast teach nothing: most of the sampling may go to them.",
    ),
    Panel(
        "Prompts by their samples",
        {
            "groups/mixed": "mixed",
            "groups/all_right": "all right",
            "groups/all_wrong": "all wrong",
            "groups/ungraded": "not graded",
        },
        "Shares of the prompts drawn.",
        (0.0, 1.05),
    ),
    Panel("Length of completions (tokens)", {"completions/mean_length": "all", _ENDED: "those that ended"}),
    Panel(
        "Shares of completions",
        {
            "completions/clipped_ratio": "cut off",
            "reward/format": "with an answer",
            "reward/ungraded": "not graded",
        },
        "The answers\u2019 share is of the graded ones.",
        (0.0, 1.05),
    ),
    Panel(
        "Entropy (nats a token)", {"entropy": "at the trained tokens"}, "Near 0 nothing is tried any more."
    ),
    Panel(
        "Tokens at which the clip was at work",
        {"clip_ratio/low_mean": "below", "clip_ratio/high_mean": "above"},
        "Shares of the trained tokens.",
    ),
    Panel(
        "Divergence (nats a token)",
        {"policy_kl": "from the policy that drew the iteration", "kl": "from the policy at the start"},
    ),
    Panel("Gradient norm", {"grad_norm": "before clipping"}),
    Panel(
        "Implicit rewards",
        {"rewards/chosen": "chosen", "rewards/rejected": "rejected", "rewards/margins": "margin"},
        "Beta times the log-ratios to the policy that drew the iteration.",
    ),
    Panel("Pairs in order", {"rewards/accuracies": "share"}, "", (0.0, 1.05)),
    Panel(
        "Sampler against trainer (nats)",
        {"sampling/sampling_logp_difference/mean": "mean difference of a token"},
        "From another rounding alone it is small; a jump is a fault.",
    ),
    Panel(
        "Seconds of an iteration",
        {f"seconds/{phase}": phase for phase in _PHASES},
        "Grading: what was left when sampling ended.",
    ),
)
_TOTALS = {  # field of a metrics row -> what its sum over the iterations is
    "groups/drawn": "prompts drawn",
    "groups/used": "prompts trained on",
    "sequences": "completions trained on",
    "num_tokens": "tokens trained on",
    "updates": "updates",
}


def self_play(workdir: epath.Path) -> Data:
    """Curves and counts of the iterations."""
    rows = _rows(workdir)
    if not rows:
        raise Missing("self_play/metrics.jsonl is not there: self_play has not run in this workdir.")
    directory = workdir / _DIRECTORY
    has_page = (directory / samples_page.FILE).exists()
    prefix = "reward/status/"
    iterations = [row for row in rows if row["step"] > 0]  # without the evaluation before the first
    return {
        "charts": _charts(rows),
        "counts": _counts(workdir, iterations),
        "verdicts": [
            [
                label(name.removeprefix(prefix)),
                *(
                    percent(_sum(some, name) / len(some))
                    for some in (iterations[:1], iterations[-1:], iterations)
                ),
            ]
            for name in sorted({name for row in iterations for name in row if name.startswith(prefix)})
        ],
        "has_samples": workdir_files.exists(directory / "samples.jsonl"),
        "page": f"{_DIRECTORY}/{samples_page.FILE}" if has_page else "",
    }


def tiles(workdir: epath.Path) -> Iterator[tuple[str, str]]:
    """Headline figures: held-out accuracy where it was measured, else the reward."""
    rows = _rows(workdir)
    for field, name in ((_ACCURACY, "held-out accuracy"), ("reward", "reward")):
        values = [row[field] for row in rows if isinstance(row.get(field), int | float)]
        if len(values) > 1:
            ends = f"{number(values[0])} \u2192 {number(values[-1])}"
            yield ends, f"{name} in self-play: first \u2192 last iteration that has it"
            return


def _rows(workdir: epath.Path) -> list[Row]:
    """Of the iterations, and of the evaluation at step 0 where there was one."""
    rows = workdir_files.rows(workdir / _DIRECTORY / "metrics.jsonl")
    return [row for row in rows if isinstance(row.get("step"), int | float)]


def _charts(rows: Sequence[Row]) -> list[Any]:
    accuracy = charts.line_of_rows(rows, _ACCURACY, "avg@k", 2, x="step", error="eval/standard_error")
    x_label = "iterations done"
    held_out = charts.line_chart(
        "Held-out accuracy",
        [accuracy],
        x_label=x_label,
        note="Mean over problems of the share of right attempts; bars: its standard error.",
    )
    rows = [{**row, _ENDED: row.get(_ENDED) or None} for row in rows]  # 0: of an iteration where none ended
    seconds = {phase: _sum(rows, f"seconds/{phase}") for phase in _PHASES}
    whole = sum(seconds.values())
    shares = {phase: value / whole for phase, value in seconds.items()} if whole else {}
    title = f"Where {duration(whole)} went"
    bars = charts.ShareBars(title=title, rows=[("all iterations", shares)], names=_PHASES)
    panels = [panel.of(rows, "step", x_label) for panel in _PANELS]
    return [held_out, *panels, bars if whole else None]


def _counts(workdir: epath.Path, rows: Sequence[Row]) -> list[list[Any]]:
    skipped = [row["num_skipped"] for row in rows if row.get("num_skipped") is not None]
    counts = [
        ["iterations done", len(rows)],
        *([name, _sum(rows, field)] for field, name in _TOTALS.items()),
        ["iterations without an update", sum(not row.get("updates") for row in rows)],
        ["updates left out as not finite", skipped[-1] if skipped else 0],
    ]
    entry = manifest.read(workdir).get(_DIRECTORY)
    if entry and "rollouts" in entry.counts:
        counts.append(["completions drawn", entry.counts["rollouts"]])
    return counts


def _sum(rows: Sequence[Row], field: str) -> float:
    return math.fsum(row[field] for row in rows if isinstance(row.get(field), int | float))
