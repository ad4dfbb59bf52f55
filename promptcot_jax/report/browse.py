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

from promptcot_jax.core.records import Domain
from promptcot_jax.data import exported_sets
from promptcot_jax.report import page, workdir_files

Splits = Mapping[Domain, Mapping[exported_sets.Split, Sequence[Any]]]


def render(name: str, splits: Splits, max_rows: int) -> str:
    """The page of a set: records of dataclasses by domain and split, of which at most so many are in it."""
    rows = [
        dataclasses.asdict(record) | {"split": split}
        for of_domain in splits.values()
        for split, records in of_domain.items()
        for record in records
    ]
    shown = workdir_files.spread(rows, max_rows)
    packed = json.dumps(shown, ensure_ascii=False, separators=(",", ":")).encode()
    return page.render(
        "browse.html",
        title=name,
        num_rows=len(rows),
        num_shown=len(shown),
        rows=base64.b64encode(gzip.compress(packed, mtime=0)).decode(),
        scripts=("paging.js", "browse.js"),
    )
