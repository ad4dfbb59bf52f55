"""A seqio preprocessor that lets nothing reach seqio which seqio would cut without a word.

`Task.get_dataset` trims every feature to the lengths it is asked for, right after the last preprocessor. This
one, put last, refuses such a row by name, drops it, or lets it be cut where that does no harm, and counts.
"""

import collections
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data.example_sets import Overlong


def within_lengths(
    dataset: tf.data.Dataset,
    sequence_length: Mapping[str, int | None] | None,
    *,
    overlong: Overlong = "error",
    cut_feature: str | None = None,
    counts: collections.Counter[str] | None = None,
) -> tf.data.Dataset:
    """The rows of a data set whose features are within the lengths that seqio is asked for.

    The error of the pipeline quotes a `WrongUse` that names the row: by its feature `id`, else its number.

    Args:
        overlong: what becomes of the others. "truncate" lets seqio cut the end of `cut_feature` (a
            completion); a row that is too long elsewhere (its prompt) is dropped all the same.
        counts: `dropped_overlong` and `cut` are added to.
    """
    limits = {name: limit for name, limit in (sequence_length or {}).items() if limit is not None}
    specs: Any = dataset.element_spec  # a dictionary, here
    limited = [name for name in limits if name in specs]
    if not limited:
        return dataset
    counts = collections.Counter() if counts is None else counts

    def keeps(name: bytes | np.integer, *lengths: np.integer) -> np.ndarray:
        over = {f: n for f, n in zip(limited, lengths, strict=True) if n > limits[f]}
        if over and overlong == "error":
            feature, length = next(iter(over.items()))
            raise WrongUse(
                f"{name_of(name)}: '{feature}' is {length} long, over the length of "
                f"{limits[feature]} asked for; raise it, or leave such rows out."
            )
        is_kept = not over or (overlong == "truncate" and list(over) == [cut_feature])
        if over:
            counts["cut" if is_kept else "dropped_overlong"] += 1
        return np.array(is_kept)

    @tf.autograph.experimental.do_not_convert
    def is_kept(index: tf.Tensor, features: dict[str, Any]) -> tf.Tensor:
        lengths = [_first_axis(features[feature]) for feature in limited]
        name = features.get("id", index)
        return tf.ensure_shape(tf.numpy_function(keeps, [name, *lengths], tf.bool, stateful=False), [])

    # A filter also where nothing is dropped: TensorFlow leaves out a check on whose result nothing depends.
    rows = dataset.enumerate().filter(is_kept)  # pyright: ignore[reportArgumentType]  # not of pairs
    return rows.map(lambda _, features: features)


def _first_axis(value: Any) -> tf.Tensor:
    return value.nrows() if isinstance(value, tf.RaggedTensor) else tf.shape(value)[0]


def name_of(name: Any) -> str:
    """How messages call an example: by its `id` where it has one, else by its number in the data set."""
    return f"Example '{name.decode()}'" if isinstance(name, bytes) else f"Example {name}"
