"""JSON Lines of records: strict on reading, atomic on writing, local or `gs://`.

`NAME.jsonl` or, beyond a row setting, `NAME-SSSSS-of-NNNNN.jsonl`; one reader takes both. A file appears
whole or not at all: local files are written aside, flushed to disk and renamed; objects in a bucket appear
when they are closed.
"""

import contextlib
import dataclasses
import functools
import io
import itertools
import json
import os
import pathlib
import re
import shutil
import tempfile
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, Literal, TypeVar, overload

from etils import epath

from promptcot_jax.core import building, file_sets, literals
from promptcot_jax.core.errors import WrongUse

R = TypeVar("R")

_BLOCK_BYTES = 1 << 20
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
type_hints = functools.cache(typing.get_type_hints)  # 10 us for each row otherwise


def write_atomically(path: epath.PathLike, data: bytes) -> None:
    """Writes `data` to `path` so that a reader, or a crash at any moment, sees the old file or the new."""
    if "://" in os.fspath(path):  # one call, which leaves nothing where it fails
        path = epath.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return
    with atomic_stream(path, aside=f"{os.fspath(path)}.{os.getpid()}.part") as file:
        file.write(data)


@contextlib.contextmanager
def atomic_stream(path: epath.PathLike, *, aside: str | None = None) -> Iterator[IO[bytes]]:
    """A file to write to bit by bit, which becomes `path` at the end of the block; after an error it is gone.

    Args:
        aside: where it is until then. None: `PATH.part`, for one writer at a time; what a killed writer left
            there is overwritten by the next. A bucket's object is kept in a local temporary file.
    """
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if "://" in os.fspath(path):
        with tempfile.TemporaryFile() as file:
            yield file
            file.seek(0)
            with path.open("wb") as whole:
                shutil.copyfileobj(file, whole, 1 << 20)
        return
    aside = aside or f"{os.fspath(path)}.part"
    try:
        with open(aside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        pathlib.Path(aside).unlink(missing_ok=True)
        raise
    building.flush_to_disk(os.path.dirname(os.path.abspath(path)))  # the rename must survive a power cut


def write_json(path: epath.PathLike, value: Any) -> None:
    """Writes one JSON document atomically, keys in the order given."""
    write_atomically(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: epath.PathLike) -> Any:
    """Reads one JSON document.

    Raises:
        WrongUse: the file is missing or is not JSON.
    """
    path = epath.Path(path)
    if not path.exists():
        raise WrongUse(f"{os.fspath(path)}: no such file.")
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise WrongUse(f"{os.fspath(path)}: not a JSON document ({error}).") from None


def to_line(record: Any) -> str:
    """One JSON line of a dataclass record or a plain dict (no newline)."""
    row = record if isinstance(record, dict) else to_row(record)
    return json.dumps(row, ensure_ascii=False, allow_nan=False)


def to_row(record: Any) -> dict[str, Any]:
    """The fields of a dataclass record as JSON has them, those of type `Any` as `literals` writes them.

    Raises:
        ValueError: such a field holds what has no form in a row.
    """
    return {
        field.name: _to_json(getattr(record, field.name), field.type) for field in dataclasses.fields(record)
    }


def _to_json(value: Any, hint: Any = None) -> Any:
    if hint is Any:
        return literals.encode(value)
    if hint == Sequence[Any]:
        return [literals.encode(item) for item in value]
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    if isinstance(value, dict):
        return {key: _to_json(item) for key, item in value.items()}
    return to_row(value) if dataclasses.is_dataclass(value) else value


def write_records(path: epath.PathLike, records: Iterable[Any], rows_per_shard: int | None = None) -> int:
    """Writes records to `path` (ending in `.jsonl`), or to numbered shards beside it; returns how many.

    No more than a shard is in memory. Shards are written under other names until all are there, and removed
    if the records end in an error; those of an earlier write under the same name are removed at the end.
    """
    path = epath.Path(path)
    stem, rest = path.name.removesuffix(".jsonl"), iter(records)
    shards: list[epath.Path] = []
    names, count = [path.name], 0
    try:
        while lines := [to_line(record) + "\n" for record in itertools.islice(rest, rows_per_shard)]:
            shards.append(path.parent / f"{stem}.{len(shards):05d}.part" if rows_per_shard else path)
            write_atomically(shards[-1], "".join(lines).encode())
            count += len(lines)
    except BaseException:
        for shard in shards if rows_per_shard else ():
            shard.unlink(missing_ok=True)
        raise
    if not shards:
        write_atomically(path, b"")
    if len(shards) > 1:
        names = [f"{stem}-{i:05d}-of-{len(shards):05d}.jsonl" for i in range(len(shards))]
    for shard, name in zip(shards, names, strict=False):
        if shard.name != name:
            shard.replace(path.parent / name)
    stale = [old for old in file_sets.files_named(path) if old.name not in names]
    part = re.compile(re.escape(stem) + r"\.[0-9]{5}\.part")  # of a writer that was killed
    for old in (*stale, *(file for file in path.parent.iterdir() if part.fullmatch(file.name))):
        old.unlink()
    return count


Reason = Literal["utf8", "json", "too_large", "truncated"]


class BadLine(ValueError):
    """A line that is no row; `reason` is its word in counts."""

    def __init__(self, reason: Reason, message: str):
        super().__init__(message)
        self.reason: Reason = reason


def parse_line(line: bytes) -> dict[str, Any]:
    """The JSON object that a line holds.

    Raises:
        BadLine: it is not UTF-8 (a lone surrogate is not either), or not a JSON object (NaN and infinities
            are not JSON, and could never be written again).
    """
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
        if _SURROGATE.search(line):  # a lone one parses, and can never be written again
            json.dumps(row, ensure_ascii=False).encode()
    except UnicodeError as error:
        raise BadLine("utf8", f"not a JSON object in UTF-8 ({error})") from None
    except (ValueError, RecursionError) as error:
        raise BadLine("json", f"not a JSON object ({error})") from None
    if not isinstance(row, dict):
        raise BadLine("json", f"expected a JSON object, got {type(row).__name__}")
    return row


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


def iter_lines(
    stream: io.BufferedIOBase, max_bytes: int | None = None
) -> Iterator[tuple[int, int, dict[str, Any] | BadLine]]:
    """Number from 1, bytes and object of every line that is not empty; of a bad line what is wrong with it.

    Args:
        max_bytes: no more of a line than this is ever in memory; a longer one is bad.
    """
    number = 0
    while line := stream.readline(-1 if max_bytes is None else max_bytes + 1):
        number += 1
        size = len(line)
        if max_bytes is not None and size > max_bytes and not line.endswith(b"\n"):
            while not line.endswith(b"\n") and (line := stream.readline(_BLOCK_BYTES)):
                size += len(line)
            yield number, size, too_large(size, max_bytes)
        elif not line.isspace():
            try:
                yield number, size, parse_line(line)
            except BadLine as bad:
                is_cut = not line.endswith(b"\n")
                yield (
                    number,
                    size,
                    BadLine("truncated", f"the file ends inside a row: {bad}") if is_cut else bad,
                )


def too_large(size: int, max_bytes: int) -> BadLine:
    """What is wrong with a row of so many bytes."""
    return BadLine("too_large", f"the row has {size} bytes, max_row_bytes is {max_bytes}")


def iter_rows(path: epath.PathLike) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yields (file, line number from 1, row) of every non-empty line.

    Raises:
        WrongUse: a line is not UTF-8 or not a JSON object; the message names file and line.
    """
    for name, number, row, _ in iter_sized_rows(path):
        yield name, number, row


def iter_sized_rows(path: epath.PathLike) -> Iterator[tuple[str, int, dict[str, Any], int]]:
    """As `iter_rows`, with the bytes of the line."""
    for file in file_sets.files_of(path):
        yield from _rows_of_file(file)


def _rows_of_file(file: epath.Path) -> Iterator[tuple[str, int, dict[str, Any], int]]:
    name = os.fspath(file)  # once: 10 us each time
    with file_sets.opened(file) as stream:
        for number, size, row in iter_lines(stream):
            if isinstance(row, BadLine):
                raise WrongUse(f"{name}:{number}: {row}.")
            yield name, number, row, size


@overload
def read_records(path: epath.PathLike, record_type: type[R]) -> list[R]: ...


@overload
def read_records(path: epath.PathLike, record_type: Any) -> list[Any]: ...


def read_records(path: epath.PathLike, record_type: Any) -> list[Any]:
    """Reads records of one type, or of a union of types.

    Of a union a row has the first type whose required fields it has, and one of whose `MARKS` where the type
    has these. A row that this type refuses is of none of its base classes either.

    Fields that the type does not have are passed over. A missing `id` becomes `FILENAME:LINE`.

    Raises:
        WrongUse: a field is missing or has the wrong type; the message names file, line and field.
    """
    return _records_of_rows(record_type, iter_sized_rows(path))


def read_file(file: epath.PathLike, record_type: type[R]) -> list[R]:
    """Reads the records of this one file, whatever shards of its name lie beside it; see `read_records`."""
    return _records_of_rows(record_type, _rows_of_file(epath.Path(file)))


def _records_of_rows(record_type: Any, rows: Iterable[tuple[str, int, dict[str, Any], int]]) -> list[Any]:
    return [
        record_from_row(
            record_type, row, where=f"{file}:{number}", default_id=f"{os.path.basename(file)}:{number}"
        )
        for file, number, row, _ in rows
    ]


def record_from_row(record_type: Any, row: dict[str, Any], *, where: str, default_id: str = "") -> Any:
    """Builds one record of `record_type` from a JSON object; see `read_records`."""
    if isinstance(record_type, types.UnionType) or typing.get_origin(record_type) is typing.Union:
        failures: list[tuple[type, str]] = []
        members = typing.get_args(record_type)
        nearest = max(members, key=lambda member: len(_required(member) & row.keys()))
        for member in [member for member in members if _fits(member, row)] or [nearest]:
            if any(issubclass(refused, member) for refused, _ in failures):
                continue
            try:
                return record_from_row(member, row, where=where, default_id=default_id)
            except WrongUse as failure:
                failures.append((member, str(failure)))
        raise WrongUse(failures[0][1])
    values = {}
    for name, hint, is_required in _fields(record_type):
        if name in row:
            value = row[name]
            values[name] = value if type(value) is hint else _coerce(value, hint, f"{where}: field '{name}'")
        elif is_required:
            raise WrongUse(f"{where}: field '{name}' of {record_type.__name__} is missing.")
    if "id" in type_hints(record_type) and not values.get("id"):
        values["id"] = default_id
    return record_type(**values)


@functools.cache
def _fields(record_type: Any) -> list[tuple[str, Any, bool]]:
    """Name, type and whether it must be given, of each field."""
    hints, missing = type_hints(record_type), dataclasses.MISSING
    return [
        (field.name, hints[field.name], field.default is missing and field.default_factory is missing)
        for field in dataclasses.fields(record_type)
    ]


@functools.cache
def _required(record_type: Any) -> frozenset[str]:
    return frozenset(name for name, _, is_required in _fields(record_type) if is_required)


def _fits(record_type: Any, row: dict[str, Any]) -> bool:
    marks = getattr(record_type, "MARKS", None)
    return _required(record_type) <= row.keys() and (marks is None or not marks.isdisjoint(row))


def _coerce(value: Any, hint: Any, where: str) -> Any:
    """Checks a JSON value against a field's type: a scalar, a Literal, a tuple, a record, or `Any`."""
    origin = typing.get_origin(hint)
    if hint is Any:
        return literals.decode(value, where)
    if origin is tuple or hint == Sequence[Any]:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise WrongUse(f"{where} must be a list, got {type(value).__name__}.")
        return tuple(_coerce(item, typing.get_args(hint)[0], f"{where}[{i}]") for i, item in enumerate(value))
    if origin is typing.Literal:
        if value not in typing.get_args(hint):
            raise WrongUse(f"{where} must be one of {list(typing.get_args(hint))}, got {value!r}.")
        return value
    if dataclasses.is_dataclass(hint) or origin is types.UnionType:
        if not isinstance(value, dict):
            raise WrongUse(f"{where} must be an object, got {type(value).__name__}.")
        return record_from_row(hint, value, where=where)
    if hint is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)  # a numeric level or answer in a user's file
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint in (int, float) and isinstance(value, bool)):
        raise WrongUse(f"{where} must be {hint.__name__}, got {type(value).__name__}.")
    return value
