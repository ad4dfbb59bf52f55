"""Completions that share their prompt in a row are learned from as those that each have it."""

import jax
import numpy as np
import pytest

from promptcot_jax.data.examples import TokenExample
from promptcot_jax.models import causal_lm, language_model
from promptcot_jax.trainers import packed_scores
from promptcot_jax.trainers.dpo import Dpo
from promptcot_jax.trainers.grpo import Grpo
from promptcot_jax.trainers.policy_updates import Minibatches
from tests import toys

ROW_LENGTH, NAMES = 96, ("advantages", "old_log_probs", "reference_log_probs", "sampler_log_probs")
ALGORITHMS = {
    "grpo": Grpo(kl_beta=0.1),
    "gspo": Grpo(ratio="sequence", aggregation="sequence", sampler_correction="sequence"),
    "dr_grpo": Grpo(baseline="mean", aggregation="constant", constant_length=9, entropy_coef=0.1),
    "dpo": Dpo(),
}


def units(sequences: int) -> list[tuple[TokenExample, ...]]:
    generator, found = np.random.default_rng(0), []
    for num_prompt, num_units in ((12, 4), (1, 2), (20, 1), (7, 5), (40, 2)):
        prompt = generator.integers(1, 270, num_prompt)
        for _ in range(num_units):
            completions = [generator.integers(1, 270, generator.integers(1, 9)) for _ in range(sequences)]
            found.append(
                tuple(
                    TokenExample(
                        prompt_ids=prompt,
                        completion_ids=completion,
                        token_values={name: generator.normal(-5, 0.3, len(completion)) for name in NAMES},
                    )
                    for completion in completions
                )
            )
    return found


def minibatch(lm, algorithm, *, is_shared):
    capacity = language_model.prefix_capacity(lm, ROW_LENGTH) if is_shared else 0
    return Minibatches(
        units(algorithm.sequences_per_unit),
        num_minibatches=1,
        num_passes=1,
        row_length=ROW_LENGTH,
        rows_multiple=1,
        seed=0,
        value_names=algorithm.value_names,
        prefix_capacity=capacity,
    )


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("qwen3", "grpo"),
        ("qwen3", "gspo"),
        ("qwen3", "dpo"),
        ("llama", "dr_grpo"),
        ("qwen3_moe", "grpo"),
        ("qwen3_moe", "dpo"),
    ],
)
def test_loss_gradient_and_figures_are_the_same(family, name):
    """With a prompt that is too long to be shared and one of a single token among them."""
    lm, algorithm, found = causal_lm.CausalLM(toys.toy_config(family)), ALGORITHMS[name], {}
    loss = algorithm.loss(1.3)
    params = lm.init(jax.random.key(0))

    def total_of(params, batch):
        total, *sums = loss(lm, params, batch)
        return total, sums

    for is_shared in (False, True):
        batch = minibatch(lm, algorithm, is_shared=is_shared).batch(0)
        (total, (count, *_, figures)), gradient = jax.jit(jax.value_and_grad(total_of, has_aux=True))(
            params, batch
        )
        found[is_shared] = (
            gradient,
            {"total": float(total), "count": float(count)} | loss.metrics_of([figures]),
            batch,
        )
    gradient, numbers, batch = found[False]
    shared_gradient, shared_numbers, shared_batch = found[True]
    assert (shared_batch.segment_ids > 0).sum() < 0.85 * (batch.segment_ids > 0).sum()
    assert shared_numbers == pytest.approx(numbers, rel=1e-5, abs=1e-6)
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(shared_gradient), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * max(1.0, np.abs(one).max()))


@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe"])
def test_scores_are_the_same(family):
    lm = causal_lm.CausalLM(toys.toy_config(family))
    params, found = lm.init(jax.random.key(0)), {}
    for is_shared in (False, True):
        source = minibatch(lm, ALGORITHMS["grpo"], is_shared=is_shared)
        scores = np.asarray(
            packed_scores.label_log_probs(lm, params, source.batch(0), temperature=0.7, remat="full")
        )
        found[is_shared] = {
            (unit, sequence): scores[row, where] for unit, sequence, row, where in source.places(0)
        }
    assert found[False].keys() == found[True].keys()
    for where, expected in found[False].items():
        np.testing.assert_allclose(found[True][where], expected, atol=1e-5)


def test_models_that_cannot_share_prompts_get_rows_without():
    """A window counts the tokens of a row; a model of a user's own may know nothing of prefixes."""
    windowed = causal_lm.CausalLM(toys.toy_config("gemma3"))
    assert language_model.prefix_capacity(windowed, ROW_LENGTH) == 0
    assert minibatch(windowed, Grpo(), is_shared=True).batch(0).prefix_ids is None
    ids = np.ones((1, 8), np.int32)
    with pytest.raises(ValueError, match="cannot share prompts"):
        windowed.hidden_states(windowed.init(jax.random.key(0)), ids, ids, prefix_ids=ids)
    plain = causal_lm.CausalLM(toys.toy_config("qwen3"))
    assert language_model.prefix_capacity(plain, ROW_LENGTH) == 24
    batch = minibatch(plain, Grpo(), is_shared=True).batch(0)
    assert (batch.prefix_ids != batch.segment_ids).any()
