"""The report's section on self-play: how reward, lengths and the policy moved, and completions to read."""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from promptcot_jax.core import manifest
from promptcot_jax.report import charts, page, samples_page, workdir_files

DIRECTORY = "self_play"
ACCURACY = "eval/avg_at_k"
PHASES = ("sampling", "grading", "scoring", "training", "other")

_PANELS = (  # title, (field of a metrics row, label) of each line, note, range of y
    (
        "Reward",
        (("reward", "reward"), ("reward/correct", "share right")),
        "Means over all graded completions of an iteration; prompts differ from iteration to iteration.",
        None,
    ),
    (
        "Contrast within a prompt",
        (
            ("reward_std", "deviation of the reward"),
            ("frac_reward_zero_std", "prompts all right or all wrong"),
        ),
        "Prompts without contrast teach nothing: most of the sampling may go to them.",
        None,
    ),
    (
        "Prompts by their samples",
        (
            ("groups/mixed", "mixed"),
            ("groups/all_right", "all right"),
            ("groups/all_wrong", "all wrong"),
            ("groups/ungraded", "not graded"),
        ),
        "Shares of the prompts drawn.",
        (0.0, 1.05),
    ),
    (
        "Length of completions (tokens)",
        (("completions/mean_length", "all"), ("completions/mean_terminated_length", "those that ended")),
        "",
        None,
    ),
    (
        "Shares of completions",
        (
            ("completions/clipped_ratio", "cut off"),
            ("reward/format", "with an answer"),
            ("reward/ungraded", "not graded"),
        ),
        "The answers' share is of the graded ones.",
        (0.0, 1.05),
    ),
    (
        "Entropy (nats a token)",
        (("entropy", "at the trained tokens"),),
        "Near 0 nothing is tried any more.",
        None,
    ),
    (
        "Tokens at which the clip was at work",
        (("clip_ratio/low_mean", "below"), ("clip_ratio/high_mean", "above")),
        "Shares of the trained tokens.",
        None,
    ),
    (
        "Divergence (nats a token)",
        (("policy_kl", "from the policy that drew the iteration"), ("kl", "from the policy at the start")),
        "",
        None,
    ),
    ("Gradient norm", (("grad_norm", "before clipping"),), "", None),
    (
        "Implicit rewards",
        (("rewards/chosen", "chosen"), ("rewards/rejected", "rejected"), ("rewards/margins", "margin")),
        "Beta times the log-ratios to the policy that drew the iteration.",
        None,
    ),
    ("Pairs in order", (("rewards/accuracies", "share"),), "", (0.0, 1.05)),
    (
        "Sampler against trainer (nats)",
        (("sampling/sampling_logp_difference/mean", "mean difference of a token"),),
        "From another rounding alone it is small; a jump is a fault.",
        None,
    ),
    (
        "Seconds of an iteration",
        tuple((f"seconds/{phase}", phase) for phase in PHASES),
        "Grading: what was left when sampling ended.",
        None,
    ),
)
_TOTALS = (  # field of a metrics row, what its sum over the iterations is
    ("groups/drawn", "prompts drawn"),
    ("groups/used", "prompts trained on"),
    ("sequences", "completions trained on"),
    ("num_tokens", "tokens trained on"),
    ("updates", "updates"),
)


def self_play_section(workdir: epath.Path) -> str:
    """Curves and counts of the iterations, and the completions that were picked."""
    heading = "Self-play"
    lead = (
        "A policy trained by the rewards of its own completions, iteration by iteration. Read them "
        "beside the curves: a reward that rises does not say how it was earned."
    )
    directory, rows = workdir / DIRECTORY, _rows(workdir)
    if not rows:
        return page.section(
            "self-play",
            heading,
            lead,
            page.missing("self_play/metrics.jsonl is not there: self_play has not run in this workdir."),
        )
    return page.section(
        "self-play",
        heading,
        lead,
        f'<div class="charts">{"".join(_charts(rows))}</div>',
        page.table(["what", "in all iterations"], _counts(workdir, rows), caption="Counts of all iterations"),
        _status_table(rows),
        _link(directory),
    )


def tiles(workdir: epath.Path) -> list[str]:
    """Headline figures: held-out accuracy where it was measured, else the reward."""
    rows = _rows(workdir)
    for field, name in ((ACCURACY, "held-out accuracy"), ("reward", "reward")):
        values = [row[field] for row in rows if isinstance(row.get(field), int | float)]
        if len(values) > 1:
            ends = f"{charts.number(values[0])} \u2192 {charts.number(values[-1])}"
            return [page.tile(ends, f"{name} in self-play: first \u2192 last iteration that has it")]
    return []


def _rows(workdir: epath.Path) -> list[dict[str, Any]]:
    """The iterations' metrics."""
    rows = workdir_files.rows(workdir / DIRECTORY / "metrics.jsonl")
    return [row for row in rows if isinstance(row.get("step"), int | float)]


def _charts(rows: Sequence[workdir_files.Row]) -> list[str]:
    held_out = charts.line_of_rows(rows, ACCURACY, "avg@k", 2, x="step", error="eval/standard_error")
    figures = [
        charts.line_chart(
            "Held-out accuracy",
            [held_out],
            x_label="iterations done",
            note="Mean over problems of the share of right attempts; bars: its standard error.",
        )
    ]
    ended = "completions/mean_terminated_length"
    rows = [{**row, ended: row.get(ended) or None} for row in rows]  # 0: of an iteration where none ended
    for title, fields, note, y_range in _PANELS:
        lines = [
            charts.line_of_rows(rows, field, label, colour, x="step")
            for colour, (field, label) in enumerate(fields)
        ]
        figures.append(charts.line_chart(title, lines, x_label="iterations done", note=note, y_range=y_range))
    seconds = {phase: _total(rows, f"seconds/{phase}") for phase in PHASES}
    if whole := sum(seconds.values()):
        shares = {phase: value / whole for phase, value in seconds.items()}
        title = f"Where {page.duration(whole)} went"
        figures.append(charts.share_bars(title, [("all iterations", shares)], names=PHASES))
    return figures


def _counts(workdir: epath.Path, rows: Sequence[workdir_files.Row]) -> list[list[str]]:
    counts = [["iterations done", page.cell(len(rows))]]
    counts += [[name, page.cell(_total(rows, field))] for field, name in _TOTALS]
    counts.append(["iterations without an update", page.cell(sum(not row.get("updates") for row in rows))])
    skipped = [row["num_skipped"] for row in rows if row.get("num_skipped") is not None]
    counts.append(["updates left out as not finite", page.cell(skipped[-1] if skipped else 0)])
    entry = manifest.read(workdir).get("self_play")
    if entry and "rollouts" in entry.counts:
        counts.append(["completions drawn", page.cell(entry.counts["rollouts"])])
    return counts


def _status_table(rows: Sequence[workdir_files.Row]) -> str:
    """The verdicts by their status, at both ends of the run."""
    prefix = "reward/status/"
    names = sorted({name for row in rows for name in row if name.startswith(prefix)})
    if not names:
        return ""
    cells = [
        [
            page.words(name.removeprefix(prefix)),
            page.percent(_number(rows[0], name)),
            page.percent(_number(rows[-1], name)),
            page.percent(_total(rows, name) / len(rows)),
        ]
        for name in names
    ]
    header = ["verdict", "first iteration", "last iteration", "mean of the iterations"]
    return page.table(header, cells, caption="Verdicts, as shares of the completions")


def _link(directory: epath.Path) -> str:
    """To the completions to read: those in this page, and the run's own page of them."""
    if not workdir_files.exists(directory / "samples.jsonl"):
        return page.missing("self_play/samples.jsonl is not there, so no completions are shown.")
    more = ""
    if (directory / samples_page.FILE).exists():
        link = f'<a href="{DIRECTORY}/{samples_page.FILE}">{DIRECTORY}/{samples_page.FILE}</a>'
        more = f" More of them, iteration by iteration, beside this page: {link}."
    return f'<p class="soft">Completions to read are among the <a href="#samples">samples</a>.{more}</p>'


def _total(rows: Sequence[workdir_files.Row], field: str) -> float:
    return sum(_number(row, field) for row in rows)


def _number(row: Mapping[str, object], field: str) -> float:
    value = row.get(field)
    return float(value) if isinstance(value, int | float) else 0.0
