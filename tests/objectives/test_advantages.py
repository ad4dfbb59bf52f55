import math

import jax.numpy as jnp
import numpy as np
import pytest

from promptcot_jax.objectives.advantages import group_advantages

REWARDS = jnp.array([[1.0, 0.0, 0.0, 1.0], [4.0, 1.0, 1.0, 0.0]])
EVERYTHING = jnp.ones((2, 4), bool)


def test_each_baseline_with_a_pencil():
    np.testing.assert_allclose(
        group_advantages(REWARDS, EVERYTHING, baseline="mean"),
        [[0.5, -0.5, -0.5, 0.5], [2.5, -0.5, -0.5, -1.5]],
        rtol=1e-6,
    )
    # 4 - (1 + 1 + 0) / 3, and so on
    np.testing.assert_allclose(
        group_advantages(REWARDS, EVERYTHING, baseline="leave_one_out"),
        [[2 / 3, -2 / 3, -2 / 3, 2 / 3], [10 / 3, -2 / 3, -2 / 3, -2]],
        rtol=1e-6,
    )
    std = math.sqrt((2.5**2 + 2 * 0.5**2 + 1.5**2) / 4)
    np.testing.assert_allclose(
        group_advantages(REWARDS, EVERYTHING, epsilon=0.0),
        [[1, -1, -1, 1], [2.5 / std, -0.5 / std, -0.5 / std, -1.5 / std]],
        rtol=1e-6,
    )


@pytest.mark.parametrize("baseline", ["mean_and_std", "mean", "leave_one_out"])
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, 7.0])
def test_what_could_not_be_scored_changes_nothing_for_the_others(baseline, bad):
    is_valid = jnp.array([[True, True, False, True]])
    whole = group_advantages(jnp.array([[1.0, 0.0, bad, 1.0]]), is_valid, baseline=baseline)
    alone = group_advantages(jnp.array([[1.0, 0.0, 1.0]]), jnp.ones((1, 3), bool), baseline=baseline)
    np.testing.assert_array_equal(whole[0, jnp.array([0, 1, 3])], alone[0])
    assert whole[0, 2] == 0


@pytest.mark.parametrize("baseline", ["mean_and_std", "mean", "leave_one_out"])
def test_nothing_to_compare_gives_nothing(baseline):
    """Equal rewards, equal but for rounding, one valid sample, none."""
    tenth = jnp.float32(0.1)
    rewards = jnp.array([[1.0, 1, 1], [tenth * 3, tenth + tenth + tenth, 0.3], [5, 0, 0], [1, 0, 0]])
    is_valid = jnp.array([[True] * 3, [True] * 3, [True, False, False], [False] * 3])
    found = group_advantages(rewards, is_valid, baseline=baseline)
    np.testing.assert_allclose(found, 0, atol=1e-3)
    np.testing.assert_array_equal(found[jnp.array([0, 2, 3])], 0)
