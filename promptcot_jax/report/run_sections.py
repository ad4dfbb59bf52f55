"""The report's sections on the run itself: headline, stages and their cost, the flow, settings, versions."""

import os
from collections.abc import Mapping, Sequence

from etils import epath

from promptcot_jax.core import manifest
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.report import charts, page, self_play_sections, workdir_files

STAGE_ORDER = (
    *("corpus", "import_data", "annotate", "cache_tasks", "cold_start", "em", "synthesize", "decontaminate"),
    *("verify", "export", "self_play", "distill", "sft", "evaluate", "analyze"),
)
_ABOUT_OTHERS = ("run", "report", "plan", "convert", "compare")  # no part of the flow
_SHOWN_SEEDS = 50
_UNITS = {"chip": "chip-hours", "GPU": "GPU-hours", "processor": "processor-hours"}
_DROPS = ("dropped", "skipped", "overlong", "rejected")


def entries_in_order(workdir: epath.Path) -> list[manifest.StageEntry]:
    """The stages of the flow that were begun in this workdir."""
    entries = manifest.read(workdir)
    others = sorted(entries.keys() - {*STAGE_ORDER, *_ABOUT_OTHERS})
    return [entries[name] for name in (*STAGE_ORDER, *others) if name in entries]


def headline(workdir: epath.Path) -> str:
    """The figures that a reader looks for first; those of a damaged file are left to its section."""
    tiles = []
    for part in (_em_tiles, _problem_tiles, self_play_sections.tiles, _accuracy_tiles, _cost_tiles):
        try:
            tiles += part(workdir)
        except WrongUse:  # the section of the file in question says what is wrong
            continue
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _em_tiles(workdir: epath.Path) -> list[str]:
    """Held-out figures before EM and in the round with the least bound."""
    first, *rounds = workdir_files.rows(workdir / "em" / "nll.jsonl") or [{}]
    bounded = [row for row in rounds if row.get("nll_bound") is not None]
    best = min(bounded, key=lambda row: row["nll_bound"], default={})
    tiles = []
    for field, label in (
        ("nll_bound", "bound on \u2212log p(x|c), nats per token of x: cold start \u2192 best round"),
        ("nll_x_given_q", "\u2212log p(x|z,c) with q\u03c6\u2019s rationale: cold start \u2192 best round"),
    ):
        if first.get(field) is not None and best.get(field) is not None:
            moved = f"{charts.number(first[field])} \u2192 {charts.number(best[field])}"
            tiles.append(page.tile(moved, label))
    return tiles


def _problem_tiles(workdir: epath.Path) -> list[str]:
    entry = manifest.read(workdir).get("synthesize")
    if entry is None or "out" not in entry.counts:
        return []
    drafts = f" kept of {charts.number(entry.counts['in'])} drafts" if "in" in entry.counts else " kept"
    return [page.tile(charts.number(entry.counts["out"]), f"new problems{drafts}")]


def _accuracy_tiles(workdir: epath.Path) -> list[str]:
    return [
        page.tile(page.accuracy(result), f"solver accuracy on {name}")
        for name, result in workdir_files.results(workdir).items()
        if result.get("accuracy") is not None
    ]


def _cost_tiles(workdir: epath.Path) -> list[str]:
    entries = entries_in_order(workdir)
    if not entries:
        return []
    time = page.tile(page.duration(sum(e.wall_seconds for e in entries)), "of work in all stages")
    return [time, *(page.tile(charts.number(hours), what) for what, hours in _cost(entries).items())]


def _cost(entries: Sequence[manifest.StageEntry]) -> dict[str, float]:
    """Hours by unit and kind of device; those of processors only where nothing else was paid for."""
    cost: dict[tuple[str, str], float] = {}
    for use in (use for entry in entries for use in entry.devices):
        cost[use.unit, use.kind] = cost.get((use.unit, use.kind), 0.0) + use.hours
    if any(unit != "processor" for unit, _ in cost):
        cost = {key: hours for key, hours in cost.items() if key[0] != "processor"}
    return {f"{_UNITS[unit]} of {kind}": hours for (unit, kind), hours in cost.items()}


def what_was_run_section(workdir: epath.Path) -> str:
    """Stages with their seed, devices, time and cost; models; package versions."""
    entries = entries_in_order(workdir)
    lead = (
        "Time and cost are of all attempts at a stage together. A cost is the time in which its process "
        "held its devices, times their number: chips of TPUs, GPUs, and processors where there was neither."
    )
    rows = [
        [
            page.words(entry.stage),
            "complete" if entry.status == "complete" else "not finished",
            entry.seed,
            entry.attempts or "\u2013",
            "; ".join(devices_in_words(use) for use in entry.devices) or "none",
            page.duration(entry.wall_seconds),
            "; ".join(_hours(use) for use in entry.devices) or "\u2013",
        ]
        for entry in entries
    ]
    header = ["stage", "status", "seed", "attempts", "devices", "time", "cost"]
    parts = [page.table(header, rows, caption="Stages of this run", words=(1, 4))]
    if cost := _cost(entries):
        total = page.duration(sum(entry.wall_seconds for entry in entries))
        said = ", ".join(f"{charts.number(hours)} {what}" for what, hours in cost.items())
        parts.append(f"<p>In all {page.text(total)} of work, {page.text(said)}.</p>")
    else:
        parts.append(
            '<p class="soft">No stage has recorded devices: none used any, or it ran before '
            "versions that record them.</p>"
        )
    if models := _models(workdir, entries):
        parts.append(page.table(["stage", "setting", "model"], models, caption="Models", words=(1, 2)))
    versions = _versions(entries)
    of_python = ", ".join(
        f"{name} {versions[name]}" for name in ("promptcot_jax", "jax", "python") if name in versions
    )
    table = page.table(
        ["package", "version"], sorted(versions.items()), caption="Package versions", words=(1,)
    )
    parts.append(page.folded(f"Package versions: {of_python}", table))
    return page.section("what-was-run", "What was run", lead, *parts)


def devices_in_words(use: manifest.DeviceUse) -> str:
    """Such as "TPU v5 lite x 16, 4 hosts", or "cpu, 2 processors"."""
    hosts = f", {use.hosts} hosts" if use.hosts > 1 else ""
    if use.unit == "processor":
        return f"{use.kind}, {use.count} processor{'s' if use.count > 1 else ''}{hosts}"
    return f"{use.kind} \u00d7 {use.count}{hosts}"


def _hours(use: manifest.DeviceUse) -> str:
    return f"{charts.number(use.hours)} {_UNITS[use.unit]}"


def _models(workdir: epath.Path, entries: Sequence[manifest.StageEntry]) -> list[list[str]]:
    """Models that the settings of the stages name."""
    rows = []
    for entry in entries:
        settings = workdir_files.settings(workdir, entry.stage)
        for name, value in settings.items():
            if any(other.startswith(f"{name}.") for other in settings):
                continue  # a dataclass, whose value is its type's name
            role = name.removeprefix(f"{entry.stage}.")
            is_name = role.endswith((".path", ".model")) or role in ("solver", "prompt_model", "theta", "phi")
            if is_name and isinstance(value, str) and value:
                rows.append([page.words(entry.stage), role, value])
    return rows


def _versions(entries: Sequence[manifest.StageEntry]) -> dict[str, str]:
    """Each package's versions, in the order of the stages."""
    found: dict[str, list[str]] = {}
    for entry in entries:
        for name, version in entry.versions.items():
            found.setdefault(name, [])
            found[name] += [version] * (version not in found[name])
    return {name: ", then ".join(versions) for name, versions in found.items()}


def flow_section(workdir: epath.Path) -> str:
    """Each stage with what went in, what came out and what was dropped for which reason."""
    entries = entries_in_order(workdir)
    lead = "Rows in and out of each stage, and what was dropped on the way, by reason."
    cards = "".join(f"<li>{_stage_card(entry)}</li>" for entry in entries)
    return page.section("flow", "From seed problems to results", lead, f'<ol class="flow">{cards}</ol>')


def no_run_section(workdir: epath.Path) -> str:
    """Of a workdir without manifest: nothing, or the pages of the seeds."""
    seeds = sorted(path.name for path in workdir.glob("seed_*")) if workdir.exists() else []
    parts = [page.missing("manifest.json is not there: no stage has run in this workdir.")]
    if seeds:
        links = "".join(
            f'<li><a href="{page.text(name)}/report.html">{page.text(name)}/report.html</a></li>'
            for name in seeds[:_SHOWN_SEEDS]
        )
        parts = [f'<p>The run of each seed has a page of its own:</p><ul class="plain">{links}</ul>']
    return page.section("flow", "From seed problems to results", "", *parts)


def _stage_card(entry: manifest.StageEntry) -> str:
    counts = dict(entry.counts)
    through = ""
    if "in" in counts and "out" in counts:
        went_in, came_out = charts.number(counts.pop("in")), charts.number(counts.pop("out"))
        through = (
            f'<p class="through">{went_in} <small>in</small> \u2192 <b>{came_out}</b> <small>out</small></p>'
        )
    rows = []
    for name, count in counts.items():
        mark = ' class="drop"' if any(word in name for word in _DROPS) and count > 0 else ""
        rows.append(
            f"<div{mark}><dt>{page.text(page.words(name))}</dt><dd>{page.text(charts.number(count))}</dd></div>"
        )
    state = page.duration(entry.wall_seconds) if entry.status == "complete" else "not finished"
    listed = f"<dl>{''.join(rows)}</dl>" if rows else ""
    return (
        f'<div class="stage"><h3>{page.text(page.words(entry.stage))} <small>{page.text(state)}</small></h3>'
        f"{through}{listed}</div>"
    )


def settings_section(workdir: epath.Path) -> str:
    """Digests, inputs, and the gin configuration that each stage ran under."""
    lead = (
        "To repeat this run: the same versions, inputs and settings give the same bits on one machine. Print "
        "has the configurations that are open."
    )
    entries = entries_in_order(workdir)
    rows = [[page.words(e.stage), e.seed, e.config_digest] for e in entries]
    caption = "Seeds and digests of the configurations"
    parts = [page.table(["stage", "seed", "configuration"], rows, caption=caption, words=(2,))]
    inputs = [
        [page.words(entry.stage), path, digest] for entry in entries for path, digest in entry.inputs.items()
    ]
    if inputs:
        caption = "Inputs and their digests"
        table = page.table(["stage", "input", "digest"], inputs, caption=caption, words=(1, 2))
        parts.append(page.folded(caption, table))
    for name, text in _configurations(workdir).items():
        listing = f'<pre tabindex="0">{page.text(text)}</pre>'
        parts.append(page.folded(f"Configuration of {name}", listing, kind="closed-in-print"))
    return page.section("settings", "Settings", lead, *parts)


def _configurations(workdir: epath.Path) -> Mapping[str, str]:
    config = workdir / "config"
    paths = sorted(config.glob("*.operative.gin")) if config.exists() else []
    return {path.name.partition(".")[0]: path.read_text() for path in paths}


def name_of(workdir: epath.Path) -> str:
    """What the page is called."""
    return workdir.name or os.fspath(workdir)
