"""seqio feature converters of sequences that belong together: preference pairs, and rollouts of one prompt.

The sequences of an element have a row each, side by side, and are refused, dropped or cut together. They come
in with ragged lengths and go out dense, with the masks of `PackedBatch`; `row_converter` says how.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from promptcot_jax.core.arrays import Array, Float
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data.examples import TokenExample
from promptcot_jax.data.packing import PackedBatch
from promptcot_jax.data.seqio import converters
from promptcot_jax.data.seqio.converters import ROW_FIELDS, FeatureSpec
from promptcot_jax.data.seqio.row_converter import RowConverter
from promptcot_jax.data.seqio.windows import Element

# [rows, T]
_ROWS = {name: FeatureSpec(dtype=dtype, rank=2, sequence_dim=1) for name, dtype in ROW_FIELDS.items()}


class PreferencePairs(RowConverter):
    """`inputs`, `chosen`, `rejected` -> fields of shape [2, T]: row 0 the chosen completion, 1 the rejected.

    `converters.to_packed_batch` makes them rows 2 i and 2 i + 1 of a batch.
    """

    TASK_FEATURES = {name: FeatureSpec(dtype=tf.int32) for name in ("inputs", "chosen", "rejected")}
    MODEL_FEATURES = _ROWS

    def __init__(self, *, pack: bool = False, **settings):
        _refuse_packing(pack, "pairs")
        super().__init__(pack=False, **settings)

    def _examples(self, element: Element) -> Sequence[TokenExample]:
        return [
            TokenExample(prompt_ids=element["inputs"], completion_ids=element[name])
            for name in ("chosen", "rejected")
        ]

    def _fields(self, batch: PackedBatch, elements: Sequence[Element]) -> Mapping[str, np.ndarray]:
        return {name: _side_by_side(getattr(batch, name), 2) for name in ROW_FIELDS}

    def _shapes(self, row_length: int) -> Mapping[str, tuple[int, ...]]:
        return dict.fromkeys(ROW_FIELDS, (2, row_length))

    def _natural_row_length(self, lengths: Mapping[str, int]) -> int:
        return lengths["inputs"] + max(lengths["chosen"], lengths["rejected"])


class RolloutGroups(RowConverter):
    """One prompt and its `group_size` sampled completions -> fields of shape [G, T].

    Task features: `inputs` [P]; `completions` and `sampler_log_probs`, ragged [G, C]; `rewards` [G]. Model
    features: those of `PackedBatch`; `old_log_probs`, 0 outside the completions; `rewards` as they came, for
    an advantage is an objective's business (`advantages.group_advantages`): see `to_rollout_batch`.

    The length of `completions` asked of seqio is that of one completion. seqio itself cuts the first axis of
    such a feature, which is the group, at that number; the group is then refused here for its size.
    """

    TASK_FEATURES = {
        "inputs": FeatureSpec(dtype=tf.int32),
        "completions": FeatureSpec(dtype=tf.int32, rank=2, sequence_dim=1),
        "sampler_log_probs": FeatureSpec(dtype=tf.float32, rank=2, sequence_dim=1),
        "rewards": FeatureSpec(dtype=tf.float32),
    }
    MODEL_FEATURES = _ROWS | {
        "old_log_probs": FeatureSpec(dtype=tf.float32, rank=2, sequence_dim=1),
        "rewards": FeatureSpec(dtype=tf.float32),
    }
    VALUE_NAMES = ("old_log_probs",)

    def __init__(self, *, group_size: int, pack: bool = False, **settings):
        _refuse_packing(pack, "groups")
        if group_size < 2:
            raise ValueError(f"group_size must be at least 2 to compare rollouts, got {group_size}.")
        super().__init__(pack=False, **settings)
        self._group_size = group_size

    def _examples(self, element: Element) -> Sequence[TokenExample]:
        for name in ("completions", "sampler_log_probs", "rewards"):
            if len(element[name]) != self._group_size:
                raise WrongUse(
                    f"'{name}' has {len(element[name])} entries, group_size is {self._group_size}; "
                    "a group is whole or left out."
                )
        return [
            TokenExample(
                prompt_ids=element["inputs"],
                completion_ids=completion,
                token_values={"old_log_probs": log_probs},
            )
            for completion, log_probs in zip(
                element["completions"], element["sampler_log_probs"], strict=True
            )
        ]

    def _fields(self, batch: PackedBatch, elements: Sequence[Element]) -> Mapping[str, np.ndarray]:
        fields = {name: _side_by_side(getattr(batch, name), self._group_size) for name in ROW_FIELDS}
        rewards = np.array([element["rewards"] for element in elements], np.float32)
        return fields | {
            "old_log_probs": _side_by_side(batch.values["old_log_probs"], self._group_size),
            "rewards": rewards.reshape(-1, self._group_size),
        }

    def _shapes(self, row_length: int) -> Mapping[str, tuple[int, ...]]:
        rows = dict.fromkeys([*ROW_FIELDS, "old_log_probs"], (self._group_size, row_length))
        return rows | {"rewards": (self._group_size,)}

    def _natural_row_length(self, lengths: Mapping[str, int]) -> int:
        return lengths["inputs"] + lengths["completions"]


def to_rollout_batch(
    fields: Mapping[str, np.ndarray], advantages: Float[Array | np.ndarray, "B G"]
) -> PackedBatch:
    """One batch of `RolloutGroups` for `trainers.grpo.grpo_loss`: B groups become B * G rows.

    Args:
        advantages: of each completion, made from `fields["rewards"]`; given to every token of it.
    """
    of_tokens = np.where(fields["loss_mask"], np.asarray(advantages, np.float32)[..., None], 0.0)
    values = {"advantages": of_tokens.astype(np.float32), "old_log_probs": fields["old_log_probs"]}
    return converters.to_packed_batch(fields, values)


def _side_by_side(values: np.ndarray | Array, num_rows: int) -> np.ndarray:
    """[N * num_rows, T] -> [N, num_rows, T]."""
    return np.asarray(values).reshape(-1, num_rows, values.shape[-1])


def _refuse_packing(pack: bool, what: str) -> None:
    if pack:
        raise ValueError(f"pack must be False: {what} keep a row for each sequence, side by side.")
