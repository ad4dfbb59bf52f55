"""The report's page: one HTML document with its style inside, and the few building blocks its sections use.

Everything that comes from a file is text of a model or a user and passes through `text` before it enters the
page; the content policy in the head forbids any request, and scripts but for the page's own, should something
slip through.
"""

import base64
import hashlib
import html
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from promptcot_jax.evaluation import charts

LIGHT: Mapping[str, str] = {
    "paper": "#fbfaf7",
    "card": "#ffffff",
    "ink": "#1d2530",
    "soft": "#55606d",
    "rule": "#dfe2e6",
    "accent": "#1f5fa8",
    "win": "#e7f3ea",
    "win-ink": "#1e6b3a",
    "warn": "#fdf1dc",
    "warn-ink": "#764a05",
    "c0": "#1f6fb5",
    "c1": "#b84e14",
    "c2": "#26784b",
    "c3": "#8a4fb0",
    "c4": "#8a6712",
    "c5": "#c03a68",
    "c6": "#5f6b78",
}
DARK: Mapping[str, str] = {
    "paper": "#14181d",
    "card": "#1c2229",
    "ink": "#e4e8ec",
    "soft": "#9aa6b2",
    "rule": "#323b45",
    "accent": "#7fb4ec",
    "win": "#1c3527",
    "win-ink": "#86d3a2",
    "warn": "#3a2d13",
    "warn-ink": "#ecc67d",
    "c0": "#63a9ea",
    "c1": "#f0905a",
    "c2": "#62bd8a",
    "c3": "#bf90e0",
    "c4": "#d6b04f",
    "c5": "#ee7fa5",
    "c6": "#9aa6b2",
}
PRINT: Mapping[str, str] = LIGHT | {
    "paper": "#ffffff",
    "ink": "#000000",
    "soft": "#444444",
    "rule": "#bbbbbb",
}


def _variables(colours: Mapping[str, str]) -> str:
    return ":root { " + " ".join(f"--{name}: {value};" for name, value in colours.items()) + " }"


_COLOURS = f"""
:root {{ color-scheme: light dark; }}
{_variables(LIGHT)}
@media (prefers-color-scheme: dark) {{ {_variables(DARK)} }}
@media print {{ :root {{ color-scheme: light; }} {_variables(PRINT)} }}
"""

STYLE = (
    _COLOURS
    + """
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", sans-serif; }
body > header, main, body > footer { max-width: 1080px; margin: 0 auto; padding: 0 20px; } body > header { padding-top: 28px; } main { padding-bottom: 64px; } main:focus { outline: none; }
.skip { position: absolute; left: -999em; } .skip:focus { left: 12px; top: 10px; z-index: 9; background: var(--card); padding: 8px 14px; border-radius: 8px; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; } .hidden-text, details > .scroll > table > caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 1.35rem; margin: 52px 0 6px; padding-top: 14px; border-top: 1px solid var(--rule); }
h3 { font-size: 1.02rem; margin: 26px 0 8px; }
p { margin: 6px 0 12px; max-width: 72ch; } .lead, .note, .soft { color: var(--soft); } .note { font-size: 0.86rem; }
a { color: var(--accent); } code, .mono { font-family: ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; font-size: 0.86em; }
nav { display: flex; flex-wrap: wrap; gap: 6px 18px; margin: 16px 0 0; font-size: 0.92rem; }
nav a { text-underline-offset: 3px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(176px, 1fr)); gap: 12px; margin: 22px 0 0; }
.tile, .card, .stage, figure { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; }
.tile { padding: 12px 14px; } .tile b { display: block; font-size: 1.3rem; white-space: nowrap; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 0.84rem; line-height: 1.35; display: block; }
.flow { display: grid; grid-template-columns: repeat(auto-fill, minmax(216px, 1fr)); gap: 26px; margin: 16px 0; list-style: none; padding: 0; }
.flow > li { position: relative; display: flex; } .stage { padding: 12px 14px; flex: 1; min-width: 0; } .stage dl > div { display: contents; }
.stage h3 { margin: 0 0 6px; display: flex; justify-content: space-between; align-items: baseline; gap: 8px; }
.stage h3 small { font-weight: 400; color: var(--soft); font-size: 0.78rem; white-space: nowrap; }
.flow > li:not(:last-child)::after { content: "\\2192" / ""; position: absolute; right: -22px; top: 50%; margin-top: -14px; width: 18px;
  text-align: center; color: var(--soft); font-size: 1.1rem; }
.through { font-size: 1.15rem; font-variant-numeric: tabular-nums; margin: 0 0 4px; }
.through small { color: var(--soft); font-size: 0.8rem; }
.tables { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); gap: 6px 34px; align-items: start; } .tables table { width: 100%; } ul.plain { padding-left: 1.2em; max-width: 78ch; } ul.plain li { margin: 3px 0; } dl { display: grid; grid-template-columns: 1fr auto; gap: 1px 10px; margin: 4px 0 0; font-size: 0.86rem; }
dt { color: var(--soft); overflow-wrap: anywhere; } dd { margin: 0; text-align: right; font-variant-numeric: tabular-nums; }
.drop dt, .drop dd { color: var(--warn-ink); } figure.drawn img { display: block; max-width: 100%; height: auto; background: #ffffff; border-radius: 6px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 16px; margin: 14px 0; }
figure { margin: 0; padding: 14px 16px 10px; min-width: 0; } figcaption { font-weight: 600; margin-bottom: 4px; }
figure svg { display: block; width: 100%; height: auto; max-width: 640px; } figure .note { margin: 6px 0 0; }
svg text { fill: var(--soft); font-size: 12.5px; font-family: inherit; } .grid { stroke: var(--rule); stroke-width: 1; }
.axis { stroke: var(--soft); stroke-width: 1; } .line { fill: none; stroke-width: 2.2; stroke-linejoin: round; } .line.dashed { stroke-dasharray: 6 5; } .line.error { stroke-width: 1.4; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 0.84rem; color: var(--soft); margin-bottom: 6px; }
.key { display: inline-flex; align-items: center; gap: 6px; } .swatch { width: 14px; height: 4px; border-radius: 2px; display: inline-block; }
.swatch.dashed { background-image: linear-gradient(90deg, transparent 0 38%, var(--card) 38% 62%, transparent 62%); }
.bars { display: grid; gap: 5px; margin: 8px 0 4px; } .bar-row { display: grid; grid-template-columns: 7.5em 1fr; gap: 8px; align-items: center; font-size: 0.84rem; }
.bar { display: flex; height: 20px; border-radius: 4px; overflow: hidden; background: var(--rule); gap: 1px; } .bar-label { color: var(--soft); }
.piece { color: var(--card); font-size: 0.74rem; text-align: center; line-height: 20px; min-width: 0; overflow: hidden; }
COLOURS
caption { text-align: left; color: var(--soft); font-size: 0.92rem; padding: 2px 0 4px; caption-side: top; } .scroll { overflow-x: auto; margin: 10px 0; } table { border-collapse: collapse; font-size: 0.88rem; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 14px 5px 0; text-align: right; border-bottom: 1px solid var(--rule); vertical-align: top; } th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child { text-align: left; } td.words, th.words { text-align: left; } td:not(.words), tbody th:not(.words) { white-space: nowrap; } tbody th { color: inherit; font-weight: 400; } tr.won td { background: var(--win); }
.card { padding: 14px 16px; margin: 14px 0; } .card h3 { margin: 0 0 6px; }
.prose { white-space: pre-wrap; overflow-wrap: anywhere; margin: 4px 0 8px; max-width: 78ch; }
.chips { margin: 0 0 8px; display: flex; flex-wrap: wrap; gap: 5px; } .chip { font-size: 0.8rem; padding: 1px 9px; border-radius: 99px; border: 1px solid var(--rule); color: var(--soft); }
details { margin: 6px 0; } details.candidate { margin: 0; } summary { cursor: pointer; color: var(--accent); font-size: 0.92rem; } details > .prose { border-left: 3px solid var(--rule); padding-left: 12px; margin-top: 6px; }
.candidates { display: grid; gap: 6px; margin: 10px 0 2px; }
.candidate { border: 1px solid var(--rule); border-radius: 8px; padding: 8px 12px; min-width: 0; } .candidate.won { background: var(--win); border-color: var(--win-ink); }
.candidate.invalid { border-style: dashed; } .candidate summary .scores { display: inline-flex; } .scores { display: flex; flex-wrap: wrap; gap: 2px 16px; font-size: 0.84rem; color: var(--soft); font-variant-numeric: tabular-nums; }
.scores b { color: var(--ink); } .tag { font-size: 0.76rem; font-weight: 600; padding: 0 8px; border-radius: 99px; }
.tag.win { background: var(--win-ink); color: var(--card); } .tag.no { background: var(--warn); color: var(--warn-ink); }
.missing { background: var(--warn); color: var(--warn-ink); border-radius: 8px; padding: 8px 14px; font-size: 0.92rem; max-width: none; }
pre { overflow-x: auto; font-size: 0.8rem; background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 12px; }
@media (max-width: 620px) { body > header, main { padding-left: 14px; padding-right: 14px; } h1 { font-size: 1.5rem; } h2 { margin-top: 40px; } figure { padding: 12px 12px 8px; }
  .tiles { grid-template-columns: 1fr 1fr; gap: 10px; } .tile { padding: 10px; min-width: 0; } .tile b { font-size: 1.08rem; } .flow { grid-template-columns: 1fr; }
  .flow > li:not(:last-child)::after { content: "\\2193" / ""; right: auto; left: 50%; top: auto; bottom: -26px; margin: 0 0 0 -9px; } .bar-row { grid-template-columns: 6em 1fr; } }
@media print { body { font-size: 10.5pt; } body > header, main { max-width: none; padding: 0; } nav, .skip, .pager, form, .screen { display: none !important; } h2 { margin-top: 26px; break-after: avoid; } h3, summary, caption { break-after: avoid; }
  details:not(.closed-in-print)::details-content { content-visibility: visible; block-size: auto; } details.closed-in-print:not([open]) { display: none; } summary { list-style: none; color: var(--ink); font-weight: 600; } summary::-webkit-details-marker { display: none; }
  figure, .stage, .tile, tr, .tables .scroll { break-inside: avoid; } thead { display: table-header-group; } .scroll { overflow: visible; } pre { white-space: pre-wrap; overflow-wrap: anywhere; overflow: visible; } .charts { grid-template-columns: 1fr 1fr; }
  .bar, .piece, .swatch, .tag, .missing { print-color-adjust: exact; } a { color: inherit; text-decoration: none; } }
""".replace(  # noqa: E501
        "COLOURS",
        "\n".join(
            f".line.c{i} {{ stroke: var(--c{i}); }} .dot.c{i} {{ fill: var(--c{i}); }} "
            f".b{i} {{ background-color: var(--c{i}); }}"
            for i in range(7)
        ),
    )
)


def text(value: object) -> str:
    """Any value as text that is safe inside an element or a quoted attribute."""
    return html.escape(str(value), quote=True)


def document(
    title: str, body: str, *, header: str = "", style: str = "", script: str = "", images: bool = False
) -> str:
    """The whole page.

    Args:
        header: stands before the main part; with navigation in it, a link to skip it comes first.
        style: more of it.
        script: the one that the content policy lets run, by its digest; it stands at the end of the page.
        images: whether there are some in the page itself (`data:`); no other can be shown.
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'" + ("; img-src data:" if images else "")
    skip = '<a class="skip" href="#content">Skip to the content</a>\n' if "<nav" in header else ""
    end = ""
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
        end = f"<script>{script}</script>\n"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n"
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
