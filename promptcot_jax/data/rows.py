"""Rows of a user's files as they come, whatever their format; a bad one is named, and fatal or counted."""

import collections
import dataclasses
import logging
import os
from collections.abc import Iterator
from typing import Any, Literal, TypeVar

from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse

Record = TypeVar("Record")

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Row:
    """One row and where it stands: `FILE:LINE`, or `FILE#RECORD` where a file has no lines."""

    where: str
    fields: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BadRows:
    """What a row that cannot be read does: ends the work, or is logged, counted by reason and left out."""

    action: Literal["error", "skip"] = "error"
    max_row_bytes: int = 4 << 20

    def __post_init__(self):
        if self.action not in ("error", "skip"):
            raise ValueError(f"bad_rows must be 'error' or 'skip', got {self.action!r}.")
        if self.max_row_bytes < 1:
            raise ValueError(f"max_row_bytes must be at least 1, got {self.max_row_bytes}.")


FATAL = BadRows()


def iter_rows(
    path: epath.PathLike,
    *,
    bad_rows: BadRows = FATAL,
    counts: collections.Counter[str] | None = None,
) -> Iterator[Row]:
    """The rows of a file, a set of shards or a glob pattern, in order, one at a time.

    Args:
        counts: is added to: `read`, and one `bad_REASON` for each kind of row left out.

    Raises:
        WrongUse: there is no such file, or a row is bad and `bad_rows` does not skip it; the message names
            file and line.
    """
    counts = collections.Counter() if counts is None else counts
    for file, number, fields in jsonl.iter_rows(path):
        counts["read"] += 1
        yield Row(f"{file}:{number}", fields)


def iter_records(
    path: epath.PathLike,
    record_type: type[Record] | Any,
    *,
    bad_rows: BadRows = FATAL,
    counts: collections.Counter[str] | None = None,
) -> Iterator[Record]:
    """The rows as records of one type, or of a union of types; a missing `id` becomes `FILENAME:LINE`.

    Raises:
        WrongUse: as `iter_rows`, and for a field that is missing or has the wrong type.
    """
    counts = collections.Counter() if counts is None else counts
    for row in iter_rows(path, bad_rows=bad_rows, counts=counts):
        try:
            yield jsonl.record_from_row(
                record_type, row.fields, where=row.where, default_id=os.path.basename(row.where)
            )
        except WrongUse as error:
            if bad_rows.action == "error":
                raise
            counts["bad_field"] += 1
            log.warning("left out: %s", error)
