"""Token choice: exact kept sets, sampling frequencies, and both log-probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from promptcot_jax.sampling import token_choice
from tests.cases import some_fast


def choose(logits: np.ndarray, **settings) -> token_choice.ChosenTokens:
    """One draw for each row, every row with a key of its own."""
    keys = jax.random.split(jax.random.key(0), len(logits))
    numbers = token_choice.SamplingConfig(**settings).numbers()
    chosen = jax.jit(token_choice.choose_tokens)(jnp.asarray(logits, jnp.float32), keys, numbers)
    return jax.tree.map(np.asarray, chosen)


def assert_frequencies(token_ids: np.ndarray, probabilities: np.ndarray) -> None:
    """Pearson's chi-squared test, rare tokens counted together."""
    counts = np.bincount(token_ids, minlength=len(probabilities))
    assert counts[probabilities == 0.0].sum() == 0
    expected = len(token_ids) * probabilities
    rare = expected < 10.0
    observed, wanted = counts[~rare].astype(float), expected[~rare]
    if expected[rare].sum() > 10.0:
        observed, wanted = np.append(observed, counts[rare].sum()), np.append(wanted, expected[rare].sum())
    if len(wanted) > 1:
        statistic = np.sum((observed - wanted) ** 2 / wanted)
        assert scipy.stats.chi2.sf(statistic, len(wanted) - 1) > 1e-3


@pytest.mark.parametrize("vocab_size", [2, 129, 700])  # blocks of the vocabulary hold 128
@pytest.mark.parametrize("temperature", some_fast([0.6, 1.0, 1.7]))
def test_tokens_come_out_as_often_as_the_softmax_says(vocab_size, temperature):
    rng = np.random.default_rng(vocab_size)
    logits = 2.0 * rng.normal(size=vocab_size)
    logits[rng.permutation(vocab_size)[: vocab_size // 3]] = -np.inf
    weights = np.exp((logits - logits.max()) / temperature)
    chosen = choose(np.broadcast_to(logits, (20_000, vocab_size)), temperature=temperature)
    assert_frequencies(chosen.token_ids, weights / weights.sum())


SKEWED = np.array([0.35, 0.20, 0.14, 0.14, 0.14, 0.03])


@pytest.mark.parametrize(
    ("settings", "kept"),
    some_fast(
        [
            ({}, [0, 1, 2, 3, 4, 5]),
            ({"top_k": 1}, [0]),
            ({"top_k": 2}, [0, 1]),
            ({"top_k": 4}, [0, 1, 2, 3]),  # of the tied tokens 2, 3 and 4 the smaller ids stay
            ({"top_k": 9}, [0, 1, 2, 3, 4, 5]),
            ({"top_p": 0.01}, [0]),
            ({"top_p": 0.5}, [0, 1]),
            ({"top_p": 0.65}, [0, 1, 2]),
            ({"top_p": 0.75}, [0, 1, 2, 3]),
            ({"top_p": 0.98}, [0, 1, 2, 3, 4, 5]),
            ({"min_p": 0.3}, [0, 1, 2, 3, 4]),  # at least 0.3 x 0.35
            ({"min_p": 0.5}, [0, 1]),
            ({"min_p": 1.0}, [0]),
            ({"top_k": 2, "top_p": 0.7}, [0, 1]),  # of the top 2, token 0 has 0.35 / 0.55, less than 0.7
            ({"top_k": 2, "top_p": 0.6}, [0]),
            ({"top_p": 0.75, "min_p": 0.5}, [0, 1]),
        ],
        fast=range(0, 99, 2),
    ),
)
def test_truncation_keeps_exactly_the_right_tokens(settings, kept):
    truncated = np.where(np.isin(np.arange(6), kept), SKEWED, 0.0)
    truncated /= truncated.sum()
    chosen = choose(np.log(np.broadcast_to(SKEWED, (20_000, 6))), **settings)
    assert_frequencies(chosen.token_ids, truncated)
    np.testing.assert_allclose(chosen.log_probs, np.log(SKEWED)[chosen.token_ids], atol=1e-6)
    np.testing.assert_allclose(chosen.sampler_log_probs, np.log(truncated[chosen.token_ids]), atol=1e-6)


@pytest.mark.parametrize(
    "settings", [{"top_k": 40}, {"top_p": 0.8}, {"top_k": 70, "top_p": 0.5, "min_p": 0.01}]
)
def test_truncation_of_a_large_vocabulary_agrees_with_sorting(settings):
    config = token_choice.SamplingConfig(temperature=0.8, **settings)
    logits = np.random.default_rng(1).normal(size=(500, 1000)).astype(np.float32) * 3.0
    logits = np.round(logits, 1)  # many ties
    chosen = choose(logits, temperature=0.8, **settings)
    for row, token, log_prob in zip(logits, chosen.token_ids, chosen.sampler_log_probs, strict=True):
        order = np.argsort(-row, kind="stable")
        weights = np.exp((row[order] - row.max()) / 0.8)
        weights = weights[: config.top_k or None]
        before = np.cumsum(weights) - weights
        weights = weights[(before < config.top_p * weights.sum()) & (weights >= config.min_p)]
        place = list(order).index(token)
        assert place < len(weights)
        np.testing.assert_allclose(log_prob, np.log(weights[place] / weights.sum()), atol=1e-5)


@pytest.mark.parametrize("vocab_size", [5, 300])
@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"temperature": 0.7, "top_k": 1}])
def test_greedy_and_top_1_take_the_first_maximum(vocab_size, settings):
    logits = np.random.default_rng(2).integers(-3, 4, size=(200, vocab_size))  # ties in most rows
    chosen = choose(logits, **settings)
    np.testing.assert_array_equal(chosen.token_ids, np.argmax(logits, axis=-1))
    # The greedy log-probability is the model's own, at temperature 1.
    scaled = logits / (settings["temperature"] or 1.0)
    wanted = np.asarray(jax.nn.log_softmax(jnp.asarray(scaled)))[np.arange(200), chosen.token_ids]
    np.testing.assert_allclose(chosen.log_probs, wanted, atol=1e-5)
    if settings.get("top_k"):
        np.testing.assert_allclose(chosen.sampler_log_probs, 0.0, atol=1e-6)


def test_without_truncation_the_sampler_is_the_model():
    logits = 3.0 * np.random.default_rng(3).normal(size=(500, 1000))
    chosen = choose(logits, temperature=1.3)
    np.testing.assert_array_equal(chosen.sampler_log_probs, chosen.log_probs)
    wanted = np.asarray(jax.nn.log_softmax(jnp.asarray(logits / 1.3)))[np.arange(500), chosen.token_ids]
    np.testing.assert_allclose(chosen.log_probs, wanted, atol=1e-5)


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2.0**-24])
def test_the_ends_of_the_uniform_fall_on_tokens_of_positive_probability(uniform):
    weights = np.zeros((1, 1000), np.float32)
    weights[0, 200:700] = np.random.default_rng(4).uniform(1e-9, 1.0, size=500)
    drawn = token_choice._draw(jnp.asarray(weights), jnp.full((1, 2), uniform, jnp.float32))
    assert weights[0, drawn[0]] > 0.0


@pytest.mark.parametrize("temperature", [1e-30, 1e-3, 1e30])
def test_extreme_temperatures_and_logits_give_no_nan(temperature):
    logits = np.full((8, 200), -np.inf)
    logits[:, 3], logits[:, 150] = 3e38, -3e38
    chosen = choose(logits, temperature=temperature, top_p=0.9)
    assert set(chosen.token_ids) <= {3, 150}
    assert np.isfinite(chosen.log_probs).all()
    assert np.isfinite(chosen.sampler_log_probs).all()


def test_a_row_draws_by_its_own_key_alone():
    logits = jnp.asarray(np.random.default_rng(5).normal(size=(200, 300)), jnp.float32)
    keys = jax.random.split(jax.random.key(1), 200)
    order = np.random.default_rng(6).permutation(200)
    choose_tokens, numbers = jax.jit(token_choice.choose_tokens), token_choice.SamplingConfig().numbers()
    together = np.asarray(choose_tokens(logits, keys, numbers).token_ids)
    shuffled = np.asarray(choose_tokens(logits[order], keys[order], numbers).token_ids)
    np.testing.assert_array_equal(together[order], shuffled)


def test_what_the_neighbours_ask_for_changes_no_bit_of_a_row():
    rng = np.random.default_rng(7)
    logits = 3.0 * rng.normal(size=(40, 300)).astype(np.float32)
    logits[::3] = np.round(logits[::3])  # ties
    logits[::4, 5:200] = -np.inf
    keys = jax.random.split(jax.random.key(2), 40)
    choose_tokens = jax.jit(token_choice.choose_tokens)
    plain = token_choice.SamplingConfig()
    of_all = [
        plain,
        token_choice.SamplingConfig(temperature=0.0),
        token_choice.SamplingConfig(temperature=0.6),
        token_choice.SamplingConfig(temperature=1.3, top_k=7),
        token_choice.SamplingConfig(top_p=0.7),
        token_choice.SamplingConfig(top_p=0.99, top_k=200),
        token_choice.SamplingConfig(min_p=0.05),
        token_choice.SamplingConfig(temperature=0.0, top_k=2, top_p=0.5, min_p=0.3),
    ]

    def chosen(settings: list[token_choice.SamplingConfig]) -> token_choice.ChosenTokens:
        numbers = jax.tree.map(lambda *of_rows: np.stack(of_rows), *(one.numbers() for one in settings))
        return jax.tree.map(np.asarray, choose_tokens(logits, keys, numbers))

    alike = {setting: chosen([setting] * 40) for setting in of_all}  # what a row gets among its like
    for _ in range(10):
        settings = [of_all[i] for i in rng.integers(len(of_all), size=40)]
        mixed = chosen(settings)
        for row, setting in enumerate(settings):
            among_plain = chosen([plain] * row + [setting] + [plain] * (39 - row)) if row % 10 == 0 else mixed
            for one, other, third in zip(mixed, alike[setting], among_plain, strict=True):
                assert one[row] == other[row] == third[row]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"min_p": 2.0}, "min_p"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
    ],
)
def test_settings_outside_their_range_are_refused_by_name(settings, name):
    with pytest.raises(ValueError, match=name):
        token_choice.SamplingConfig(**settings)
