"""The files behind one name: a file, its numbered shards, or the matches of a pattern.

`NAME.EXT` may be the shards `NAME-SSSSS-of-NNNNN.EXT`, or `NAME.EXT-SSSSS-of-NNNNN` as TFDS names them; local
or `gs://`. The order is that of the shards' numbers, and of the names a pattern matches.
"""

import contextlib
import io
import os
import re
from collections.abc import Iterator
from typing import Any

from etils import epath

from promptcot_jax.core.errors import WrongUse

_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})((?:\.\w+)*)$", re.DOTALL)
_BLOCK_BYTES = 1 << 20
_WILDCARD = re.compile(r"[*?\[]")


def files_named(path: epath.PathLike) -> list[epath.Path]:
    """The single file and every shard that carry this name, whatever is missing; the shards in order."""
    path = epath.Path(path)
    shards = []
    if path.parent.exists():
        shards = [
            file
            for file in path.parent.iterdir()
            if (shard := _SHARD.match(file.name)) and shard[1] + shard[4] == path.name
        ]
    return ([path] if path.exists() else []) + sorted(shards)


def files_of(path: epath.PathLike) -> list[epath.Path]:
    """The files that a path or a glob pattern (`*`, `?`, `[...]`) stands for, at least one.

    Raises:
        WrongUse: nothing is there, both a file and shards of its name are there, or a shard is missing.
    """
    path = epath.Path(path)
    if _WILDCARD.search(os.fspath(path)) and not path.exists():
        return _matches(path)
    files = files_named(path)
    if not files:
        raise WrongUse(f"{os.fspath(path)}: no such file, and no shards of that name.")
    if files[0] != path:
        totals = {int(shard[3]) for file in files if (shard := _SHARD.match(file.name))}
        if len(totals) > 1 or len(files) != totals.pop():
            raise WrongUse(f"{os.fspath(path)}: the set of shards is incomplete ({len(files)} found).")
    elif len(files) > 1:
        raise WrongUse(f"{os.fspath(path)}: both a single file and shards of that name exist; remove one.")
    elif path.is_dir():
        raise WrongUse(
            f"{os.fspath(path)} is a directory; name a file, or a pattern such as {path.name}/*.jsonl."
        )
    return files


def _matches(pattern: epath.Path) -> list[epath.Path]:
    """The files that a pattern matches, sorted."""
    text = os.fspath(pattern)
    wildcard = _WILDCARD.search(text)
    assert wildcard is not None
    base = text[: wildcard.start()].rpartition("/")[0]
    rest = text[len(base) :].lstrip("/")
    directory = epath.Path(base or ("/" if text.startswith("/") else "."))
    files = sorted(directory.glob(rest)) if directory.exists() else []
    if not files:
        raise WrongUse(f"{text}: no file matches this pattern.")
    return files


def files_below(directory: epath.Path) -> Iterator[epath.Path]:
    """All files of a directory and of those in it."""
    for entry in directory.iterdir():
        if entry.is_dir():
            yield from files_below(entry)
        else:
            yield entry


@contextlib.contextmanager
def opened(file: epath.Path) -> Iterator[io.BufferedReader]:
    """A file to read, local or in a bucket, with the same methods."""
    with file.open("rb") as stream:
        if isinstance(stream, io.BufferedReader):
            yield stream
        else:
            yield io.BufferedReader(_RawStream(stream), _BLOCK_BYTES)


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
