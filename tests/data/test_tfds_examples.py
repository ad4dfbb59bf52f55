"""Rows of prepared TFDS data sets: the records they were made from, in order, and every fault named."""

import collections
import pathlib
from typing import Any

import numpy as np
import pytest

from promptcot_jax.core import jsonl, records, tfds_sets
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import rows
from tests.data import prepared_sets
from tests.data.prepared_sets import F

FORMATS = ("tfrecord", "array_record")
SHARED: dict[str, Any] = {"family": "f", "style": "plain", "rationale": "z"}
TESTS = (records.StdioTest("1", "2"), records.StdioTest("", "é"))
TRIPLES = [
    records.ProgramCorpusRow(id="p", concepts=("a",), problem="x\n", tests=TESTS, solution="s", **SHARED),
    records.Triple(id="u", concepts=(), rationale="z", problem="x"),
    records.MathCorpusRow(
        id="m", concepts=("a", "é"), level="3", problem="[1]", answer="7", solution="y", **SHARED
    ),
    records.Triple(id="v", domain="code", concepts=("a",), level="2", rationale="z", problem="x"),
]  # fmt: skip
PROMPTS = [
    records.VerifiedProgramPrompt(id="p", problem="Echo.", tests=TESTS, agreement=1.0),
    records.VerifiedMathPrompt(id="m", concepts=("a",), problem="1+1?", answer="2", agreement=0.75),
    records.VerifiedProgramPrompt(
        id="q", concepts=("a", "b"), problem="Echo.", tests=TESTS[:1], agreement=1.0
    ),
]
TRACES = [records.SftTrace(id=f"t{i}", domain="code", prompt=f"p{i}", completion="c\n\n") for i in range(5)]
NUMBERS = [{"text": f"{i}"} for i in range(25)]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Record files, the same as data sets of both file formats, and 25 numbers in three shards."""
    workdir = tmp_path_factory.mktemp("run")
    jsonl.write_records(workdir / "triples.jsonl", TRIPLES)
    jsonl.write_records(workdir / "verified_prompts.jsonl", PROMPTS)
    jsonl.write_records(workdir / "sft_traces.jsonl", TRACES)
    for file_format in FORMATS:
        data_dir = workdir / file_format
        for config in ("triples", "verified_prompts", "sft_traces"):
            prepared_sets.prepare_records(data_dir, workdir, config, file_format)
        prepared_sets.prepare(
            data_dir,
            "numbers",
            prepared_sets.texts("text"),
            3,
            splits={"train": NUMBERS, "test": NUMBERS[:3]},
            file_format=file_format,
        )
    return workdir


@pytest.fixture(params=FORMATS)
def data_dir(request: Any, workdir: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv("TFDS_DATA_DIR", str(workdir / request.param))
    return workdir / request.param


CORPUS_ROW = records.MathCorpusRow | records.ProgramCorpusRow | records.Triple
PROMPT = records.AnyPrompt


@pytest.mark.parametrize(
    ("config", "record_type"),
    [
        ("triples", CORPUS_ROW),
        ("triples", records.Triple),
        ("verified_prompts", PROMPT),
        ("sft_traces", records.SftTrace),
    ],
)
def test_what_the_builder_wrote_comes_back_as_the_records(
    config: str, record_type: Any, data_dir: pathlib.Path, workdir: pathlib.Path
):
    expected = list(rows.iter_records(workdir / f"{config}.jsonl", record_type))
    counts = collections.Counter[str]()
    assert list(rows.iter_records(f"tfds:promptcot/{config}", record_type, counts=counts)) == expected
    assert counts == {"read": len(expected)}


def test_what_a_record_does_not_have_is_missing_and_not_empty(data_dir: pathlib.Path, workdir: pathlib.Path):
    """Else every row would be a mathematics problem with an empty answer."""
    solved = records.SolvedMathProblem | records.SolvedProgramProblem
    skip = rows.BadRows(action="skip")
    found = []
    for path in (workdir / "triples.jsonl", "tfds:promptcot:train"):
        counts = collections.Counter[str]()
        found.append((list(rows.iter_records(path, solved, bad_rows=skip, counts=counts)), counts))
    assert found[0] == found[1]
    assert [type(row) for row in found[1][0]] == [records.SolvedProgramProblem, records.SolvedMathProblem]


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("", range(25)),
        (":1.0.0", range(25)),
        (":train[:20%]", range(5)),
        (":train[-3:]", range(22, 25)),
        (":1.*.*:train[5:20]", range(5, 20)),
        (":train[20:]+test", [*range(20, 25), 0, 1, 2]),
        (":all", [*range(25), 0, 1, 2]),
        (":train[1shard]", range(8, 17)),
    ],
)
def test_splits_are_those_of_tfds_in_the_order_of_the_examples(
    split: str, expected: Any, data_dir: pathlib.Path
):
    read = list(rows.iter_rows(f"tfds:numbers{split}"))
    assert [int(row.fields["text"]) for row in read] == list(expected)
    assert [row.where for row in read] == [f"tfds:numbers{split}#{i + 1}" for i in range(len(read))]


@pytest.mark.parametrize(
    ("split", "says"),
    [
        ("test[:99]", r"Requested slice \[:99\] .*; there are .*train \(25\)"),
        ("test[:x]", r"does not take the split 'test\[:x\]'"),
        ("all[:2]", r"there is no split 'all\[:2\]'"),
        ("valid", "there is no split 'valid'; there are "),
    ],
)
def test_a_split_that_is_not_there_is_refused(split: str, says: str, data_dir: pathlib.Path):
    with pytest.raises(WrongUse, match=says):
        list(rows.iter_rows(f"tfds:numbers:{split}"))


def test_every_kind_of_feature_becomes_plain_values(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    features = {
        "turns": F.Sequence({"role": F.Text(), "ids": F.Sequence(F.Scalar(np.int64))}),
        "parts": F.Dataset({"text": F.Text()}),
        "meta": {"level": F.Scalar(np.int32), "words": F.Sequence(F.Sequence(F.Text()))},
        "label": F.ClassLabel(names=["u", "v"]),
        "is_new": F.Scalar(np.bool_),
        "share": F.Scalar(np.float32),
        "point": F.Tensor(shape=(2,), dtype=np.float32),
    }
    example = {
        "turns": [{"role": "é", "ids": [1, 2]}, {"role": "", "ids": []}],
        "parts": [{"text": "a"}, {"text": "b"}],
        "meta": {"level": 3, "words": [["a"], [], ["b", "c"]]},
        "label": 1,
        "is_new": True,
        "share": 0.5,
        "point": [1.0, 2.0],
    }
    empty = example | {"turns": [], "meta": {"level": 0, "words": []}, "is_new": False}
    prepared_sets.prepare(tmp_path, "kinds", features, splits={"train": [example, empty]})
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    found = [row.fields for row in rows.iter_rows("tfds:kinds")]
    assert found == [example, empty]
    assert [type(found[0][name]) for name in ("label", "is_new", "share")] == [int, bool, float]


def test_a_bad_record_is_named_or_alone_in_being_lost(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    examples = [{"text": text} for text in (b"0", b"\xff", b"2", b"y" * 500, b"4", b"5")]
    directory = prepared_sets.prepare(
        tmp_path, "bad", prepared_sets.texts("text"), 2, splits={"train": examples}, file_format="tfrecord"
    )
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(WrongUse, match=r"^tfds:bad:train#2: a feature is not UTF-8"):
        list(rows.iter_rows("tfds:bad:train"))
    skip = rows.BadRows(action="skip", max_row_bytes=400)

    def read(split: str) -> tuple[list[str], dict[str, int]]:
        counts = collections.Counter[str]()
        found = rows.iter_rows(f"tfds:bad:{split}", bad_rows=skip, counts=counts)
        return [row.fields["text"] for row in found], dict(counts)

    assert read("train") == (["0", "2", "4", "5"], {"read": 4, "bad_utf8": 1, "bad_too_large": 1})
    assert read("train[2:]") == (["2", "4", "5"], {"read": 3, "bad_too_large": 1})
    shard = directory / "bad-train.tfrecord-00000-of-00002"
    data = bytearray(shard.read_bytes())
    data[0] ^= 1  # the length of its first record
    shard.write_bytes(data)
    counts = {"read": 2, "bad_checksum": 1, "bad_truncated": 2, "bad_too_large": 1}
    assert read("train") == (["4", "5"], counts)
    assert read("train[1:4]") == ([], {"bad_truncated": 2, "bad_too_large": 1})
    (directory / "features.json").write_text("{")
    with pytest.raises(WrongUse, match=r"TFDS cannot read the description of the data set in .*bad/1.0.0"):
        read("train")


def test_a_file_format_that_is_not_read_is_refused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    features = prepared_sets.texts("text")
    prepared_sets.prepare(tmp_path, "other", features, splits={"train": NUMBERS}, file_format="parquet")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(WrongUse, match="its files are 'parquet'; .* tfrecord, array_record"):
        list(rows.iter_rows("tfds:other"))
    assert tfds_sets.find("tfds:other").file_format == "parquet"
