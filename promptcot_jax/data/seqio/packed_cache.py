"""Rows packed once and read many times: a seqio task whose features are the fields of `PackedBatch`.

    register_packed_task("p_theta_packed", "p_theta", row_length=1024)
    seqio_cache.write_cache("p_theta_packed", cache_dir)
    seqio.add_global_cache_dirs([cache_dir])
    seqio.get_dataset("p_theta_packed", row_lengths(1024), Prepacked(), use_cached=True, ...)

seqio shuffles such a cache by rows, and examples keep their neighbours from epoch to epoch: where that
matters, pack anew each time (`converters.PackedLM`). A cache of rows packed from tasks of this package is
refused when these, or the packing, have changed.
"""

from collections.abc import Mapping
from typing import Any

import seqio
import tensorflow as tf

from promptcot_jax.data.code_digest import code_digest
from promptcot_jax.data.seqio.converters import ROW_FIELDS, PackedLM
from promptcot_jax.data.seqio.length_filter import within_lengths
from promptcot_jax.data.seqio.seqio_registry import CheckedTask

_PACKED_BY = (
    *("data.seqio.converters", "data.seqio.packed_cache", "data.packing"),
    *("data.seqio.row_converter", "data.seqio.windows"),
)


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

    def made_from(split: str) -> dict[str, Any] | None:
        provider = seqio.get_mixture_or_task(source)
        origins = {task.name: _origin_of(task, split) for task in seqio.get_subtasks(provider)}
        if None in origins.values():
            return None
        rates = None
        if isinstance(provider, seqio.Mixture):
            rates = {task.name: provider.get_rate(task) for task in provider.tasks}
        settings_of_rows = {"row_length": row_length, **settings}
        code = code_digest(*_PACKED_BY)
        return {"packed": origins, "rates": rates, "settings": settings_of_rows, "code": code}

    seqio.TaskRegistry.remove(name)
    feature = seqio.Feature(seqio.PassThroughVocabulary(size=0), add_eos=False, dtype=tf.int32)
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(  # pyright: ignore[reportArgumentType]  # seqio's own class
            read_split, splits=tuple(seqio.get_mixture_or_task(source).splits)
        ),
        preprocessors=[seqio.CacheDatasetPlaceholder(), within_lengths],
        output_features=dict.fromkeys(ROW_FIELDS, feature),
        task_cls=CheckedTask,
        made_from=made_from,
    )


def _origin_of(task: seqio.Task, split: str) -> Mapping[str, Any] | None:
    return task.made_from(split) if isinstance(task, CheckedTask) else None


def row_lengths(row_length: int) -> dict[str, int]:
    """The `task_feature_lengths` of a packed task."""
    return dict.fromkeys(ROW_FIELDS, row_length)


@tf.autograph.experimental.do_not_convert
def _without_booleans(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """seqio's features are numbers; `Prepacked` makes the mask a mask again."""
    return {name: tf.cast(value, tf.int32) for name, value in row.items()}
