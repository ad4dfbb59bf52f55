"""Rows packed once and read many times: a seqio task whose features are the fields of `PackedBatch`.

    register_packed_task("p_theta_packed", "p_theta", row_length=1024)
    write_cache("p_theta_packed", "train", cache_dir)
    seqio.add_global_cache_dirs([cache_dir])
    seqio.get_dataset("p_theta_packed", row_lengths(1024), Prepacked(), use_cached=True, ...)

The files are those of seqio's own `seqio_cache_tasks`, which needs Apache Beam; for one machine a loop does.
seqio shuffles such a cache by rows, and examples keep their neighbours from epoch to epoch: where that
matters, pack anew each time (`converters.PackedLM`). A cache does not know of the tokenizer that made it:
give the task another name when it changes.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data.converters import ROW_FIELDS, PackedLM
from promptcot_jax.data.length_filter import within_lengths

_BLOCK = 16  # seqio reads so many examples of a file before it turns to the next
_MOST_SHARDS = 16  # of which it reads so many in turn: with more, rows would come back in another order


def register_packed_task(name: str, source: str, *, row_length: int, **settings) -> None:
    """Registers the task `name`: the rows that `PackedLM` makes of the task or mixture `source`.

    Args:
        name: an earlier task of this name is replaced.
        settings: further ones of `PackedLM`.
    """

    def read_split(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        del shuffle_files, seed  # seqio shuffles the rows
        rows = seqio.get_dataset(
            source,
            {"inputs": None, "targets": None},  # pyright: ignore[reportArgumentType]  # None: nothing is cut
            PackedLM(row_length=row_length, **settings),
            dataset_split=split,
            shuffle=False,
        )
        return rows.map(_without_booleans)

    seqio.TaskRegistry.remove(name)
    feature = seqio.Feature(seqio.PassThroughVocabulary(size=0), add_eos=False, dtype=tf.int32)
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(  # pyright: ignore[reportArgumentType]  # seqio's own class
            read_split, splits=tuple(seqio.get_mixture_or_task(source).splits)
        ),
        preprocessors=[seqio.CacheDatasetPlaceholder(), within_lengths],
        output_features=dict.fromkeys(ROW_FIELDS, feature),
    )


def row_lengths(row_length: int) -> dict[str, int]:
    """The `task_feature_lengths` of a packed task."""
    return dict.fromkeys(ROW_FIELDS, row_length)


def write_cache(name: str, split: str, cache_dir: epath.PathLike, *, num_shards: int = 1) -> None:
    """Packs one split of a packed task into a directory that seqio finds with `use_cached=True`.

    Args:
        num_shards: files; T5X reads by the file where there are as many as hosts.

    Raises:
        WrongUse: `num_shards` is out of range, or the task has no row in this split.
    """
    if not 1 <= num_shards <= _MOST_SHARDS:
        raise WrongUse(f"num_shards must be between 1 and {_MOST_SHARDS}, got {num_shards}.")
    directory = os.path.join(os.fspath(cache_dir), seqio.utils.get_task_dir_from_name(name))
    marker = os.path.join(directory, "COMPLETED")
    tf.io.gfile.makedirs(directory)
    if tf.io.gfile.exists(marker):
        tf.io.gfile.remove(marker)
    rows = seqio.get_mixture_or_task(name).get_dataset(split=split, shuffle=False)
    counts = _write_rows(rows, seqio.utils.get_cached_tfrecord_prefix(directory, split), num_shards)
    if not counts["examples"]:
        raise WrongUse(f"Task '{name}' has no row in split '{split}'; nothing was cached.")
    feature = {"shape": [None], "dtype": "int32"}
    info = {
        "num_shards": num_shards,
        "features": dict.fromkeys(ROW_FIELDS, feature),
        "seqio_version": seqio.__version__,
    }
    jsonl.write_json(epath.Path(seqio.utils.get_cached_info_path(directory, split)), info)
    jsonl.write_json(epath.Path(seqio.utils.get_cached_stats_path(directory, split)), counts)
    jsonl.write_atomically(epath.Path(marker), b"")


def _write_rows(rows: tf.data.Dataset, prefix: str, num_shards: int) -> dict[str, int]:
    """Writes the files, in the order in which seqio reads blocks of them; what the statistics hold."""
    names = [f"{prefix}-{shard:05d}-of-{num_shards:05d}" for shard in range(num_shards)]
    writers = [tf.io.TFRecordWriter(name) for name in names]
    counts = {"examples": 0, "token_ids_tokens": 0}
    try:
        row: Any
        for i, row in enumerate(rows.as_numpy_iterator()):
            writers[i // _BLOCK % num_shards].write(_record(row))
            counts["examples"] += 1
            counts["token_ids_tokens"] += int(np.count_nonzero(row["segment_ids"]))
    finally:
        for writer in writers:
            writer.close()
    return counts


def _record(row: Mapping[str, Any]) -> bytes:
    """One row as seqio stores it."""
    features = {
        name: tf.train.Feature(int64_list=tf.train.Int64List(value=row[name].tolist())) for name in ROW_FIELDS
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


@tf.autograph.experimental.do_not_convert
def _without_booleans(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """seqio's features are numbers; `Prepacked` makes the mask a mask again."""
    return {name: tf.cast(value, tf.int32) for name, value in row.items()}
