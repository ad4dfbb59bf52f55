"""Arrow files, as `datasets` caches and saves its sets: a stream of batches, or the form with an index."""

import os
from collections.abc import Iterator

import pyarrow
import pyarrow.ipc
from etils import epath

from promptcot_jax.core import file_sets
from promptcot_jax.data.formats import parquet, source
from promptcot_jax.data.formats.source import Fault, Row

_MAGIC = b"ARROW1"  # of the form with an index


def read(file: epath.Path, max_row_bytes: int) -> Iterator[Row | Fault]:
    name = os.fspath(file)
    with file_sets.opened(file) as stream:
        has_index = stream.peek(len(_MAGIC)).startswith(_MAGIC)
        first = 1
        try:
            for batch in _indexed(stream) if has_index else pyarrow.ipc.open_stream(stream):
                batch.validate(full=True)  # offsets of a damaged file would be read outside of its memory
                for start in range(0, batch.num_rows, source.ROWS_AT_ONCE):
                    some = batch.slice(start, source.ROWS_AT_ONCE)
                    yield from parquet.rows_of_batch(name, some, first, max_row_bytes)
                    first += some.num_rows
        except (pyarrow.ArrowException, MemoryError, OSError, EOFError) as error:  # a size may be damaged
            parquet.refuse_other_failures(error)
            yield Fault(
                name, "truncated", f"cut off or damaged after {first - 1} rows, or no Arrow ({error})"
            )


def _indexed(stream: object) -> Iterator[pyarrow.RecordBatch]:
    reader = pyarrow.ipc.open_file(stream)
    for i in range(reader.num_record_batches):
        yield reader.get_batch(i)
