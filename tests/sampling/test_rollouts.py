"""Facts of a stage's sampling settings and request numbers."""

import jax
import pytest

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.models import causal_lm
from promptcot_jax.sampling import rollouts, token_choice
from tests import toys


def test_samples_of_a_row_stand_side_by_side_and_are_numbered_through():
    requests = rollouts.requests_of(["a", "b"], samples_per_row=2)
    assert [(r.index, r.row, r.sample) for r in requests] == [
        (0, "a", 0),
        (1, "a", 1),
        (2, "b", 0),
        (3, "b", 1),
    ]


def test_greedy_samples_of_one_row_are_refused():
    with pytest.raises(ValueError, match="temperature 0"):
        rollouts.RolloutConfig(sampling=token_choice.SamplingConfig(temperature=0.0), samples_per_row=2)


@pytest.mark.parametrize("name", ["samples_per_row", "batch_size", "requests_per_shard"])
def test_a_count_below_one_is_refused_by_name(name: str):
    with pytest.raises(ValueError, match=name):
        rollouts.RolloutConfig(sampling=token_choice.SamplingConfig(), **{name: 0})


def test_a_budget_beyond_the_model_is_wrong_use_that_says_what_fits():
    config = toys.toy_config()
    lm, tokenizer = causal_lm.CausalLM(config), toys.byte_tokenizer()
    settings = rollouts.RolloutConfig(
        sampling=token_choice.SamplingConfig(max_new_tokens=config.max_positions - 3)
    )
    sampler = rollouts.make_sampler(lm, lm.init(jax.random.key(0)), tokenizer, settings, "rollout")
    requests = rollouts.requests_of(["four"], 1)
    with pytest.raises(WrongUse, match=f"lower max_new_tokens to {config.max_positions - 4} or less"):
        sampler.complete(requests, lambda row: tokenizer.encode(row))
