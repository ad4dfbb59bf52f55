"""Rows from a cache are the rows that packing gives, in the same order, or are refused."""

import os

import pytest
import seqio
import tensorflow as tf

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import converters, packed_cache
from tests.data import seqio_data

ROWS = seqio_data.random_rows(110, longest=8)


@pytest.fixture
def cache_dir(tmp_path, monkeypatch):
    monkeypatch.setattr(seqio.utils, "_GLOBAL_CACHE_DIRECTORIES", [os.fspath(tmp_path)])
    seqio_data.register("some_rows", ROWS)
    packed_cache.register_packed_task("some_rows_packed", "some_rows", row_length=16, pad_id=9, window=30)
    return tmp_path


def read(use_cached: bool, row_length: int = 16, **options):
    return seqio.get_dataset(
        "some_rows_packed",
        packed_cache.row_lengths(row_length),
        converters.Prepacked(),
        shuffle=False,
        use_cached=use_cached,
        **options,
    )


def test_a_cache_gives_what_packing_gives(cache_dir):
    converter = converters.PackedLM(pad_id=9, window=30, row_length=16)
    packed = seqio.get_dataset("some_rows", {"inputs": 8, "targets": 8}, converter, shuffle=False)
    seqio.test_utils.assert_datasets_eq(read(use_cached=False), packed)
    packed_cache.write_cache("some_rows_packed", "train", cache_dir, num_shards=3)
    seqio_data.register("some_rows", [])  # what is read now comes from the files alone
    cached = read(use_cached=True)
    assert cached.element_spec == packed.element_spec
    seqio.test_utils.assert_datasets_eq(cached, packed)
    stats = seqio.get_mixture_or_task("some_rows_packed").get_cached_stats("train")
    assert stats == {"examples": converter.counts.rows, "token_ids_tokens": converter.counts.tokens}


def test_hosts_share_the_rows_of_a_cache(cache_dir):
    packed_cache.write_cache("some_rows_packed", "train", cache_dir, num_shards=2)
    whole = [row["token_ids"] for row in seqio_data.as_lists(read(use_cached=True))]
    parts = [
        row["token_ids"]
        for index in range(2)
        for row in seqio_data.as_lists(read(use_cached=True, shard_info=seqio.ShardInfo(index, 2)))
    ]
    assert sorted(parts) == sorted(whole)


@pytest.mark.parametrize(
    ("row_length", "message"), [(12, "WrongUse: Example 0: 'token_ids' is 16 long"), (20, "not compatible")]
)
def test_rows_of_another_length_are_refused(cache_dir, row_length, message):
    packed_cache.write_cache("some_rows_packed", "train", cache_dir)
    with pytest.raises(tf.errors.OpError, match=message):
        seqio_data.elements(read(use_cached=True, row_length=row_length))


def test_a_cache_that_was_not_finished_is_invisible(cache_dir):
    packed_cache.write_cache("some_rows_packed", "train", cache_dir)
    seqio_data.register("some_rows", [*ROWS, ([1] * 9, [2] * 8)])
    with pytest.raises(tf.errors.OpError, match="Example 110 has 17 tokens, a row holds 16"):
        packed_cache.write_cache("some_rows_packed", "train", cache_dir)
    with pytest.raises(AssertionError, match="does not exist in any of the task cache directories"):
        read(use_cached=True)


def test_a_task_without_rows_is_refused(cache_dir):
    seqio_data.register("some_rows", [])
    with pytest.raises(WrongUse, match="Task 'some_rows_packed' has no row in split 'train'"):
        packed_cache.write_cache("some_rows_packed", "train", cache_dir)


@pytest.mark.parametrize("num_shards", [0, 17])
def test_the_number_of_files_is_limited(cache_dir, num_shards):
    with pytest.raises(WrongUse, match="num_shards must be between 1 and 16"):
        packed_cache.write_cache("some_rows_packed", "train", cache_dir, num_shards=num_shards)


def test_packed_rows_are_not_packed_again():
    with pytest.raises(ValueError, match="packed already"):
        converters.Prepacked(pack=True)
