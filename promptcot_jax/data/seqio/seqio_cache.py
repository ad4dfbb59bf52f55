"""The offline cache of seqio tasks: what `use_cached=True` reads, written by a loop on one machine.

    write_cache("p_theta", "caches")
    seqio.add_global_cache_dirs(["caches"])
    seqio.get_dataset("p_theta", lengths, converter, use_cached=True, ...)

The files are those of seqio's own `seqio_cache_tasks`, which needs Apache Beam, and each reads the other's;
rows come back in the order of the task without a cache, and `made_from.SPLIT.json` says what a `CheckedTask`
was made from. A local cache appears whole and has one builder; in a bucket the marker is written last.
"""

import collections
import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
from etils import epath

from promptcot_jax.core import building
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.progress import Progress
from promptcot_jax.data import tasks
from promptcot_jax.data.seqio import seqio_registry
from promptcot_jax.data.seqio.seqio_registry import CheckedTask

_BLOCK = 16  # seqio reads so many examples of a file before it turns to the next
MOST_SHARDS = 16  # of which it reads so many in turn: with more, rows would come back in another order
_DTYPES = (tf.int32, tf.int64, tf.float32, tf.bool, tf.string)  # what seqio gives back as it was
_MARKER = "COMPLETED"
_FILES = r"COMPLETED|(info|stats|made_from)\..*\.json|.*\.tfrecord-\d{5}-of-\d{5}"


def write_cache(
    name: str,
    cache_dir: epath.PathLike,
    *,
    splits: Sequence[str] = (),
    num_shards: int = MOST_SHARDS,
    overwrite: bool = False,
) -> dict[str, dict[str, int]]:
    """Writes a task's cache into a directory of caches; one that is there and fresh is left as it is.

    Args:
        splits: none means all.
        num_shards: files of a split. T5X reads by the file where there are as many as hosts.
        overwrite: writes it in any case.

    Returns:
        Counts of each split: `out`, and of this package's tasks `in` and `dropped_REASON` too.

    Raises:
        WrongUse: there is no such task or split, it cannot be cached, a split has no row, a row is refused,
            or there is a cache of other content and `overwrite` is not set.
    """
    if not 1 <= num_shards <= MOST_SHARDS:
        raise WrongUse(f"num_shards must be between 1 and {MOST_SHARDS}, got {num_shards}.")
    task = seqio_registry.provider_named(name)
    if not isinstance(task, seqio.Task):
        raise WrongUse(f"'{name}' is a mixture; cache its tasks.")
    if not task.supports_caching:
        raise WrongUse(f"'{name}' cannot be cached: it has no seqio.CacheDatasetPlaceholder.")
    chosen = tuple(splits) or tuple(task.splits)
    if unknown := set(chosen) - set(task.splits):
        raise WrongUse(f"'{name}' has no split '{min(unknown)}'; it has {', '.join(sorted(task.splits))}.")
    directory = os.path.join(os.fspath(cache_dir), seqio.utils.get_task_dir_from_name(name))
    with building.sole_builder(directory, name):
        if overwrite or not _is_there(task, directory, chosen, num_shards):
            _refuse_strange_files(directory)
            _build(task, directory, chosen, num_shards)
        return {split: _counts_of(directory, split) for split in chosen}


def tasks_of(names: Sequence[str]) -> list[str]:
    """The tasks of these names: of a mixture its own, each once.

    Raises:
        WrongUse: there is no such task or mixture.
    """
    found: dict[str, None] = {}
    for name in names:
        provider = seqio_registry.provider_named(name)
        found |= dict.fromkeys(sorted(task.name for task in seqio.get_subtasks(provider)))
    return list(found)


def _is_there(task: seqio.Task, directory: str, splits: Sequence[str], num_shards: int) -> bool:
    """Whether a complete cache holds what is asked for.

    Raises:
        WrongUse: it is complete and holds something else.
    """
    if not tf.io.gfile.exists(os.path.join(directory, _MARKER)):
        return False
    for split in splits:
        info = seqio_registry.info_path(directory, split)
        if not tf.io.gfile.exists(info):
            unlike = "is missing"
        elif (found := seqio_registry.read_json(info)["num_shards"]) != num_shards:
            unlike = f"is in {found} files, not {num_shards}"
        elif isinstance(task, CheckedTask) and (changed := task.changed_since(directory, split)):
            unlike = f"is stale ({', '.join(changed)} changed)"
        else:
            continue
        raise WrongUse(
            f"{directory} holds a cache of '{task.name}' whose split '{split}' {unlike}; replace it with "
            "OVERWRITE=True, or choose another CACHE_DIR."
        )
    return True


def _refuse_strange_files(directory: str) -> None:
    """The directory is replaced as a whole: what is no file of a cache must not go with it."""
    if not tf.io.gfile.exists(directory):
        return
    names = [name.rstrip("/") for name in tf.io.gfile.listdir(directory)]
    if strange := [name for name in names if not re.fullmatch(_FILES, name)]:
        raise WrongUse(
            f"{directory} holds '{min(strange)}', which is no file of a cache; choose another CACHE_DIR."
        )


def _build(task: seqio.Task, directory: str, splits: Sequence[str], num_shards: int) -> None:
    with _emptied(directory) as place:
        for split in splits:
            try:
                _write_split(task, split, place, num_shards)
            except tf.errors.OpError as error:
                raise seqio_registry.wrong_use_within(error) or error from None
        with tf.io.gfile.GFile(os.path.join(place, _MARKER), "w") as marker:
            marker.write("")


@contextlib.contextmanager
def _emptied(directory: str) -> Iterator[str]:
    """An empty directory to write to, which is `directory` at the end of the block."""
    if "://" not in directory:
        with building.whole_directory(directory) as aside:
            yield aside
        return
    marker = os.path.join(directory, _MARKER)
    if tf.io.gfile.exists(marker):
        tf.io.gfile.remove(marker)
    if tf.io.gfile.exists(directory):
        tf.io.gfile.rmtree(directory)
    tf.io.gfile.makedirs(directory)
    yield directory


def _write_split(task: seqio.Task, split: str, directory: str, num_shards: int) -> None:
    """The files of one split."""
    made_from, counts = _origin(task, split)
    before = counts.copy()
    rows = task.preprocess_precache(
        task.source.get_dataset(split=split, shuffle=False), seed=_preprocessors_seed(task.name)
    )
    features, stats = _write_rows(task, split, rows, directory, num_shards)
    info = {"features": features, "num_shards": num_shards, "seqio_version": seqio.__version__}
    _write_json(seqio_registry.info_path(directory, split), info)
    _write_json(seqio.utils.get_cached_stats_path(directory, split), stats)
    if made_from is None:
        return
    if _origin(task, split)[0] != made_from:
        raise WrongUse(f"What '{task.name}' reads changed while split '{split}' was cached; start again.")
    origin = {"made_from": made_from, "counts": dict(counts - before)}
    _write_json(seqio_registry.origin_path(directory, split), origin)


def _origin(task: seqio.Task, split: str) -> tuple[Mapping[str, Any] | None, collections.Counter[str]]:
    """What a split is made from, if the task knows, and where it counts."""
    if not isinstance(task, CheckedTask):
        return None, collections.Counter()
    return task.made_from(split), task.counts


def _preprocessors_seed(name: str) -> int:
    """What seqio's script gives the preprocessors of a task whose source is one shard."""
    return int.from_bytes(hashlib.md5(f"{name}shard0".encode()).digest()[:7], "little")


def _write_rows(
    task: seqio.Task, split: str, rows: tf.data.Dataset, directory: str, num_shards: int
) -> tuple[dict[str, Any], dict[str, int]]:
    """Writes the rows, in the order in which seqio reads blocks of them; descriptions and statistics."""
    _refuse_other_dtypes(task.name, rows)
    prefix = seqio.utils.get_cached_tfrecord_prefix(directory, split)
    stats = _Statistics(task)
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(tf.io.TFRecordWriter(f"{prefix}-{shard:05d}-of-{num_shards:05d}"))
            for shard in range(num_shards)
        ]
        label = f"cache {task.name} {split}"
        progress = stack.enter_context(Progress(label, unit="example", start=0, total=None))
        row: Any
        for i, row in enumerate(rows.prefetch(tf.data.AUTOTUNE)):
            stats.add(row)
            writers[i // _BLOCK % num_shards].write(_example_of(row))
            progress.update(i + 1)
    if not stats.counts["examples"]:
        raise WrongUse(
            f"Task '{task.name}' has no row in split '{split}'; give it rows, or name the splits to cache "
            "(SPLITS)."
        )
    return stats.features, stats.counts


def _example_of(row: Mapping[str, Any]) -> bytes:
    """A row as seqio stores it: booleans as integers, which newer protobufs do not do themselves."""
    storable = {}
    for name, value in row.items():
        value = tf.cast(value, tf.int64) if value.dtype == tf.bool else value
        storable[name] = value if _is_ragged(value) else value.numpy()  # tensors take twice as long
    return seqio.dict_to_tfexample(storable).SerializeToString()


def _is_ragged(value: Any) -> bool:
    return isinstance(value, tf.RaggedTensor)


def _refuse_other_dtypes(name: str, rows: tf.data.Dataset) -> None:
    spec: Any = rows.element_spec
    for feature, of_feature in spec.items():
        dtype = getattr(of_feature, "dtype", None)
        if dtype not in _DTYPES or isinstance(of_feature, tf.SparseTensorSpec):
            raise WrongUse(
                f"'{name}' cannot be cached: its feature '{feature}' is {of_feature}; seqio's caches hold "
                f"dense and ragged tensors of {', '.join(known.name for known in _DTYPES)}."
            )


class _Statistics:
    """What `info.SPLIT.json` and `stats.SPLIT.json` say of the rows, reckoned as seqio's script does."""

    def __init__(self, task: seqio.Task):
        self._name, self._output_features = task.name, task.output_features
        self.features: dict[str, dict[str, Any]] = {}
        self.counts = {"examples": 0}

    def add(self, row: Mapping[str, Any]) -> None:
        """Counts a row.

        Raises:
            WrongUse: a dense feature has another shape than in the first row, beyond its first axis.
        """
        features = {name: _description(row[name]) for name in sorted(row)}
        self.features = self.features or features
        for name, first in self.features.items():
            if features[name] != first:
                raise WrongUse(
                    f"'{self._name}' cannot be cached: the shape of '{name}' is {features[name]['shape']} in "
                    f"row {self.counts['examples'] + 1} and {first['shape']} in the first; make it ragged."
                )
        self.counts["examples"] += 1
        for name, feature in self._output_features.items():
            if name in row and not _is_ragged(row[name]) and row[name].dtype in (tf.int32, tf.int64):
                self._add_tokens(f"{name}_tokens", row[name].numpy(), feature.vocabulary)

    def _add_tokens(self, key: str, ids: np.ndarray, vocabulary: seqio.Vocabulary) -> None:
        special = [i for i in (vocabulary.eos_id, vocabulary.pad_id) if i is not None]
        number, longest = int(np.sum(~np.isin(ids, special))), key.replace("tokens", "max_tokens")
        self.counts[key] = self.counts.get(key, 0) + number
        self.counts[longest] = max(self.counts.get(longest, 0), number)


def _description(value: Any) -> dict[str, Any]:
    """Type and shape of a feature as seqio's reader needs them: the first axis is free."""
    shape = value.shape.as_list()
    return {"dtype": value.dtype.name, "shape": [None, *shape[1:]] if shape else []}


def _write_json(path: str, value: Any) -> None:
    with tf.io.gfile.GFile(path, "w") as file:
        file.write(json.dumps(value, sort_keys=True, indent=2) + "\n")


def _counts_of(directory: str, split: str) -> dict[str, int]:
    """Counts of a split for the manifest."""
    stats = seqio_registry.read_json(seqio.utils.get_cached_stats_path(directory, split))
    path, counts = seqio_registry.origin_path(directory, split), {}
    if tf.io.gfile.exists(path):
        counts = tasks.counts_of_rows([seqio_registry.read_json(path)["counts"]])
    return counts | {"out": stats["examples"]}
