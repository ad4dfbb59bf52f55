"""Facts of training subsets: their sizes, nested within a seed, other ones of another, rows as they were."""

import collections

import pytest

from promptcot_jax.analyses import subsets
from promptcot_jax.analyses.subsets import SubsetConfig
from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import rows


def test_subsets_are_nested_and_differ_by_seed(tmp_path):
    rows = [{"id": i, "problem": f"Prüfe {i}", "more": {"a": [i]}} for i in range(50)]
    source = tmp_path / "all.jsonl"
    jsonl.write_records(source, rows)
    made = subsets.write(tmp_path / "out", str(source), (10, 25, 50), (0, 1))
    assert [row["file"] for row in made.rows] == sorted(path.name for path in (tmp_path / "out").iterdir())

    def read(size, seed):
        return [row for _, _, row in jsonl.iter_rows(tmp_path / "out" / f"subset_{size}_{seed}.jsonl")]

    ids = {(size, seed): [row["id"] for row in read(size, seed)] for size in (10, 25, 50) for seed in (0, 1)}
    for (size, seed), own in ids.items():
        assert len(own) == len(set(own)) == size
        assert own == sorted(own)  # in the file's order
        assert set(own) <= set(ids[50, seed])
        if size == 10:
            assert set(own) <= set(ids[25, seed])
    assert ids[10, 0] != ids[10, 1]
    assert read(50, 0) == rows
    first = (tmp_path / "out" / "subset_10_0.jsonl").read_bytes()
    subsets.write(tmp_path / "again", str(source), (10,), (0,))
    assert (tmp_path / "again" / "subset_10_0.jsonl").read_bytes() == first


def test_every_row_is_as_likely():
    counts = sum((subsets.ranks_of(8, seed) < 2).astype(int) for seed in range(4000))
    assert counts.sum() == 8000
    assert abs(counts - 1000).max() < 120  # 4.4 standard deviations


def test_more_rows_than_there_are_is_refused_and_nothing_is_written(tmp_path):
    jsonl.write_records(tmp_path / "all.jsonl", [{"id": i} for i in range(3)])
    with pytest.raises(WrongUse, match="has 3 rows, fewer than the subset of 4"):
        subsets.write(tmp_path / "out", str(tmp_path / "all.jsonl"), (2, 4), (0,))
    assert not (tmp_path / "out").exists()


def test_bad_rows_are_skipped_and_counted_where_they_may_be(tmp_path):
    source = tmp_path / "all.jsonl"
    source.write_text('{"id": 1}\n{"id": 2\n{"id": 3}\n{"id": NaN}\n{"id": 4}\n')
    with pytest.raises(WrongUse, match="all.jsonl:2: .*BAD_ROWS = 'skip'"):
        subsets.write(tmp_path / "out", str(source), (3,), (0,))
    assert not (tmp_path / "out").exists()
    counts = collections.Counter()
    skip = rows.BadRows(action="skip")
    made = subsets.write(tmp_path / "out", str(source), (3,), (0,), bad_rows=skip, counts=counts)
    assert made.caption.startswith("Of 3 rows;")
    assert [row["id"] for _, _, row in jsonl.iter_rows(tmp_path / "out" / "subset_3_0.jsonl")] == [1, 3, 4]
    assert (counts["read"], counts.total()) == (3, 5)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"sizes": (0,)}, r"sizes must be at least 1 \(each\), got \(0,\)"),
        ({"sizes": (3, 3)}, "sizes must be different numbers"),
        ({"sizes": (3,), "seeds": ()}, "seeds must be different numbers"),
        ({"sizes": (3,), "seeds": (-1,)}, r"seeds must be 0 or more \(each\)"),
    ],
)
def test_sizes_and_seeds_must_make_subsets(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        SubsetConfig(**settings)
