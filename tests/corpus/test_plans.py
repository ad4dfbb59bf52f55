"""Facts of the world of 64 plans: its laws by counting, its annotators, its rows."""

import collections
import itertools

import numpy as np
import pytest

from promptcot_jax.corpus import plans


def rows(**settings):
    return plans.generate(
        plans.PlansConfig(**{"num_annotated": 6000, "num_others": 50, "num_heldout": 40} | settings)
    )


def test_log_likelihoods_are_those_of_drawing_the_rows():
    """A problem's symbols as often as p(x | plan) says, one position after the other, and they sum to one."""
    train, _ = rows()
    counts = collections.Counter(
        (plans.plan_of_row(row.id), i, symbol)
        for row in train
        for i, symbol in enumerate(row.problem.split())
    )
    plan_rows = collections.Counter(plans.plan_of_row(row.id) for row in train)
    assert set(plan_rows) == set(plans.PLANS)
    assert max(plan_rows.values()) < 1.5 * len(train) / 64
    kept = [
        sum(counts[plan, i, plans.rendering(plan)[i]] for plan in plans.PLANS) / len(train) for i in range(6)
    ]
    chance = 0.9 + 0.1 / 12
    np.testing.assert_allclose(kept, chance, atol=4 * np.sqrt(chance * (1 - chance) / len(train)))
    plan = ("C", "F")
    exactly = plans.log_likelihoods(" ".join(plans.rendering(plan)))
    assert exactly.argmax() == plans.PLANS.index(plan)
    assert exactly.max() == pytest.approx(6 * np.log(chance))
    # Summed over the symbols of one position, the others as they were, a plan's likelihood loses that factor.
    symbols = [*plans.rendering(plan)]
    total = sum(
        np.exp(plans.log_likelihoods(" ".join([*symbols[:2], symbol, *symbols[3:]]))[plans.PLANS.index(plan)])
        for symbol in plans.SYMBOLS
    )
    assert total == pytest.approx(chance**5)


def test_the_right_plan_can_mostly_be_told_from_its_problem():
    _, heldout = rows(num_heldout=400)
    found = [plans.PLANS[plans.log_likelihoods(row.problem).argmax()] for row in heldout]
    assert (
        np.mean([plan == plans.plan_of_row(row.id) for plan, row in zip(found, heldout, strict=True)]) > 0.9
    )


@pytest.mark.parametrize("wrong_share", [0.0, 0.5, 1.0])
def test_annotators_are_wrong_as_often_as_is_said_and_other_rows_never(wrong_share):
    train, heldout = rows(wrong_share=wrong_share)
    is_right = [plans.is_right(row.rationale, plans.plan_of_row(row.id)) for row in (*train, *heldout)]
    chance = 1 - wrong_share * 63 / 64  # a plan drawn anew can be the right one
    assert np.mean(is_right[:6000]) == pytest.approx(chance, abs=4 * np.sqrt(0.25 / 6000))
    assert all(is_right[6000:])


def test_wordings_and_the_generic_rationale_have_their_shares():
    train, heldout = rows(wrong_share=0.0, generic_share=0.5, num_wordings=8)
    words = collections.Counter(
        row.rationale if row.rationale == plans.GENERIC else row.rationale.split()[0] for row in train[:6000]
    )
    assert words.keys() == {plans.GENERIC, *plans.WORDS}
    assert words[plans.GENERIC] / 6000 == pytest.approx(0.5, abs=0.03)
    assert max(words[word] for word in plans.WORDS) < 1.3 * 6000 / 16
    assert {row.rationale.split()[0] for row in heldout} == {"plan"}
    assert not plans.is_right(plans.GENERIC, ("A", "B"))
    assert not plans.is_right("plan A", ("A", "B"))
    assert not plans.is_right("plan B A", ("A", "B"))
    assert plans.is_right("use A B", ("A", "B"))
    assert not plans.is_right("", ("A", "B"))
    assert plans.is_plan("use A B")
    assert plans.is_plan(plans.GENERIC)
    assert not any(plans.is_plan(text) for text in ("", "plan A", "plan A B B", "plan A X"))


def test_a_seed_gives_the_same_rows_and_how_many_changes_none():
    few, heldout = rows(num_annotated=20, num_others=5)
    many, same_heldout = rows(num_annotated=30, num_others=6)
    assert (few[:20], few[20:], heldout) == (many[:20], many[30:35], same_heldout)
    assert rows(seed=1, num_annotated=20, num_others=5)[0] != few
    # x is the same however it is annotated.
    noisy, _ = rows(num_annotated=20, num_others=5, wrong_share=1.0)
    assert [row.problem for row in noisy] == [row.problem for row in few]
    assert len({row.id for row in itertools.chain(many, heldout)}) == 36 + 40
