"""Facts of verification's own settings."""

import pytest

from promptcot_jax.synthesis import verifying


@pytest.mark.parametrize(
    ("num_right", "pool"), [(8, "easy"), (7, "easy"), (6, "medium"), (5, "hard"), (0, "hard")]
)
def test_by_default_seven_of_eight_right_are_easy_and_five_hard(num_right, pool):
    assert verifying.PoolConfig().pool(num_right / 8) == pool
