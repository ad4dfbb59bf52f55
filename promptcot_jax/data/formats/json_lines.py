"""JSON lines, plain or compressed: a bad line is one fault, and reading goes on after it.

A `.json` file may also be one list of objects over any lines; then a fault in its text is that of the file.
"""

import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator

from etils import epath

from promptcot_jax.core import file_sets, jsonl
from promptcot_jax.data.formats import source
from promptcot_jax.data.formats.source import Fault, Row


def read(file: epath.Path, max_row_bytes: int) -> Iterator[Row | Fault]:
    """Rows of a file of JSON lines."""
    with file_sets.opened(file) as stream:
        yield from _rows_of_lines(os.fspath(file), stream, max_row_bytes)


def read_json(file: epath.Path, max_row_bytes: int) -> Iterator[Row | Fault]:
    """Rows of a JSON file: a list of objects, or one object a line."""
    with file_sets.opened(file) as stream:
        if not stream.peek(source.BLOCK_BYTES).lstrip().startswith(b"["):
            yield from _rows_of_lines(os.fspath(file), stream, max_row_bytes)
            return
        name, text = os.fspath(file), stream.read()
    try:
        items = json.loads(text)
    except (ValueError, RecursionError) as error:
        yield Fault(name, "json", f"not a list of JSON objects ({error})")
        return
    for number, item in enumerate(items, start=1):
        where, line = f"{name}#{number}", json.dumps(item).encode()
        if len(line) > max_row_bytes:
            yield source.too_large(where, len(line), max_row_bytes)
            continue
        try:
            yield Row(where, jsonl.parse_line(line))
        except jsonl.BadLine as bad:
            yield source.fault_of(where, bad)


def read_compressed(file: epath.Path, max_row_bytes: int) -> Iterator[Row | Fault]:
    """Rows of a gzip file of JSON lines."""
    with file_sets.opened(file) as packed, gzip.GzipFile(fileobj=packed) as stream:
        try:
            yield from _rows_of_lines(os.fspath(file), stream, max_row_bytes)
        except EOFError:
            yield Fault(os.fspath(file), "truncated", "the compressed file is cut off after the rows read")
        except (gzip.BadGzipFile, zlib.error) as error:
            yield Fault(os.fspath(file), "checksum", f"damaged after the rows read ({error})")


def _rows_of_lines(name: str, stream: io.BufferedIOBase, max_row_bytes: int) -> Iterator[Row | Fault]:
    for number, _, row in jsonl.iter_lines(stream, max_row_bytes):
        where = f"{name}:{number}"
        yield source.fault_of(where, row) if isinstance(row, jsonl.BadLine) else Row(where, row)
