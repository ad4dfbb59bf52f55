"""A goal is read as it is written, and reached by the right side of its bound."""

import math

import pytest

from promptcot_jax.trainers.goals import Goal


@pytest.mark.parametrize(
    ("text", "value", "is_reached"),
    [
        ("eval/avg_at_k >= 0.9", 0.9, True),
        ("eval/avg_at_k>=0.9", 0.8999, False),
        ("entropy <= 0.1", 0.1, True),
        ("entropy <= 0.1", 0.11, False),
        ("entropy <= 0.1", math.nan, False),
        ("entropy <= 0.1", None, False),
    ],
)
def test_a_goal_is_reached_at_its_bound(text, value, is_reached):
    goal = Goal.of(text)
    assert goal.is_reached({goal.metric: value}) == is_reached
    assert not goal.is_reached({"another": value})
    assert Goal.of(str(goal)) == goal


@pytest.mark.parametrize(
    "text", ["", "eval/avg_at_k", "reward > 1", "reward >= high", "reward >= nan", "a b >= 1"]
)
def test_what_is_no_goal_is_refused(text):
    with pytest.raises(ValueError, match="is no goal; write it as in"):
        Goal.of(text)
