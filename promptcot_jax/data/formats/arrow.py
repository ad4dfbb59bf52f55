"""Parquet, streamed page by page, and the Arrow files that `datasets` caches and saves.

What is damaged in a Parquet file costs the rest of its row group; one that is cut off has lost the index at
its end, and nothing of it can be read. Arrow files are a stream of batches, or the form with an index.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
from etils import epath

from promptcot_jax.core import file_sets
from promptcot_jax.data.formats import source
from promptcot_jax.data.formats.source import Fault, Row

_ARROW_MAGIC = b"ARROW1"  # of the form with an index


def read_parquet(file: epath.Path, max_row_bytes: int) -> Iterator[Row | Fault]:
    """Rows of a Parquet file."""
    name = os.fspath(file)
    with file_sets.opened(file) as stream:
        try:
            # Read page by page: with the defaults all of a row group, often a whole file, is in memory.
            table = pyarrow.parquet.ParquetFile(
                stream, pre_buffer=False, buffer_size=source.BLOCK_BYTES, page_checksum_verification=True
            )
        except (pyarrow.ArrowException, OSError) as error:
            _refuse_other_failures(error)
            yield Fault(
                name, "truncated", f"cut off, or no Parquet file: nothing of it can be read ({error})"
            )
            return
        first = 1
        for group in range(table.num_row_groups):
            yield from _rows_of_group(name, table, group, first, max_row_bytes)
            first += table.metadata.row_group(group).num_rows


def _rows_of_group(
    name: str, table: pyarrow.parquet.ParquetFile, group: int, first: int, max_row_bytes: int
) -> Iterator[Row | Fault]:
    """The rows of one row group, the first of which is row `first` of the file."""
    end = first + table.metadata.row_group(group).num_rows
    failure = "it has fewer rows than the index says"
    try:
        for batch in table.iter_batches(source.ROWS_AT_ONCE, row_groups=[group], use_threads=False):
            yield from _rows_of_batch(name, batch, first, max_row_bytes)
            first += batch.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        _refuse_other_failures(error)
        failure = str(error)
    if first < end:
        message = f"row group {group} is damaged, rows {first} to {end - 1} are lost ({failure})"
        yield Fault(f"{name}#{first}", "checksum", message, rows=end - first)


def _refuse_other_failures(error: Exception) -> None:
    """Raises what is no damage: damage is to Arrow a plain OSError without a number, as to no network."""
    if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
        raise error


def _rows_of_batch(
    name: str, batch: pyarrow.RecordBatch, first: int, max_row_bytes: int
) -> Iterator[Row | Fault]:
    """The rows of a batch, the first of which is row `first` of the file."""
    rows = []
    if batch.nbytes <= max_row_bytes:  # then no row of it is larger
        with contextlib.suppress(UnicodeDecodeError):
            rows = [_fields_of_columns(columns) for columns in batch.to_pylist()]
    for i, fields in enumerate(rows):
        yield Row(f"{name}#{first + i}", fields)
    for i in range(len(rows), batch.num_rows):  # all of them or none
        where, row = f"{name}#{first + i}", batch.slice(i, 1)
        if row.nbytes > max_row_bytes:
            yield source.too_large(where, row.nbytes, max_row_bytes)
            continue
        try:
            yield Row(where, _fields_of_columns(row.to_pylist()[0]))
        except UnicodeDecodeError as error:
            yield Fault(where, "utf8", f"a column is not UTF-8 ({error})")


def _fields_of_columns(columns: dict[str, Any]) -> dict[str, Any]:
    """A null is a missing field, and bytes are text: columns are there for all rows, fields need not be."""
    return {
        name: value.decode() if isinstance(value, bytes) else value
        for name, value in columns.items()
        if value is not None
    }


def read_arrow(file: epath.Path, max_row_bytes: int) -> Iterator[Row | Fault]:
    """Rows of an Arrow file or stream."""
    name = os.fspath(file)
    with file_sets.opened(file) as stream:
        has_index = stream.peek(len(_ARROW_MAGIC)).startswith(_ARROW_MAGIC)
        first = 1
        try:
            for batch in _indexed(stream) if has_index else pyarrow.ipc.open_stream(stream):
                batch.validate(full=True)  # offsets of a damaged file would be read outside of its memory
                for start in range(0, batch.num_rows, source.ROWS_AT_ONCE):
                    some = batch.slice(start, source.ROWS_AT_ONCE)
                    yield from _rows_of_batch(name, some, first, max_row_bytes)
                    first += some.num_rows
        except (pyarrow.ArrowException, MemoryError, OSError, EOFError) as error:  # a size may be damaged
            _refuse_other_failures(error)
            yield Fault(
                name, "truncated", f"cut off or damaged after {first - 1} rows, or no Arrow ({error})"
            )


def _indexed(stream: object) -> Iterator[pyarrow.RecordBatch]:
    reader = pyarrow.ipc.open_file(stream)
    for i in range(reader.num_record_batches):
        yield reader.get_batch(i)
