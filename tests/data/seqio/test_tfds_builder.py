"""A run's records as a TFDS data set, built, read back and read without this package."""

import dataclasses
import os
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from promptcot_jax.core import jsonl, records
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data.seqio import tfds_builder

SHARED: dict[str, Any] = {"family": "f", "style": "plain", "rationale": "z", "solution": "y"}
MATH = records.MathCorpusRow(id="m", concepts=("a", "é"), level="3", problem="x", answer="7", **SHARED)
PROGRAM = records.ProgramCorpusRow(
    id="p",
    concepts=("a",),
    level="",
    problem="x\n",
    tests=(records.StdioTest("1", "2"), records.StdioTest("", "é")),
    **SHARED,
)
USERS = records.Triple(id="u", concepts=(), rationale="z", problem="x")
PROBLEM = records.Problem(
    id="1", domain="code", concepts=("a",), level="", rationale="z", problem="x", log_p_z=-0.1, log_p_x=-2e-9,
    model_digest="d", round_index=-1, seed=2**40, sample=3,
)  # fmt: skip


def built(
    workdir: pathlib.Path, data_dir: pathlib.Path, config: str, file_format: str
) -> tfds.core.DatasetBuilder:
    """The data set, read again from its directory alone."""
    builder = tfds_builder.Promptcot(config=config, data_dir=str(data_dir), file_format=file_format)
    download_config = tfds.download.DownloadConfig(manual_dir=str(workdir))
    builder.download_and_prepare(download_config=download_config)
    return tfds.builder_from_directory(str(builder.data_path))


def plain(value: Any) -> Any:
    """What TFDS gives, as lists and texts."""
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [plain(part) for part in value]
    if isinstance(value, bytes):
        return value.decode()
    return plain(value.tolist()) if isinstance(value, np.ndarray | np.generic) else value


def examples(builder: tfds.core.DatasetBuilder, file_format: str, split: str) -> list[dict[str, Any]]:
    if file_format == "array_record":
        source = builder.as_data_source(split=split)
        return [plain(source[i]) for i in range(len(source))]
    return [plain(example) for example in tfds.as_numpy(builder.as_dataset(split=split))]


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_triples_of_all_kinds_come_back_in_order(file_format: str, tmp_path: pathlib.Path):
    jsonl.write_records(tmp_path / "triples.jsonl", [PROGRAM, USERS, MATH], rows_per_shard=2)
    jsonl.write_records(tmp_path / "triples_novel.jsonl", [MATH])
    builder = built(tmp_path, tmp_path / "out", "triples", file_format)
    assert set(builder.info.splits) == {"train", "novel"}
    program, users, math = examples(builder, file_format, "train")
    assert examples(builder, file_format, "novel") == [math]
    assert math == {
        "id": "m", "domain": "math", "family": "f", "style": "plain", "concepts": ["a", "é"], "level": "3",
        "rationale": "z", "problem": "x", "answer": "7", "solution": "y",
        "tests": {"input": [], "output": []},
    }  # fmt: skip
    assert program == math | {
        "id": "p", "domain": "code", "concepts": ["a"], "level": "", "problem": "x\n", "answer": "",
        "tests": {"input": ["1", ""], "output": ["2", "é"]},
    }  # fmt: skip
    empty = {"family": "", "style": "", "answer": "", "solution": "", "concepts": [], "level": ""}
    assert users == math | empty | {"id": "u"}


def test_problems_keep_their_lineage(tmp_path: pathlib.Path):
    jsonl.write_records(tmp_path / "problems.jsonl", [PROBLEM])
    builder = built(tmp_path, tmp_path / "out", "problems", "array_record")
    (example,) = examples(builder, "array_record", "train")
    single = {"log_p_z": float(np.float32(-0.1)), "log_p_x": float(np.float32(-2e-9))}
    assert example == dataclasses.asdict(PROBLEM) | {"concepts": ["a"], "filters": []} | single


def test_a_directory_without_the_records_is_refused(tmp_path: pathlib.Path):
    with pytest.raises(WrongUse, match=r"has no records of 'problems' \(problems.jsonl\)"):
        built(tmp_path, tmp_path / "out", "problems", "tfrecord")


@pytest.mark.slow
def test_the_command_line_of_tfds_builds_it(tmp_path: pathlib.Path):
    jsonl.write_records(tmp_path / "triples.jsonl", [MATH, PROGRAM])
    # The command line imports these for other commands than `build`; they are no dependencies of ours.
    (tmp_path / "apache_beam.py").write_text("class DoFn: ...\nclass Pipeline: ...\n")
    (tmp_path / "mlcroissant.py").write_text("class Dataset: ...\n")
    command = [
        sys.executable, "-m", "tensorflow_datasets.scripts.cli.main", "build", "promptcot/triples",
        "--imports=promptcot_jax.data.seqio.tfds_builder", f"--manual_dir={tmp_path}",
        f"--data_dir={tmp_path}/out",
    ]  # fmt: skip
    package = pathlib.Path(tfds_builder.__file__).parents[3]
    environment = os.environ | {"PYTHONPATH": f"{package}:{tmp_path}"}
    subprocess.run(command, check=True, cwd=tmp_path, env=environment, capture_output=True)
    data = tfds.load("promptcot/triples", data_dir=str(tmp_path / "out"), split="train", download=False)
    assert [example["id"] for example in tfds.as_numpy(data)] == [b"m", b"p"]
    builder = tfds.builder_from_directory(str(tmp_path / "out" / "promptcot" / "triples" / "1.0.0"))
    assert builder.info.splits["train"].num_examples == 2
