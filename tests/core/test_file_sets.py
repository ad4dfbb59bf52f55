"""What files a name stands for."""

import pathlib

import pytest

from promptcot_jax.core import file_sets
from promptcot_jax.core.errors import WrongUse


@pytest.mark.parametrize("shard", ["rows-{:05d}-of-00012.jsonl.gz", "rows.jsonl.gz-{:05d}-of-00012"])
def test_shards_are_found_by_either_place_of_the_number(shard: str, tmp_path: pathlib.Path):
    for i in reversed(range(12)):
        (tmp_path / shard.format(i)).touch()
    (tmp_path / "rows-00000-of-00012.jsonl").touch()  # of another name
    files = file_sets.files_of(tmp_path / "rows.jsonl.gz")
    assert [file.name for file in files] == [shard.format(i) for i in range(12)]


def test_a_name_with_two_meanings_is_refused(tmp_path: pathlib.Path):
    for name in ("rows.jsonl", "rows-00000-of-00001.jsonl"):
        (tmp_path / name).touch()
    with pytest.raises(WrongUse, match="both a single file and shards"):
        file_sets.files_of(tmp_path / "rows.jsonl")


def test_a_file_whose_name_looks_like_a_pattern_is_itself(tmp_path: pathlib.Path):
    (tmp_path / "rows[1].jsonl").touch()
    (tmp_path / "rows1.jsonl").touch()
    assert [file.name for file in file_sets.files_of(tmp_path / "rows[1].jsonl")] == ["rows[1].jsonl"]
