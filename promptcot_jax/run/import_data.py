"""`promptcot import_data`: a released data set in any format, as record files that the stages read."""

import collections
import os
from collections.abc import Iterator

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.workdir import InputPath
from promptcot_jax.data import importers, rows
from promptcot_jax.run import stage

FILES: dict[importers.SetKind, str] = {
    "concepts": "concept_sets.jsonl",
    "traces": "sft_traces.jsonl",
    "prompts": "verified_prompts.jsonl",
}


def import_data(
    *,
    workdir: str,
    source: InputPath,
    config: importers.ImportConfig,
    bad_rows: rows.BadRows,
    rows_per_shard: int = 10_000,
) -> stage.StageResult:
    """Reads the file, shards or pattern `source`, writes the record file of its kind; see `FILES`.

    Args:
        rows_per_shard: beyond it the records are in shards.

    Raises:
        WrongUse: the files are not there, hold no row, are of no kind that is known, or a row is bad.
    """
    if rows_per_shard < 1:
        raise WrongUse(f"rows_per_shard must be at least 1, got {rows_per_shard}.")
    kind = importers.kind_of(_first_row(source, bad_rows), config)
    counts, domains = collections.Counter[str](), collections.Counter[str]()

    def records() -> Iterator[importers.Imported]:
        for record in rows.map_rows(
            source, importers.maker_of(kind, config), bad_rows=bad_rows, counts=counts
        ):
            domains[record.domain] += 1
            yield record

    jsonl.write_records(os.path.join(workdir, FILES[kind]), records(), rows_per_shard)
    return stage.StageResult(counts={**counts, **domains})


def _first_row(path: str, bad_rows: rows.BadRows) -> rows.Row:
    """The first row that can be read, whose columns tell what all of them are."""
    for row in rows.iter_rows(path, bad_rows=bad_rows):
        return row
    raise WrongUse(f"{path}: there is no row in it; name a file with rows as SOURCE.")
