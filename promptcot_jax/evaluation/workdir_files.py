"""Reading a workdir for the report: what is there, the first rows of what is long, rows looked up by id."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from promptcot_jax.core import file_sets, jsonl
from promptcot_jax.core.errors import WrongUse

Row = Mapping[str, Any]
NUM_ROWS_SCANNED = (
    2_000  # examples come from the first rows, so that a page of a million problems is as quick
)


def exists(path: epath.Path) -> bool:
    """Whether records of that name are there, whole or in shards."""
    try:
        return bool(file_sets.files_of(path))
    except WrongUse:
        if path.exists():
            raise
        return False


def rows(path: epath.Path) -> list[dict[str, Any]]:
    return [row for _, _, row in jsonl.iter_rows(path)] if exists(path) else []


def results(workdir: epath.Path) -> dict[str, dict[str, Any]]:
    path = workdir / "results.json"
    results = jsonl.read_json(path).get("results", {}) if path.exists() else {}
    return {name: result for name, result in results.items() if isinstance(result, dict)}


def rows_by_id(workdir: epath.Path, wanted: set[str]) -> dict[str, Row]:
    """Rows of the triples files by id, read until all wanted ones are found."""
    found: dict[str, Row] = {}
    for name in ("triples.jsonl", "triples_heldout.jsonl", "triples_novel.jsonl"):
        if not exists(workdir / name):
            continue
        for file, number, row in jsonl.iter_rows(workdir / name):
            if len(found) == len(wanted):
                return found
            row_id = str(row.get("id") or f"{os.path.basename(file)}:{number}")
            if row_id in wanted:
                found[row_id] = row
    return found


def metrics_files(directory: epath.Path, depth: int = 4) -> list[epath.Path]:
    """Every metrics.jsonl below a directory, in order of path."""
    found = []
    for entry in sorted(directory.iterdir()) if depth and directory.exists() else []:
        if entry.name == "metrics.jsonl":
            found.append(entry)
        elif entry.is_dir() and not entry.name.startswith("."):
            found += metrics_files(entry, depth - 1)
    return found


def spread(values: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of the values, evenly spaced."""
    if len(values) <= count:
        return list(values)
    return [values[i * len(values) // count] for i in range(count)]
