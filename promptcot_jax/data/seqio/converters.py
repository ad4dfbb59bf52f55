"""seqio feature converters that lay rows out by `packing`, so that the package has one layout.

Trainers take their batches from `packing.PackedEpochs`, which resumes at any step; these converters serve
those who feed a seqio pipeline (mixtures, T5X habits) to the same train step.

A converter collects a window of examples and gives out the rows that `packing.first_fit` and
`packing.pack_rows` make of them, in the order in which first-fit opened the rows. Windows are worked on in
order and in one thread, so the rows depend on the data alone. The last few rows of each window may stay
partly empty; 1,024 examples leave few of them.

An example longer than a row is refused by name. But seqio trims features to `task_feature_lengths` before a
converter sees them, without a message. So either turn that off (`trim_output_features=False`, in T5X a field
of `DatasetConfig`; or lengths of None, with the converter's `row_length`), or end the task in
`length_filter.within_lengths`, which also drops or cuts what is too long, as this package's tasks do.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import packing
from promptcot_jax.data.examples import TokenExample
from promptcot_jax.data.packing import PackedBatch
from promptcot_jax.data.seqio.length_filter import name_of

FeatureSpec = seqio.FeatureConverter.FeatureSpec
_RaggedTensor: Any = tf.RaggedTensor  # its constructors are missing from the type stubs

# The arrays of a `PackedBatch`, by field name.
ROW_FIELDS: Mapping[str, tf.DType] = {
    "token_ids": tf.int32,
    "segment_ids": tf.int32,
    "positions": tf.int32,
    "loss_mask": tf.bool,
}


class PackedLM(seqio.FeatureConverter):
    """`inputs` and `targets` -> the fields of `PackedBatch`; only targets are trained on.

    Segment ids and positions are there without packing too: they tell padding from tokens, since id 0 is a
    token of Hugging Face vocabularies.
    """

    TASK_FEATURES = {name: FeatureSpec(dtype=tf.int32) for name in ("inputs", "targets")}
    MODEL_FEATURES = {name: FeatureSpec(dtype=dtype) for name, dtype in ROW_FIELDS.items()}
    PACKING_FEATURE_DTYPES = {}

    def __init__(
        self,
        *,
        pack: bool = True,
        pad_id: int = 0,
        row_length: int | None = None,
        window: int = 1024,
        use_custom_packing_ops: bool = False,
    ):
        """Settings of every converter.

        Args:
            pad_id: what fills rows up; padding is told by segment ids, not by this id.
            row_length: None takes what `task_feature_lengths` add up to.
            window: examples laid out together; more fill rows better and take more memory.
            use_custom_packing_ops: T5X passes it; there are none here.

        Raises:
            ValueError: a setting is out of range.
        """
        if use_custom_packing_ops:
            raise ValueError("use_custom_packing_ops must be False: rows are laid out by data.packing.")
        if window < 1 or (row_length is not None and row_length < 2):
            raise ValueError(
                f"window must be at least 1 and row_length at least 2, got {window} and {row_length}."
            )
        # seqio's own length check would not name the example.
        super().__init__(pack=pack, apply_length_check=False)
        self._pad_id = pad_id
        self._row_length = row_length
        self._window = window

    def _fields(self, batch: PackedBatch) -> Mapping[str, np.ndarray]:
        """The model features of a window's rows."""
        return {name: np.asarray(getattr(batch, name)) for name in ROW_FIELDS}

    def row_length(self, task_feature_lengths: Mapping[str, Any]) -> int:
        """Positions of a row.

        Raises:
            WrongUse: the lengths do not say it and `row_length` was not set, or a length is no number.
        """
        for name, length in task_feature_lengths.items():
            if length is not None and not isinstance(length, int):
                raise WrongUse(
                    f"task_feature_lengths['{name}'] = {length!r} must be one number: with several, seqio "
                    "cuts each part of the feature without a word."
                )
        if self._row_length is not None:
            return self._row_length
        if unset := sorted(name for name, length in task_feature_lengths.items() if length is None):
            raise WrongUse(f"task_feature_lengths of {unset} are None: set row_length of the converter.")
        return task_feature_lengths["inputs"] + task_feature_lengths["targets"]

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, Any]) -> Mapping[str, int]:
        """Every field is as long as a row."""
        return dict.fromkeys(self._dtypes(), self.row_length(task_feature_lengths))

    def _dtypes(self) -> dict[str, tf.DType]:
        dtypes = {name: spec.dtype for name, spec in self.MODEL_FEATURES.items()}
        return {**dtypes, **self.PACKING_FEATURE_DTYPES} if self.pack else dtypes

    def _convert_features(
        self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, Any]
    ) -> tf.data.Dataset:
        row_length = self.row_length(task_feature_lengths)
        dtypes = self._dtypes()

        def lay_out(names: np.ndarray, *parts: np.ndarray) -> list[np.ndarray]:
            # parts: of each feature the ids of all examples, and where each example ends
            prompts, completions = (
                [values[start:end] for start, end in itertools.pairwise(splits)]
                for values, splits in (parts[:2], parts[2:])
            )
            examples = [
                _example(*of_one, row_length) for of_one in zip(names, prompts, completions, strict=True)
            ]
            rows = _first_fit(examples, row_length) if self.pack else [[example] for example in examples]
            fields = self._fields(
                packing.pack_rows(rows, num_rows=len(rows), row_length=row_length, pad_id=self._pad_id)
            )
            return [fields[field].astype(dtype.as_numpy_dtype) for field, dtype in dtypes.items()]

        @tf.autograph.experimental.do_not_convert
        def pick(index: tf.Tensor, element: Mapping[str, Any]) -> dict[str, Any]:
            picked = {feature: element[feature] for feature in self.TASK_FEATURES}
            return {**picked, "name": element.get("id", index)}

        @tf.autograph.experimental.do_not_convert
        def apply(batch: Mapping[str, Any]) -> dict[str, tf.Tensor]:
            parts = []
            for feature in self.TASK_FEATURES:
                value = batch[feature]
                ragged = value if isinstance(value, tf.RaggedTensor) else _RaggedTensor.from_tensor(value)
                parts += [ragged.flat_values, ragged.row_splits]
            arrays = tf.numpy_function(
                lay_out, [batch["name"], *parts], list(dtypes.values()), stateful=False
            )
            return {
                field: tf.ensure_shape(array, [None, row_length])
                for field, array in zip(dtypes, arrays, strict=True)
            }

        return ds.enumerate().map(pick).ragged_batch(self._window).map(apply).prefetch(1).unbatch()


def _example(name: Any, prompt: np.ndarray, completion: np.ndarray, row_length: int) -> TokenExample:
    """An example that fits a row."""
    try:
        example = TokenExample(prompt_ids=prompt, completion_ids=completion)
    except ValueError as error:
        raise WrongUse(f"{name_of(name)}: {error}") from None
    if example.length > row_length:
        raise WrongUse(
            f"{name_of(name)} has {example.length} tokens, a row holds {row_length}; use longer rows, or end "
            "the task in length_filter.within_lengths."
        )
    return example


def _first_fit(examples: Sequence[TokenExample], row_length: int) -> list[list[TokenExample]]:
    """Which examples share a row."""
    row_of = packing.first_fit([example.length for example in examples], row_length)
    rows: list[list[TokenExample]] = [[] for _ in range(int(row_of.max()) + 1)]
    for example, row in zip(examples, row_of.tolist(), strict=True):
        rows[row].append(example)
    return rows


class PrefixLM(PackedLM):
    """`inputs` and `targets` -> what T5X's decoder-only models read; only targets have a loss weight.

    The features of seqio's `PrefixLMFeatureConverter`, and equal to its where that is right: it takes every
    id 0 for padding (a weight on the prompt's zeros and none on the targets', examples cut when packed),
    which is false for Hugging Face vocabularies. T5X shifts, so the first input of each example is `bos_id`;
    a model that takes id 0 for a word should be given its BOS or end token here. Its attention layers hide
    ids that are not positive unless there are segment ids, so pack such data.
    """

    MODEL_FEATURES = {
        name: FeatureSpec(dtype=tf.int32)
        for name in (
            "decoder_target_tokens",
            "decoder_input_tokens",
            "decoder_loss_weights",
            "decoder_causal_attention",
        )
    }
    PACKING_FEATURE_DTYPES = {"decoder_segment_ids": tf.int32, "decoder_positions": tf.int32}

    def __init__(self, *, pack: bool = True, bos_id: int = 0, **settings):
        super().__init__(pack=pack, **settings)
        self._bos_id = bos_id

    def _fields(self, batch: PackedBatch) -> Mapping[str, np.ndarray]:
        token_ids, segment_ids, loss_mask = map(
            np.asarray, (batch.token_ids, batch.segment_ids, batch.loss_mask)
        )
        input_ids = _of_previous(token_ids, self.bos_id)
        if self.pack:
            input_ids = np.where(segment_ids == _of_previous(segment_ids, 0), input_ids, self.bos_id)
        # The prompt, and the position that reads its last token and writes the first target.
        is_prefix = (segment_ids > 0) & ~(loss_mask & _of_previous(loss_mask, False))
        return {
            "decoder_target_tokens": token_ids,
            "decoder_input_tokens": input_ids,
            "decoder_loss_weights": loss_mask,
            "decoder_causal_attention": is_prefix,
            "decoder_segment_ids": segment_ids,
            "decoder_positions": np.asarray(batch.positions),
        }


def _of_previous(values: np.ndarray, first: int | bool) -> np.ndarray:
    """Moves [R, T] values one position on; the first position gets `first`."""
    return np.concatenate([np.full_like(values[:, :1], first), values[:, :-1]], axis=1)


def to_packed_batch(fields: Mapping[str, np.ndarray]) -> PackedBatch:
    """One batch of a `PackedLM` data set, `dataset.batch(n).as_numpy_iterator()`, for the train step."""
    return PackedBatch(**{name: fields[name] for name in ROW_FIELDS}, values={})
