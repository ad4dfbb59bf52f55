import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promptcot_jax.objectives import policy_gradient

# Two rows; the first holds two sequences. Labels are where a completion token is predicted.
SEGMENTS = jnp.array([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 0, 0]])
IS_LABEL = jnp.array([[False, True, True, True, False, False], [True, True, True, False, False, False]])
LABELS = np.asarray(IS_LABEL)
LOG_2 = math.log(2.0)


def _per_sequence(first, second, third):
    """[2, 6] of the three sequences' values at their labels, 0 elsewhere."""
    return jnp.array([[0, *first, *second, 0, 0], [*third, 0, 0, 0]], jnp.float32)


def test_sums_over_sequences_that_share_a_row():
    values = jnp.where(IS_LABEL, _per_sequence([1, 2], [4], [8, 16, 32]), jnp.nan)
    found = policy_gradient.sequence_sums(values, SEGMENTS, IS_LABEL)
    np.testing.assert_array_equal(found, _per_sequence([3, 3], [4], [56, 56, 56]))
    lengths = policy_gradient.sequence_lengths(SEGMENTS, IS_LABEL)
    np.testing.assert_array_equal(lengths[LABELS], [2, 2, 1, 3, 3, 3])


def test_ratios_of_tokens_and_of_sequences_with_a_pencil():
    new = _per_sequence([LOG_2, 0], [-LOG_2], [0, 0, 3 * LOG_2])
    old = jnp.zeros_like(new).at[0, 0].set(jnp.nan)  # a prompt's
    of_tokens = policy_gradient.log_ratios(new, old, SEGMENTS, IS_LABEL, level="token")
    np.testing.assert_allclose(of_tokens, new)
    of_sequences = policy_gradient.log_ratios(new, old, SEGMENTS, IS_LABEL, level="sequence")
    np.testing.assert_allclose(of_sequences, _per_sequence([LOG_2 / 2] * 2, [-LOG_2], [LOG_2] * 3), rtol=1e-6)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_on_policy_the_ratio_is_exactly_one_and_clips_nothing(level):
    log_probs = -jax.random.exponential(jax.random.key(0), (2, 6))
    log_ratio = policy_gradient.log_ratios(log_probs, log_probs, SEGMENTS, IS_LABEL, level=level)
    np.testing.assert_array_equal(jnp.exp(log_ratio), 1.0)
    advantages = jax.random.normal(jax.random.key(1), (2, 6))
    clips = {"clip_low": 0.0, "clip_high": 0.0}
    np.testing.assert_array_equal(
        policy_gradient.clipped_surrogate(log_ratio, advantages, **clips), -advantages
    )
    assert not np.any(policy_gradient.clipped_where(log_ratio, advantages, **clips))


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope", "clipped"),
    [  # clip to [0.8, 1.5]; slope of the loss by the log-probability
        (1.0, 2.0, -2.0, -2.0, (False, False)),
        (1.4, 2.0, -2.8, -2.8, (False, False)),
        (2.0, 2.0, -3.0, 0.0, (False, True)),  # raised enough
        (0.5, 2.0, -1.0, -1.0, (False, False)),  # fell though it was good: not clipped
        (0.5, -2.0, 1.6, 0.0, (True, False)),  # lowered enough
        (2.0, -2.0, 4.0, 4.0, (False, False)),  # rose though it was bad: not clipped
    ],
)
def test_the_surrogate_clips_only_what_went_the_advantages_way(ratio, advantage, loss, slope, clipped):
    def of(log_ratio):
        return policy_gradient.clipped_surrogate(
            log_ratio[None, None], jnp.array([[advantage]]), clip_low=0.2, clip_high=0.5
        )[0, 0]

    value, gradient = jax.value_and_grad(of)(jnp.log(ratio))
    np.testing.assert_allclose((value, gradient), (loss, slope), rtol=1e-5)
    found = policy_gradient.clipped_where(
        jnp.log(jnp.array([[ratio]])), jnp.array([[advantage]]), clip_low=0.2, clip_high=0.5
    )
    assert (bool(found[0][0, 0]), bool(found[1][0, 0])) == clipped


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (2.0, -2.0, 4.0, 4.0),  # below the cap: as without it
        (5.0, -2.0, 6.0, 0.0),
        (0.5, -2.0, 1.6, 0.0),
        (5.0, 2.0, -3.0, 0.0),  # of positive advantages it says nothing
        (1.2, 2.0, -2.4, -2.4),
    ],
)
def test_the_dual_clip_bounds_what_rose_though_it_was_bad(ratio, advantage, loss, slope):
    def of(log_ratio):
        return policy_gradient.clipped_surrogate(
            log_ratio[None, None], jnp.array([[advantage]]), clip_low=0.2, clip_high=0.5, dual_clip=3.0
        )[0, 0]

    value, gradient = jax.value_and_grad(of)(jnp.log(ratio))
    np.testing.assert_allclose((value, gradient), (loss, slope), rtol=1e-5)


def test_cispo_bounds_the_weight_of_a_token_and_never_drops_its_gradient():
    def of(log_prob):
        log_prob = log_prob[None, None]
        loss = policy_gradient.cispo(
            log_prob, log_prob - math.log(0.1), jnp.full((1, 1), 3.0), clip_low=1.0, clip_high=0.5
        )
        return loss[0, 0]

    value, gradient = jax.value_and_grad(of)(jnp.log(0.4))  # ratio 4, weight 1.5
    np.testing.assert_allclose((value, gradient), (-4.5 * math.log(0.4), -4.5), rtol=1e-5)


def test_estimates_of_kl_average_to_it_and_have_the_gradients_that_are_claimed():
    """Over all tokens of a distribution of three, weighted by their probability."""
    logits = jnp.array([0.3, -0.2, 1.0])
    reference = jax.nn.log_softmax(jnp.array([0.1, 0.5, 0.2]))

    def kl(logits):
        log_p = jax.nn.log_softmax(logits)
        return jnp.sum(jnp.exp(log_p) * (log_p - reference))

    def reverse(logits):
        return jnp.sum(jnp.exp(reference) * (reference - jax.nn.log_softmax(logits)))

    p = jax.nn.softmax(logits)

    def mean(logits, estimator):
        log_p = jax.nn.log_softmax(logits)[None]
        found = policy_gradient.kl_estimate(log_p, reference[None], estimator=estimator)
        return jnp.sum(p * found[0])

    for estimator in ("k1", "k3"):
        np.testing.assert_allclose(mean(logits, estimator), kl(logits), rtol=1e-5)
    expected = {"k1": jnp.zeros(3), "k2": jax.grad(kl)(logits), "k3": jax.grad(reverse)(logits)}
    for estimator, gradient in expected.items():
        np.testing.assert_allclose(jax.grad(mean)(logits, estimator), gradient, atol=1e-6)
    log_p = jax.nn.log_softmax(logits)[None]
    k3 = policy_gradient.kl_estimate(log_p, reference[None], estimator="k3")
    assert np.all(np.asarray(k3) >= 0)


def test_weights_for_the_sampler_with_a_pencil():
    old = _per_sequence([LOG_2, LOG_2], [-LOG_2], [0, 0, 10 * LOG_2]).at[0, 0].set(jnp.inf)
    settings = {"segment_ids": SEGMENTS, "is_label": IS_LABEL, "cap": 3.0}
    of_tokens = policy_gradient.sampler_weights(old, jnp.zeros((2, 6)), **settings, level="token")
    np.testing.assert_allclose(of_tokens[LABELS], [2, 2, 0.5, 1, 1, 3], rtol=1e-6)
    of_sequences = policy_gradient.sampler_weights(old, jnp.zeros((2, 6)), **settings, level="sequence")
    np.testing.assert_allclose(of_sequences[LABELS], [3, 3, 0.5, 3, 3, 3], rtol=1e-6)
    assert np.all(np.asarray(of_tokens)[~LABELS] == 1)
    for level, masked in (("token", [2, 2, 0.5, 1, 1, 0]), ("sequence", [0, 0, 0.5, 0, 0, 0])):
        found = policy_gradient.sampler_weights(
            old, jnp.zeros((2, 6)), **settings, level=level, is_masked=True
        )
        np.testing.assert_allclose(found[LABELS], masked, rtol=1e-6)
    slope = jax.grad(
        lambda x: jnp.sum(policy_gradient.sampler_weights(x, jnp.zeros((2, 6)), **settings, level="token"))
    )(jnp.zeros((2, 6)))
    assert not np.any(slope)


@pytest.mark.parametrize(
    ("aggregation", "constant_length", "weights", "count"),
    [
        ("token", 0, [1, 1, 1, 1, 1, 1], 6),
        ("sequence", 0, [1 / 2, 1 / 2, 1, 1 / 3, 1 / 3, 1 / 3], 3),
        ("constant", 8, [1 / 8] * 6, 3),
    ],
)
def test_aggregation_with_a_pencil(aggregation, constant_length, weights, count):
    found, found_count = policy_gradient.aggregation_weights(
        SEGMENTS, IS_LABEL, aggregation=aggregation, constant_length=constant_length
    )
    np.testing.assert_allclose(found[LABELS], weights, rtol=1e-6)
    assert not np.any(np.asarray(found)[~LABELS])
    assert found_count == count


def test_sequences_side_by_side_without_a_prompt_between_them_are_counted_apart():
    """Prompts of one token each: every position predicts a label."""
    segments = jnp.array([[1, 1, 2, 2, 3, 3]])
    is_label = jnp.array([[True, False, True, False, True, False]])
    for labels in (is_label, jnp.ones((1, 6), bool)):
        _, count = policy_gradient.aggregation_weights(segments, labels, aggregation="sequence")
        assert count == 3


@pytest.mark.parametrize("gap", [1e4, -1e4, jnp.inf])
@pytest.mark.parametrize("advantage", [0.0, 1.0, -1.0])
def test_an_exploding_ratio_stays_finite(gap, advantage):
    def of(log_prob):
        log_ratio = policy_gradient.log_ratios(
            log_prob, jnp.zeros((1, 1)), jnp.ones((1, 1), int), jnp.ones((1, 1), bool), level="token"
        )
        loss = policy_gradient.clipped_surrogate(
            log_ratio, jnp.full((1, 1), advantage), clip_low=0.2, clip_high=0.2
        )
        return loss[0, 0]

    value, gradient = jax.value_and_grad(of)(jnp.full((1, 1), gap))
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))
