"""The data card of an exported set: `README.md`, made from the manifest, the stages' reports and the rows.

Nothing is said here that no file says: what is not known (a licence, a decontamination) is named as unknown.
It holds no date and no duration, so that the same workdir gives the same bytes.
"""

import collections
import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from promptcot_jax.core import exported, jsonl, manifest
from promptcot_jax.core.exported import Exported, ExportedMathPrompt, ExportedProgramPrompt, Kind
from promptcot_jax.data import decontamination, set_files
from promptcot_jax.synthesis.cold_start_report import spread
from promptcot_jax.synthesis.exporting import CORPUS, SYNTHESIZED, UNNAMED, ExportConfig, Splits

_TRIPLE_STAGES = ("corpus", "import_data", "annotate")
_STAGES: Mapping[Kind, tuple[str, ...]] = {  # that a set of this kind comes from, in order
    "triples": (*_TRIPLE_STAGES, "decontaminate"),
    "problems": (*_TRIPLE_STAGES, "cold_start", "em", "synthesize", "decontaminate"),
    "verified_prompts": (*_TRIPLE_STAGES, "cold_start", "em", "synthesize", "decontaminate", "verify"),
}
_ROLES = re.compile(r"(?P<role>annotators\[\d+\]|solver|judge|test_writer|prompt_model)(?:\.(?:path|model))?")
_SOURCES = {
    SYNTHESIZED: "written by a model from concepts",
    CORPUS: "the problems that `promptcot corpus` generates",
    UNNAMED: "rows that do not say where they are from",
}
_SIZES = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"))
_NUM_SHOWN = 25  # concepts, levels
UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Provenance:
    """What a workdir says of how its rows were made.

    Attributes:
        entries: of the manifest, those of `_STAGES` that are there.
        settings: of each stage, by dotted name.
        reports: of `annotate` and `verify`.
        rows: the file that is exported, as the setting names it; `digest` of its content.
    """

    kind: Kind
    entries: Mapping[str, manifest.StageEntry]
    settings: Mapping[str, Mapping[str, Any]]
    reports: Mapping[str, Mapping[str, Any]]
    rows: str
    digest: str


def provenance(workdir: epath.PathLike, kind: Kind, rows: str, digest: str) -> Provenance:
    """Reads it."""
    workdir = epath.Path(workdir)
    there = manifest.read(workdir)
    entries = {name: there[name] for name in _STAGES[kind] if name in there}
    files = {name: workdir / "config" / f"{name}.settings.json" for name in entries}
    reports = {name: workdir / name / "report.json" for name in entries if name in ("annotate", "verify")}
    return Provenance(
        kind=kind,
        entries=entries,
        settings={name: jsonl.read_json(file) for name, file in files.items() if file.exists()},
        reports={name: jsonl.read_json(file) for name, file in reports.items() if file.exists()},
        rows=rows,
        digest=digest,
    )


def render(splits: Splits, config: ExportConfig, made: Provenance, seeds: Mapping[str, int]) -> str:
    """The whole card.

    Args:
        seeds: see `exporting.seed_sources`.
    """
    rows = [row for of_domain in splits.values() for some in of_domain.values() for row in some]
    licences = licences_of(rows, seeds, config)
    front = set_files.front_matter(splits, made.kind, "data", "parquet", _metadata(rows, licences, config))
    sections = (
        _head(rows, splits, config, licences),
        _licences(rows, seeds, licences),
        _loading(splits, made.kind, config),
        _contents(rows),
        _difficulty(rows),
        _making(rows, made),
        _models(rows, made),
        _decontamination(made),
        _limits(rows, made, seeds),
        _settings(made, config),
    )
    return front + "\n" + "\n".join("\n".join(section) + "\n" for section in sections if section)


def sources_of(rows: Sequence[Exported], seeds: Mapping[str, int]) -> list[str]:
    """All that the set is from: of its rows, and of the triples whose concepts they are made of."""
    return sorted({row.source for row in rows} | seeds.keys())


def licences_of(rows: Sequence[Exported], seeds: Mapping[str, int], config: ExportConfig) -> dict[str, str]:
    """Licence of each source."""
    return {source: config.licences.get(source, UNKNOWN) for source in sources_of(rows, seeds)}


def _metadata(rows: Sequence[Exported], licences: Mapping[str, str], config: ExportConfig) -> dict[str, Any]:
    """What the hub reads; its word for several licences is "other"."""
    of_all = set(licences.values())
    licence = UNKNOWN if UNKNOWN in of_all else of_all.pop().lower() if len(of_all) == 1 else "other"
    size = next((name for limit, name in _SIZES if len(rows) < limit), "n>1M")
    return {
        "pretty_name": config.name,
        "license": licence,
        "task_categories": ["text-generation"],
        "size_categories": [size],
        "tags": ["synthetic", "reasoning", "promptcot"],
    }


def _head(
    rows: Sequence[Exported], splits: Splits, config: ExportConfig, licences: Mapping[str, str]
) -> Iterator[str]:
    yield f"# {_plain(config.name)}"
    yield ""
    unknown = [source for source, licence in licences.items() if licence == UNKNOWN]
    if unknown:
        named = ", ".join(f"`{_plain(source)}`" for source in unknown)
        yield f"> **The licence of {named} is unknown.** Find it out before you pass this set on."
        yield ""
    yield f"{len(rows):,} rows, exported by promptcot_jax (PromptCoT 2.0, arXiv 2509.19894, on JAX)."
    yield "`browse.html` beside this file shows them all: search, filter, rationale and lineage of each."
    yield ""
    yield from _table(
        ("configuration", *exported.SPLITS),
        [
            (domain, *(len(of_domain[split]) for split in exported.SPLITS))
            for domain, of_domain in splits.items()
        ],
    )


def _licences(
    rows: Sequence[Exported], seeds: Mapping[str, int], licences: Mapping[str, str]
) -> Iterator[str]:
    yield "## Sources and licences"
    yield ""
    of_rows = collections.Counter(row.source for row in rows)
    yield from _table(
        ("source", "rows", "seed triples", "licence"),
        [
            (
                source + (f" ({_SOURCES[source]})" if source in _SOURCES else ""),
                of_rows[source],
                seeds.get(source, 0),
                licence,
            )
            for source, licence in licences.items()
        ],
    )
    if seeds:
        yield ""
        yield "Seed triples are the problems from which concepts were taken and the generator learned."


def _loading(splits: Splits, kind: Kind, config: ExportConfig) -> Iterator[str]:
    first = next(iter(splits))
    yield "## Loading"
    yield ""
    yield "```python"
    yield "import datasets"
    yield f'rows = datasets.load_dataset("DIRECTORY", "{first}")  # the Parquet files in data/'
    if config.json_lines:
        yield f'rows = datasets.load_dataset("DIRECTORY/jsonl", "{first}")  # the same as JSON lines'
    yield ""
    yield "import tensorflow_datasets as tfds"
    yield "from promptcot_jax.data import tfds_builder"
    yield f'builder = tfds_builder.Promptcot(config="exported_{kind}_{first}", data_dir="TFDS_DIR")'
    yield "manual = tfds.download.DownloadConfig(manual_dir='DIRECTORY')"
    yield "builder.download_and_prepare(download_config=manual)"
    yield "rows = builder.as_dataset(split='train')"
    yield "```"


def _contents(rows: Sequence[Exported]) -> Iterator[str]:
    concepts = collections.Counter(concept.casefold() for row in rows for concept in row.concepts)
    once = sum(count == 1 for count in concepts.values())
    yield "## What is in it"
    yield ""
    if concepts:
        yield f"{len(concepts):,} different concepts, {once:,} of them in one row. The most common:"
        yield ""
        yield from _counted("concept", concepts)
    else:
        yield "No row names its concepts."
    yield ""
    yield from _counted("level", collections.Counter(row.level or "(none)" for row in rows))
    yield ""
    yield "Words:"
    yield ""
    yield from _spreads(
        {
            "problem": [len(decontamination.words(row.problem)) for row in rows],
            "rationale": [len(decontamination.words(row.rationale)) for row in rows if row.rationale],
        }
    )


def _difficulty(rows: Sequence[Exported]) -> list[str]:
    """Agreement and difficulty of the rows that were solved; empty where none was."""
    verified = [row for row in rows if isinstance(row, ExportedMathPrompt | ExportedProgramPrompt)]
    solved = [row for row in verified if row.num_solutions]
    if not verified:
        return []
    lines = ["## Agreement and difficulty", ""]
    if len(solved) < len(verified):
        given = len(verified) - len(solved)
        lines += [f"{given:,} rows came with their answer or tests: nothing of this is known of them.", ""]
    if not solved:
        return lines
    shares: dict[str, Callable[[Any], float]] = {
        "agreement": lambda row: row.agreement,
        "share solved": lambda row: row.pass_share,
    }
    bins = {name: collections.Counter(_eighth(of(row)) for row in solved) for name, of in shares.items()}
    keys = sorted(set().union(*bins.values()))
    header = ("share", *(f"rows by {name}" for name in bins))
    lines += _table(
        header, [(f"{(key - 1) / 8:g} to {key / 8:g}", *(b[key] for b in bins.values())) for key in keys]
    )
    lines += [
        "",
        *_counted("difficulty pool", collections.Counter(row.pool or "(none)" for row in solved)),
        "",
    ]
    programs = [row for row in solved if isinstance(row, ExportedProgramPrompt)]
    figures = {
        "agreement": [row.agreement for row in solved],
        "share solved": [row.pass_share for row in solved],
        "mean tokens of a solution": [row.mean_tokens for row in solved],
        "tests of a program": [len(row.tests) for row in programs],
        "share of mutants that its tests refuse": [row.kill_rate for row in programs if row.num_mutants],
    }
    return [*lines, *_spreads(figures)]


def _eighth(share: float) -> int:
    """Which eighth of (0, 1] a share is in, 1 to 8; 0 counts to the first."""
    return max(1, -int(-share * 8 // 1))


def _making(rows: Sequence[Exported], made: Provenance) -> Iterator[str]:
    yield "## How it was made"
    yield ""
    yield f"The rows are those of `{_shown(made.rows)}`, digest {made.digest}."
    maker = made.entries.get({"verified_prompts": "verify", "problems": "synthesize"}.get(made.kind, ""))
    written = maker.counts.get("out") if maker else None
    if maker and written is not None and written != len(rows):
        yield (
            f"**`{maker.stage}` of this workdir wrote {written:,} rows, and these are {len(rows):,}**: they "
            "were changed since, or are others."
        )
    yield ""
    if not made.entries:
        yield "**Unknown**: the workdir has no manifest of the stages that made these rows."
    for name, entry in made.entries.items():
        state = "" if entry.status == "complete" else f", **{entry.status}**"
        yield f"### {name}"
        yield ""
        yield f"Seed {entry.seed}, settings {entry.config_digest}{state}."
        yield ""
        order = sorted(
            entry.counts.items(),
            key=lambda item: (item[0].startswith("dropped_"), item[0] not in ("in", "out")),
        )
        yield from _table(("count", name), [(_words(key), value) for key, value in order])
        yield ""
        yield from _table(
            ("read", "digest"), [(_shown(path), digest) for path, digest in entry.inputs.items()]
        )
        yield ""


def _words(count: str) -> str:
    return count.replace("dropped_", "dropped: ", 1) if count.startswith("dropped_") else count


def _models(rows: Sequence[Exported], made: Provenance) -> Iterator[str]:
    """Models by what they did; the digest of one behind an endpoint is not known."""
    yield "## Models"
    yield ""
    table: list[tuple[object, ...]] = []
    writers = collections.Counter(
        (getattr(row, "model_digest", ""), getattr(row, "round_index", -1)) for row in rows
    )
    for (digest, round_index), count in sorted(writers.items()):
        if digest:
            stage = "cold start or given" if round_index < 0 else f"EM round {round_index}"
            table.append(("wrote rationale and problem", stage, digest, f"{count:,} rows"))
    for name, of_stage in made.settings.items():
        for key, value in of_stage.items():
            role = _ROLES.fullmatch(key.removeprefix(f"{name}."))
            if role and isinstance(value, str) and (key.endswith((".path", ".model", "prompt_model"))):
                digest = made.entries[name].inputs.get(value, "none (endpoint)")
                table.append((f"{name}: {role['role']}", _shown(value), digest, ""))
    for field, what in (("annotator", "annotated"), ("solver", "solved")):
        for name, count in sorted(collections.Counter(getattr(row, field, "") for row in rows).items()):
            if name:
                table.append((what, _shown(name), "", f"{count:,} rows"))
    yield from _table(("role", "model", "digest", "rows"), table)
    packages = {name: version for entry in made.entries.values() for name, version in entry.versions.items()}
    if packages:
        yield ""
        yield "Packages: " + ", ".join(f"{name} {version}" for name, version in packages.items()) + "."


def _decontamination(made: Provenance) -> Iterator[str]:
    yield "## Decontamination"
    yield ""
    said = False
    benchmarks = {
        key.removeprefix("synthesize.benchmarks."): value
        for key, value in made.settings.get("synthesize", {}).items()
        if key.startswith("synthesize.benchmarks.")
    }
    if benchmarks:
        said = True
        dropped = made.entries["synthesize"].counts.get("dropped_contaminated", 0)
        yield f"`synthesize` dropped {dropped:,} problems that overlap with {_listed(benchmarks)}."
    if (entry := made.entries.get("decontaminate")) is not None:
        settings = made.settings.get("decontaminate", {})
        output = str(settings.get("decontaminate.output", "problems_clean")).removesuffix(".jsonl")
        later = made.entries.get("verify")
        read = [made.rows, *(later.inputs if later else ())]
        by = {k.removeprefix("dropped_contaminated_by_"): v for k, v in entry.counts.items() if "_by_" in k}
        if any(os.path.basename(path).removesuffix(".jsonl") == output for path in read):
            said = True
            rule = f"{settings.get('decontaminate.ngram', 13)} words in a row"
            rule = "equal texts" if settings.get("decontaminate.rule") == "exact" else rule
            yield (
                f"`decontaminate` ({rule}) dropped {entry.counts.get('dropped_contaminated', 0):,} rows: "
                + ", ".join(f"{_plain(name)} {count:,}" for name, count in by.items())
                + "."
            )
        else:
            yield f"`decontaminate` was run, but **these rows do not come from what it wrote (`{output}`)**."
    if not said:
        yield "**These rows were compared with no benchmark** by a stage of this workdir."


def _limits(rows: Sequence[Exported], made: Provenance, seeds: Mapping[str, int]) -> Iterator[str]:
    yield "## Known limits"
    yield ""
    math = [row for row in rows if isinstance(row, ExportedMathPrompt) and row.num_solutions]
    code = [row for row in rows if isinstance(row, ExportedProgramPrompt) and row.num_solutions]
    settings = made.settings.get("verify", {})
    if made.kind != "verified_prompts":
        yield "* **Nobody has checked** that these problems are well posed, or that they can be solved."
    if math:
        least = settings.get("verify.config.votes.min_agreement", UNKNOWN)
        yield (
            "* An answer is that of most of the sampled solutions (least share: "
            f"{least}); where the solver errs the same way most times, **the answer is wrong**."
        )
    if code:
        yield (
            "* Outputs of tests are those on which sampled programs agree; an error that they share is not "
            "seen. Mutants that do the same as the program cannot be refused by any test: a share below 1 "
            "does not prove the tests weak, nor does 1 prove them complete."
        )
    if made.kind == "verified_prompts" and "verify" in made.entries:
        yield f"* {_judge(made)}"
        yield "* Difficulty is that for the solver that voted, and no other."
    if any(getattr(row, "model_digest", "") for row in rows):
        yield "* Concepts are those that were asked for; how far a problem uses them is measured by words."
    yield "* Overlaps with benchmarks and near-duplicates are found by wording; a paraphrase may have stayed."
    yield "* Rows are held out by their ids: problems of one list of concepts may be in both splits."
    yield "* TFDS holds numbers in single precision."


def _judge(made: Provenance) -> str:
    """What the judge's agreement with itself is."""
    judge = made.reports.get("verify", {}).get("judge")
    if not judge:
        return "No judge has read the statements: that they are well posed is known from rules at most."
    own = judge["agreement"]["well_posed"]
    return (
        f"A judge model read the statements and found them well posed in {judge['well_posed_share']} of its "
        f"verdicts; two on one problem are equal in {own['equal_share']} of pairs (kappa {own['kappa']}). "
        "It errs."
    )


def _settings(made: Provenance, config: ExportConfig) -> Iterator[str]:
    yield "## Settings"
    yield ""
    for name, settings in (*made.settings.items(), ("export", dataclasses.asdict(config))):
        yield f"<details><summary>{name}</summary>"
        yield ""
        yield "~~~~"
        for key, value in settings.items():
            shown = _shown(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield " ".join(f"{key} = {shown}".split())
        yield "~~~~"
        yield ""
        yield "</details>"


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    """A table; nothing without rows."""
    if not rows:
        return
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(f'{c:,}' if isinstance(c, int) else _plain(str(c)) for c in row)} |"


def _counted(what: str, counts: Mapping[str, int]) -> Iterator[str]:
    """The most common first, those of one count by name."""
    order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    yield from _table((what, "rows"), order[:_NUM_SHOWN])
    if len(order) > _NUM_SHOWN:
        yield ""
        yield f"and {len(order) - _NUM_SHOWN:,} more."


def _spreads(figures: Mapping[str, Sequence[float] | Sequence[int]]) -> Iterator[str]:
    found = {name: spread(values) for name, values in figures.items() if values}
    if found:
        names = next(iter(found.values()))
        rows = [(name, *(f"{value:g}" for value in of.values())) for name, of in found.items()]
        yield from _table(("", *names), rows)


def _listed(paths: Mapping[str, Any]) -> str:
    return ", ".join(f"{_plain(name)} (`{_shown(str(path))}`)" for name, path in paths.items())


def _plain(text: str) -> str:
    """Any text in a line of Markdown, as itself."""
    return re.sub(r"([\\`|<\[])", r"\\\1", " ".join(text.split()))


def _shown(value: str) -> str:
    """An absolute path by its end: where a user keeps files is nobody's business."""
    parts = value.split("/")
    is_path = value.startswith("/") and len(parts) > 2
    return "/".join(("...", *parts[-2 if len(parts) > 4 else -1 :])) if is_path else value
