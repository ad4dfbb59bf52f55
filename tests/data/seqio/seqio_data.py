"""Small tf.data sets and seqio tasks of given ids, for the tests of the converters."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from promptcot_jax.data import examples

LM_FEATURES = ("inputs", "targets")


def dataset(
    rows: Sequence[Sequence[Sequence[int]]], names: Sequence[str] = LM_FEATURES, **extras: Sequence
) -> tf.data.Dataset:
    """One element per row: its ids under `names`, and one entry of each of `extras`."""
    ragged = {
        name: tf.ragged.constant([row[i] for row in rows], dtype=tf.int32, ragged_rank=1)
        for i, name in enumerate(names)
    }
    return tf.data.Dataset.from_tensor_slices(ragged | extras).map(
        lambda row: {name: tf.convert_to_tensor(value) for name, value in row.items()}
    )


def register(
    name: str,
    rows: Sequence[Sequence[Sequence[int]]],
    names: Sequence[str] = LM_FEATURES,
    preprocessors: Sequence[Callable[..., Any]] = (),
) -> None:
    """A seqio task over these rows, with a split `train`."""

    def read_split(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        return dataset(rows, names)

    seqio.TaskRegistry.remove(name)
    feature = seqio.Feature(seqio.PassThroughVocabulary(size=100), add_eos=False, dtype=tf.int32)
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(read_split, splits=("train",)),
        preprocessors=list(preprocessors),
        output_features=dict.fromkeys(names, feature),
    )


def random_rows(count: int, longest: int, seed: int = 0, lowest_id: int = 0) -> list[list[list[int]]]:
    """Prompts and completions of 1 to `longest` tokens each."""
    rng = np.random.default_rng(seed)
    return [
        [rng.integers(lowest_id, 9, rng.integers(1, longest + 1)).tolist() for _ in range(2)]
        for _ in range(count)
    ]


def token_examples(rows: Sequence[Sequence[Sequence[int]]]) -> list[examples.TokenExample]:
    return [
        examples.TokenExample(prompt_ids=tuple(inputs), completion_ids=tuple(targets))
        for inputs, targets in rows
    ]


def elements(converted: tf.data.Dataset) -> list[Mapping[str, np.ndarray]]:
    return list(converted.as_numpy_iterator())


def as_lists(converted: tf.data.Dataset) -> list[dict[str, list]]:
    return [{name: value.tolist() for name, value in row.items()} for row in converted.as_numpy_iterator()]
