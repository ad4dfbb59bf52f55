"""Rows from a cache are the rows that packing gives, in the same order, or are refused."""

import os

import pytest
import seqio
import tensorflow as tf

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data.seqio import converters, packed_cache, seqio_cache, seqio_tasks
from promptcot_jax.data.seqio.vocabulary import TokenizerVocabulary
from tests import toys
from tests.data.seqio import seqio_data

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
    seqio_cache.write_cache("some_rows_packed", cache_dir, num_shards=3)
    seqio_data.register("some_rows", [])  # what is read now comes from the files alone
    cached = read(use_cached=True)
    assert cached.element_spec == packed.element_spec
    seqio.test_utils.assert_datasets_eq(cached, packed)
    stats = seqio.get_mixture_or_task("some_rows_packed").get_cached_stats("train")
    assert stats["examples"] == converter.counts.rows
    assert stats["segment_ids_tokens"] == converter.counts.tokens  # of the segment 0 there is padding only


def test_hosts_share_the_rows_of_a_cache(cache_dir):
    seqio_cache.write_cache("some_rows_packed", cache_dir, num_shards=2)
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
    seqio_cache.write_cache("some_rows_packed", cache_dir)
    with pytest.raises(tf.errors.OpError, match=message):
        seqio_data.elements(read(use_cached=True, row_length=row_length))


def test_a_row_that_is_refused_ends_the_writing_by_name(cache_dir):
    seqio_data.register("some_rows", [*ROWS, ([1] * 9, [2] * 8)])
    with pytest.raises(WrongUse, match="Example 110 has 17 tokens, a row holds 16"):
        seqio_cache.write_cache("some_rows_packed", cache_dir)
    with pytest.raises(AssertionError, match="does not exist in any of the task cache directories"):
        read(use_cached=True)


def test_rows_packed_from_our_tasks_are_refused_when_these_change(cache_dir, tmp_path):
    triples = tmp_path / "triples.jsonl"
    seqio_tasks.register_tasks(TokenizerVocabulary(toys.byte_tokenizer()), triples={"train": str(triples)})
    for source in ("p_theta", "p_theta_by_domain"):
        jsonl.write_records(triples, toys.toy_triples())
        packed_cache.register_packed_task("packed", source, row_length=800)
        seqio_cache.write_cache("packed", cache_dir, overwrite=True)
        seqio.get_mixture_or_task("packed").assert_cached()
        jsonl.write_records(triples, toys.toy_triples()[1:])
        with pytest.raises(WrongUse, match="The cache of 'packed' .* is stale: packed"):
            seqio.get_mixture_or_task("packed").assert_cached()
        packed_cache.register_packed_task("packed", source, row_length=801)
        with pytest.raises(WrongUse, match="is stale: packed.*, settings of split 'train' changed"):
            seqio.get_mixture_or_task("packed").assert_cached()


def test_packed_rows_are_not_packed_again():
    with pytest.raises(ValueError, match="packed already"):
        converters.Prepacked(pack=True)
