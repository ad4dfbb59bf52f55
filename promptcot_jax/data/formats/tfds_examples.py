"""The examples of a prepared TFDS data set as rows; its builder's code is not needed.

The shards are read here, as all record files are, and each record is decoded by the features that the data
set's directory describes: so a damaged record is alone in being lost. TFDS knows no absent feature, so an
empty text is taken for one.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from promptcot_jax.core import tfds_sets
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data.formats import records
from promptcot_jax.data.formats.source import Fault, Row

_READERS: dict[str, Callable[[epath.Path, int], Iterator[tuple[str, bytes | Fault]]]] = {
    "tfrecord": records.iter_tfrecords,
    "array_record": records.iter_array_records,
}


def read(path: str, max_row_bytes: int) -> Iterator[Row | Fault]:
    """The examples in the order of the shards; `where` counts, from 1, those that `path` names.

    Raises:
        WrongUse: the data set is not there, is damaged as a whole, or is in another file format.
    """
    found = tfds_sets.find(path)
    if found.file_format not in _READERS:
        raise WrongUse(
            f"{path}: its files are '{found.file_format}'; those that can be read are {', '.join(_READERS)}."
        )
    features, instructions = _described(found)
    number = 0
    for part in instructions:
        shard = _READERS[found.file_format](epath.Path(part.filename), max_row_bytes)
        end = number + part.take
        for place, record in itertools.islice(shard, part.skip, part.skip + part.take):
            number += 1
            where = f"{path}#{number}"
            if isinstance(record, Fault):
                yield dataclasses.replace(record, where=where, message=f"{record.message} ({place})")
            else:
                yield _row_of_record(where, record, features)
        if lost := end - number:
            message = f"{part.filename} has fewer records than {tfds_sets.INFO} says, {lost} are lost"
            yield Fault(f"{path}#{number + 1}", "truncated", message, rows=lost)
        number = end


def _described(found: tfds_sets.PreparedSet) -> tuple[Any, list[Any]]:
    """The features of the data set, and what of which shard to read."""
    try:
        info = tfds.builder_from_directory(found.directory).info
    except Exception as error:  # whatever a damaged description leads TFDS to
        raise WrongUse(
            f"{found.path}: TFDS cannot read the description of the data set in {found.directory} "
            f"({type(error).__name__}: {error}); prepare it again."
        ) from None
    try:
        return info.features, info.splits[found.split].file_instructions
    except (ValueError, NotImplementedError) as error:
        sizes = ", ".join(f"{name} ({split.num_examples})" for name, split in info.splits.items())
        raise WrongUse(
            f"{found.path}: TFDS does not take the split '{found.split}' ({error}); there are {sizes}."
        ) from None


def _row_of_record(where: str, record: bytes, features: Any) -> Row | Fault:
    try:
        fields = _plain(features, features.deserialize_example_np(record))
    except UnicodeDecodeError as error:
        return Fault(where, "utf8", f"a feature is not UTF-8 ({error})")
    except Exception as error:  # whatever a record of another structure leads TFDS to
        message = f"not an example of this data set ({type(error).__name__}: {error})"
        return Fault(where, "example", message)
    return Row(where, {name: value for name, value in fields.items() if value != ""}, is_flat=True)


def _plain(feature: Any, value: Any) -> Any:
    """A decoded value in Python's types, bytes as text; TFDS has lists of objects as objects of lists."""
    if isinstance(feature, tfds.features.Sequence):
        if isinstance(value, dict):
            value = [dict(zip(value, item, strict=True)) for item in zip(*value.values(), strict=True)]
        return [_plain(feature.feature, item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(feature[name], part) for name, part in value.items()}
    return _python(value)


def _python(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list):
        return [_python(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value
