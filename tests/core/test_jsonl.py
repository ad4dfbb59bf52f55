"""Records on disk: strict reading, atomic writing, shards."""

import json
import os

import pytest

from promptcot_jax.core import jsonl, records
from promptcot_jax.core.errors import WrongUse

ROW = {"concepts": ["a", "b"], "rationale": "z", "problem": "x", "answer": "7", "level": 3}


def write_lines(path, *lines):
    path.write_bytes(b"".join(line if isinstance(line, bytes) else (line + "\n").encode() for line in lines))
    return path


def test_a_users_row_reads_as_a_triple(tmp_path):
    named = json.dumps(ROW | {"id": "mine", "extra": {}})
    path = write_lines(tmp_path / "t.jsonl", json.dumps(ROW), "", named)
    first, second = jsonl.read_records(path, records.Triple)
    # A missing id is the place; the blank line is passed over.
    assert (first.id, second.id) == ("t.jsonl:1", "mine")
    assert (first.concepts, first.level, first.domain) == (("a", "b"), "3", "math")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{not json", "t.jsonl:2: not a JSON object"),
        (b"\xff\xfe\n", "t.jsonl:2: not a JSON object in UTF-8"),
        ("[1]", "t.jsonl:2: expected a JSON object, got list"),
        (json.dumps({"concepts": ["a"], "rationale": "z"}), "field 'problem' of Triple is missing"),
        (json.dumps(ROW | {"concepts": "a"}), "t.jsonl:2: field 'concepts' must be a list, got str"),
        (json.dumps(ROW | {"concepts": ["a", None]}), "field 'concepts'[1] must be str, got NoneType"),
        (json.dumps(ROW | {"domain": "art"}), "field 'domain' must be one of ['math', 'code'], got 'art'"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, says):
    path = write_lines(tmp_path / "t.jsonl", json.dumps(ROW), line)
    with pytest.raises(WrongUse) as failure:
        jsonl.read_records(path, records.Triple)
    assert says in str(failure.value)


def test_a_union_takes_the_type_that_fits(tmp_path):
    program = {"concepts": ["a"], "problem": "x", "solution": "s", "tests": [{"input": "1", "output": "2"}]}
    math = {"concepts": ["a"], "problem": "x", "solution": "s", "answer": "7"}
    path = write_lines(tmp_path / "t.jsonl", json.dumps(program), json.dumps(math))
    rows = jsonl.read_records(path, records.SolvedMathProblem | records.SolvedProgramProblem)
    assert [type(row) for row in rows] == [records.SolvedProgramProblem, records.SolvedMathProblem]
    assert rows[0].tests == (records.StdioTest(input="1", output="2"),)


def test_a_stream_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "rows.jsonl"
    with jsonl.atomic_stream(path) as file:
        file.write(b"one\n")
        assert not path.exists()
        file.write(b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"
    (tmp_path / "deep" / "rows.jsonl.part").write_bytes(b"of a killed writer, longer than what follows\n")

    def fail():
        with jsonl.atomic_stream(path) as file:
            file.write(b"three\n")
            raise KeyError

    pytest.raises(KeyError, fail)
    assert path.read_bytes() == b"one\ntwo\n"
    assert os.listdir(path.parent) == ["rows.jsonl"]
    with jsonl.atomic_stream(path) as file:
        file.write(b"four\n")
    assert path.read_bytes() == b"four\n"


def test_shards_read_as_one_and_replace_what_was_there(tmp_path):
    path = tmp_path / "rows.jsonl"
    triples = [records.Triple(id=str(i), concepts=("c",), rationale="é", problem="x") for i in range(5)]
    jsonl.write_records(path, triples, rows_per_shard=2)
    assert sorted(os.listdir(tmp_path)) == [f"rows-0000{i}-of-00003.jsonl" for i in range(3)]
    assert jsonl.read_records(path, records.Triple) == triples
    (tmp_path / "rows-00001-of-00003.jsonl").unlink()
    with pytest.raises(WrongUse, match="set of shards is incomplete"):
        jsonl.read_records(path, records.Triple)
    jsonl.write_records(path, triples[:1])
    assert os.listdir(tmp_path) == ["rows.jsonl"]


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_a_stream_ends_in_the_files_that_a_list_ends_in(count: int, tmp_path):
    rows = [{"a": i} for i in range(count)]
    for directory in (tmp_path / "list", tmp_path / "stream"):
        directory.mkdir()
        (directory / "rows-00000-of-00009.jsonl").touch()  # of an earlier time
    (tmp_path / "stream" / "rows.00007.part").touch()  # of an attempt that was killed
    jsonl.write_records(tmp_path / "list" / "rows.jsonl", rows, rows_per_shard=2)
    assert jsonl.write_records(tmp_path / "stream" / "rows.jsonl", iter(rows), rows_per_shard=2) == count
    written = [{f.name: f.read_bytes() for f in (tmp_path / d).iterdir()} for d in ("list", "stream")]
    assert written[0] == written[1]


def test_a_stream_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "rows.jsonl"
    jsonl.write_records(path, [{"a": 1}])
    with pytest.raises(ValueError):
        jsonl.write_records(path, ({"a": 1 / (3 - i) if i < 3 else float("nan")} for i in range(5)), 2)
    assert os.listdir(tmp_path) == ["rows.jsonl"]
    assert path.read_text() == '{"a": 1}\n'


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WrongUse, match="nothing.jsonl: no such file"):
        jsonl.read_records(tmp_path / "nothing.jsonl", records.Triple)


def test_a_failing_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    jsonl.write_records(path, [{"a": 1}])
    with pytest.raises(ValueError):
        jsonl.write_records(path, [{"a": 2}, {"a": float("nan")}])
    assert path.read_text() == '{"a": 1}\n'


def test_a_shard_that_cannot_be_written_is_what_the_error_says(tmp_path, monkeypatch):
    path, real = tmp_path / "rows.jsonl", jsonl.write_atomically

    def write(name, data):
        if "00001" in str(name):
            raise OSError("no space left")
        real(name, data)

    monkeypatch.setattr(jsonl, "write_atomically", write)
    with pytest.raises(OSError, match="no space left"):
        jsonl.write_records(path, ({"a": i} for i in range(4)), rows_per_shard=2)
    assert os.listdir(tmp_path) == []


def test_files_that_only_look_alike_stay(tmp_path):
    for name in ("rows.2.jsonl.77.part", "rows.2024.part", "x.jsonl.1.part"):
        (tmp_path / name).touch()
    jsonl.write_records(tmp_path / "rows.jsonl", [{"a": 1}])
    (tmp_path / "x[1].00003.part").touch()  # of a killed writer of the next
    jsonl.write_records(tmp_path / "x[1].jsonl", [{"a": 1}])
    assert sorted(os.listdir(tmp_path)) == [
        *("rows.2.jsonl.77.part", "rows.2024.part", "rows.jsonl"),
        *("x.jsonl.1.part", "x[1].jsonl"),
    ]
