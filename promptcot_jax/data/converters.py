"""From seqio's task features to the fields of `PackedBatch`, with seqio's packing.

Trainers take their batches from `packing.PackedEpochs`, which resumes at any step; this converter serves
those who feed a seqio pipeline (mixtures, T5X habits) to the same train step.
"""

from collections.abc import Mapping

import numpy as np
import seqio
import tensorflow as tf

from promptcot_jax.data.packing import PackedBatch

_FIELDS = {"token_ids": tf.int32, "segment_ids": tf.int32, "positions": tf.int32, "loss_mask": tf.bool}


class PackedLM(seqio.FeatureConverter):
    """Joins `inputs` and `targets` into rows of their two lengths together; only targets are trained on.

    seqio's packer takes id 0 for padding and cuts an example by as many tokens as it has zeros; ids travel
    through it one higher, since 0 is a common token of Hugging Face vocabularies.
    """

    TASK_FEATURES = {
        name: seqio.FeatureConverter.FeatureSpec(dtype=tf.int32) for name in ("inputs", "targets")
    }
    MODEL_FEATURES = {
        name: seqio.FeatureConverter.FeatureSpec(dtype=dtype) for name, dtype in _FIELDS.items()
    }
    PACKING_FEATURE_DTYPES = {}  # segment ids and positions are there without packing too

    def __init__(self, pad_id: int = 0, pack: bool = True):
        super().__init__(pack=pack)
        self._pad_id = pad_id

    def _convert_features(
        self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
    ) -> tf.data.Dataset:
        @tf.autograph.experimental.do_not_convert
        def join(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            inputs, targets = row["inputs"], row["targets"]
            role = tf.concat([tf.fill(tf.shape(inputs), 1), tf.fill(tf.shape(targets), 2)], axis=0)
            return {"token": tf.concat([inputs, targets], axis=0) + 1, "role": role}

        @tf.autograph.experimental.do_not_convert
        def to_fields(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            is_token = row["token"] > 0
            if self.pack:
                segment_ids, positions = row["token_segment_ids"], row["token_positions"]
            else:
                segment_ids = tf.cast(is_token, tf.int32)
                positions = tf.range(tf.size(is_token)) * segment_ids
            return {
                "token_ids": tf.where(is_token, row["token"] - 1, self._pad_id),
                "segment_ids": segment_ids,
                "positions": positions,
                "loss_mask": row["role"] == 2,
            }

        row_length = sum(task_feature_lengths.values())
        rows = self._pack_or_pad(ds.map(join), {"token": row_length, "role": row_length})
        return rows.map(to_fields, num_parallel_calls=tf.data.AUTOTUNE)

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> Mapping[str, int]:
        """Every field is as long as a row."""
        return dict.fromkeys(_FIELDS, sum(task_feature_lengths.values()))


def to_packed_batch(fields: Mapping[str, np.ndarray]) -> PackedBatch:
    """One batch of a converted data set, `dataset.batch(n).as_numpy_iterator()`, for the train step."""
    return PackedBatch(**{name: fields[name] for name in _FIELDS}, values={})
