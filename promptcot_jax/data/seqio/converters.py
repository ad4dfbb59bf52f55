"""seqio feature converters of single sequences: packed rows, T5X's prefix LM, rows out of a cache.

Trainers take their batches from `packing.PackedEpochs`, which resumes at any step; these converters serve
those who feed a seqio pipeline (mixtures, T5X habits) to the same train step. `row_converter` says how rows
are laid out and what happens to examples that are too long; `group_converters` holds pairs and rollouts.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from promptcot_jax.core.arrays import Array
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data.examples import TokenExample
from promptcot_jax.data.packing import PackedBatch
from promptcot_jax.data.seqio.row_converter import RowConverter
from promptcot_jax.data.seqio.windows import Element

FeatureSpec = seqio.FeatureConverter.FeatureSpec

# The arrays of a `PackedBatch`, by field name.
ROW_FIELDS: Mapping[str, tf.DType] = {
    "token_ids": tf.int32,
    "segment_ids": tf.int32,
    "positions": tf.int32,
    "loss_mask": tf.bool,
}


class PackedLM(RowConverter):
    """`inputs` and `targets` -> the fields of `PackedBatch`; only targets are trained on.

    Segment ids and positions are there without packing too: they tell padding from tokens, since id 0 is a
    token of Hugging Face vocabularies. Settings: `RowConverter`.
    """

    TASK_FEATURES = {name: FeatureSpec(dtype=tf.int32) for name in ("inputs", "targets")}
    MODEL_FEATURES = {name: FeatureSpec(dtype=dtype) for name, dtype in ROW_FIELDS.items()}

    def __init__(self, *, pack: bool = True, **settings):
        super().__init__(pack=pack, **settings)

    def _examples(self, element: Element) -> Sequence[TokenExample]:
        return [TokenExample(prompt_ids=element["inputs"], completion_ids=element["targets"])]

    def _fields(self, batch: PackedBatch, elements: Sequence[Element]) -> Mapping[str, np.ndarray]:
        return {name: np.asarray(getattr(batch, name)) for name in ROW_FIELDS}

    def _shapes(self, row_length: int) -> Mapping[str, tuple[int, ...]]:
        return dict.fromkeys(ROW_FIELDS, (row_length,))


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

    def _fields(self, batch: PackedBatch, elements: Sequence[Element]) -> Mapping[str, np.ndarray]:
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

    def _shapes(self, row_length: int) -> Mapping[str, tuple[int, ...]]:
        names = [*self.MODEL_FEATURES, *(self.PACKING_FEATURE_DTYPES if self.pack else ())]
        return dict.fromkeys(names, (row_length,))


def _of_previous(values: np.ndarray, first: int | bool) -> np.ndarray:
    """Moves [R, T] values one position on; the first position gets `first`."""
    return np.concatenate([np.full_like(values[:, :1], first), values[:, :-1]], axis=1)


class Prepacked(seqio.FeatureConverter):
    """Rows that were packed before (`packed_cache`), passed on as they are."""

    TASK_FEATURES = {
        name: FeatureSpec(dtype=tf.int32 if dtype == tf.bool else dtype) for name, dtype in ROW_FIELDS.items()
    }
    MODEL_FEATURES = PackedLM.MODEL_FEATURES
    PACKING_FEATURE_DTYPES = {}

    def __init__(self, *, pack: bool = False, use_custom_packing_ops: bool = False):
        """T5X passes both arguments.

        Raises:
            ValueError: packing is asked for.
        """
        if pack or use_custom_packing_ops:
            raise ValueError("Prepacked rows are packed already: pack and use_custom_packing_ops are False.")
        super().__init__(pack=False)

    def _convert_features(
        self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
    ) -> tf.data.Dataset:
        if len(set(task_feature_lengths.values())) != 1:
            raise WrongUse(
                f"task_feature_lengths must all be the length of a row, got {dict(task_feature_lengths)}."
            )

        @tf.autograph.experimental.do_not_convert
        def to_fields(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            return {
                name: tf.cast(tf.ensure_shape(row[name], [task_feature_lengths[name]]), dtype)
                for name, dtype in ROW_FIELDS.items()
            }

        return ds.map(to_fields, num_parallel_calls=tf.data.AUTOTUNE)

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> Mapping[str, int]:
        """As long as the rows that come in."""
        return task_feature_lengths


def to_packed_batch(
    fields: Mapping[str, np.ndarray], values: Mapping[str, np.ndarray | Array] | None = None
) -> PackedBatch:
    """One batch of a converted data set, `dataset.batch(n).as_numpy_iterator()`, for the train step.

    [..., T] fields become [B, T] rows: the rows of a pair or group stay side by side.

    Args:
        values: token values of the rows, shaped like the fields.
    """
    rows = {name: fields[name].reshape(-1, fields[name].shape[-1]) for name in ROW_FIELDS}
    return PackedBatch(
        **rows, values={name: value.reshape(-1, value.shape[-1]) for name, value in (values or {}).items()}
    )
