"""Sections of the report on what came out: the solver, the losses of all fits, the figures of `analyze`."""

import base64
import itertools
import os
import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from etils import epath

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.report import charts, workdir_files
from promptcot_jax.report.charts import Panel
from promptcot_jax.report.page import at, figure, label, percent
from promptcot_jax.report.workdir_files import Missing

Data = dict[str, Any]  # what a template shows


def solver(workdir: epath.Path) -> Data:
    """Accuracy by data set and split, pass@k and ratings where they were measured."""
    results = workdir_files.results(workdir)
    if not results:
        raise Missing("results.json is not there: evaluate has not finished.")
    passes = {name: own for name, own in results.items() if isinstance(own.get("pass_at_k"), dict)}
    ks = sorted({k for own in passes.values() for k in own["pass_at_k"]}, key=lambda k: (len(k), k))
    shares = [own.get("status_shares") or {} for own in results.values()]
    return {
        "results": results,
        "pass_header": [
            "data set",
            *(f"pass@{k}" for k in ks),
            "error of the accuracy from sampling alone",
        ],
        "passes": [
            [
                name,
                *(percent(figure(own["pass_at_k"].get(k))) for k in ks),
                percent(figure(own.get("standard_error_samples"))),
            ]
            for name, own in passes.items()
            if ks
        ],
        "ratings": {name: rating for name, own in results.items() if (rating := rating_of(own))},
        "verdicts": [
            [label(status), *(percent(own.get(status, 0.0)) for own in shares)]
            for status in sorted({status for own in shares for status in own})
        ],
        "reasons": sorted({r["not_graded_reason"] for r in results.values() if r.get("not_graded_reason")}),
        "splits": [
            (name, split, groups)
            for name, own in results.items()
            for split, groups in (own.get("splits") or {}).items()
            if len(groups) > 1
        ],
        "has_attempts": workdir_files.exists(workdir / "evaluate" / "attempts.jsonl"),
    }


def rating_of(result: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The Codeforces rating of a result; `contests` is their number."""
    rating = at(result, "codeforces")
    if rating.get("rating") is None:
        return None
    contests = rating.get("contests")
    return {**rating, "contests": len(contests) if isinstance(contests, list | dict) else contests}


_NUM_FITS_SHOWN = 8  # further ones are folded
_NUM_FITS_DRAWN = 60


def has_fits(workdir: epath.Path) -> bool:
    """Whether a fit has left its metrics here."""
    return bool(_fits(workdir))


def _fits(workdir: epath.Path) -> list[tuple[str, epath.Path]]:
    """The metrics file of each fit by its directory; self-play has a section of its own."""
    paths = workdir_files.metrics_files(workdir)
    named = [(os.path.relpath(os.fspath(path.parent), os.fspath(workdir)), path) for path in paths]
    return [(name, path) for name, path in named if name != "self_play"]


def training(workdir: epath.Path) -> Data:
    """Loss curves of every fit in the workdir."""
    fits = _fits(workdir)
    drawn, damaged = [], []
    for name, path in fits:
        try:
            if len(drawn) < _NUM_FITS_DRAWN and (chart := _loss_chart(name, path)):
                drawn.append(chart)
        except WrongUse as error:
            damaged.append(f"{name}: {error}")
    if not drawn and not damaged:
        raise Missing("No metrics.jsonl with a loss is there.")
    return {
        "damaged": damaged,
        "shown": drawn[:_NUM_FITS_SHOWN],
        "more": drawn[_NUM_FITS_SHOWN:],
        "left_out": f"{len(fits)} fits in all; the first {_NUM_FITS_DRAWN} are drawn."
        if len(fits) > _NUM_FITS_DRAWN
        else "",
    }


def _loss_chart(name: str, path: epath.Path) -> charts.LineChart | None:
    rows = [row for row in workdir_files.rows(path) if isinstance(row.get("step"), int | float)]
    fields = {
        field: label(field)
        for field in dict.fromkeys(itertools.chain(*rows))
        if re.search("loss|nll", field.lower()) and "seconds" not in field
    }
    return Panel(name, fields).of(rows, "step", "step")


_ANALYSES = "analyses"
_STUDIES = "em_study_*.svg"  # of a run with several seeds, beside their workdirs
MAX_FIGURE_BYTES = 300_000
_MAX_BYTES = 700_000  # of all figures, as they are in the page
_NO_DRAWING = re.compile("script|foreignobject|iframe|object|embed|handler|listener", re.IGNORECASE)


def has_analyses(workdir: epath.Path) -> bool:
    """Whether `analyze` left figures."""
    return bool(_figures(workdir)) or (workdir / _ANALYSES / "index.json").exists()


def analyses(workdir: epath.Path) -> Data:
    """The figures of `analyze` with their captions, and what was left out and why.

    Each is shown as an image, in which by the rules of HTML no script runs and nothing is fetched. One that
    is no SVG, or holds what a drawing has no use for (scripts, foreign elements, entities), is left out, by
    name.
    """
    left_out = [f"{label(name)}: {why}" for name, why in _index(workdir, "left_out").items()]
    shown, room = [], _MAX_BYTES
    for path, (title, caption) in _figures(workdir).items():
        try:
            packed = base64.b64encode(checked_svg(path)).decode()
        except WrongUse as reason:
            left_out.append(f"{title}: {reason}")
            continue
        if len(packed) > room:
            left_out.append(f"{title}: the page has no room left for {path.name}.")
            continue
        room -= len(packed)
        shown.append((title, caption, packed))
    return {"shown": shown, "left_out": left_out}


def checked_svg(path: epath.Path) -> bytes:
    """An SVG file's bytes.

    Raises:
        WrongUse: it is not there, too large, no SVG, or more than a drawing.
    """
    if not path.exists():
        raise WrongUse(f"{path.name} is not there.")
    if path.stat().length > MAX_FIGURE_BYTES:
        raise WrongUse(f"{path.name} is larger than {MAX_FIGURE_BYTES:,} bytes; open it beside this page.")
    content = path.read_bytes()
    if b"<!ENTITY" in content:
        raise WrongUse(f"{path.name} defines entities and is not shown.")
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError) as error:
        raise WrongUse(f"{path.name} is no SVG ({error}).") from None
    if _element_name(root) != "svg":
        raise WrongUse(f"{path.name} is no SVG (it begins with <{_element_name(root)}>).")
    for element in root.iter():
        is_handled = any(name.lower().startswith("on") for name in element.attrib)
        if is_handled or _NO_DRAWING.fullmatch(_element_name(element)):
            name = _element_name(element)
            raise WrongUse(f"{path.name} holds more than a drawing (<{name}>) and is not shown.")
    return content


def _element_name(element: ElementTree.Element) -> str:
    """Without its namespace."""
    return str(element.tag).rpartition("}")[2]


def _figures(workdir: epath.Path) -> dict[epath.Path, tuple[str, str]]:
    """Title and caption by file: those of the index, then other drawings that lie there."""
    directory = workdir / _ANALYSES
    found: dict[epath.Path, tuple[str, str]] = {}
    results = [at(entry).get("made") for entry in _index(workdir, "analyses").values()]
    for one in itertools.chain(*(result for result in results if isinstance(result, list))):
        files = at(one).get("files")
        names = [str(name).rpartition("/")[2] for name in files] if isinstance(files, list) else []
        if drawing := next((name for name in names if name.endswith(".svg")), None):
            title = str(one.get("title") or one.get("name") or drawing)
            found[directory / drawing] = (title, str(one.get("caption") or ""))
    others = sorted(directory.glob("*.svg")) if directory.exists() else []
    others += sorted(workdir.glob(_STUDIES)) if workdir.exists() else []
    for path in others:
        found.setdefault(path, (label(path.name.removesuffix(".svg")).capitalize(), ""))
    return found


def _index(workdir: epath.Path, field: str) -> Mapping[str, Any]:
    return at(workdir_files.document(workdir / _ANALYSES / "index.json"), field)
