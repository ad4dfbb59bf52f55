"""What the readers of all formats share: the row, the fault, and local copies of files in buckets."""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator
from typing import Any, Literal

from etils import epath

from promptcot_jax.core import jsonl

Reason = jsonl.Reason | Literal["example", "checksum", "field"]

BLOCK_BYTES = 1 << 20
ROWS_AT_ONCE = 64  # of the formats that give several


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One row and where it stands: `FILE:LINE`, or `FILE#RECORD` where a file has no lines; both from 1."""

    where: str
    fields: dict[str, Any]
    is_flat: bool = False  # an Example: a list of one value is the value, nested values are JSON texts


@dataclasses.dataclass(frozen=True)
class Fault:
    """What cannot be read: the row at `where`, or several rows that were lost together."""

    where: str
    reason: Reason
    message: str
    rows: int = 1


def too_large(where: str, size: int, max_row_bytes: int) -> Fault:
    """The fault of a row with more bytes than the limit."""
    return fault_of(where, jsonl.too_large(size, max_row_bytes))


def fault_of(where: str, bad: jsonl.BadLine) -> Fault:
    """The fault of a line that is no row."""
    return Fault(where, bad.reason, str(bad))


@contextlib.contextmanager
def local_copy(file: epath.Path) -> Iterator[str]:
    """The file's own path, or that of a copy where it is in a bucket: the library reads local files only."""
    if "://" not in os.fspath(file):
        yield os.fspath(file)
        return
    with tempfile.TemporaryDirectory() as directory:
        copy = os.path.join(directory, file.name)
        file.copy(copy)
        yield copy
