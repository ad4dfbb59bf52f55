"""The report's section with the figures that `analyze` left in `analyses/`, each inside the page.

A figure is shown as an image, in which by the rules of HTML no script runs and nothing is fetched. One that
is no SVG, or holds what a drawing has no use for (scripts, foreign elements, entities), is left out, by name.
"""

import base64
import dataclasses
import re
from xml.etree import ElementTree

from etils import epath

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.report import page, workdir_files

DIRECTORY = "analyses"
MAX_FIGURE_BYTES = 300_000
MAX_BYTES = 700_000  # of all figures, as they are in the page
_STUDIES = "em_study_*.svg"  # of a run with several seeds, beside their workdirs
_NO_DRAWING = re.compile("script|foreignobject|iframe|object|embed|handler|listener", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Figure:
    path: epath.Path
    title: str
    caption: str


def is_there(workdir: epath.Path) -> bool:
    """Whether there are figures."""
    return bool(_figures(workdir)) or (workdir / DIRECTORY / "index.json").exists()


def analyses_section(workdir: epath.Path) -> str:
    """The figures with their captions, and what was left out and why."""
    lead = "Figures of the stage analyze; the files beside this page have the numbers."
    parts, left_out, room = [], _left_out(workdir), MAX_BYTES
    for figure in _figures(workdir):
        try:
            packed = base64.b64encode(checked_svg(figure.path)).decode()
        except WrongUse as reason:
            left_out.append(f"{figure.title}: {reason}")
            continue
        if len(packed) > room:
            left_out.append(f"{figure.title}: the page has no room left for {figure.path.name}.")
            continue
        room -= len(packed)
        told = page.text(f"{figure.title}. {figure.caption}".strip())
        caption = f'<p class="note">{page.text(figure.caption)}</p>' if figure.caption else ""
        parts.append(
            f'<figure class="drawn"><figcaption>{page.text(figure.title)}</figcaption>'
            f'<img alt="{told}" src="data:image/svg+xml;base64,{packed}">{caption}</figure>'
        )
    body = f'<div class="charts">{"".join(parts)}</div>' if parts else ""
    if left_out:
        body += "<h3>Left out</h3>" + page.bullets(left_out)
    return page.section("analyses", "Analyses", lead, body)


def checked_svg(path: epath.Path) -> bytes:
    """An SVG file's bytes.

    Raises:
        WrongUse: it is not there, too large, no SVG, or more than a drawing.
    """
    if not path.exists():
        raise WrongUse(f"{path.name} is not there.")
    if path.stat().length > MAX_FIGURE_BYTES:
        raise WrongUse(f"{path.name} is larger than {MAX_FIGURE_BYTES:,} bytes; open it beside this page.")
    data = path.read_bytes()
    if b"<!ENTITY" in data:
        raise WrongUse(f"{path.name} defines entities and is not shown.")
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError) as error:
        raise WrongUse(f"{path.name} is no SVG ({error}).") from None
    if _name(root) != "svg":
        raise WrongUse(f"{path.name} is no SVG (it begins with <{_name(root)}>).")
    for element in root.iter():
        is_handled = any(name.lower().startswith("on") for name in element.attrib)
        if is_handled or (_NO_DRAWING.fullmatch(_name(element))):
            raise WrongUse(f"{path.name} holds more than a drawing (<{_name(element)}>) and is not shown.")
    return data


def _name(element: ElementTree.Element) -> str:
    """Of an element, without its namespace."""
    return str(element.tag).rpartition("}")[2]


def _figures(workdir: epath.Path) -> list[_Figure]:
    """Those of the index, then other drawings that lie there."""
    directory = workdir / DIRECTORY
    found: dict[str, _Figure] = {}
    for entry in _made(workdir):
        files = [str(name).rpartition("/")[2] for name in _listed(entry.get("files"))]
        drawing = next((name for name in files if name.endswith(".svg")), None)
        if drawing:
            title = str(entry.get("title") or entry.get("name") or drawing)
            caption = str(entry.get("caption") or "")
            found[drawing] = _Figure(path=directory / drawing, title=title, caption=caption)
    for path in sorted(directory.glob("*.svg")) if directory.exists() else []:
        found.setdefault(path.name, _Figure(path=path, title=_title(path.name), caption=""))
    for path in sorted(workdir.glob(_STUDIES)) if workdir.exists() else []:
        found[f"../{path.name}"] = _Figure(path=path, title=_title(path.name), caption="")
    return list(found.values())


def _left_out(workdir: epath.Path) -> list[str]:
    return [f"{page.words(name)}: {why}" for name, why in _index(workdir, "left_out").items()]


def _made(workdir: epath.Path) -> list[dict]:
    """What `analyses.index` says of each figure, in the order of the analyses."""
    found = []
    for entry in _index(workdir, "analyses").values():
        found += _listed(entry.get("made")) if isinstance(entry, dict) else []
    return [one for one in found if isinstance(one, dict)]


def _index(workdir: epath.Path, field: str) -> dict:
    found = workdir_files.document(workdir / DIRECTORY / "index.json").get(field)
    return found if isinstance(found, dict) else {}


def _listed(value: object) -> list:
    return list(value) if isinstance(value, list) else []


def _title(name: str) -> str:
    return page.words(name.removesuffix(".svg")).capitalize()
