"""TFRecord and ArrayRecord: files of byte strings, each a JSON object or else a `tf.train.Example`.

A damaged TFRecord is one fault; if its length is damaged, nobody knows where the next one begins, and the
rest of the file is lost. A damaged group of ArrayRecords costs its records; a file of them that is cut off
has lost the index at its end, and nothing of it can be read.
"""

import io
import os
import struct
from collections.abc import Iterator
from typing import Any

from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]
from etils import epath

from promptcot_jax.core import file_sets, jsonl
from promptcot_jax.data.formats import source
from promptcot_jax.data.formats.source import Fault, Row


def read_tfrecord(file: epath.Path, max_row_bytes: int) -> Iterator[Row | Fault]:
    """Rows of a TFRecord file of tf.train.Example protos."""
    for where, record in iter_tfrecords(file, max_row_bytes):
        yield record if isinstance(record, Fault) else _row_of_record(where, record)


def read_array_record(file: epath.Path, max_row_bytes: int) -> Iterator[Row | Fault]:
    """Rows of an ArrayRecord file of tf.train.Example protos."""
    for where, record in iter_array_records(file, max_row_bytes):
        yield record if isinstance(record, Fault) else _row_of_record(where, record)


def iter_tfrecords(file: epath.Path, max_row_bytes: int) -> Iterator[tuple[str, bytes | Fault]]:
    """Where each record stands, and its bytes.

    The frame (8 bytes of length, its checksum, the record, its checksum) is read here because TensorFlow's
    reader leaves a file at its first damaged record and takes a record of any length into memory.
    """
    with file_sets.opened(file) as stream:
        yield from _tfrecords(os.fspath(file), stream, max_row_bytes)


def _tfrecords(
    name: str, stream: io.BufferedIOBase, max_row_bytes: int
) -> Iterator[tuple[str, bytes | Fault]]:
    number = 0
    while header := stream.read(12):
        number += 1
        where = f"{name}#{number}"
        cut = Fault(where, "truncated", "the file ends inside this record")
        if len(header) < 12:
            yield where, cut
            return
        length, check = struct.unpack("<QI", header)
        if _masked_crc(header[:8]) != check:
            message = "its length is damaged, or this is no uncompressed TFRecord file; from here all is lost"
            yield where, Fault(where, "checksum", message)
            return
        if length > max_row_bytes:
            is_whole = _pass_over(stream, length + 4)
            yield where, source.too_large(where, length, max_row_bytes) if is_whole else cut
            continue
        record = stream.read(length + 4)
        if len(record) < length + 4:
            yield where, cut
        elif _masked_crc(record[:-4]) != int.from_bytes(record[-4:], "little"):
            yield where, Fault(where, "checksum", "the record does not agree with its checksum")
        else:
            yield where, record[:-4]


def _masked_crc(data: bytes) -> int:
    import google_crc32c  # only this format needs it

    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _pass_over(stream: io.BufferedIOBase, size: int) -> bool:
    """Whether so many bytes were there."""
    while size and (block := stream.read(min(size, source.BLOCK_BYTES))):
        size -= len(block)
    return not size


def iter_array_records(file: epath.Path, max_row_bytes: int) -> Iterator[tuple[str, bytes | Fault]]:
    """Where each record stands, and its bytes."""
    name = os.fspath(file)
    with source.local_copy(file) as path:
        reader = array_record_module.ArrayRecordReader(path, "readahead_buffer_size:0,max_parallelism:0")
        if not reader.ok():  # it would say that it has no records
            message = "cut off, or no ArrayRecord file: nothing of it can be read"
            yield name, Fault(name, "truncated", message)
            return
        try:
            for start in range(0, reader.num_records(), source.ROWS_AT_ONCE):
                for i, record in enumerate(_array_records(reader, start), start=start):
                    where = f"{name}#{i + 1}"
                    if isinstance(record, RuntimeError):
                        yield where, Fault(where, "checksum", f"the record is damaged ({record})")
                    elif len(record) > max_row_bytes:
                        yield where, source.too_large(where, len(record), max_row_bytes)
                    else:
                        yield where, record
        finally:
            reader.close()


def _array_records(reader: Any, start: int) -> list[bytes] | list[bytes | RuntimeError]:
    """Records from `start` on; one by one where they cannot be read together."""
    end = min(start + source.ROWS_AT_ONCE, reader.num_records())
    try:
        return reader.read(start, end)
    except RuntimeError:
        return [_array_record_at(reader, i) for i in range(start, end)]


def _array_record_at(reader: Any, index: int) -> bytes | RuntimeError:
    try:
        return reader.read([index])[0]
    except RuntimeError as error:
        return error


def _row_of_record(where: str, record: bytes) -> Row | Fault:
    """A record that begins with the tag of an Example's features, or is empty, is one; all else is JSON."""
    try:
        if record[:1] not in (b"", b"\n"):
            return Row(where, jsonl.parse_line(record))
        return Row(where, _fields_of_example(record), is_flat=True)
    except jsonl.BadLine as bad:
        return source.fault_of(where, bad)
    except UnicodeDecodeError as error:
        return Fault(where, "utf8", f"a feature is not UTF-8 ({error})")
    except ValueError as error:
        return Fault(where, "example", str(error))


def _fields_of_example(record: bytes) -> dict[str, Any]:
    """The features of a serialized Example: bytes as text; of several values a list, of one the value.

    Raises:
        UnicodeDecodeError: a feature of bytes is not UTF-8.
        ValueError: this is no Example.
    """
    import tensorflow as tf  # late: it takes seconds, and nothing else here needs it
    from google.protobuf import message

    try:
        example = tf.train.Example.FromString(record)
    except message.DecodeError as error:
        raise ValueError(f"neither a JSON object nor a tf.train.Example ({error})") from None
    features = example.features.feature
    return {name: _value_of_feature(features[name]) for name in sorted(features)}


def _value_of_feature(feature: Any) -> Any:
    kind = feature.WhichOneof("kind")
    values = list(getattr(feature, kind).value) if kind else []
    if kind == "bytes_list":
        values = [value.decode() for value in values]
    return values[0] if len(values) == 1 else values
