"""`browse.html` of an exported set: one page to search, filter and read its problems; opens from disk.

The rows are in the page as compressed JSON in base64, in which no text of theirs can end an element; the
script (`browse.js`) unpacks them, keeps them as text, and makes the elements of one page of rows at a time.
"""

import base64
import dataclasses
import gzip
import json
from collections.abc import Mapping, Sequence
from typing import Any

from promptcot_jax.core import exported
from promptcot_jax.core.records import Domain
from promptcot_jax.report import page, paging

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
    header = f'<h1>{page.text(name)}</h1><p class="lead">{page.text(lead)}</p>'
    body = (
        f"{_FORM}{paging.pager('top')}"
        '<p id="state" class="missing" role="status">The rows are being unpacked; this page needs JavaScript '
        'and a browser of 2023 or later.</p><div id="rows"></div>'
        f'{paging.pager("bottom")}<script type="text/plain" id="set">{packed}</script>'
    )
    return page.document(
        name,
        body,
        header=header,
        styles=("paging.css", "browse.css"),
        scripts=("paging.js", "browse.js"),
    )


def _range(label: str, name: str) -> str:
    number = '<input type="number" min="0" max="1" step="any" name="{}" placeholder="{}" aria-label="{}">'
    low = number.format(f"{name}_from", "0", f"{label}, at least")
    high = number.format(f"{name}_to", "1", f"{label}, at most")
    return paging.field(label, f'<span class="pair">{low}<span>to</span>{high}</span>')


_FORM = (
    '<form id="filters" role="search">'
    + paging.field(
        "Search: all words, in problem, rationale, answer, concepts, id (key: /)",
        '<input type="search" name="words" autocomplete="off">',
        "wide",
    )
    + paging.field(
        "Concept",
        '<input name="concept" list="concepts" autocomplete="off"><datalist id="concepts"></datalist>',
    )
    + "".join(
        paging.choice(label, name)
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
    + paging.field(
        "Order",
        '<select name="order"><option value="">of the set</option><option value="hard">hardest first</option>'
        '<option value="doubtful">least agreement first</option><option value="long">longest first</option>'
        "</select>",
    )
    + paging.field('<input type="checkbox" name="tex" value="1">', " Mathematics as TeX", "check")
    + '<label class="check"><button type="reset">Clear</button></label></form>'
)
