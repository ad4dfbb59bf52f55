"""Rows of a user's files as they come, whatever their format; a bad one is named, and fatal or counted.

Formats go by extension (`data/formats/`): JSON lines (`.jsonl`, `.json`, also `.gz`; a `.json` file may be
one list), `.parquet`, `.arrow`, `.tfrecord` and `.array_record`; `tfds:NAME` is a prepared TFDS data set
(`core.tfds_sets`). The same records come out of each, also of `tf.train.Example`s, which do not nest: where a
record's field is a list or an object, `iter_records` reads their text as JSON, and one value as a list.
"""

import collections
import dataclasses
import functools
import json
import logging
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeVar

from etils import epath

from promptcot_jax.core import file_sets, jsonl, tfds_sets
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.settings import PositiveInt, settings
from promptcot_jax.data.formats import arrow, json_lines, records
from promptcot_jax.data.formats.source import Fault, Row

Record = TypeVar("Record")

log = logging.getLogger(__name__)

_READERS: Mapping[tuple[str, ...], Callable[[epath.Path, int], Iterator[Row | Fault]]] = {
    (".jsonl",): json_lines.read,
    (".json",): json_lines.read_json,
    (".jsonl.gz", ".json.gz"): json_lines.read_compressed,
    (".parquet",): arrow.read_parquet,
    (".arrow",): arrow.read_arrow,
    (".tfrecord", ".tfrecords"): records.read_tfrecord,
    (".array_record", ".arrayrecord"): records.read_array_record,
}
_NUM_LOGGED = 10  # of each reason; the rest is a number


@settings
class BadRows:
    """What a row that cannot be read does: ends the work, or is logged, counted by reason and left out."""

    action: Literal["error", "skip"] = "error"
    max_row_bytes: PositiveInt = 4 << 20


FATAL = BadRows()
REMEDY = (  # for users of gin and of Python
    "mend it, or have bad rows left out and counted (BAD_ROWS = 'skip' where a stage has that setting; "
    "in Python bad_rows 'skip')"
)


def iter_rows(
    path: epath.PathLike,
    *,
    bad_rows: BadRows = FATAL,
    counts: collections.Counter[str] | None = None,
) -> Iterator[Row]:
    """The rows of a file, a set of shards, a glob pattern or a TFDS data set, in order, one at a time.

    Args:
        counts: is added to: `read` for each row that comes out, `bad_REASON` for each that is left out;
            their sum is the rows that were there, as far as a damaged file lets one tell.

    Raises:
        WrongUse: there is no such file, or a row is bad and `bad_rows` does not skip it; the message names
            file and line.
    """
    return map_rows(path, lambda row: row, bad_rows=bad_rows, counts=counts)


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
    make = functools.partial(record_of, record_type=record_type)
    return map_rows(path, make, bad_rows=bad_rows, counts=counts)


def map_rows(
    path: epath.PathLike,
    make: Callable[[Row], Record],
    *,
    bad_rows: BadRows = FATAL,
    counts: collections.Counter[str] | None = None,
) -> Iterator[Record]:
    """What `make` makes of the rows; a row of which it raises `WrongUse` is a bad one, of reason `field`.

    Raises:
        WrongUse: as `iter_rows`, and what `make` raises.
    """
    ledger = _Ledger(bad_rows, collections.Counter() if counts is None else counts)
    for row in _rows_and_faults(path, bad_rows.max_row_bytes):
        if isinstance(row, Fault):
            ledger.leave_out(row)
            continue
        try:
            record = make(row)
        except WrongUse as error:
            ledger.leave_out(Fault(row.where, "field", str(error).removeprefix(f"{row.where}: ")))
        else:
            ledger.counts["read"] += 1
            yield record
    ledger.sum_up()


def record_of(row: Row, record_type: type[Record] | Any) -> Record:
    """The record that a row holds, of one type or of a union of types.

    Raises:
        WrongUse: a field is missing or has the wrong type.
    """
    fields = _nested(row.fields, record_type) if row.is_flat else row.fields
    default_id = os.path.basename(row.where)
    return jsonl.record_from_row(record_type, fields, where=row.where, default_id=default_id)


def json_line(row: Row) -> bytes:
    """A row as it came, as a line of JSON.

    Raises:
        WrongUse: JSON has no form for it.
    """
    try:
        return (jsonl.to_line(row.fields) + "\n").encode()
    except (ValueError, TypeError) as error:  # NaN, half a surrogate pair, bytes of a Parquet column
        raise WrongUse(
            f"{row.where}: cannot be written as a JSON line ({error}); correct the row or remove it."
        ) from None


def check_ids(ids: Iterable[str], where: str) -> None:
    """Refuses rows that cannot be told apart.

    Raises:
        WrongUse: two of them share an id; the message begins with `where`.
    """
    repeated = [one for one, count in collections.Counter(ids).items() if count > 1]
    if repeated:
        raise WrongUse(f"{where}: the id {repeated[0]!r} occurs twice; give each row its own.")


def bad(counts: Mapping[str, int]) -> dict[str, int]:
    """Of the counts that reading adds to, those of rows that were left out, `bad_REASON`."""
    return {name: count for name, count in counts.items() if name.startswith("bad_")}


class _Ledger:
    """What becomes of bad rows, and the counts of all."""

    def __init__(self, bad_rows: BadRows, counts: collections.Counter[str]):
        self.bad_rows, self.counts = bad_rows, counts
        self._faults = collections.Counter[str]()

    def leave_out(self, fault: Fault) -> None:
        """Counts a fault and logs it, if it is among the first of its reason.

        Raises:
            WrongUse: bad rows are not to be skipped.
        """
        text = f"{fault.where}: {fault.message.rstrip('.')}"
        if self.bad_rows.action == "error":
            raise WrongUse(f"{text}; {REMEDY}.")
        self.counts[f"bad_{fault.reason}"] += fault.rows
        self._faults[fault.reason] += 1
        if self._faults[fault.reason] <= _NUM_LOGGED:
            log.warning("left out: %s", text)

    def sum_up(self) -> None:
        """Logs how many faults were not logged one by one."""
        for reason, number in self._faults.items():
            if number > _NUM_LOGGED:
                log.warning("left out: %d more with the fault '%s'", number - _NUM_LOGGED, reason)


def _rows_and_faults(path: epath.PathLike, max_row_bytes: int) -> Iterator[Row | Fault]:
    if tfds_sets.is_named_by(path):
        # Late: TFDS, and TensorFlow below it, take seconds to import, and nothing else here needs them.
        from promptcot_jax.data.formats import tfds_examples

        yield from tfds_examples.read(os.fspath(path), max_row_bytes)
        return
    files = file_sets.files_of(path)
    readers = [_reader_of(file) for file in files]  # of all, before hours go into the first
    for file, reader in zip(files, readers, strict=True):
        yield from reader(file, max_row_bytes)


def _reader_of(file: epath.Path) -> Callable[[epath.Path, int], Iterator[Row | Fault]]:
    name = re.sub(r"-\d{5}-of-\d{5}$", "", file.name)  # TFDS numbers its shards after the extension
    for extensions, reader in _READERS.items():
        if name.endswith(extensions):
            return reader
    known = ", ".join(extension for extensions in _READERS for extension in extensions)
    raise WrongUse(f"{os.fspath(file)}: the extension names no format that can be read; those are {known}.")


def _nested(fields: Mapping[str, Any], record_type: Any) -> dict[str, Any]:
    """The fields of a flat row as a record, or a union of records, wants them."""
    is_union = isinstance(record_type, types.UnionType) or typing.get_origin(record_type) is typing.Union
    hints: dict[str, Any] = {}
    for member in typing.get_args(record_type) if is_union else (record_type,):
        hints = jsonl.type_hints(member) | hints
    return {name: _nested_value(value, hints.get(name, str)) for name, value in fields.items()}


def _nested_value(value: Any, hint: Any) -> Any:
    """A flat value as its field wants it: JSON text as what it says, one value as a list of it."""
    if hint is bool and value in (0, 1):
        return bool(value)
    is_list = typing.get_origin(hint) is tuple
    if isinstance(value, str) and (is_list or dataclasses.is_dataclass(hint)):
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = None
        if isinstance(parsed, list | dict):
            value = parsed
    return [value] if is_list and not isinstance(value, list) else value
