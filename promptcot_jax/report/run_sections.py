"""Sections of the report on the run itself: headline, stages and their cost, the flow, settings, versions."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from promptcot_jax.core import manifest
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.report import page, self_play_sections, workdir_files
from promptcot_jax.report.page import DASH, label, number

_STAGE_ORDER = (
    *("corpus", "import_data", "annotate", "cache_tasks", "cold_start", "em", "synthesize", "decontaminate"),
    *("verify", "export", "self_play", "distill", "sft", "evaluate", "analyze"),
)
_ABOUT_OTHERS = ("run", "report", "plan", "convert", "compare")  # no part of the flow
_SHOWN_SEEDS = 50
_UNITS = {"chip": "chip-hours", "GPU": "GPU-hours", "processor": "processor-hours"}
_DROPS = ("dropped", "skipped", "overlong", "rejected")
_KEPT = {  # what a stage's `out` is, for the headline
    "synthesize": ("new problems kept", "drafts"),
    "verify": ("prompts verified", "problems"),
    "export": ("rows exported", ""),
}
Tile = tuple[str, str]  # a figure, and what it is


def entries_in_order(workdir: epath.Path) -> list[manifest.StageEntry]:
    """The stages of the flow that were begun in this workdir."""
    entries = manifest.read(workdir)
    others = sorted(entries.keys() - {*_STAGE_ORDER, *_ABOUT_OTHERS})
    return [entries[name] for name in (*_STAGE_ORDER, *others) if name in entries]


def tiles(workdir: epath.Path) -> list[Tile]:
    """The figures that a reader looks for first; those of a damaged file are left to its section."""
    found = []
    for part in (_em_tiles, _kept_tiles, self_play_sections.tiles, _accuracy_tiles, _cost_tiles):
        try:
            found += part(workdir)
        except WrongUse:  # the section of the file in question says what is wrong
            continue
    return found


def _em_tiles(workdir: epath.Path) -> Iterator[Tile]:
    """Held-out figures before EM and in the best round."""
    first, *rounds = workdir_files.rows(workdir / "em" / "nll.jsonl") or [{}]
    if not rounds:
        return
    best = next((row for row in rounds if row["round"] == rounds[-1].get("best_round")), rounds[-1])
    for field, what in (
        ("nll_bound", "bound on \u2212log p(x|c), nats per token of x"),
        ("nll_x_given_q", "\u2212log p(x|z,c) with q\u03c6\u2019s rationale"),
    ):
        before, after = first.get(field), best.get(field)
        if before is not None and after is not None:
            rise = "" if after < before else ", which is no better"
            yield (
                f"{number(before)} \u2192 {number(after)}",
                f"{what}: cold start \u2192 round {best['round']}{_interval(best, field)}{rise}",
            )


def _interval(row: Mapping[str, Any], field: str) -> str:
    """Of the change of the bound since the cold start, paired over the held-out pairs."""
    if field != "nll_bound" or "bound_change" not in row:
        return ""
    return f" (change {row['bound_change']:+.4f} \u00b1 {row['bound_change_half_width']:.4f})"


def _kept_tiles(workdir: epath.Path) -> Iterator[Tile]:
    entries = manifest.read(workdir)
    for stage, (kept, of) in _KEPT.items():
        counts = entries[stage].counts if stage in entries else {}
        if "out" in counts:
            out_of = f" of {number(counts['in'])} {of}" if of and "in" in counts else ""
            yield number(counts["out"]), kept + out_of


def _accuracy_tiles(workdir: epath.Path) -> Iterator[Tile]:
    for name, result in workdir_files.results(workdir).items():
        if result.get("accuracy") is not None:
            yield page.accuracy(result), f"solver accuracy on {name}"


def _cost_tiles(workdir: epath.Path) -> Iterator[Tile]:
    if entries := entries_in_order(workdir):
        yield page.duration(sum(entry.wall_seconds for entry in entries)), "of work in all stages"
        for what, hours in _cost(entries).items():
            yield number(hours), what


def _cost(entries: Sequence[manifest.StageEntry]) -> dict[str, float]:
    """Hours by unit and kind of device; those of processors only where nothing else was paid for."""
    cost: dict[tuple[str, str], float] = {}
    for use in (use for entry in entries for use in entry.devices):
        cost[use.unit, use.kind] = cost.get((use.unit, use.kind), 0.0) + use.hours
    if any(unit != "processor" for unit, _ in cost):
        cost = {key: hours for key, hours in cost.items() if key[0] != "processor"}
    return {f"{_UNITS[unit]} of {kind}": hours for (unit, kind), hours in cost.items()}


def what_was_run(workdir: epath.Path) -> dict[str, Any]:
    """Stages with their seed, devices, time and cost; models; package versions."""
    entries = entries_in_order(workdir)
    stages = [
        [
            label(entry.stage),
            "complete" if entry.status == "complete" else "not finished",
            str(entry.seed),
            entry.attempts or DASH,
            "; ".join(map(_devices, entry.devices)) or "none",
            page.duration(entry.wall_seconds),
            "; ".join(f"{number(use.hours)} {_UNITS[use.unit]}" for use in entry.devices) or DASH,
        ]
        for entry in entries
    ]
    versions: dict[str, dict[str, None]] = {}  # each package's, in the order of the stages
    for entry in entries:
        for name, version in entry.versions.items():
            versions.setdefault(name, {})[version] = None
    shown = {name: ", then ".join(own) for name, own in versions.items()}
    return {
        "stages": stages,
        "seconds": sum(entry.wall_seconds for entry in entries),
        "cost": ", ".join(f"{number(hours)} {what}" for what, hours in _cost(entries).items()),
        "models": [
            [label(entry.stage), *model] for entry in entries for model in _models(workdir, entry.stage)
        ],
        "versions": sorted(shown.items()),
        "main_versions": ", ".join(
            f"{name} {shown[name]}" for name in ("promptcot_jax", "jax", "python") if name in shown
        ),
    }


def _devices(use: manifest.DeviceUse) -> str:
    """Such as "TPU v5 lite x 16, 4 hosts", or "cpu, 2 processors"."""
    hosts = f", {use.hosts} hosts" if use.hosts > 1 else ""
    if use.unit == "processor":
        return f"{use.kind}, {use.count} processor{'s' if use.count > 1 else ''}{hosts}"
    return f"{use.kind} \u00d7 {use.count}{hosts}"


def _models(workdir: epath.Path, stage: str) -> Iterator[tuple[str, str]]:
    """Models that the settings of a stage name, each after the name of its setting."""
    settings = workdir_files.settings(workdir, stage)
    for name, value in settings.items():
        if any(other.startswith(f"{name}.") for other in settings):
            continue  # a dataclass, whose value is its type's name
        setting = name.removeprefix(f"{stage}.")
        is_model = setting.endswith((".path", ".model"))
        is_model |= setting in ("solver", "prompt_model", "theta", "phi")
        if is_model and isinstance(value, str) and value:
            yield setting, value


def flow(workdir: epath.Path) -> dict[str, Any]:
    """Each stage with what went in, what came out and what was dropped for which reason.

    Of a workdir without manifest: nothing, or the pages of the seeds.
    """
    entries = entries_in_order(workdir)
    seeds = sorted(path.name for path in workdir.glob("seed_*")) if workdir.exists() else []
    if not entries and not seeds:
        raise workdir_files.Missing("manifest.json is not there: no stage has run in this workdir.")
    stages = []
    for entry in entries:
        counts = dict(entry.counts)
        has_both = "in" in counts and "out" in counts
        stages.append(
            {
                "name": label(entry.stage),
                "state": page.duration(entry.wall_seconds) if entry.status == "complete" else "not finished",
                "through": (counts.pop("in"), counts.pop("out")) if has_both else (),
                "counts": [
                    (label(name), count, count > 0 and any(word in name for word in _DROPS))
                    for name, count in counts.items()
                ],
            }
        )
    return {"stages": stages, "seeds": seeds[:_SHOWN_SEEDS]}


def settings(workdir: epath.Path) -> dict[str, Any]:
    """Digests, inputs, and the gin configuration that each stage ran under."""
    entries = entries_in_order(workdir)
    config = workdir / "config"
    files = sorted(config.glob("*.operative.gin")) if config.exists() else []
    configurations: Mapping[str, str] = {path.name.partition(".")[0]: path.read_text() for path in files}
    return {
        "digests": [[label(entry.stage), str(entry.seed), entry.config_digest] for entry in entries],
        "inputs": [[label(entry.stage), *pair] for entry in entries for pair in entry.inputs.items()],
        "configurations": configurations,
    }
