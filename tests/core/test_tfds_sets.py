"""Where prepared TFDS data sets lie: from directories laid out as TFDS does it, and never with TFDS."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from promptcot_jax.core import manifest, tfds_sets
from promptcot_jax.core.errors import WrongUse


def lay_out(directory: pathlib.Path, name: str = "sums") -> pathlib.Path:
    """A data set of two splits with files of other bytes each."""
    directory.mkdir(parents=True)
    splits = [{"name": "train", "shardLengths": ["3", "2"]}, {"name": "train-easy", "shardLengths": ["1"]}]
    info = {"name": name, "fileFormat": "array_record", "splits": splits}
    (directory / "dataset_info.json").write_text(json.dumps(info))
    (directory / "features.json").write_text("{}")
    for file in ("train.array_record-00000-of-00002", "train.array_record-00001-of-00002"):
        (directory / f"{name}-{file}").write_text(file)
    (directory / f"{name}-train-easy.array_record-00000-of-00001").write_text("easy")
    return directory


@pytest.fixture
def data_dir(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))
    return tmp_path / "sets"


def version_of(path: str) -> str:
    return tfds_sets.find(path).directory.name


def refusal(path: str) -> str:
    with pytest.raises(WrongUse) as failure:
        tfds_sets.find(path)
    assert str(failure.value).startswith(f"{path}: ")
    return str(failure.value)


def test_the_highest_version_wins_but_for_one_that_is_named(data_dir: pathlib.Path):
    for version in ("1.0.0", "1.9.0", "1.10.0", "2.0.0"):
        lay_out(data_dir / "sums" / version)
    (data_dir / "sums" / "3.0.0").mkdir()  # never finished
    lay_out(data_dir / "sums" / "incomplete.4.0.0")
    assert version_of("tfds:sums") == version_of("tfds:sums:train") == "2.0.0"
    assert version_of("tfds:sums:1.*.*") == "1.10.0"
    assert version_of("tfds:sums:1.9.0:train[:10%]") == "1.9.0"
    assert "no version 1.1.0 in" in refusal("tfds:sums:1.1.0")
    assert "it has 1.0.0, 1.9.0, 1.10.0, 2.0.0" in refusal("tfds:sums:1.1.0")


def test_a_config_is_named_or_the_default_that_was_noted(data_dir: pathlib.Path):
    for config in ("easy.1", "hard-2"):
        lay_out(data_dir / "sums" / config / "1.0.0")
    said = refusal("tfds:sums")
    assert "no config is given" in said
    assert "its configs are easy.1, hard-2" in said
    (data_dir / "sums" / ".config").mkdir()
    (data_dir / "sums" / ".config" / "metadata.json").write_text('{"default_config_name": "hard-2"}')
    assert tfds_sets.find("tfds:sums:train").directory.parent.name == "hard-2"
    assert tfds_sets.find("tfds:sums/easy.1:1.0.0:train").directory.parent.name == "easy.1"
    assert "no config 'odd'" in refusal("tfds:sums/odd")


def test_the_files_are_those_of_the_splits_named(data_dir: pathlib.Path):
    lay_out(data_dir / "sums" / "1.0.0")

    def names(split: str) -> list[str]:
        return [file.name.partition(".")[0] for file in tfds_sets.find(f"tfds:sums:{split}").files]

    assert names("train") == ["sums-train"] * 2
    assert names("train-easy[:1]") == ["sums-train-easy"]
    assert (
        names("train[1:] + train-easy+train[:1]") == names("all") == ["sums-train"] * 2 + ["sums-train-easy"]
    )
    for split in ("test", "train[:1", "train+", "trai"):
        assert "there are train, train-easy" in refusal(f"tfds:sums:{split}")


def test_what_is_not_prepared_says_where_it_was_looked_for_and_what_to_do(data_dir: pathlib.Path):
    said = refusal("tfds:gsm8k:test")
    for part in (str(data_dir), "'tfds build gsm8k'", "tfds.builder('gsm8k')", "--tfds_data_dir"):
        assert part in said


@pytest.mark.parametrize("path", ["tfds:", "tfds:a b", "tfds:a:", "tfds:a/b/c", "tfds:a::train"])
def test_another_form_is_refused(path: str):
    assert "tfds:NAME[/CONFIG][:VERSION][:SPLIT]" in refusal(path)


def test_a_missing_or_damaged_file_is_named(data_dir: pathlib.Path):
    directory = lay_out(data_dir / "sums" / "1.0.0")
    (directory / "sums-train-easy.array_record-00000-of-00001").unlink()
    assert version_of("tfds:sums:train") == "1.0.0"
    assert "lacks sums-train-easy.array_record-00000-of-00001" in refusal("tfds:sums:all")
    (directory / "features.json").unlink()
    assert "lacks features.json" in refusal("tfds:sums:train")
    (directory / "dataset_info.json").write_text('{"splits": [{}]}')
    assert "dataset_info.json does not describe it" in refusal("tfds:sums:train")
    (directory / "dataset_info.json").write_text('{"splits": [')
    with pytest.raises(WrongUse, match=r"dataset_info.json: not a JSON document"):
        tfds_sets.find("tfds:sums:train")


def test_a_digest_follows_the_content_and_the_part_not_the_place(
    data_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    directory = lay_out(data_dir / "sums" / "1.0.0")
    digest = manifest.file_digest("tfds:sums:train")
    assert digest == manifest.file_digest("tfds:sums") == manifest.file_digest("tfds:sums:1.0.0:train")
    others = [
        manifest.file_digest(f"tfds:sums:{split}") for split in ("train[:1]", "train[1:]", "train-easy")
    ]
    assert len({digest, *others}) == 4
    (directory / "sums-train-easy.array_record-00000-of-00001").write_text("other")
    data_dir.rename(data_dir.parent / "moved")
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir.parent / "moved"))
    assert manifest.file_digest("tfds:sums:train") == digest
    assert manifest.file_digest("tfds:sums:train-easy") != others[2]
    moved = data_dir.parent / "moved" / "sums" / "1.0.0"
    for file in ("sums-train.array_record-00001-of-00002", "features.json"):
        before = manifest.file_digest("tfds:sums:train")
        (moved / file).write_text("changed")
        assert manifest.file_digest("tfds:sums:train") != before


def test_finding_and_digesting_import_no_tensorflow(data_dir: pathlib.Path):
    lay_out(data_dir / "sums" / "1.0.0")
    code = (
        "import sys; from promptcot_jax.core import manifest; from promptcot_jax.data import rows; "
        "manifest.file_digest('tfds:sums'); "
        "found = {'tensorflow', 'tensorflow_datasets'} & set(sys.modules); "
        "sys.exit(str(found) if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_the_variable_it_is_the_directory_of_tfds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert os.fspath(tfds_sets.data_dir()) == "/home/somebody/tensorflow_datasets"
