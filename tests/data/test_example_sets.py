"""Sets of examples: what views keep, what an order depends on, and the rates of mixtures."""

import collections
import dataclasses

import numpy as np
import pytest

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import example_sets, examples

ROWS = [
    examples.TokenExample(prompt_ids=(1, 2), completion_ids=(3,), token_values={"weight": (0.5,)}),
    examples.TokenExample(
        prompt_ids=(1, 2), completion_ids=(3, 4, 5), token_values={"weight": (0.1, 0.2, 0.3)}
    ),
    examples.TokenExample(prompt_ids=(1, 2, 3, 4), completion_ids=(5,), token_values={"weight": (1.0,)}),
]
CUT = examples.TokenExample(prompt_ids=(1, 2), completion_ids=(3, 4), token_values={"weight": (0.1, 0.2)})


def within(rows, policy):
    """What a policy leaves of rows, listed."""
    left, counts = example_sets.within_length(example_sets.Listed(rows), policy)
    listed = list(left)
    assert left.prompt_lengths.tolist() == [len(row.prompt_ids) for row in listed]
    assert left.completion_lengths.tolist() == [len(row.completion_ids) for row in listed]
    return listed, counts


def test_overlong_rows_are_dropped_and_counted():
    kept, counts = within(ROWS, example_sets.LengthPolicy(max_length=4, overlong="drop"))
    assert kept == ROWS[:1]
    assert counts == {"kept": 1, "cut": 0, "dropped_overlong": 2}


def test_overlong_rows_are_cut_at_the_completions_end_and_counted():
    kept, counts = within(ROWS, example_sets.LengthPolicy(max_length=4, overlong="truncate"))
    assert kept == [ROWS[0], CUT]
    # The last row's prompt alone fills the length.
    assert counts == {"kept": 2, "cut": 1, "dropped_overlong": 1}


def test_overlong_rows_can_be_an_error():
    policy = example_sets.LengthPolicy(max_length=4, overlong="error")
    with pytest.raises(WrongUse, match="Example 1 has 5 tokens, 2 of its prompt, over max_length=4"):
        within(ROWS, policy)
    assert within(ROWS[:1], policy) == (ROWS[:1], {"kept": 1, "cut": 0, "dropped_overlong": 0})


def test_nonsense_policies_are_refused():
    with pytest.raises(ValueError, match="max_length"):
        example_sets.LengthPolicy(max_length=1)


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        ({"max_prompt_length": 2}, [0, 1]),
        ({"max_prompt_length": 3, "max_completion_length": 2}, [0]),
        ({"max_completion_length": 1}, [0, 2]),
    ],
)
def test_parts_have_limits_of_their_own(limits, kept):
    policy = example_sets.LengthPolicy(max_length=99, **limits)
    assert within(ROWS, policy)[0] == [ROWS[i] for i in kept]


def test_truncation_keeps_to_the_limit_of_completions_and_never_cuts_a_prompt():
    policy = example_sets.LengthPolicy(
        max_length=99, max_prompt_length=3, max_completion_length=2, overlong="truncate"
    )
    kept, counts = within(ROWS, policy)
    assert kept == [ROWS[0], CUT]
    assert counts == {"kept": 2, "cut": 1, "dropped_overlong": 1}


def numbered(count: int, start: int = 0) -> example_sets.Listed:
    """Examples told apart by their one completion token."""
    return example_sets.Listed(
        [examples.TokenExample(prompt_ids=(1,), completion_ids=(start + i,)) for i in range(count)]
    )


def drawn(mixed: example_sets.Mixed, seed: int, epoch: int) -> list[int]:
    """Completion tokens of an epoch in order."""
    return [mixed[int(i)].completion_ids[0] for i in mixed.order(seed, epoch)]


def test_without_rates_a_mixture_holds_each_example_once_an_epoch():
    mixed = example_sets.Mixed({"a": numbered(7), "empty": numbered(0), "b": numbered(3, 100)})
    for epoch in range(3):
        assert sorted(drawn(mixed, 0, epoch)) == [*range(7), 100, 101, 102]
    assert drawn(mixed, 0, 0) != drawn(mixed, 0, 1)
    assert drawn(mixed, 0, 0) != drawn(mixed, 1, 0)
    assert drawn(mixed, 0, 1) == drawn(mixed, 0, 1)


def test_rates_are_kept_and_each_set_goes_through_all_its_examples_before_one_comes_again():
    mixed = example_sets.Mixed({"a": numbered(40), "b": numbered(10, 100)}, {"a": 1.0, "b": 3.0})
    epochs = [drawn(mixed, 5, epoch) for epoch in range(4)]
    for epoch in epochs:
        assert sum(token >= 100 for token in epoch) in (37, 38)  # three quarters of 50
        assert len(epoch) == 50
    of_a = [token for epoch in epochs for token in epoch if token < 100]
    of_b = [token for epoch in epochs for token in epoch if token >= 100]
    assert len(of_a) + len(of_b) == 200
    for tokens in (of_a, of_b):
        counts = collections.Counter(tokens)
        assert max(counts.values()) - min(counts.values()) <= 1
    # Mixed among each other, not one after the other.
    assert any(token < 100 for token in epochs[0][:20])


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ({"a": 1.0}, "rate of 'b' is missing"),
        ({"a": 1.0, "b": -1.0}, "rate of 'b' is -1.0"),
        ({"a": 0.0, "b": 0.0}, "Nothing to mix"),
        ({"a": 1.0, "b": 1.0, "c": 1.0}, "no 'c' to mix"),
        ({"a": 1.0, "b": 1.0, "none": 1.0}, "'none' has a rate of 1.0 and no examples"),
    ],
)
def test_wrong_rates_are_refused(rates, message):
    sets = {"a": numbered(2), "b": numbered(2)} | ({"none": numbered(0)} if "none" in rates else {})
    with pytest.raises(WrongUse, match=message):
        example_sets.Mixed(sets, rates)


@pytest.mark.parametrize("overlong", ["drop", "truncate"])
def test_a_length_policy_leaves_a_mixture_its_rates(overlong):
    """What is left of each part is mixed at the rates: not what was mixed, thinned out."""
    long = [examples.TokenExample(prompt_ids=(1,), completion_ids=(200 + i, 9, 9, 9)) for i in range(30)]
    sets = {"a": numbered(40), "b": example_sets.Listed([*numbered(10, 100), *long])}
    mixed = example_sets.Mixed(sets, {"a": 1.0, "b": 3.0})
    policy = example_sets.LengthPolicy(max_length=3, overlong=overlong)
    left, counts = example_sets.within_length(mixed, policy)
    num_b = 10 if overlong == "drop" else 40
    assert counts == {"kept": 40 + num_b, "cut": num_b - 10, "dropped_overlong": 40 - num_b}
    found = [left[int(i)] for epoch in range(4) for i in left.order(5, epoch)]
    assert len(found) == 4 * len(left) == 4 * (40 + num_b)
    assert max(example.length for example in found) <= 3
    firsts = collections.Counter(int(example.completion_ids[0]) for example in found)
    of_b = {token: n for token, n in firsts.items() if token >= 100}
    assert sum(of_b.values()) == pytest.approx(0.75 * len(found), abs=4)  # a rounding in each epoch
    for of_part in (of_b, {token: n for token, n in firsts.items() if token < 100}):
        assert max(of_part.values()) - min(of_part.values()) <= 1
    assert len(of_b) == num_b


def test_a_length_policy_leaves_a_mixture_without_rates_each_example_once():
    long = examples.TokenExample(prompt_ids=(1,), completion_ids=(7, 7, 7))
    sets = {"a": numbered(5), "b": example_sets.Listed([*numbered(2, 100), long]), "c": numbered(0)}
    policy = example_sets.LengthPolicy(max_length=2)
    left, counts = example_sets.within_length(example_sets.Mixed(sets), policy)
    assert counts == {"kept": 7, "cut": 0, "dropped_overlong": 1}
    assert sorted(drawn(left, 0, 1)) == [0, 1, 2, 3, 4, 100, 101]
    only_long, _ = example_sets.within_length(
        example_sets.Mixed({"a": numbered(1), "b": example_sets.Listed([long])}), policy
    )
    assert drawn(only_long, 0, 0) == [0]  # without rates a part may be left empty


def test_a_part_with_a_rate_of_which_a_length_policy_leaves_nothing_is_refused():
    long = examples.TokenExample(prompt_ids=(1,), completion_ids=(7, 7, 7))
    sets = {"a": numbered(5), "b": example_sets.Listed([long, long])}
    policy = example_sets.LengthPolicy(max_length=3)
    message = "'b' has a rate of 2.0, and none of its 2 examples is within max_length=3; raise it, or set"
    with pytest.raises(WrongUse, match=message):
        example_sets.within_length(example_sets.Mixed(sets, {"a": 1.0, "b": 2.0}), policy)
    left, _ = example_sets.within_length(example_sets.Mixed(sets, {"a": 1.0, "b": 0.0}), policy)
    assert len(left) == 5


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (
            example_sets.LengthPolicy(max_length=3, overlong="error"),
            "'b': Example 0 has 4 tokens, 1 of its prompt, over max_length=3",
        ),
        (example_sets.LengthPolicy(max_length=3), "None of the 2 examples is within max_length=3; raise it"),
    ],
)
def test_a_mixture_says_what_is_too_long(policy, message):
    long = examples.TokenExample(prompt_ids=(1,), completion_ids=(7, 7, 7))
    with pytest.raises(WrongUse, match=message):
        example_sets.within_length(example_sets.Mixed({"b": example_sets.Listed([long, long])}), policy)


def test_shares_add_up():
    for total in (1, 7, 100):
        shares = example_sets._apportioned(total, [1.0, 1.0, 1.5])
        assert sum(shares) == total
        np.testing.assert_allclose(shares, np.array([1.0, 1.0, 1.5]) / 3.5 * total, atol=1)


def test_token_values_of_a_set_have_the_same_names():
    bare = examples.TokenExample(prompt_ids=(1,), completion_ids=(2,))
    with pytest.raises(ValueError, match="token values"):
        example_sets.Listed([ROWS[0], bare])
    with pytest.raises(ValueError, match="different token values"):
        example_sets.Mixed({"a": example_sets.Listed(ROWS), "b": example_sets.Listed([bare])})


def test_groups_stay_with_their_examples_and_are_shuffled_whole():
    rows = [dataclasses.replace(ROWS[i % 3], group=i // 3) for i in range(30)]
    kept, _ = example_sets.within_length(example_sets.Listed(rows), example_sets.LengthPolicy(max_length=4))
    assert kept.groups.tolist() == list(range(10))  # the first of each three
    orders = [example_sets.Listed(rows).order(seed, 0).reshape(10, 3) for seed in (0, 0, 1)]
    for order in orders:
        assert sorted(order[:, 0]) == list(range(0, 30, 3))
        np.testing.assert_array_equal(order, order[:, :1] + np.arange(3))
    np.testing.assert_array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])


def test_groups_of_some_examples_and_mixed_groups_are_refused():
    grouped = [dataclasses.replace(row, group=0) for row in ROWS]
    with pytest.raises(ValueError, match="2 of 3 examples have a group"):
        example_sets.Listed([*grouped[:2], ROWS[2]])
    with pytest.raises(ValueError, match="groups cannot be mixed"):
        example_sets.Mixed({"a": example_sets.Listed(grouped), "b": example_sets.Listed(grouped)})
