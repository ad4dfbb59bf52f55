"""Pages: one HTML document each with its style and script inside, and the few building blocks they use.

Everything that comes from a file is text of a model or a user and passes through `text` before it enters the
page; the content policy in the head forbids any request, and scripts but for the page's own, should something
slip through.
"""

import base64
import functools
import hashlib
import html
import json
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from promptcot_jax.report import charts


def text(value: object) -> str:
    """Any value as text that is safe inside an element or a quoted attribute."""
    return html.escape(str(value), quote=True)


@functools.cache
def asset(name: str) -> str:
    """A file of `assets/`."""
    return (pathlib.Path(__file__).parent / "assets" / name).read_text(encoding="utf-8")


def document(
    title: str,
    body: str,
    *,
    header: str = "",
    styles: Sequence[str] = (),
    scripts: Sequence[str] = (),
    images: bool = False,
) -> str:
    """The whole page.

    Args:
        header: stands before the main part; with navigation in it, a link to skip it comes first.
        styles: files of `assets/` beside `page.css`.
        scripts: files of `assets/`; joined, they are the one script that the content policy lets run, by its
            digest, at the end of the page.
        images: whether there are some in the page itself (`data:`); no other can be shown.
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'" + ("; img-src data:" if images else "")
    skip = '<a class="skip" href="#content">Skip to the content</a>\n' if "<nav" in header else ""
    end = ""
    if scripts:
        script = "".join(map(asset, scripts))
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
        end = f"<script>{script}</script>\n"
    style = "".join(map(asset, ("page.css", *styles)))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{text(title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f'<body>\n{skip}<header>{header}</header>\n<main id="content" tabindex="-1">\n{body}\n</main>\n'
        f"{end}</body>\n</html>\n"
    )


def section(anchor: str, heading: str, lead: str, *parts: str) -> str:
    """One section with its heading, a sentence on how to read it, and its parts."""
    return (
        f'<section id="{text(anchor)}"><h2>{text(heading)}</h2>'
        f'<p class="lead">{text(lead)}</p>{"".join(parts)}</section>'
    )


def missing(what: str) -> str:
    """Says in words that something is not there."""
    return f'<p class="missing">{text(what)}</p>'


def prose(value: str) -> str:
    """Text of a model or a user with its line breaks."""
    return f'<div class="prose">{text(value)}</div>'


def folded(summary: str, *parts: str, kind: str = "") -> str:
    """Parts behind a line that opens them; print shows them opened.

    Args:
        kind: the class, where it has one; "closed-in-print" leaves it out of print unless it is open.
    """
    named = f' class="{text(kind)}"' if kind else ""
    return f"<details{named}><summary>{text(summary)}</summary>{''.join(parts)}</details>"


def table(
    header: Sequence[str], rows: Sequence[Sequence[object]], *, caption: str, words: Collection[int] = ()
) -> str:
    """A table that scrolls sideways on a narrow screen, by keys too; the first cell of a row names it.

    Args:
        words: columns of text rather than figures, which are set to the left.
    """

    def cells(row: Sequence[object]) -> str:
        found = []
        for i, value in enumerate(row):
            side = ' class="words"' if i in words else ""
            found.append(
                f"<td{side}>{text(value)}</td>" if i else f'<th scope="row"{side}>{text(value)}</th>'
            )
        return "".join(found)

    head = "".join(
        f'<th scope="col"{" class=words" if i in words else ""}>{text(name)}</th>'
        for i, name in enumerate(header)
    )
    body = "".join(f"<tr>{cells(row)}</tr>" for row in rows)
    return (
        f'<div class="scroll" role="group" tabindex="0" aria-label="{text(caption)}"><table>'
        f"<caption>{text(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def grid(*parts: str) -> str:
    """Small tables side by side, as many as the screen has room for."""
    return f'<div class="tables">{"".join(parts)}</div>' if any(parts) else ""


def bullets(values: Sequence[str]) -> str:
    """A list of sentences."""
    return f'<ul class="plain">{"".join(f"<li>{text(value)}</li>" for value in values)}</ul>'


def chips(values: Sequence[str]) -> str:
    """Short labels in a row."""
    return f'<div class="chips">{"".join(f"<span class=chip>{text(value)}</span>" for value in values)}</div>'


def tile(value: str, label: str) -> str:
    """A headline figure."""
    return f'<div class="tile"><b>{text(value)}</b><span>{text(label)}</span></div>'


def words(name: str) -> str:
    """The name of a field or stage for people."""
    if name == "em":
        return "EM"
    return name.replace("_", " ").replace("dropped ", "dropped: ")


def cell(value: Any) -> str:
    """A value of a table; a dash where there is none."""
    if value is None:
        return "\u2013"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return charts.number(value, 4)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def nats(value: float | int) -> str:
    """A log-probability with two decimals, so that columns of them align."""
    return f"{value:.2f}".replace("-", "\u2212")


def percent(share: float | int | None) -> str:
    """A share in percent; a dash where it is undefined."""
    return "\u2013" if share is None else f"{share:.1%}"


def accuracy(result: Mapping[str, Any]) -> str:
    """An accuracy in percent with its standard error; where that is 0, or unknown, with the interval."""
    error, interval = result.get("standard_error"), result.get("interval")
    share = percent(result.get("accuracy"))
    if error:
        return f"{share} \u00b1 {100 * error:.1f}"
    return f"{share} ({100 * interval[0]:.0f} to {100 * interval[1]:.0f})" if interval else share


def duration(seconds: float | int) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


def ends(interval: Any) -> tuple[float, float] | None:
    """The two ends of a recorded interval, or None where there is none."""
    if not isinstance(interval, list | tuple) or len(interval) != 2:
        return None
    low, high = interval
    is_known = isinstance(low, int | float) and isinstance(high, int | float)
    return (float(low), float(high)) if is_known else None


def interval(recorded: Any, *, scale: float = 100.0, digits: int = 1) -> str:
    """An interval in words, of shares in percent; nothing where there is none."""
    found = ends(recorded)
    return f"{scale * found[0]:,.{digits}f} to {scale * found[1]:,.{digits}f}" if found else ""
