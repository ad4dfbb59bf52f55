"""`promptcot import_data`, from files to record files and the manifest."""

import json
import pathlib

import pyarrow
import pyarrow.parquet
import pytest

from promptcot_jax.core import jsonl, manifest, records
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.run import cli, stage
from promptcot_jax.synthesis import problem_files
from promptcot_jax.verify import math_answers
from tests.data import prepared_sets

GIN = ("stages/import_data.gin",)


def perform(source: pathlib.Path, workdir: pathlib.Path, *bindings: str) -> dict[str, int]:
    """Does the stage; the manifest's counts."""
    stage.run_stage("import_data", GIN, (f"SOURCE='{source}'", *bindings), str(workdir))
    return dict(manifest.read(workdir)["import_data"].counts)


def test_prompts_of_both_domains_go_into_shards(tmp_path: pathlib.Path):
    tests = [{"input": "1", "output": "2"}]
    made = [
        {"prompt": f"x{i}", "answer": str(i) if i % 3 else None, "tests": None if i % 3 else tests}
        for i in range(7)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(made), tmp_path / "set.parquet")
    counts = perform(tmp_path / "*.parquet", tmp_path / "run", "ROWS_PER_SHARD=3")
    assert counts == {"read": 7, "math": 4, "code": 3}
    path = tmp_path / "run" / "verified_prompts.jsonl"
    assert not path.exists()
    assert (path.parent / "verified_prompts-00002-of-00003.jsonl").exists()
    read = jsonl.read_records(path, records.MathPrompt | records.ProgramPrompt)
    assert [record.problem for record in read] == [f"x{i}" for i in range(7)]
    assert isinstance(read[3], records.ProgramPrompt)


def test_bad_rows_end_it_and_nothing_is_left_or_are_counted(tmp_path: pathlib.Path):
    source = tmp_path / "set.jsonl"
    trace = json.dumps({"prompt": "x", "completion": r"\boxed{1}"})
    two_turns = json.dumps({"prompt": "<|im_start|>user\nx", "completion": r"\boxed{1}"})
    source.write_text(f"{trace}\n{two_turns}\n[1]\n{trace}\n")
    workdir = tmp_path / "run"
    with pytest.raises(WrongUse, match=r"set.jsonl:2: the prompt is framed .*bad_rows 'skip'"):
        perform(source, workdir, "ROWS_PER_SHARD=1")
    assert not list(workdir.glob("sft_traces*"))
    counts = perform(source, workdir, "BAD_ROWS='skip'")
    assert counts == {"read": 2, "bad_field": 1, "bad_json": 1, "math": 2}
    traces = jsonl.read_records(workdir / "sft_traces.jsonl", records.SftTrace)
    assert [trace.id for trace in traces] == ["set.jsonl:1", "set.jsonl:4"]


def test_imported_concepts_are_what_synthesize_reads(tmp_path: pathlib.Path):
    (tmp_path / "set.jsonl").write_text('{"concepts": "[\'a\', \'b\']"}\n{"concepts": ["c"]}\n')
    perform(tmp_path / "set.jsonl", tmp_path / "run")
    read = problem_files.read_concept_sets(tmp_path / "run" / "concept_sets.jsonl")
    assert [concept_set.concepts for concept_set in read] == [("a", "b"), ("c",)]


def test_an_input_that_changed_is_noticed(tmp_path: pathlib.Path):
    source = tmp_path / "set-00000-of-00001.jsonl"
    source.write_text('{"concepts": ["c"]}\n')
    perform(tmp_path / "set.jsonl", tmp_path / "run")
    source.write_text('{"concepts": ["d"]}\n')
    with pytest.raises(WrongUse, match="the content of .*set.jsonl has changed"):
        perform(tmp_path / "set.jsonl", tmp_path / "run")


def test_files_without_rows_and_wrong_settings_are_refused(tmp_path: pathlib.Path):
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(WrongUse, match="there is no row in it"):
        perform(tmp_path / "empty.jsonl", tmp_path / "run")
    with pytest.raises(WrongUse, match="no such file"):
        perform(tmp_path / "nothing.jsonl", tmp_path / "run")
    with pytest.raises(WrongUse, match="columns has no 'text'"):
        perform(tmp_path / "empty.jsonl", tmp_path / "run", "COLUMNS={'text': 'x'}")


def test_a_tfds_data_set_is_read_where_the_flag_says(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
    examples = [{"question": f"{i}+1?", "answer": f"{i + 1}"} for i in range(10)]
    features = prepared_sets.texts("question", "answer")
    prepared_sets.prepare(
        tmp_path / "sets", "math_dataset", features, splits={"train": examples}, config="sums"
    )
    command = ["import_data", "--gin_file=stages/import_data.gin", f"--workdir={tmp_path / 'run'}"]
    command.append("--gin.SOURCE='tfds:math_dataset/sums:train[:30%]'")
    assert cli.main(command) == 2
    assert f"'math_dataset' is not prepared in {tmp_path / 'elsewhere'}" in capsys.readouterr().err
    assert cli.main([*command, f"--tfds_data_dir={tmp_path / 'sets'}"]) == 0
    read = jsonl.read_records(tmp_path / "run" / "verified_prompts.jsonl", records.MathPrompt)
    assert [(prompt.problem, prompt.answer) for prompt in read] == [
        ("0+1?", "1"),
        ("1+1?", "2"),
        ("2+1?", "3"),
    ]
    entry = manifest.read(tmp_path / "run")["import_data"]
    assert entry.counts == {"read": 3, "math": 3}
    assert entry.inputs == {
        "tfds:math_dataset/sums:train[:30%]": manifest.file_digest("tfds:math_dataset/sums:train[:30%]")
    }


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_gsm8k_as_tfds_has_it_becomes_prompts_that_are_graded(
    file_format: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    features = prepared_sets.texts("question", "answer", "annotation", "short_answer")
    example = dict.fromkeys(features, "x") | {"answer": "It is <<500*2=1000>>1000.\n#### 1,000"}
    prepared_sets.prepare(tmp_path, "gsm8k", features, splits={"train": [example]}, file_format=file_format)
    stage.run_stage("import_data", GIN, ("SOURCE='tfds:gsm8k'",), str(tmp_path / "run"))
    (prompt,) = jsonl.read_records(tmp_path / "run" / "verified_prompts.jsonl", records.MathPrompt)
    assert (prompt.id, prompt.answer) == ("tfds:gsm8k#1", "1,000")
    assert math_answers.grade_math(prompt.answer, "So \\boxed{1000}.")
    bindings = ("SOURCE='tfds:gsm8k'", "KIND='traces'")
    stage.run_stage("import_data", GIN, bindings, str(tmp_path / "traces"))
    (trace,) = jsonl.read_records(tmp_path / "traces" / "sft_traces.jsonl", records.SftTrace)
    assert trace.completion == "It is 1000.\n\\boxed{1,000}"
