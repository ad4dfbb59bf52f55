"""Directories that appear whole: what a builder removes, and what it never removes."""

import os

import pytest

from promptcot_jax.core import building

LEFT = "0" * 32


def test_only_what_builders_of_the_same_directory_left_is_removed(tmp_path):
    for name in (f"task.{LEFT}.part", f"task.v2.{LEFT}.part", "task.v2"):
        (tmp_path / name).mkdir()
    with building.whole_directory(str(tmp_path / "task")) as aside:
        (tmp_path / aside / "file").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["task", "task.v2", f"task.v2.{LEFT}.part"]


def test_the_old_directory_is_there_whole_until_the_new_one_is(tmp_path, monkeypatch):
    directory = tmp_path / "task"
    directory.mkdir()
    (directory / "old").touch()
    with pytest.raises(ValueError), building.whole_directory(str(directory)):
        raise ValueError
    assert [path.name for path in directory.iterdir()] == ["old"]
    original, seen = building.shutil.rmtree, []

    def rmtree(path, **options):
        seen.extend(os.listdir(directory))
        original(path, **options)

    monkeypatch.setattr(building.shutil, "rmtree", rmtree)
    with building.whole_directory(str(directory)) as aside:
        open(os.path.join(aside, "new"), "w").close()
    assert set(seen) == {"new"}
    assert [path.name for path in tmp_path.iterdir()] == ["task"]
