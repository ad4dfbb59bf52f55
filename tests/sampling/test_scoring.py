"""Scoring: equals the full softmax by hand, counts completion tokens only, sees no padding or batching."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promptcot_jax.models import causal_lm
from promptcot_jax.sampling import batching, scoring
from tests import toys

LM = causal_lm.CausalLM(toys.toy_config("qwen3", tie_embeddings=False))


@pytest.fixture(scope="module")
def params():
    return LM.init(jax.random.key(0))


def some_rows(lengths: list[tuple[int, int]]) -> tuple[list[list[int]], list[list[int]]]:
    rng = np.random.default_rng(len(lengths))
    draw = lambda n: rng.integers(0, LM.config.vocab_size, n).tolist()  # noqa: E731
    return [draw(n) for n, _ in lengths], [draw(n) for _, n in lengths]


@jax.jit
def full_log_probs(params, token_ids):
    return jax.nn.log_softmax(LM.hidden_states(params, token_ids) @ LM.output_embedding(params))


def by_hand(params, prompt: list[int], completion: list[int]) -> np.ndarray:
    """Log-softmax of every position, then the completion's entries one by one."""
    row = [*prompt, *completion]
    log_probs = np.asarray(full_log_probs(params, jnp.array([row + [0] * (100 - len(row))])))[0]
    return np.array([log_probs[len(prompt) - 1 + j, token] for j, token in enumerate(completion)], np.float32)


LENGTHS = [(3, 5), (30, 60), (1, 70), (10, 0), (24, 1), (60, 30), (5, 5)]


def test_scores_equal_the_full_softmax_by_hand(params):
    prompts, completions = some_rows(LENGTHS)
    scores = scoring.score(LM, params, prompts, completions)
    for prompt, completion, row_scores in zip(prompts, completions, scores, strict=True):
        assert row_scores.dtype == np.float32
        np.testing.assert_allclose(row_scores, by_hand(params, prompt, completion), atol=1e-4)
    # Temperature divides logits: 0.5 of them is what a head of twice the size gives.
    doubled = {**params, "lm_head": {"kernel": 2.0 * params["lm_head"]["kernel"]}}
    cold = scoring.score(LM, params, prompts, completions, temperature=0.5)
    for prompt, completion, row_scores in zip(prompts, completions, cold, strict=True):
        np.testing.assert_allclose(row_scores, by_hand(doubled, prompt, completion), atol=1e-4)


@pytest.mark.parametrize(("batch_tokens", "head_tokens"), [(1, 256), (100, 7), (100_000, 1)])
def test_batches_padding_and_head_stretches_change_no_score(params, monkeypatch, batch_tokens, head_tokens):
    prompts, completions = some_rows(LENGTHS)
    wanted = scoring.score(LM, params, prompts, completions)
    monkeypatch.setattr(scoring, "_HEAD_TOKENS", head_tokens)
    scores = scoring.score(LM, params, prompts, completions, batch_tokens=batch_tokens, pad_id=9)
    for row, row_wanted in zip(scores, wanted, strict=True):
        np.testing.assert_allclose(row, row_wanted, atol=1e-4)


def test_prompt_tokens_carry_no_reward(params):
    """A token costs what it costs wherever the row is cut, and what lies before the cut costs nothing."""
    (row,), _ = some_rows([(30, 0)])
    scores = scoring.score(LM, params, [row[:n] for n in (1, 10, 29)], [row[n:] for n in (1, 10, 29)])
    assert [len(row_scores) for row_scores in scores] == [29, 20, 1]
    np.testing.assert_allclose(scores[0][9:], scores[1], atol=1e-4)
    np.testing.assert_allclose(scores[0][28:], scores[2], atol=1e-4)
    # In a model without weights a scored token costs log V, and prompts of all lengths nothing.
    blank = jax.tree.map(jnp.zeros_like, params)
    sums = [s.sum() for s in scoring.score(LM, blank, [row[:n] for n in (1, 7, 20)], [row[:5]] * 3)]
    np.testing.assert_allclose(sums, -5 * np.log(270), rtol=1e-6)


def test_an_empty_completion_scores_nothing(params):
    assert scoring.score(LM, params, [], []) == []
    scores = scoring.score(LM, params, [[1, 2], [3], [5], [6]], [[], [4], [4], [4]])
    assert scores[0].shape == (0,)
    assert scores[0].sum() == 0.0
    np.testing.assert_allclose(scores[1], by_hand(params, [3], [4]), atol=1e-4)


def test_near_certain_and_near_impossible_tokens_give_no_nan(params):
    sharp = {**params, "lm_head": {"kernel": params["lm_head"]["kernel"] * 1e4}}
    scores = np.concatenate(scoring.score(LM, sharp, *some_rows(LENGTHS)))
    assert not np.isnan(scores).any()
    assert (scores <= 0.0).all()


def test_no_array_holds_logits_of_a_whole_sequence(params):
    rows, width, head_tokens = 4, 512, 64
    ids, first = np.zeros((rows, width), np.int32), np.zeros(rows, np.int32)
    numbers = (np.int32(width), np.float32(1.0))
    lowered = scoring._score_rows.lower(LM, params, ids, ids, first, ids, *numbers, head_tokens=head_tokens)
    shapes = re.findall(r"tensor<((?:\d+x)+)f32>", lowered.as_text())
    sizes = [math.prod(map(int, shape.split("x")[:-1])) for shape in shapes if "270" in shape.split("x")]
    assert head_tokens * LM.config.vocab_size in sizes  # one stretch of the head is there
    assert max(sizes) < rows * width * LM.config.vocab_size / 10


@pytest.mark.parametrize(
    ("prompts", "completions", "settings", "message"),
    [
        ([[1]], [], {}, "1 prompts need as many completions"),
        ([[]], [[1]], {}, "Prompt 0 is empty"),
        ([[1], [2]], [[1], [270]], {}, "Completion 1 holds token id 270"),
        ([[1] * 500], [[1] * 13], {}, "max_positions=512"),
        ([[1]], [[1]], {"temperature": 0.0}, "temperature must be positive"),
        ([[1]], [[1]], {"batch_tokens": 0}, "batch_tokens must be at least 1"),
    ],
)
def test_wrong_input_is_refused_by_name(params, prompts, completions, settings, message):
    with pytest.raises(ValueError, match=message):
        scoring.score(LM, params, prompts, completions, **settings)


def test_buckets_hold_their_length_with_a_third_of_padding_at_most():
    buckets = [batching.bucket(n) for n in range(1, 2000)]
    assert sorted(set(buckets)) == [32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048]
    for n, width in enumerate(buckets, start=1):
        assert n <= width
        assert n > 32 or width == 32
        assert width <= 32 or width < 1.5 * n


def test_calls_of_many_sizes_share_two_programs(params):
    """The shards of a run hold ever other numbers of rows of a width; compiling must come to an end."""
    batch_tokens = 32 * 24
    before = scoring._score_rows._cache_size()
    for num_rows in (1, 2, 3, 5, 9, 13, 17, 24, 30, 47):
        prompts, completions = some_rows([(3, 5)] * num_rows)
        scores = scoring.score(LM, params, prompts, completions, batch_tokens=batch_tokens)
        np.testing.assert_allclose(scores[-1], by_hand(params, prompts[-1], completions[-1]), atol=1e-4)
    assert scoring._score_rows._cache_size() - before <= 2
