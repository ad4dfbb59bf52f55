"""Pairs and rollout groups: side by side, kept or left out together, with what the losses read."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
import seqio
import tensorflow as tf

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data.seqio import converters, group_converters
from promptcot_jax.objectives import advantages as advantages_lib
from promptcot_jax.trainers import grpo
from tests.data.seqio import seqio_data
from tests.trainers import test_sft

PAIR_LENGTHS = {"inputs": 3, "chosen": 2, "rejected": 4}


def pairs(rows, lengths=PAIR_LENGTHS, **settings):
    data = seqio_data.dataset(rows, ("inputs", "chosen", "rejected"))
    return group_converters.PreferencePairs(**settings)(data, lengths)


def test_a_pair_by_hand():
    seqio.test_utils.assert_dataset(
        pairs([([0, 5], [3], [4, 0, 6])], pad_id=9),
        {
            "token_ids": [[0, 5, 3, 9, 9, 9, 9], [0, 5, 4, 0, 6, 9, 9]],
            "segment_ids": [[1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0, 0]],
            "positions": [[0, 1, 2, 0, 0, 0, 0], [0, 1, 2, 3, 4, 0, 0]],
            "loss_mask": [[False] * 2 + [True] + [False] * 4, [False] * 2 + [True] * 3 + [False] * 2],
        },
        expected_dtypes=dict(converters.ROW_FIELDS),
    )


def test_a_batch_of_pairs_has_the_sides_in_turn():
    rows = [([1], [2], [3]), ([4], [5], [6])]
    (fields,) = pairs(rows).batch(2).as_numpy_iterator()
    assert fields["token_ids"].shape == (2, 2, 7)
    batch = converters.to_packed_batch(fields)
    assert np.asarray(batch.token_ids)[:, :2].tolist() == [[1, 2], [1, 3], [4, 5], [4, 6]]
    assert np.asarray(batch.loss_mask)[:, :3].tolist() == [[False, True, False]] * 4


LONG_PAIR = [([1] * 4, [2], [3] * 4), ([4], [5], [6])]


def test_an_overlong_side_takes_the_other_with_it():
    dropping = group_converters.PreferencePairs(overlong="drop")
    data = seqio_data.dataset(LONG_PAIR, ("inputs", "chosen", "rejected"))
    (kept,) = seqio_data.as_lists(dropping(data, PAIR_LENGTHS))
    assert [row[:2] for row in kept["token_ids"]] == [[4, 5], [4, 6]]
    assert (dropping.counts.elements, dropping.counts.dropped_overlong) == (2, 1)
    with pytest.raises(tf.errors.OpError, match="WrongUse: Example 0 has 8 tokens, a row holds 7"):
        seqio_data.elements(pairs(LONG_PAIR))


def test_both_sides_are_cut_at_the_same_length():
    (first, _) = seqio_data.as_lists(pairs(LONG_PAIR, row_length=6, overlong="truncate"))
    assert first["token_ids"] == [[1, 1, 1, 1, 2, 0], [1, 1, 1, 1, 3, 3]]


GROUP_LENGTHS = {"inputs": 2, "completions": 3, "sampler_log_probs": 3, "rewards": 3}


def groups(*elements) -> tf.data.Dataset:
    """Elements (inputs, completions, log-probabilities, rewards) of any group size."""

    def generate():
        for inputs, completions, log_probs, rewards in elements:
            yield {
                "inputs": tf.constant(inputs, tf.int32),
                "completions": tf.ragged.constant(completions, dtype=tf.int32, ragged_rank=1),
                "sampler_log_probs": tf.ragged.constant(log_probs, dtype=tf.float32, ragged_rank=1),
                "rewards": tf.constant(rewards, tf.float32),
            }

    signature = {
        "inputs": tf.TensorSpec([None], tf.int32),
        "completions": tf.RaggedTensorSpec([None, None], tf.int32),
        "sampler_log_probs": tf.RaggedTensorSpec([None, None], tf.float32),
        "rewards": tf.TensorSpec([None], tf.float32),
    }
    return tf.data.Dataset.from_generator(generate, output_signature=signature)


GROUP = ([0, 1], [[2, 0], [2], [1, 2, 0]], [[-1.0, -2.0], [-0.5], [-3.0, -4.0, -5.0]], [1.0, 0.0, 0.0])


def test_a_group_by_hand():
    converter = group_converters.RolloutGroups(group_size=3, pad_id=9)
    expected = {
        "token_ids": [[0, 1, 2, 0, 9], [0, 1, 2, 9, 9], [0, 1, 1, 2, 0]],
        "segment_ids": [[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]],
        "positions": [[0, 1, 2, 3, 0], [0, 1, 2, 0, 0], [0, 1, 2, 3, 4]],
        "loss_mask": [[False, False, True, True, False]]
        + [[False, False, True, False, False]]
        + [[False, False, True, True, True]],
        "old_log_probs": [[0, 0, -1, -2, 0], [0, 0, -0.5, 0, 0], [0, 0, -3, -4, -5]],
        "rewards": [1.0, 0.0, 0.0],
    }
    converted = converter(groups(GROUP, GROUP), GROUP_LENGTHS)
    seqio.test_utils.assert_dataset(converted, [expected, expected])
    assert (
        converted.element_spec["rewards"].dtype == converted.element_spec["old_log_probs"].dtype == tf.float32
    )


@pytest.mark.parametrize("change", [1, 2, 3])
def test_a_group_of_another_size_is_refused_by_name(change):
    short = [*GROUP]
    short[change] = short[change][:2]
    converted = group_converters.RolloutGroups(group_size=3)(groups(GROUP, tuple(short)), GROUP_LENGTHS)
    name = ("completions", "sampler_log_probs", "rewards")[change - 1]
    with pytest.raises(
        tf.errors.OpError, match=f"WrongUse: Example 1: '{name}' has 2 entries, group_size is 3"
    ):
        seqio_data.elements(converted)


def test_log_probs_belong_to_the_tokens_of_their_completion():
    wrong = (GROUP[0], GROUP[1], [[-1.0], [-0.5, -2.0], [-3.0, -4.0, -5.0]], GROUP[3])
    converted = group_converters.RolloutGroups(group_size=3)(groups(wrong), GROUP_LENGTHS)
    with pytest.raises(
        tf.errors.OpError, match="WrongUse: Example 0: 'old_log_probs' has 1 values for 2 completion"
    ):
        seqio_data.elements(converted)


def test_a_group_is_dropped_whole():
    converter = group_converters.RolloutGroups(group_size=3, overlong="drop", row_length=4)
    small = ([0], [[2], [1], [0]], [[-1.0], [-1.0], [-1.0]], [0.0, 1.0, 2.0])
    (kept,) = seqio_data.as_lists(converter(groups(GROUP, small), GROUP_LENGTHS))
    assert kept["token_ids"] == [[0, 2, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert kept["rewards"] == [0.0, 1.0, 2.0]  # of the group that was kept
    assert converter.counts.dropped_overlong == 1


def test_the_policy_gradient_of_a_group_with_a_pencil():
    converter = group_converters.RolloutGroups(group_size=3)
    (fields,) = converter(groups(GROUP), GROUP_LENGTHS).batch(1).as_numpy_iterator()
    advantages = advantages_lib.group_advantages(
        jnp.asarray(fields["rewards"]), jnp.ones((1, 3), bool), epsilon=0.0
    )
    np.testing.assert_allclose(advantages[0], [math.sqrt(2), -math.sqrt(0.5), -math.sqrt(0.5)], rtol=1e-6)
    batch = group_converters.to_rollout_batch(fields, advantages)
    assert batch.token_ids.shape == batch.values["advantages"].shape == (3, 5)
    config = grpo.GrpoConfig(clip_low=1.0, clip_high=1000.0, sampler_correction="none")
    total, count, _ = grpo.grpo_loss(test_sft.BIGRAM, {"table": test_sft.TABLE}, batch, config=config)
    # Probabilities of the bigram model, in eighths: 1 -> 2 six, 2 -> 0 five, 1 -> 1 one.
    ratios = [
        6 / 8 * math.exp(1) + 5 / 8 * math.exp(2),
        6 / 8 * math.exp(0.5),
        1 / 8 * math.exp(3) + 6 / 8 * math.exp(4) + 5 / 8 * math.exp(5),
    ]
    expected = -math.sqrt(2) * ratios[0] + math.sqrt(0.5) * (ratios[1] + ratios[2])
    assert count == 6
    np.testing.assert_allclose(total, expected, rtol=1e-5)


def test_a_task_of_groups_goes_through_seqio():
    """The very call of T5X; the length of `completions` is that of one completion."""
    features = {
        "inputs": seqio.Feature(seqio.PassThroughVocabulary(9), add_eos=False),
        "completions": seqio.Feature(seqio.PassThroughVocabulary(9), add_eos=False, rank=2),
        "sampler_log_probs": seqio.Feature(
            seqio.PassThroughVocabulary(9), add_eos=False, rank=2, dtype=tf.float32
        ),
        "rewards": seqio.Feature(seqio.PassThroughVocabulary(9), add_eos=False, dtype=tf.float32),
    }

    def read_split(split, shuffle_files, seed=None):
        return groups(GROUP, GROUP)

    seqio.TaskRegistry.remove("groups")
    seqio.TaskRegistry.add(
        "groups",
        source=seqio.FunctionDataSource(read_split, splits=("train",)),
        preprocessors=[],
        output_features=features,
    )
    converter = group_converters.RolloutGroups(group_size=3, pack=False, use_custom_packing_ops=False)
    converted = seqio.get_dataset("groups", GROUP_LENGTHS, converter, shuffle=False)
    alone = group_converters.RolloutGroups(group_size=3)(groups(GROUP, GROUP), GROUP_LENGTHS)
    seqio.test_utils.assert_datasets_eq(converted, alone)
    cut_by_seqio = seqio.get_dataset("groups", GROUP_LENGTHS | {"completions": 2}, converter, shuffle=False)
    with pytest.raises(tf.errors.OpError, match="'completions' has 2 entries, group_size is 3"):
        seqio_data.elements(cut_by_seqio)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: group_converters.PreferencePairs(pack=True), "pairs keep a row for each sequence"),
        (lambda: group_converters.RolloutGroups(group_size=2, pack=True), "groups keep a row for each"),
        (lambda: group_converters.RolloutGroups(group_size=1), "group_size must be at least 2"),
    ],
)
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_lengths_of_a_group_are_single_numbers():
    converter = group_converters.RolloutGroups(group_size=3)
    with pytest.raises(WrongUse, match=r"\['completions'\] = \(3, 3\) must be one number"):
        converter(groups(GROUP), GROUP_LENGTHS | {"completions": (3, 3)})
