"""Feature converters of single sequences: the layout of `packing`, nothing lost, nothing cut in silence."""

import collections

import jax
import numpy as np
import pytest
import seqio
import tensorflow as tf

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import packing
from promptcot_jax.data.seqio import converters, length_filter
from promptcot_jax.trainers import sft
from tests import toys
from tests.data.seqio import seqio_data
from tests.trainers import toy_fit

LENGTHS = {"inputs": 5, "targets": 5}
# Row 0 takes the first and third example (first-fit), row 1 the second.
ROWS = [([0, 5, 0], [0, 0, 7]), ([3, 4, 4, 4], [0, 2]), ([0], [0, 1])]


def packed_lm(rows, lengths=LENGTHS, **settings):
    return converters.PackedLM(**settings)(seqio_data.dataset(rows), lengths)


def test_packed_rows_by_hand():
    seqio.test_utils.assert_dataset(
        packed_lm(ROWS, pad_id=9),
        [
            {
                "token_ids": [0, 5, 0, 0, 0, 7, 0, 0, 1, 9],
                "segment_ids": [1, 1, 1, 1, 1, 1, 2, 2, 2, 0],
                "positions": [0, 1, 2, 3, 4, 5, 0, 1, 2, 0],
                "loss_mask": [False] * 3 + [True] * 3 + [False] + [True] * 2 + [False],
            },
            {
                "token_ids": [3, 4, 4, 4, 0, 2, 9, 9, 9, 9],
                "segment_ids": [1] * 6 + [0] * 4,
                "positions": [0, 1, 2, 3, 4, 5, 0, 0, 0, 0],
                "loss_mask": [False] * 4 + [True] * 2 + [False] * 4,
            },
        ],
        expected_dtypes=dict(converters.ROW_FIELDS),
    )


def test_unpacked_rows_by_hand():
    seqio.test_utils.assert_dataset(
        packed_lm(ROWS[2:], pack=False, pad_id=9),
        {
            "token_ids": [0, 0, 1] + [9] * 7,
            "segment_ids": [1] * 3 + [0] * 7,
            "positions": [0, 1, 2] + [0] * 7,
            "loss_mask": [False, True, True] + [False] * 7,
        },
    )


def test_the_prefix_lm_by_hand():
    lengths = {"inputs": 4, "targets": 4}
    rows = [([7, 0], [3, 0]), ([0], [2])]
    converter = converters.PrefixLM(bos_id=8, pad_id=9)
    seqio.test_utils.assert_dataset(
        converter(seqio_data.dataset(rows), lengths),
        {
            "decoder_target_tokens": [7, 0, 3, 0, 0, 2, 9, 9],
            "decoder_input_tokens": [8, 7, 0, 3, 8, 0, 8, 9],
            "decoder_loss_weights": [0, 0, 1, 1, 0, 1, 0, 0],
            "decoder_causal_attention": [1, 1, 1, 0, 1, 1, 0, 0],
            "decoder_segment_ids": [1, 1, 1, 1, 2, 2, 0, 0],
            "decoder_positions": [0, 1, 2, 3, 0, 1, 0, 0],
        },
    )


@pytest.mark.slow
@pytest.mark.parametrize("pack", [True, False])
def test_the_prefix_lm_is_seqio_s_where_no_id_is_zero(pack):
    # Each two examples fill a row: first-fit and seqio's packer, which fills one row at a time, agree.
    rows = (
        [([1] * n, [2] * (6 - n)) for n in (1, 5, 2, 4)] + [([3, 4], [5])]
        if pack
        else (seqio_data.random_rows(50, longest=6, lowest_id=1))
    )
    lengths = {"inputs": 6, "targets": 6}
    ours = converters.PrefixLM(pack=pack)(seqio_data.dataset(rows), lengths)
    theirs = seqio.PrefixLMFeatureConverter(pack=pack)(seqio_data.dataset(rows), lengths)
    assert ours.element_spec == theirs.element_spec
    seqio.test_utils.assert_datasets_eq(ours, theirs)


def test_zeros_are_where_seqio_errs():
    rows, lengths = [([7, 0], [0, 3])], {"inputs": 2, "targets": 3}
    (ours,) = seqio_data.as_lists(converters.PrefixLM(pack=False)(seqio_data.dataset(rows), lengths))
    (theirs,) = seqio_data.as_lists(
        seqio.PrefixLMFeatureConverter(pack=False)(seqio_data.dataset(rows), lengths)
    )
    assert ours["decoder_loss_weights"] == [0, 0, 1, 1, 0]
    assert theirs["decoder_loss_weights"] == [0, 1, 0, 1, 0]


def segments(rows) -> collections.Counter:
    """Multiset of the examples in rows, as (ids, labels)."""
    return collections.Counter(
        tuple(tuple(row[name][row["segment_ids"] == i].tolist()) for name in ("token_ids", "loss_mask"))
        for row in rows
        for i in range(1, row["segment_ids"].max() + 1)
    )


@pytest.mark.parametrize(("window", "pack"), [(1, True), (7, True), (101, True), (1024, True), (7, False)])
def test_nothing_is_lost_at_the_borders_of_windows(window, pack):
    rows = seqio_data.random_rows(101, longest=12)
    converted = packed_lm(rows, {"inputs": 12, "targets": 12}, window=window, pack=pack)
    expected = [(tuple(a + b), tuple([False] * len(a) + [True] * len(b))) for a, b in rows]
    found = seqio_data.elements(converted)
    assert segments(found) == collections.Counter(expected)
    # Again, the same rows in the same order; and each window is what `packing` makes of it alone.
    for one, two in zip(found, seqio_data.elements(converted), strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, two)
    if pack:
        token_ids = []
        for start in range(0, len(rows), window):
            part = seqio_data.token_examples(rows[start : start + window])
            places = packing.first_fit([example.length for example in part], 24)
            shared = [
                [e for e, p in zip(part, places, strict=True) if p == r] for r in range(max(places) + 1)
            ]
            token_ids.extend(packing.pack_rows(shared, num_rows=len(shared), row_length=24).token_ids)
        np.testing.assert_array_equal([row["token_ids"] for row in found], token_ids)


def test_rows_have_the_loss_of_their_examples():
    lm = toy_fit.toy_lm()
    params = lm.init(jax.random.key(0))
    loss = jax.jit(lambda params, batch: sft.SftLoss()(lm, params, batch))
    examples = toy_fit.toy_examples(9)
    rows = [(list(e.prompt_ids), list(e.completion_ids)) for e in examples]
    alone = packing.pack_rows([[e] for e in examples], num_rows=9, row_length=32)
    expected, labels = loss(params, alone)
    assert labels == sum(len(e.completion_ids) for e in examples)
    for pack, num_rows in ((False, 9), (True, 3)):
        (fields,) = packed_lm(rows, {"inputs": 16, "targets": 16}, pack=pack).batch(16).as_numpy_iterator()
        batch = converters.to_packed_batch(fields)
        assert len(batch.token_ids) == num_rows
        total, count = loss(params, batch)
        assert count == labels
        np.testing.assert_allclose(total, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("extras", "name"), [({}, "Example 1"), ({"id": ["a", "math-17"]}, "Example 'math-17'")]
)
def test_an_example_longer_than_a_row_is_refused_by_name(extras, name):
    rows = [([1], [2]), ([1] * 4, [2] * 7)]
    converted = converters.PackedLM()(seqio_data.dataset(rows, **extras), LENGTHS)
    with pytest.raises(
        tf.errors.OpError, match=f"WrongUse: {name} has 11 tokens, a row holds 10; use longer"
    ):
        list(converted.as_numpy_iterator())


@pytest.mark.parametrize("rows", [[([1], [2]), ([], [3])], [([1], [2]), ([3], [])]])
def test_an_empty_feature_is_refused_by_name(rows):
    with pytest.raises(tf.errors.OpError, match="WrongUse: Example 1: A prompt and a completion need"):
        seqio_data.elements(packed_lm(rows))


LONG = [([1] * 6, [2] * 3), ([3], [4] * 9)]


def test_seqio_need_not_cut():
    seqio_data.register("long", LONG)
    whole = [[1] * 6 + [2] * 3 + [0], [3] + [4] * 9]
    converter = converters.PackedLM(pack=False)
    uncut = seqio.get_dataset("long", LENGTHS, converter, shuffle=False, trim_output_features=False)
    assert [row["token_ids"] for row in seqio_data.as_lists(uncut)] == whole
    free = {"inputs": None, "targets": None}
    by_row = seqio.get_dataset("long", free, converters.PackedLM(pack=False, row_length=10), shuffle=False)
    assert [row["token_ids"] for row in seqio_data.as_lists(by_row)] == whole


def test_a_task_can_refuse_what_seqio_would_cut():
    seqio_data.register("long", LONG, preprocessors=[length_filter.within_lengths])
    for lengths, message in (
        ({"inputs": 5, "targets": 9}, "Example 0: 'inputs' is 6 long, over the length of 5"),
        ({"inputs": 6, "targets": 8}, "Example 1: 'targets' is 9 long, over the length of 8"),
    ):
        with pytest.raises(tf.errors.OpError, match=f"WrongUse: {message} asked for"):
            seqio_data.elements(seqio.get_dataset("long", lengths, converters.PackedLM(), shuffle=False))
    enough = seqio.get_dataset("long", {"inputs": 6, "targets": 9}, converters.PackedLM(), shuffle=False)
    assert len(seqio_data.elements(enough)) == 2


@pytest.mark.parametrize("converter_cls", [converters.PackedLM, converters.PrefixLM])
def test_the_call_of_t5x(converter_cls):
    """Two hosts, each with half of the examples, two epochs, shuffled."""
    rows = [([i], [i + 50]) for i in range(40)]
    seqio_data.register("forty", rows)
    targets = collections.Counter()
    for index in range(2):
        converted = seqio.get_dataset(
            mixture_or_task_name="forty",
            task_feature_lengths={"inputs": 4, "targets": 4},
            dataset_split="train",
            shuffle=True,
            num_epochs=2,
            feature_converter=converter_cls(pack=True, use_custom_packing_ops=False),
            shard_info=seqio.ShardInfo(index=index, num_shards=2),
            use_cached=False,
            seed=3,
        ).batch(2, drop_remainder=True)
        batches = list(converted.as_numpy_iterator())
        assert {value.shape for batch in batches for value in batch.values()} == {(2, 8)}
        ids, mask = ("token_ids", "loss_mask") if converter_cls is converters.PackedLM else (
            "decoder_target_tokens", "decoder_loss_weights"
        )  # fmt: skip
        targets.update(i for batch in batches for i in batch[ids][batch[mask] > 0].tolist())
    assert targets == {i + 50: 2 for i in range(40)}


def test_a_pipeline_goes_on_where_its_checkpoint_was_taken(tmp_path):
    converted = packed_lm(seqio_data.random_rows(60, longest=5), window=20)
    expected = seqio_data.as_lists(converted)
    first = iter(converted)
    for _ in range(9):
        next(first)
    path = tf.train.Checkpoint(rows=first).save(tmp_path / "rows")
    resumed = iter(converted)
    tf.train.Checkpoint(rows=resumed).read(path).assert_existing_objects_matched()
    assert [row["token_ids"].numpy().tolist() for row in resumed] == [r["token_ids"] for r in expected[9:]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 0}, "window must be at least 1"),
        ({"row_length": 1}, "row_length at least 2"),
        ({"use_custom_packing_ops": True}, "use_custom_packing_ops must be False"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        converters.PackedLM(**settings)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ({"inputs": None, "targets": 5}, r"task_feature_lengths of \['inputs'\] are None: set row_length"),
        (
            {"inputs": 5, "targets": (5, 5)},
            r"task_feature_lengths\['targets'\] = \(5, 5\) must be one number",
        ),
    ],
)
def test_lengths_that_say_no_row_length_are_refused(lengths, message):
    with pytest.raises(WrongUse, match=message):
        packed_lm(ROWS, lengths)


def test_a_converter_checks_what_it_is_given():
    """seqio's own checks of the base class are in force."""
    with pytest.raises(ValueError, match="missing features"):
        packed_lm(ROWS, {"inputs": 5})
    with pytest.raises(ValueError, match="missing an expected feature"):
        converters.PackedLM()(seqio_data.dataset(ROWS, ("inputs", "outputs")), LENGTHS)


def test_tokens_of_a_real_tokenizer_keep_their_zeros():
    """Id 0 of the byte tokenizer is a letter; the rows decode to the texts."""
    tokenizer = toys.byte_tokenizer()
    letter = tokenizer.decode([0])
    rows = [(tokenizer.encode(f"a{letter}"), [*tokenizer.encode(f"{letter}{letter}b"), tokenizer.eos_id])]
    (row,) = seqio_data.elements(packed_lm(rows, {"inputs": 8, "targets": 8}, pad_id=tokenizer.pad_id))
    assert tokenizer.decode(row["token_ids"][row["loss_mask"]].tolist()) == f"{letter}{letter}b<|endoftext|>"
    assert tokenizer.decode(row["token_ids"][row["segment_ids"] == 0].tolist()) == "<|pad|>" * 10
