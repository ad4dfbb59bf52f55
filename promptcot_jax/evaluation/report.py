"""`report.html`: one page from the files of a workdir, for reading, printing and passing on.

It reads files only and imports no stage: every part stands on what lies in the workdir, and a part whose file
is not there (a stage not run yet, a variant without E-step) is said to be missing. The page is a function of
those files: it holds no date and makes no request.
"""

import itertools
import os
from collections.abc import Callable

from etils import epath

from promptcot_jax.core import jsonl, manifest
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import AttemptRecord, Problem
from promptcot_jax.evaluation import (
    charts,
    em_sections,
    page,
    samples_page,
    self_play_sections,
    workdir_files,
)

STAGE_ORDER = (
    *("corpus", "annotate", "cold_start", "em", "synthesize", "verify", "export"),
    *("self_play", "distill", "sft", "evaluate"),
)
NUM_PROBLEMS_SHOWN = 10
NUM_ATTEMPTS_SHOWN = 6


def write_report(workdir: epath.PathLike, path: epath.PathLike | None = None) -> None:
    """Writes the page of a workdir, by default as its `report.html`."""
    target = epath.Path(path) if path is not None else epath.Path(workdir) / "report.html"
    jsonl.write_atomically(target, render(workdir).encode("utf-8", errors="replace"))


def render(workdir: epath.PathLike) -> str:
    """The page as one HTML document."""
    workdir = epath.Path(workdir)
    sections = (
        ("flow", "Flow", flow_section),
        ("likelihood", "Likelihood", em_sections.likelihood_section),
        ("e-step", "E-step", em_sections.e_step_section),
        ("candidates", "Candidates", em_sections.candidates_section),
        ("problems", "Problems", problems_section),
        ("self-play", "Self-play", self_play_sections.self_play_section),
        ("solver", "Solver", solver_section),
        ("training", "Training", training_section),
        ("settings", "Settings", settings_section),
    )
    name = workdir.name or os.fspath(workdir)
    links = "".join(f'<a href="#{anchor}">{page.text(label)}</a>' for anchor, label, _ in sections)
    header = (
        f"<header><h1>PromptCoT on JAX: {page.text(name)}</h1>"
        '<p class="lead">How problems were learned and written in this run: what went through each stage, '
        "what EM did to the held-out likelihoods, which rationales it preferred, what came out, and "
        "how well a solver does.</p>"
        f"{_or_notice(headline, workdir)}<nav>{links}</nav></header>"
    )
    return page.document(
        f"PromptCoT report: {name}",
        header + "".join(_or_notice(build, workdir) for _, _, build in sections),
        style=samples_page.STYLE,
    )


def _or_notice(build: Callable[[epath.Path], str], workdir: epath.Path) -> str:
    """A part of the page, or what is wrong with the file that it reads."""
    try:
        return build(workdir)
    except WrongUse as error:
        return page.missing(f"This part could not be made: {error}")


def headline(workdir: epath.Path) -> str:
    """The figures that a reader looks for first."""
    tiles = []
    entries = manifest.read(workdir)
    rounds = workdir_files.rows(workdir / "em" / "nll.jsonl")
    if len(rounds) > 1:
        for field, label in (
            ("nll_bound", "bound on \u2212log p(x|c), nats per token of x: cold start \u2192 best round"),
            (
                "nll_x_given_q",
                "\u2212log p(x|z,c) with q\u03c6\u2019s rationale: cold start \u2192 best round",
            ),
        ):
            values = [row[field] for row in rounds if row.get(field) is not None]
            if len(values) > 1:
                tiles.append(
                    page.tile(f"{charts.number(values[0])} \u2192 {charts.number(min(values[1:]))}", label)
                )
    if (entry := entries.get("synthesize")) and "out" in entry.counts:
        drafts = f" kept of {charts.number(entry.counts['in'])} drafts" if "in" in entry.counts else " kept"
        tiles.append(page.tile(charts.number(entry.counts["out"]), f"new problems{drafts}"))
    tiles += self_play_sections.tiles(workdir)
    for name, result in workdir_files.results(workdir).items():
        if result.get("accuracy") is not None:
            tiles.append(page.tile(page.accuracy(result), f"solver accuracy on {name}"))
    if entries:
        tiles.append(
            page.tile(page.duration(sum(e.wall_seconds for e in entries.values())), "of work in all stages")
        )
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def flow_section(workdir: epath.Path) -> str:
    """Each stage with what went in, what came out and what was dropped for which reason."""
    entries = manifest.read(workdir)
    lead = "Rows in and out of each stage, and what was dropped on the way, by reason."
    if not entries:
        return page.section(
            "flow",
            "From seed problems to results",
            lead,
            page.missing("manifest.json is not there: no stage has run in this workdir."),
        )
    names = [name for name in STAGE_ORDER if name in entries] + sorted(
        set(entries) - set(STAGE_ORDER) - {"run", "report"}
    )
    cards = "".join(_stage_card(entries[name]) for name in names)
    return page.section("flow", "From seed problems to results", lead, f'<div class="flow">{cards}</div>')


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
        is_drop = any(word in name for word in ("dropped", "skipped", "overlong")) and count > 0
        mark = ' class="drop"' if is_drop else ""
        rows.append(
            f"<dt{mark}>{page.text(page.words(name))}</dt><dd{mark}>{page.text(charts.number(count))}</dd>"
        )
    state = page.duration(entry.wall_seconds) if entry.status == "complete" else "not finished"
    return (
        f'<div class="stage"><h3>{page.text(page.words(entry.stage))}<small>{page.text(state)}</small></h3>'
        f"{through}<dl>{''.join(rows)}</dl></div>"
    )


def problems_section(workdir: epath.Path) -> str:
    """A sample of the new problems with their concepts and rationale."""
    heading = "New problems"
    lead = "A sample, evenly spread over the file. Nobody has checked yet that they are sound or solvable."
    path = workdir / "problems.jsonl"
    if not workdir_files.exists(path):
        return page.section(
            "problems", heading, lead, page.missing("problems.jsonl is not there: synthesize has not run.")
        )
    problems = [
        jsonl.record_from_row(Problem, dict(row), where=f"{file}:{number}")
        for file, number, row in itertools.islice(jsonl.iter_rows(path), workdir_files.NUM_ROWS_SCANNED)
    ]
    if not problems:
        return page.section(
            "problems",
            heading,
            lead,
            page.missing(
                "problems.jsonl is empty: every draft was dropped, see the counts of synthesize above."
            ),
        )
    return page.section(
        "problems",
        heading,
        lead,
        *(_problem_card(p) for p in workdir_files.spread(problems, NUM_PROBLEMS_SHOWN)),
    )


def _problem_card(problem: Problem) -> str:
    level = f"Level {problem.level}" if problem.level.isdigit() else problem.level
    source = "cold start" if problem.round_index < 0 else f"EM round {problem.round_index}"
    lineage = (
        f'<div class="scores"><span>log p(z|c) {page.nats(problem.log_p_z)}</span>'
        f"<span>log p(x|z,c) {page.nats(problem.log_p_x)}</span><span>{page.text(source)}, seed "
        f"{problem.seed}, sample {problem.sample}</span>"
        f'<span class="mono">{page.text(problem.id)}</span></div>'
    )
    return (
        f'<div class="card">{page.chips([*problem.concepts, *([level] if level else [])])}'
        f"{page.prose(problem.problem)}"
        f"{page.folded('Rationale', page.prose(problem.rationale))}{lineage}</div>"
    )


def solver_section(workdir: epath.Path) -> str:
    """Accuracy by data set and split, and a few attempts."""
    heading = "Solver"
    lead = "Accuracy is the mean over problems of the share of right attempts; \u00b1 its standard error."
    results = workdir_files.results(workdir)
    if not results:
        return page.section(
            "solver", heading, lead, page.missing("results.json is not there: evaluate has not run.")
        )
    rows = [
        [
            name,
            page.accuracy(result),
            page.cell(result.get("problems")),
            page.cell(result.get("attempts_per_problem")),
            page.percent(result.get("cut_off_share")),
            page.percent(result.get("no_answer_share")),
            page.cell(result.get("mean_tokens")),
            page.cell(result.get("not_graded")),
        ]
        for name, result in results.items()
    ]
    header = [
        "data set",
        "accuracy",
        "problems",
        "attempts each",
        "cut off",
        "no answer",
        "mean tokens",
        "not graded",
    ]
    parts = [page.table(header, rows)]
    for reason in sorted({r["not_graded_reason"] for r in results.values() if r.get("not_graded_reason")}):
        parts.append(f'<p class="note">Not graded: {page.text(reason)}.</p>')
    for name, result in results.items():
        for split, groups in result.get("splits", {}).items():
            if len(groups) > 1:
                table = page.table(
                    [split, "accuracy", "problems"],
                    [
                        [group, page.accuracy(figures), page.cell(figures.get("problems"))]
                        for group, figures in groups.items()
                    ],
                )
                parts.append(page.folded(f"{name} by {page.words(split)}", table))
    path = workdir / "evaluate" / "attempts.jsonl"
    if not workdir_files.exists(path):
        parts.append(page.missing("evaluate/attempts.jsonl is not there, so no attempts are shown."))
        return page.section("solver", heading, lead, *parts)
    attempts = [
        jsonl.record_from_row(AttemptRecord, dict(row), where=f"{file}:{number}")
        for file, number, row in itertools.islice(jsonl.iter_rows(path), workdir_files.NUM_ROWS_SCANNED)
    ]
    shown = [
        a
        for right in (True, False)
        for a in workdir_files.spread([a for a in attempts if a.correct is right], NUM_ATTEMPTS_SHOWN // 2)
    ]
    problems = workdir_files.rows_by_id(workdir, {attempt.problem_id for attempt in shown})
    if shown:
        parts.append("<h3>Attempts, right and wrong</h3>")
    parts += [_attempt_card(attempt, problems.get(attempt.problem_id)) for attempt in shown]
    return page.section("solver", heading, lead, *parts)


def _attempt_card(attempt: AttemptRecord, problem: workdir_files.Row | None) -> str:
    tag = '<span class="tag win">right</span>' if attempt.correct else '<span class="tag no">wrong</span>'
    cut = '<span class="tag no">cut off</span>' if attempt.finish_reason == "length" else ""
    verdict = f"<span>verdict <b>{page.text(attempt.status)}</b></span>"
    if attempt.reference:  # a mathematics problem's
        verdict = (
            f"<span>answer <b>{page.text(attempt.answer or 'none')}</b></span>"
            f"<span>reference <b>{page.text(attempt.reference)}</b></span>"
        )
    scores = (
        f'<div class="scores">{tag}{cut}{verdict}<span>{attempt.num_tokens} tokens</span>'
        f'<span class="mono">{page.text(attempt.problem_id)}</span></div>'
    )
    statement = page.prose(str(problem.get("problem", ""))) if problem else ""
    written = page.folded("What the solver wrote", page.prose(attempt.completion))
    return f'<div class="card">{scores}{statement}{written}</div>'


def training_section(workdir: epath.Path) -> str:
    """Loss curves of every fit in the workdir."""
    heading = "Training curves"
    lead = "Loss per trained token of every fit, over its own steps."
    figures = []
    for path in workdir_files.metrics_files(workdir):
        rows = [row for row in workdir_files.rows(path) if isinstance(row.get("step"), int | float)]
        names = [
            name
            for name in dict.fromkeys(itertools.chain.from_iterable(rows))
            if any(word in name.lower() for word in ("loss", "nll"))
        ]
        lines = [
            charts.line_of_rows(rows, name, page.words(name), i % charts.NUM_COLOURS, x="step")
            for i, name in enumerate(names)
        ]
        title = os.path.relpath(os.fspath(path.parent), os.fspath(workdir))
        figures.append(charts.line_chart(title, lines, x_label="step"))
    figures = [figure for figure in figures if figure]
    if not figures:
        return page.section(
            "training",
            heading,
            lead,
            page.missing("No metrics.jsonl with a loss is there: nothing has been trained in this workdir."),
        )
    return page.section("training", heading, lead, f'<div class="charts">{"".join(figures)}</div>')


def settings_section(workdir: epath.Path) -> str:
    """Seeds, digests, versions, and the gin configuration that each stage ran under."""
    heading = "Settings and versions"
    lead = "To repeat this run: the same versions, inputs and settings give the same bits on one machine."
    entries = manifest.read(workdir)
    if not entries:
        return page.section("settings", heading, lead, page.missing("manifest.json is not there."))
    rows = [
        [page.words(e.stage), e.status, e.seed, e.config_digest, page.duration(e.wall_seconds)]
        for e in entries.values()
    ]
    parts = [page.table(["stage", "status", "seed", "configuration", "time"], rows)]
    versions = {name: version for entry in entries.values() for name, version in entry.versions.items()}
    parts.append(page.folded("Versions", page.table(["package", "version"], sorted(versions.items()))))
    inputs = [
        [page.words(e.stage), path, digest] for e in entries.values() for path, digest in e.inputs.items()
    ]
    if inputs:
        parts.append(
            page.folded("Inputs and their digests", page.table(["stage", "input", "digest"], inputs))
        )
    config = workdir / "config"
    for path in sorted(config.glob("*.operative.gin")) if config.exists() else []:
        parts.append(
            page.folded(
                f"Configuration of {path.name.partition('.')[0]}", f"<pre>{page.text(path.read_text())}</pre>"
            )
        )
    return page.section("settings", heading, lead, *parts)
