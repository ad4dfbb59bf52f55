"""Rows of every format: the same out of each, and every fault named, counted, and alone in being lost."""

import collections
import dataclasses
import gzip
import json
import logging
import pathlib
import struct
import tracemalloc
from collections.abc import Sequence
from typing import Any

import google_crc32c
import pyarrow
import pyarrow.parquet
import pytest
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]
from etils import epath

from promptcot_jax.core import jsonl, records
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import rows

SKIP = rows.BadRows(action="skip")
PROBLEMS = [
    records.SolvedProgramProblem(
        id=f"p{i}",
        concepts=("sums", "é")[: 1 + i % 2],  # one concept is a scalar in an Example
        level=str(i),
        problem=f"Add {i}.\n" + "x" * (200 + i),
        tests=tuple(records.StdioTest(input=f"{k}", output=f"{k + i}") for k in range(i % 3)),
        solution="print()",
    )
    for i in range(150)
]
FIELDS = [dataclasses.asdict(problem) for problem in PROBLEMS]
BODIES = [jsonl.to_line(problem).encode() for problem in PROBLEMS]


def crc(data: bytes) -> bytes:
    value = google_crc32c.value(data)
    return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def tfrecord(body: bytes) -> bytes:
    length = struct.pack("<Q", len(body))
    return length + crc(length) + body + crc(body)


def example(fields: dict[str, Any]) -> bytes:
    """As a user would write it: lists of texts as several values, nested values as JSON text."""
    import tensorflow as tf

    def feature(value: Any) -> tf.train.Feature:
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        values = (
            value if isinstance(value, tuple | list) and all(isinstance(v, str) for v in value) else [value]
        )
        texts = [v if isinstance(v, str) else json.dumps(v) for v in values]
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode() for text in texts]))

    features = tf.train.Features(feature={name: feature(value) for name, value in fields.items()})
    return tf.train.Example(features=features).SerializeToString()


def write_array_records(path: pathlib.Path, bodies: Sequence[bytes]) -> None:
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for body in bodies:
        writer.write(body)
    writer.close()


def write_rows(path: pathlib.Path) -> pathlib.Path:
    """Writes `PROBLEMS` in the format of a file's name."""
    kind = path.name.partition(".")[2]
    if kind == "jsonl":
        path.write_bytes(b"".join(body + b"\n" for body in BODIES))
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress(b"".join(body + b"\n" for body in BODIES)))
    elif kind == "parquet":
        table = pyarrow.Table.from_pylist(FIELDS)
        pyarrow.parquet.write_table(table, path, row_group_size=40, write_page_checksum=True)
    elif kind == "tfrecord":
        path.write_bytes(b"".join(map(tfrecord, BODIES)))
    elif kind == "examples.tfrecord":
        path.write_bytes(b"".join(tfrecord(example(fields)) for fields in FIELDS))
    elif kind == "array_record":
        write_array_records(path, BODIES)
    else:
        write_array_records(path, [example(fields) for fields in FIELDS])
    return path


def numbers(path: Any, **arguments: Any) -> tuple[list[int], dict[str, int]]:
    """The indices of the problems that come out of a file under 'skip', and the counts."""
    counts = collections.Counter[str]()
    arguments = {"bad_rows": SKIP} | arguments
    read = list(rows.iter_records(path, records.SolvedProgramProblem, counts=counts, **arguments))
    assert all(record == PROBLEMS[int(record.id[1:])] for record in read)
    return [int(record.id[1:]) for record in read], dict(counts)


def without(*lost: int) -> list[int]:
    return [i for i in range(len(PROBLEMS)) if i not in lost]


@pytest.mark.parametrize(
    "name",
    [
        "rows.jsonl",
        "rows.jsonl.gz",
        "rows.parquet",
        "rows.tfrecord",
        "rows.examples.tfrecord",
        "rows.array_record",
        "rows.examples.array_record",
    ],
)
def test_the_same_records_come_out_of_every_format(name: str, tmp_path: pathlib.Path):
    path = write_rows(tmp_path / name)
    counts = collections.Counter[str]()
    assert list(rows.iter_records(path, records.SolvedProgramProblem, counts=counts)) == PROBLEMS
    assert counts == {"read": len(PROBLEMS)}


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet", "rows.tfrecord", "rows.array_record"])
def test_the_same_rows_come_out_of_every_format(name: str, tmp_path: pathlib.Path):
    path = write_rows(tmp_path / name)
    read = list(rows.iter_rows(path))
    assert [row.fields for row in read] == [json.loads(body) for body in BODIES]
    mark = ":" if name == "rows.jsonl" else "#"
    assert [row.where for row in read] == [f"{path}{mark}{i + 1}" for i in range(len(PROBLEMS))]


def test_a_row_of_an_example_is_flat(tmp_path: pathlib.Path):
    (tmp_path / "a.tfrecord").write_bytes(tfrecord(example({"c": ["x", "y"], "one": ["x"], "n": 3})))
    assert list(rows.iter_rows(tmp_path / "a.tfrecord")) == [
        rows.Row(f"{tmp_path}/a.tfrecord#1", {"c": ["x", "y"], "n": 3, "one": "x"}, is_flat=True)
    ]


def test_a_null_column_is_a_missing_field_and_bytes_are_text(tmp_path: pathlib.Path):
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"a": pyarrow.array(["1", None]), "b": pyarrow.array([b"\xc3\xa9", b"y"])})
    pyarrow.parquet.write_table(table, path)
    assert [row.fields for row in rows.iter_rows(path)] == [{"a": "1", "b": "é"}, {"b": "y"}]


# What is put in the place of line 3, the reason it is counted under, and what is said.
BAD_LINES = [
    (b"{not json\n", "json", "not a JSON object"),
    (b"[1]\n", "json", "expected a JSON object, got list"),
    (b'{"id": "p2", "log_p_z": NaN}\n', "json", "NaN is no number in JSON"),
    (b"[" * 100_000 + b"\n", "json", "recursion"),
    (b'{"id": "\xff"}\n', "utf8", "not a JSON object in UTF-8"),
    (b'{"id": "\\ud800"}\n', "utf8", "not a JSON object in UTF-8"),
    (b'{"id": "p2", "problem": "x", "solution": "s"}\n', "field", "field 'concepts' of"),
    (b'{"id": "p2", "concepts": "x"}\n', "field", "field 'concepts' must be a list, got str"),
    (b'{"id": "' + b"y" * (4 << 20) + b'"}\n', "too_large", "max_row_bytes is 4194304"),
]


@pytest.mark.parametrize(("line", "reason", "says"), BAD_LINES, ids=range(len(BAD_LINES)))
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_a_bad_line_is_named_or_alone_in_being_lost(
    name: str, line: bytes, reason: str, says: str, tmp_path: pathlib.Path
):
    lines = [body + b"\n" for body in BODIES]
    lines[2] = line
    data = b"".join(lines)
    path = tmp_path / name
    path.write_bytes(gzip.compress(data, 1) if name.endswith(".gz") else data)
    assert numbers(path) == (without(2), {"read": 149, f"bad_{reason}": 1})
    with pytest.raises(WrongUse) as failure:
        list(rows.iter_records(path, records.SolvedProgramProblem))
    assert f"{path}:3: " in str(failure.value)
    assert says in str(failure.value)
    assert "bad_rows" in str(failure.value)


def test_a_line_of_just_the_limit_is_read_and_blank_lines_are_passed_over(tmp_path: pathlib.Path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n\n  \r\n{"a": 22}\n{"a": 3}')
    counts = collections.Counter[str]()
    read = rows.iter_rows(path, bad_rows=rows.BadRows(action="skip", max_row_bytes=8), counts=counts)
    assert [(row.where.rpartition(":")[2], row.fields["a"]) for row in read] == [("1", 1), ("5", 3)]
    assert counts == {"read": 2, "bad_too_large": 1}


def test_a_line_beyond_the_limit_is_never_in_memory(tmp_path: pathlib.Path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"y" * (64 << 20) + b'\n{"a": 1}\n')
    tracemalloc.start()
    read = list(rows.iter_rows(path, bad_rows=rows.BadRows(action="skip", max_row_bytes=1000)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [row.fields for row in read] == [{"a": 1}]
    assert peak < 8 << 20


def test_a_cut_file_of_lines_loses_its_last_row(tmp_path: pathlib.Path):
    path = write_rows(tmp_path / "rows.jsonl")
    path.write_bytes(path.read_bytes()[:-20])
    assert numbers(path) == (without(149), {"read": 149, "bad_truncated": 1})
    with pytest.raises(WrongUse, match="rows.jsonl:150: the file ends inside a row"):
        list(rows.iter_rows(path))


def test_a_cut_compressed_file_keeps_the_rows_before(tmp_path: pathlib.Path):
    path = tmp_path / "rows.jsonl.gz"
    stored = gzip.compress(b"".join(body + b"\n" for body in BODIES), 0)
    path.write_bytes(stored[: len(stored) // 2])
    read, counts = numbers(path)
    assert read == list(range(len(read)))
    assert 60 < len(read) < 90
    assert counts == {"read": len(read), "bad_truncated": 1}


def test_a_damaged_compressed_file_says_so(tmp_path: pathlib.Path):
    path = write_rows(tmp_path / "rows.jsonl.gz")
    data = bytearray(path.read_bytes())
    data[-8] ^= 1  # the checksum of the content
    path.write_bytes(data)
    assert numbers(path) == (without(), {"read": 150, "bad_checksum": 1})


def damage(path: pathlib.Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_a_damaged_tfrecord_is_alone_in_being_lost(tmp_path: pathlib.Path):
    path = write_rows(tmp_path / "rows.tfrecord")
    place = sum(len(body) + 16 for body in BODIES[:4])
    damage(path, place + 40)
    assert numbers(path) == (without(4), {"read": 149, "bad_checksum": 1})
    with pytest.raises(WrongUse, match="rows.tfrecord#5: the record does not agree with its checksum"):
        list(rows.iter_rows(path))


def test_a_tfrecord_of_damaged_length_costs_the_rest_of_its_file_only(tmp_path: pathlib.Path):
    first, second = tmp_path / "a.tfrecord", tmp_path / "b.tfrecord"
    first.write_bytes(b"".join(map(tfrecord, BODIES[:10])))
    second.write_bytes(b"".join(map(tfrecord, BODIES[10:])))
    damage(first, sum(len(body) + 16 for body in BODIES[:4]))
    read, counts = numbers(tmp_path / "*.tfrecord")
    assert read == without(*range(4, 10))
    assert counts == {"read": 144, "bad_checksum": 1}


@pytest.mark.parametrize("cut", [3, 12, 40])
def test_a_cut_tfrecord_file_loses_its_last_record(cut: int, tmp_path: pathlib.Path):
    path = write_rows(tmp_path / "rows.tfrecord")
    path.write_bytes(path.read_bytes()[: sum(len(body) + 16 for body in BODIES[:149]) + cut])
    assert numbers(path) == (without(149), {"read": 149, "bad_truncated": 1})


def test_records_that_are_no_rows_are_alone_in_being_lost(tmp_path: pathlib.Path):
    latin = example({"id": "p"}).replace(b"p", b"\xff")
    bad = [b"[1]", b"\n\xff\xff", b"\xc3(", latin, b'{"a": "' + b"y" * (4 << 20) + b'"}']
    reasons = {"bad_json": 1, "bad_example": 1, "bad_utf8": 2, "bad_too_large": 1}
    bodies = [BODIES[0], *bad, *BODIES[1:]]
    (tmp_path / "a.tfrecord").write_bytes(b"".join(map(tfrecord, bodies)))
    write_array_records(tmp_path / "a.array_record", bodies)
    for name in ("a.tfrecord", "a.array_record"):
        assert numbers(tmp_path / name) == (without(), {"read": 150} | reasons)


def test_a_damaged_array_record_is_alone_in_being_lost(tmp_path: pathlib.Path):
    path = tmp_path / "rows.array_record"
    write_array_records(path, BODIES)
    whole = path.read_bytes()
    lost = []
    for position in (300, 4_000):
        path.write_bytes(whole)
        damage(path, position)
        read, counts = numbers(path)
        assert counts == {"read": 149, "bad_checksum": 1}
        lost += set(without()) - set(read)
        with pytest.raises(WrongUse, match=f"rows.array_record#{lost[-1] + 1}: the record is damaged"):
            list(rows.iter_rows(path))
    assert lost[0] < lost[1]


@pytest.mark.parametrize("keep", [0, 10, 1000, -10])
@pytest.mark.parametrize("name", ["rows.array_record", "rows.parquet"])
def test_a_cut_file_with_its_index_at_the_end_is_said_to_be_lost(
    name: str, keep: int, tmp_path: pathlib.Path
):
    path = write_rows(tmp_path / name)
    path.write_bytes(path.read_bytes()[:keep])
    assert numbers(path) == ([], {"bad_truncated": 1})
    with pytest.raises(WrongUse, match=f"{name}: cut off"):
        list(rows.iter_rows(path))


def test_a_damaged_row_group_is_alone_in_being_lost(tmp_path: pathlib.Path):
    path = write_rows(tmp_path / "rows.parquet")
    group = pyarrow.parquet.ParquetFile(path).metadata.row_group(1)
    damage(path, group.column(0).data_page_offset + 60)
    assert numbers(path) == (without(*range(40, 80)), {"read": 110, "bad_checksum": 40})
    with pytest.raises(WrongUse, match="rows.parquet#41: row group 1 is damaged, rows 41 to 80 are lost"):
        list(rows.iter_rows(path))


def test_a_parquet_row_too_large_or_not_utf8_is_alone_in_being_lost(tmp_path: pathlib.Path):
    path = tmp_path / "a.parquet"
    values = pyarrow.array([b"0", b"\xff", b"y" * 5000, b"3"])
    pyarrow.parquet.write_table(pyarrow.table({"a": values}), path)
    counts = collections.Counter[str]()
    read = rows.iter_rows(path, bad_rows=rows.BadRows(action="skip", max_row_bytes=1000), counts=counts)
    assert [row.fields["a"] for row in read] == ["0", "3"]
    assert counts == {"read": 2, "bad_utf8": 1, "bad_too_large": 1}


def test_ten_warnings_of_a_reason_then_a_number(caplog: pytest.LogCaptureFixture, tmp_path: pathlib.Path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"[1]\n" * 13 + b'{"a": 1}\n')
    with caplog.at_level(logging.WARNING, "promptcot_jax"):
        assert len(list(rows.iter_rows(path, bad_rows=SKIP))) == 1
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 11
    assert messages[9].startswith(f"left out: {path}:10: ")
    assert messages[10] == "left out: 3 more with the fault 'json'"


def test_shards_come_in_order_and_a_missing_one_is_refused(tmp_path: pathlib.Path):
    names = [f"rows-{i:05d}-of-00011.parquet" for i in range(11)]
    for i, name in enumerate(names):
        pyarrow.parquet.write_table(pyarrow.table({"a": [i]}), tmp_path / name)
    assert [row.fields["a"] for row in rows.iter_rows(tmp_path / "rows.parquet")] == list(range(11))
    (tmp_path / names[4]).unlink()
    with pytest.raises(WrongUse, match=r"rows.parquet: the set of shards is incomplete \(10 found\)"):
        list(rows.iter_rows(tmp_path / "rows.parquet"))


def test_a_pattern_takes_files_of_all_formats_by_name(tmp_path: pathlib.Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for directory in ("y", "x"):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "b.jsonl").write_text(f'{{"a": "{directory}b"}}\n')
        pyarrow.parquet.write_table(
            pyarrow.table({"a": [f"{directory}a"]}), tmp_path / directory / "a.parquet"
        )
    for pattern in ("[xy]/?.*", tmp_path / "*" / "?.*"):
        assert [row.fields["a"] for row in rows.iter_rows(pattern)] == ["xa", "xb", "ya", "yb"]


def test_what_is_not_there_or_not_understood_is_named(tmp_path: pathlib.Path):
    (tmp_path / "a.csv").touch()
    refused = {
        "nothing.jsonl": "nothing.jsonl: no such file",
        "no*.jsonl": "no file matches",
        "a.csv": "a.csv: the extension names no format",
        ".": "is a directory",
    }
    for name, says in refused.items():
        with pytest.raises(WrongUse, match=says):
            list(rows.iter_rows(tmp_path / name, bad_rows=SKIP))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet", "rows.tfrecord", "rows.array_record"])
def test_files_of_a_bucket_read_like_local_ones(
    name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    """Through the streams of TensorFlow, which are what opens `gs://`; the bucket itself is a directory."""
    monkeypatch.setattr("etils.epath.gpath._is_tf_installed", lambda: False)  # or it asks Google
    import tensorflow as tf

    write_rows(tmp_path / name)

    def local(path: Any) -> str:
        return str(path).replace("gs://bucket", str(tmp_path))

    def opened(original: Any, path: Any, mode: str) -> Any:
        return tf.io.gfile.GFile(local(path), mode)

    with epath.testing.mock_epath(
        open=opened,
        exists=lambda original, path: original(local(path)),
        isdir=lambda original, path: original(local(path)),
        listdir=lambda original, path: original(local(path)),
        glob=lambda original, path: [f.replace(str(tmp_path), "gs://bucket") for f in original(local(path))],
        copy=lambda original, path, to, overwrite: original(local(path), to, overwrite=overwrite),
    ):
        for path in (f"gs://bucket/{name}", f"gs://bucket/*.{name.partition('.')[2]}"):
            assert numbers(path) == (without(), {"read": 150})
