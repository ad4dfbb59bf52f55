"""`browse.html` of an exported set: one page to search, filter and read its problems; opens from disk.

The rows are in the page as compressed JSON in base64, in which no text of theirs can end an element; the
script (`browse.js`) unpacks them, keeps them as text, and makes the elements of one page of rows at a time.
"""

import base64
import dataclasses
import functools
import gzip
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from promptcot_jax.core import exported
from promptcot_jax.core.records import Domain
from promptcot_jax.evaluation import page

STYLE = """
form { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 10px 14px; margin: 18px 0 8px; }
form label { font-size: 0.84rem; color: var(--soft); display: grid; gap: 3px; align-content: start; } form label.wide { grid-column: 1 / -1; }
form label.check { display: flex; align-items: center; gap: 7px; align-self: end; padding-bottom: 7px; } form label.check:has(button) { padding: 0; } [hidden] { display: none !important; }
input, select, button { font: inherit; font-size: 0.94rem; color: var(--ink); background: var(--card); border: 1px solid var(--rule); border-radius: 7px; padding: 6px 9px; min-width: 0; }
input[type=checkbox] { width: 17px; height: 17px; margin: 0; accent-color: var(--accent); } .pair { display: flex; gap: 6px; align-items: center; } .pair input { flex: 1; width: 0; }
button { cursor: pointer; } button:disabled { opacity: 0.45; cursor: default; } button.chip { background: none; padding: 1px 9px; font-size: 0.8rem; color: var(--soft); }
button.chip:hover { color: var(--accent); border-color: var(--accent); } :focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.pager { display: flex; flex-wrap: wrap; gap: 10px; align-items: center; margin: 12px 0; } .pager output { color: var(--soft); font-size: 0.92rem; }
article h2 { border: 0; margin: 0 0 6px; padding: 0; font-size: 0.86rem; font-weight: 400; color: var(--soft); } .answer { font-weight: 600; overflow-wrap: anywhere; }
.tex { font-family: "STIX Two Math", "Cambria Math", "Latin Modern Math", Georgia, serif; font-size: 1.05em; } article dl { grid-template-columns: minmax(110px, max-content) 1fr; }
article dd { text-align: left; overflow-wrap: anywhere; } td pre { margin: 0; padding: 0; border: 0; white-space: pre-wrap; overflow-wrap: anywhere; max-width: 60ch; }
"""  # noqa: E501

Splits = Mapping[Domain, Mapping[exported.Split, Sequence[Any]]]


def render(name: str, splits: Splits, max_rows: int) -> str:
    """The page of a set: records of dataclasses by domain and split, of which at most so many are in it."""
    rows = [
        dataclasses.asdict(record) | {"split": split}
        for of_domain in splits.values()
        for split, records in of_domain.items()
        for record in records
    ]
    shown = [rows[i * len(rows) // max_rows] for i in range(max_rows)] if len(rows) > max_rows else rows
    lead = f"{len(rows):,} problems. "
    if len(shown) < len(rows):
        lead += f"This page has {len(shown):,} of them, evenly spaced; the files beside it have all. "
    lead += "What was counted and dropped, models, licences and limits: README.md beside this page."
    packed = json.dumps(shown, ensure_ascii=False, separators=(",", ":")).encode()
    packed = base64.b64encode(gzip.compress(packed, mtime=0)).decode()
    body = (
        f'<header><h1>{page.text(name)}</h1><p class="lead">{page.text(lead)}</p></header>'
        f"{_FORM}{_pager('top')}"
        '<p id="state" class="missing" role="status">The rows are being unpacked; this page needs JavaScript '
        'and a browser of 2023 or later.</p><div id="rows"></div>'
        f'{_pager("bottom")}<script type="text/plain" id="set">{packed}</script>'
    )
    return page.document(name, body, style=STYLE, script=_script())


@functools.cache
def _script() -> str:
    return pathlib.Path(__file__).with_name("browse.js").read_text(encoding="utf-8")


def _field(label: str, control: str, kind: str = "") -> str:
    return f"<label{f' class={kind}' if kind else ''}>{label}{control}</label>"


def _choice(label: str, name: str) -> str:
    return _field(label, f'<select name="{name}"><option value="">all</option></select>')


def _range(label: str, name: str) -> str:
    number = '<input type="number" min="0" max="1" step="any" name="{}" placeholder="{}" aria-label="{}">'
    low = number.format(f"{name}_from", "0", f"{label}, at least")
    high = number.format(f"{name}_to", "1", f"{label}, at most")
    return _field(label, f'<span class="pair">{low}<span>to</span>{high}</span>')


def _pager(place: str) -> str:
    live = ' aria-live="polite"' if place == "top" else ""
    return (
        f'<nav class="pager" aria-label="Pages, {place}">'
        '<button type="button" class="previous">Previous</button>'
        f'<button type="button" class="next">Next</button><output{live}></output></nav>'
    )


_FORM = (
    '<form id="filters" role="search">'
    + _field(
        "Search: all words, in problem, rationale, answer, concepts, id (key: /)",
        '<input type="search" name="words" autocomplete="off">',
        "wide",
    )
    + _field(
        "Concept",
        '<input name="concept" list="concepts" autocomplete="off"><datalist id="concepts"></datalist>',
    )
    + "".join(
        _choice(label, name)
        for label, name in (
            ("Domain", "domain"),
            ("Level", "level"),
            ("Split", "split"),
            ("Difficulty pool", "pool"),
            ("Source", "source"),
        )
    )
    + _range("Agreement", "agreement")
    + _range("Share solved", "pass_share")
    + _field(
        "Order",
        '<select name="order"><option value="">of the set</option><option value="hard">hardest first</option>'
        '<option value="doubtful">least agreement first</option><option value="long">longest first</option>'
        "</select>",
    )
    + _field('<input type="checkbox" name="tex" value="1">', " Mathematics as TeX", "check")
    + '<label class="check"><button type="reset">Clear</button></label></form>'
)
