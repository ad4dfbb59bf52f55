"""Stretches of a tf.data set handed to a Python function, for work that looks at many examples at once.

A window is worked on whole before the next begins, in order and in one thread, so that what comes out depends
on the data alone; nothing is lost at a window's border, and the last one is merely shorter.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

Element = dict[str, Any]  # features of one element as (nested) lists, and its `index` in the data set

_RaggedTensor: Any = tf.RaggedTensor  # its constructors are missing from the type stubs


def map_windows(
    dataset: tf.data.Dataset,
    function: Callable[[Sequence[Element]], Mapping[str, np.ndarray]],
    *,
    features: Sequence[str],
    outputs: Mapping[str, tuple[tf.DType, tuple[int, ...]]],
    window: int,
    at_end: Callable[[], None],
) -> tf.data.Dataset:
    """What `function` makes of each window, element by element.

    Args:
        function: gives arrays [rows, *shape] of as many rows as it likes, also none.
        features: which of the data set's it gets; they may be ragged.
        outputs: dtype and shape of each array, without the rows.
        at_end: is called when the last row has been given out.
    """

    @tf.autograph.experimental.do_not_convert
    def pick(index: tf.Tensor, element: Mapping[str, Any]) -> dict[str, Any]:
        return {"index": index} | {name: element[name] for name in features}

    @tf.autograph.experimental.do_not_convert
    def apply(batch: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        parts = {name: _flat_parts(value) for name, value in batch.items()}

        def in_python(*arrays: np.ndarray) -> list[np.ndarray]:
            remaining = iter(arrays)
            columns = [_nested([next(remaining).tolist() for _ in tensors]) for tensors in parts.values()]
            elements = [dict(zip(parts, values, strict=True)) for values in zip(*columns, strict=True)]
            arrays_out = function(elements)
            return [arrays_out[name].astype(dtype.as_numpy_dtype) for name, (dtype, _) in outputs.items()]

        tensors = list(itertools.chain.from_iterable(parts.values()))
        dtypes = [dtype for dtype, _ in outputs.values()]
        return with_shapes(tf.numpy_function(in_python, tensors, dtypes, stateful=False))

    @tf.autograph.experimental.do_not_convert
    def end(zero: tf.Tensor) -> dict[str, tf.Tensor]:
        def in_python(_: Any) -> np.ndarray:
            at_end()
            return np.zeros((), np.int32)

        no_rows = tf.numpy_function(in_python, [zero], tf.int32, stateful=False)
        return with_shapes([tf.zeros([no_rows, *shape], dtype) for dtype, shape in outputs.values()])

    def with_shapes(arrays: Sequence[tf.Tensor]) -> dict[str, tf.Tensor]:
        return {
            name: tf.ensure_shape(array, [None, *shape])
            for (name, (_, shape)), array in zip(outputs.items(), arrays, strict=True)
        }

    rows = dataset.enumerate().map(pick).ragged_batch(window).map(apply).prefetch(1).unbatch()
    return rows.concatenate(tf.data.Dataset.range(1).map(end).unbatch())


def spec_of(dataset: tf.data.Dataset) -> dict[str, Any]:
    """The features of a data set's elements, which are dictionaries here."""
    spec: Any = dataset.element_spec
    return spec


def name_of(element: Mapping[str, Any]) -> str:
    """How messages call an element: by its `id` where it has one, else by its number in the data set."""
    name = element.get("id", element.get("index"))
    return f"Example '{name.decode()}'" if isinstance(name, bytes) else f"Example {name}"


def _flat_parts(value: Any) -> list[tf.Tensor]:
    """A batched feature as flat values and the row splits of its axes, from the outermost."""
    if not isinstance(value, tf.RaggedTensor):
        if value.shape.rank == 1:
            return [value]  # one number or text per element
        value = _RaggedTensor.from_tensor(value, ragged_rank=value.shape.rank - 1)
    return [value.flat_values, *value.nested_row_splits]


def _nested(parts: list[list]) -> list:
    """The lists that `_flat_parts` took apart, one per element of the window."""
    values, *splits = parts
    for ends in reversed(splits):
        values = [values[start:end] for start, end in itertools.pairwise(ends)]
    return values
