"""What the readers of all formats share: the row, the fault, and files in buckets opened like local ones."""

import contextlib
import dataclasses
import io
import os
import tempfile
from collections.abc import Iterator
from typing import Any, Literal

from etils import epath

Reason = Literal["utf8", "json", "example", "too_large", "truncated", "checksum", "field"]

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
    return Fault(where, "too_large", f"the row has {size} bytes, max_row_bytes is {max_row_bytes}")


@contextlib.contextmanager
def opened(file: epath.Path) -> Iterator[io.BufferedReader]:
    with file.open("rb") as stream:
        if isinstance(stream, io.BufferedReader):
            yield stream
        else:
            yield io.BufferedReader(_RawStream(stream), BLOCK_BYTES)


class _RawStream(io.RawIOBase):
    """What TensorFlow and fsspec open in a bucket, as Python's own buffered reader wants it."""

    def __init__(self, stream: Any):  # has read, seek and tell, and no type in common
        self._stream = stream

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._stream.seek(offset, whence)
        return self._stream.tell()

    def tell(self) -> int:
        return self._stream.tell()


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
