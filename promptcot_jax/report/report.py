"""`report.html`: one page from the files of a workdir, for reading, printing and sending to a colleague.

It reads files only and imports no stage: every part stands on what lies in the workdir. A section is a
function workdir -> data, and a template of its name in `templates/sections/`. The sections of stages that
never ran are left out and named in one line; a part whose file is missing or damaged says so, and spoils no
other. The page is a function of those files: it holds no date and makes no request.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from promptcot_jax.core import jsonl, manifest
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.report import (
    data_sections,
    em_sections,
    in_short,
    page,
    paper,
    result_sections,
    run_sections,
    samples,
    self_play_sections,
    warning_checks,
    workdir_files,
)
from promptcot_jax.report.workdir_files import Missing


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        anchor: its id, and the name of its template.
        label: in the navigation, and among what did not run.
        data: what its template shows; raises Missing for a file that is not there.
        is_there: whether the workdir has anything for it.
    """

    anchor: str
    label: str
    data: Callable[[epath.Path], Mapping[str, Any]]
    is_there: Callable[[epath.Path], bool]


def write_report(workdir: epath.PathLike, path: epath.PathLike | None = None) -> None:
    """Writes the page of a workdir, by default as its `report.html`."""
    target = epath.Path(path) if path is not None else epath.Path(workdir) / "report.html"
    jsonl.write_atomically(target, render(workdir).encode("utf-8", errors="replace"))


def render(workdir: epath.PathLike) -> str:
    """The page as one HTML document."""
    workdir = epath.Path(workdir)
    found = samples.read(workdir)
    there, absent = [], []
    for section in _sections(found):
        (there if _is_there(section, workdir) else absent).append(section)
    anchors = [section.anchor for section in there]
    opening = [_OPENING] if _is_there(_OPENING, workdir) else []
    return page.render(
        "report.html",
        name=workdir.name or os.fspath(workdir),
        tiles=run_sections.tiles(workdir),
        has_em="likelihood" in anchors,
        opening=[(section, _data(section, workdir)) for section in opening],
        sections=[(section, _data(section, workdir)) for section in there],
        absent=[section.label.lower() for section in absent],
        scripts=("paging.js", "report.js") if found else (),
        images="analyses" in anchors,
    )


_OPENING = Section("in-short", "In short", in_short.in_short, in_short.has_figures)  # above the tiles


def _sections(found: Mapping[str, samples.Found]) -> Sequence[Section]:
    """All that the page may have below its tiles, in its order."""

    def of_samples(data: Callable[..., Mapping[str, Any]]) -> Callable[[epath.Path], Mapping[str, Any]]:
        return functools.partial(data, found=found)

    run, data, em, results = run_sections, data_sections, em_sections, result_sections
    return (
        Section("what-was-run", "What was run", run.what_was_run, _has_stages),
        Section("warnings", "Warnings", warning_checks.warnings, lambda w: _has_stages(w) or bool(found)),
        Section("flow", "Flow", run.flow, lambda _: True),
        Section("data", "Data", of_samples(data.data), data.has_data),
        Section("annotate", "Annotation", data.annotate, _has("annotate/report.json")),
        Section("likelihood", "Likelihood", em.likelihood, _ran("em", "em")),
        Section("e-step", "E-step", em.e_step, _ran("em", "em")),
        Section("candidates", "Candidates", em.candidates, _ran("em", "em")),
        Section("problems", "Problems", of_samples(data.problems), _ran("synthesize", "problems.jsonl")),
        Section("verify", "Verification", of_samples(data.verify), _has("verify/report.json")),
        Section("distill", "Distillation", data.distill, _has("distill/report.json")),
        Section("self-play", "Self-play", self_play_sections.self_play, _ran("self_play", "self_play")),
        Section("solver", "Solver", results.solver, _ran("evaluate", "results.json")),
        Section(
            "paper", "Beside the paper", paper.section, lambda w: _has_stages(w) or _has("results.json")(w)
        ),
        Section("training", "Training", results.training, results.has_fits),
        Section("analyses", "Analyses", results.analyses, results.has_analyses),
        Section("samples", "Samples", of_samples(samples.section), lambda _: bool(found)),
        Section("settings", "Settings", run.settings, _has_stages),
    )


def _is_there(section: Section, workdir: epath.Path) -> bool:
    """Whether a section has anything to show, or to say of a damaged file."""
    try:
        return section.is_there(workdir)
    except WrongUse:
        return True


def _has_stages(workdir: epath.Path) -> bool:
    """Whether the manifest has a stage of the flow."""
    return bool(run_sections.entries_in_order(workdir))


def _has(*names: str) -> Callable[[epath.Path], bool]:
    """Whether one of these files is there."""
    return lambda workdir: any((workdir / name).exists() for name in names)


def _ran(stage: str, output: str) -> Callable[[epath.Path], bool]:
    """Whether a stage was begun here, or what it writes is here."""

    def is_there(workdir: epath.Path) -> bool:
        if (workdir / output).exists() or workdir_files.exists(workdir / output):
            return True
        return stage in manifest.read(workdir)

    return is_there


def _data(section: Section, workdir: epath.Path) -> dict[str, Any]:
    """What a section's template shows: its data, or what is wrong with the file that it reads."""
    try:
        return {"missing": "", **section.data(workdir)}
    except Missing as reason:
        return {"missing": str(reason)}
    except WrongUse as error:
        return {"missing": f"This part could not be made: {error}"}
