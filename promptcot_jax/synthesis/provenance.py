"""How the rows of an exported set were made, as far as its workdir says: manifest, settings, reports."""

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any

from etils import epath

from promptcot_jax.core import jsonl, manifest
from promptcot_jax.data.exported_sets import RecordKind

_TRIPLE_STAGES = ("corpus", "import_data", "annotate")
_STAGES: Mapping[RecordKind, tuple[str, ...]] = {  # that a set of this kind comes from, in order
    "triples": (*_TRIPLE_STAGES, "decontaminate"),
    "problems": (*_TRIPLE_STAGES, "cold_start", "em", "synthesize", "decontaminate"),
    "verified_prompts": (*_TRIPLE_STAGES, "cold_start", "em", "synthesize", "decontaminate", "verify"),
}
_OUTPUTS: Mapping[str, tuple[str, ...]] = {  # of a stage, without their ending; `decontaminate` has a setting
    "corpus": ("triples", "triples_heldout"),
    "import_data": ("concept_sets", "sft_traces", "verified_prompts"),
    "annotate": ("triples", "triples_heldout"),
    "synthesize": ("problems",),
    "verify": ("verified_prompts",),
}
_BEFORE_SYNTHESIS = ("cold_start", "em")
_PRODUCERS: Mapping[RecordKind, str] = {"problems": "synthesize", "verified_prompts": "verify"}
_ROLES = re.compile(r"(annotators\[\d+\]|solver|judge|test_writer)\.(?:path|model)|(prompt_model)")


@dataclasses.dataclass(frozen=True)
class GivenModel:
    """A model that a stage was given."""

    stage: str
    role: str  # the setting that names it
    name: str  # path, or name at its endpoint
    digest: str | None  # None: it is behind an endpoint


@dataclasses.dataclass(frozen=True)
class Decontamination:
    """What `decontaminate` did on the way to the set's rows.

    Attributes:
        dropped_by: rows dropped for each benchmark.
    """

    rule: str
    ngram: int
    dropped: int
    dropped_by: Mapping[str, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Provenance:
    """What a workdir says of how its rows were made.

    Attributes:
        entries: of the manifest, the stages that the rows come from.
        unrelated: stages of the manifest that may make rows of the kind, and did not make these.
        settings: of each stage, by dotted name.
        reports: of `annotate` and `verify`.
        rows: the file that is exported, as the setting names it; `digest` of its content.
    """

    kind: RecordKind
    entries: Mapping[str, manifest.StageEntry]
    settings: Mapping[str, Mapping[str, Any]]
    reports: Mapping[str, Mapping[str, Any]]
    rows: str
    digest: str
    unrelated: tuple[str, ...] = ()

    def producer(self) -> manifest.StageEntry | None:
        """The stage that writes rows of this kind, if it ran here; triples have several."""
        return self.entries.get(_PRODUCERS.get(self.kind, ""))

    def given_models(self) -> list[GivenModel]:
        """All models that the stages' settings name."""
        found = []
        for stage, settings in self.settings.items():
            for key, value in settings.items():
                role = _ROLES.fullmatch(key.removeprefix(f"{stage}."))
                if role and isinstance(value, str):
                    digest = self.entries[stage].inputs.get(value)
                    found.append(GivenModel(stage, role[1] or role[2], value, digest))
        return found

    def synthesis_benchmarks(self) -> dict[str, str]:
        """What `synthesize` compared its problems with, name -> file."""
        prefix = "synthesize.benchmarks."
        settings = self.settings.get("synthesize", {})
        return {key.removeprefix(prefix): value for key, value in settings.items() if key.startswith(prefix)}

    def decontamination(self) -> Decontamination | None:
        """What `decontaminate` did; None where it was not run on what these rows come from."""
        entry = self.entries.get("decontaminate")
        if entry is None:
            return None
        settings = self.settings.get("decontaminate", {})
        prefix = "dropped_contaminated_by_"
        return Decontamination(
            rule=settings.get("decontaminate.rule", "ngram"),
            ngram=settings.get("decontaminate.ngram", 13),
            dropped=entry.counts.get("dropped_contaminated", 0),
            dropped_by={k.removeprefix(prefix): v for k, v in entry.counts.items() if k.startswith(prefix)},
        )

    def packages(self) -> dict[str, str]:
        """Versions of the packages that the stages ran with; the last stage's where they differ."""
        return {name: version for entry in self.entries.values() for name, version in entry.versions.items()}


def read(workdir: epath.PathLike, kind: RecordKind, rows: str, digest: str) -> Provenance:
    """Reads it from the workdir's files.

    Raises:
        WrongUse: one of them is damaged.
    """
    directory = epath.Path(workdir)
    there = {name: entry for name, entry in manifest.read(directory).items() if name in _STAGES[kind]}
    files = {name: directory / "config" / f"{name}.settings.json" for name in there}
    settings = {name: jsonl.read_json(file) for name, file in files.items() if file.exists()}
    upstream = _upstream(os.fspath(workdir), there, settings, rows)
    entries = {name: there[name] for name in _STAGES[kind] if name in upstream}
    reports = {name: directory / name / "report.json" for name in entries if name in ("annotate", "verify")}
    return Provenance(
        kind=kind,
        entries=entries,
        settings={name: settings[name] for name in entries if name in settings},
        reports={name: jsonl.read_json(file) for name, file in reports.items() if file.exists()},
        rows=rows,
        digest=digest,
        unrelated=tuple(name for name in there if name not in upstream),
    )


def _upstream(
    workdir: str,
    entries: Mapping[str, manifest.StageEntry],
    settings: Mapping[str, Mapping[str, Any]],
    rows: str,
) -> set[str]:
    """The stages that wrote a file, of this workdir, or what the file was made from, and so on back."""
    output = str(settings.get("decontaminate", {}).get("decontaminate.output", "problems_clean"))
    stems = {**_OUTPUTS, "decontaminate": (output.removesuffix(".jsonl"),)}
    outputs = {
        name: {_absolute(f"{{workdir}}/{stem}.jsonl", workdir) for stem in stems[name]}
        for name in entries.keys() & stems.keys()
    }
    upstream: set[str] = set()
    new = {rows}
    while new:
        reached = {_absolute(path, workdir) for path in new}
        found = {name for name, own in outputs.items() if own & reached} - upstream
        if "synthesize" in found:
            found |= set(_BEFORE_SYNTHESIS) & entries.keys()
        upstream |= found
        new = {path for name in found for path in entries[name].inputs}
    return upstream


def _absolute(path: str, workdir: str) -> str:
    """A path, as it was given, in a form that can be compared."""
    path = path.replace("{workdir}", workdir)
    return path if "://" in path else os.path.abspath(path)
