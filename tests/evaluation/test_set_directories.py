"""Facts of directories of rows: what `datasets` and the Hub leave is read whole, and no guess is made."""

import json
import pathlib
import subprocess
import sys

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import rows
from promptcot_jax.evaluation import benchmark_sets


def put(path: pathlib.Path, *numbers: int) -> None:
    """A file of rows {"n": number} in the format that its extension names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table({"n": list(numbers)})
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path)
    elif path.suffix == ".arrow":
        with pyarrow.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    elif path.suffix == ".json":
        path.write_text(json.dumps([{"n": number} for number in numbers], indent=1))
    else:
        path.write_text("".join(f'{{"n": {number}}}\n' for number in numbers))


def numbers(directory: pathlib.Path, **options) -> list[int]:
    files = benchmark_sets.files_of(directory, **options)
    return [row.fields["n"] for file in files for row in rows.iter_rows(file)]


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "jsonl", "json"])
def test_a_snapshot_of_one_split_is_its_shards_in_order(tmp_path: pathlib.Path, suffix: str):
    put(tmp_path / "data" / f"train-00001-of-00002.{suffix}", 3)
    put(tmp_path / "data" / f"train-00000-of-00002.{suffix}", 1, 2)
    put(tmp_path / ".cache" / f"train-00000-of-00001.{suffix}", 9)
    (tmp_path / "README.md").write_text("words")
    (tmp_path / "dataset_infos.json").write_text("{}")
    assert numbers(tmp_path) == [1, 2, 3]
    (tmp_path / "data" / f"train-00000-of-00002.{suffix}").unlink()
    with pytest.raises(WrongUse, match=r"the shards of 'train' are incomplete \(1 found\)"):
        numbers(tmp_path)


def test_of_several_splits_test_is_taken(tmp_path: pathlib.Path):
    put(tmp_path / "data" / "train-00000-of-00001-0a1b2c.parquet", 1)
    put(tmp_path / "data" / "test-00000-of-00001-3d4e5f.parquet", 2)
    assert numbers(tmp_path) == [2]
    put(tmp_path / "data" / "test.jsonl", 3)  # the same split twice, in another format
    with pytest.raises(WrongUse, match=r"several sets in this directory \(test.jsonl, test.parquet\)"):
        numbers(tmp_path)


def test_numbered_releases_are_one_split_and_can_be_cut_by_name(tmp_path: pathlib.Path):
    for i, name in enumerate(("test", "test2", "test3", "test10")):
        put(tmp_path / f"{name}.jsonl", i)
    assert numbers(tmp_path) == [0, 1, 2, 3]
    assert numbers(tmp_path, stems=("test", "test3")) == [0, 2]
    assert numbers(tmp_path, stems=("test", "other")) == [0, 1, 2, 3]


def test_a_config_is_a_folder(tmp_path: pathlib.Path):
    for i, name in enumerate(("main", "socratic")):
        put(tmp_path / name / "test-00000-of-00001.parquet", i)
        put(tmp_path / name / "train-00000-of-00001.parquet", 9)
    assert numbers(tmp_path, config="socratic") == [1]
    with pytest.raises(WrongUse, match="main/test.parquet, socratic/test.parquet"):
        numbers(tmp_path)


def test_sets_that_lie_together_are_never_taken_for_one(tmp_path: pathlib.Path):
    put(tmp_path / "first_test.jsonl", 1)
    put(tmp_path / "second_test.jsonl", 2)
    with pytest.raises(WrongUse, match="first_test.jsonl, second_test.jsonl"):
        numbers(tmp_path)
    (tmp_path / "second_test.jsonl").rename(tmp_path / "hmmt_feb.jsonl")
    with pytest.raises(WrongUse, match="first_test.jsonl"):
        numbers(tmp_path)


def test_the_hubs_cache_is_read_at_its_main_revision(tmp_path: pathlib.Path):
    for i, revision in enumerate(("aaa", "bbb")):
        put(tmp_path / "snapshots" / revision / "test.jsonl", i)
    with pytest.raises(WrongUse, match="there are 2 snapshots"):
        numbers(tmp_path)
    (tmp_path / "refs").mkdir()
    (tmp_path / "refs" / "main").write_text("bbb")
    assert numbers(tmp_path) == [1]


def test_an_empty_directory_is_named(tmp_path: pathlib.Path):
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(WrongUse, match=f"{tmp_path}: there are no rows in this directory"):
        numbers(tmp_path)


def test_what_datasets_saved_is_read_without_it(tmp_path: pathlib.Path):
    datasets = pytest.importorskip("datasets")
    one = datasets.Dataset.from_list([{"n": i} for i in range(5)])
    one.save_to_disk(tmp_path / "one", num_shards=2)
    assert numbers(tmp_path / "one") == list(range(5))
    both = datasets.DatasetDict({"train": one, "test": one.select([4, 1])})
    both.save_to_disk(tmp_path / "both")
    assert numbers(tmp_path / "both") == [4, 1]


def test_arrow_of_both_forms_is_read_and_a_damaged_one_named(tmp_path: pathlib.Path):
    table = pyarrow.table({"n": [1, 2, None], "text": ["a", "b", "c"]})
    with pyarrow.ipc.new_file(tmp_path / "indexed.arrow", table.schema) as writer:
        writer.write_table(table)
    found = list(rows.iter_rows(tmp_path / "indexed.arrow"))
    assert [row.fields for row in found] == [{"n": 1, "text": "a"}, {"n": 2, "text": "b"}, {"text": "c"}]
    assert found[1].where.endswith("indexed.arrow#2")
    put(tmp_path / "rows.arrow", *range(100))
    whole = (tmp_path / "rows.arrow").read_bytes()
    (tmp_path / "rows.arrow").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WrongUse, match="rows.arrow: cut off or damaged after .* rows"):
        list(rows.iter_rows(tmp_path / "rows.arrow"))
    (tmp_path / "rows.arrow").write_text("words")
    with pytest.raises(WrongUse, match="rows.arrow: cut off or damaged after 0 rows, or no Arrow"):
        list(rows.iter_rows(tmp_path / "rows.arrow"))


def test_no_flipped_bit_of_an_arrow_file_ends_the_process(tmp_path: pathlib.Path):
    table = pyarrow.table({"n": list(range(50)), "text": [str(i) * 9 for i in range(50)]})
    with pyarrow.ipc.new_stream(tmp_path / "whole.arrow", table.schema) as writer:
        writer.write_table(table)
    whole = (tmp_path / "whole.arrow").read_bytes()
    program = """
import random, sys
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import rows
draw, path = random.Random(0), sys.argv[1]
whole = open(path, "rb").read()
for _ in range(200):
    damaged = bytearray(whole)
    damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
    open(path, "wb").write(damaged)
    try:
        list(rows.iter_rows(path))
    except WrongUse:
        pass
print("alive")
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "whole.arrow")], capture_output=True, text=True
    )
    assert done.stdout == "alive\n", (done.returncode, done.stderr[-500:])
    assert whole


def test_a_list_in_one_json_file_is_its_rows(tmp_path: pathlib.Path):
    path = tmp_path / "rows.json"
    path.write_text('\n [{"n": 1},\n  {"n": 2}]')
    assert [(row.where, row.fields) for row in rows.iter_rows(path)] == [
        (f"{path}#1", {"n": 1}),
        (f"{path}#2", {"n": 2}),
    ]
    path.write_text('[{"n": 1}, 2]')
    with pytest.raises(WrongUse, match="rows.json#2: expected a JSON object"):
        list(rows.iter_rows(path))
    path.write_text('[{"n": 1},')
    with pytest.raises(WrongUse, match="rows.json: not a list of JSON objects"):
        list(rows.iter_rows(path))
    path.write_text('{"n": 1}\n{"n": 2}\n')  # lines, as ever
    assert [row.fields["n"] for row in rows.iter_rows(path)] == [1, 2]
