"""`report.html`: one page from the files of a workdir, for reading, printing and sending to a colleague.

It reads files only and imports no stage: every part stands on what lies in the workdir. The sections of
stages that never ran are left out and named in one line; a part whose file is missing or damaged says so,
and spoils no other. The page is a function of those files: it holds no date and makes no request.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

from etils import epath

from promptcot_jax.core import jsonl, manifest
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.report import (
    analyses_section,
    cautions,
    data_sections,
    em_sections,
    fits_section,
    page,
    paper_section,
    row_samples,
    run_sections,
    self_play_sections,
    solver_section,
    workdir_files,
)


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        anchor: its id.
        label: in the navigation, and among what did not run.
        is_there: whether the workdir has anything for it.
    """

    anchor: str
    label: str
    build: Callable[[epath.Path], str]
    is_there: Callable[[epath.Path], bool]


def write_report(workdir: epath.PathLike, path: epath.PathLike | None = None) -> None:
    """Writes the page of a workdir, by default as its `report.html`."""
    target = epath.Path(path) if path is not None else epath.Path(workdir) / "report.html"
    jsonl.write_atomically(target, render(workdir).encode("utf-8", errors="replace"))


def render(workdir: epath.PathLike) -> str:
    """The page as one HTML document."""
    workdir = epath.Path(workdir)
    found = row_samples.read(workdir)
    there, absent = [], []
    for section in _sections(found):
        (there if _is_there(section, workdir) else absent).append(section)
    name = run_sections.name_of(workdir)
    links = "".join(f'<a href="#{section.anchor}">{page.text(section.label)}</a>' for section in there)
    header = (
        f"<h1>PromptCoT on JAX: {page.text(name)}</h1>"
        '<p class="lead">What was run in this workdir and on what, what went through each stage, what EM did '
        "to the held-out likelihoods, what came out, and how well a solver does.</p>"
        f'<nav aria-label="Sections">{links}</nav>'
    )
    body = [run_sections.headline(workdir)]
    body += [_guarded(section, workdir) for section in there]
    anchors = {section.anchor for section in there}
    if names := ", ".join(section.label.lower() for section in absent if section.anchor not in anchors):
        body.append(
            f'<p class="soft" id="not-run">Not in this workdir, and left out: {page.text(names)}.</p>'
        )
    return page.document(
        f"PromptCoT report: {name}",
        "\n".join(part for part in body if part),
        header=header,
        styles=("samples.css", "paging.css"),
        scripts=("paging.js", "report.js") if found else (),
        images=any(section.anchor == "analyses" for section in there),
    )


def _sections(found: Mapping[str, row_samples.Found]) -> Sequence[Section]:
    """All that the page may have, in its order."""

    def of_samples(build: Callable[..., str]) -> Callable[[epath.Path], str]:
        return functools.partial(build, found=found)

    run, data, em = run_sections, data_sections, em_sections
    return (
        Section("flow", "Seeds", run.no_run_section, _has_no_stages),
        Section("what-was-run", "What was run", run.what_was_run_section, _has_stages),
        Section("warnings", "Warnings", cautions.cautions_section, lambda w: _has_stages(w) or bool(found)),
        Section("flow", "Flow", run.flow_section, _has_stages),
        Section("data", "Data", of_samples(data.data_section), data.has_data),
        Section("annotate", "Annotation", data.annotate_section, _has("annotate/report.json")),
        Section("likelihood", "Likelihood", em.likelihood_section, _ran("em", "em")),
        Section("e-step", "E-step", em.e_step_section, _ran("em", "em")),
        Section("candidates", "Candidates", em.candidates_section, _ran("em", "em")),
        Section(
            "problems", "Problems", of_samples(data.problems_section), _ran("synthesize", "problems.jsonl")
        ),
        Section("verify", "Verification", of_samples(data.verify_section), _has("verify/report.json")),
        Section("distill", "Distillation", data.distill_section, _has("distill/report.json")),
        Section(
            "self-play", "Self-play", self_play_sections.self_play_section, _ran("self_play", "self_play")
        ),
        Section("solver", "Solver", solver_section.solver_section, _ran("evaluate", "results.json")),
        Section(
            "paper",
            "Beside the paper",
            paper_section.paper_section,
            lambda w: _has_stages(w) or _has("results.json")(w),
        ),
        Section("training", "Training", fits_section.training_section, fits_section.is_there),
        Section("analyses", "Analyses", analyses_section.analyses_section, analyses_section.is_there),
        Section("samples", "Samples", of_samples(row_samples.samples_section), lambda _: bool(found)),
        Section("settings", "Settings", run.settings_section, _has_stages),
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


def _has_no_stages(workdir: epath.Path) -> bool:
    """Whether no stage was begun; of a damaged manifest nobody knows."""
    try:
        return not _has_stages(workdir)
    except WrongUse:
        return False


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


def _guarded(section: Section, workdir: epath.Path) -> str:
    """A part of the page, or what is wrong with the file that it reads."""
    try:
        return section.build(workdir)
    except WrongUse as error:
        said = page.missing(f"This part could not be made: {error}")
        return page.section(section.anchor, section.label, "", said)
