"""Facts of sentence vectors: MiniLM's forward pass is transformers', hashed TF-IDF knows rare words."""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from promptcot_jax.checkpoints import sentence_encoder
from promptcot_jax.models.hashed_tfidf import HashedTfidf

TINY = pathlib.Path(__file__).parents[1] / "fixtures" / "tiny_bert.npz"


@pytest.mark.slow
def test_minilm_computes_what_transformers_does_and_padding_changes_nothing():
    with np.load(TINY) as stored:
        params = {
            name.removeprefix("param/"): jnp.asarray(stored[name])
            for name in stored
            if name.startswith("param/")
        }
        ids, is_token = jnp.asarray(stored["token_ids"]), jnp.asarray(stored["is_token"])
        expected = stored["vectors"]
    vectors = sentence_encoder.embed(params, ids, is_token, num_layers=2, num_heads=4)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    alone = sentence_encoder.embed(params, ids[1:2, :5], is_token[1:2, :5], num_layers=2, num_heads=4)
    np.testing.assert_allclose(alone[0], expected[1], atol=1e-5)


def test_a_vector_depends_on_its_own_text_only_and_has_unit_length():
    encode = HashedTfidf(["the sum of two primes", "the product of two numbers"])
    texts = ["the sum of primes", "", "a robot walks", "the product"]
    together = encode(texts)
    apart = np.concatenate([encode([text]) for text in texts])
    np.testing.assert_array_equal(together, apart)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), [1, 0, 1, 1], atol=1e-6)
    assert encode([]).shape == (0, 512)


def test_rare_words_weigh_more_than_common_ones():
    encode = HashedTfidf([f"find the number of {word}" for word in ("primes", "paths", "sheep", "roots")])
    one, same_rare, same_common = encode(
        ["find the number of lattice points", "lattice points here", "find the number of sheep"]
    )
    assert one @ same_rare > one @ same_common


@pytest.mark.parametrize("dimension", [256, 2048])
def test_cosines_are_near_those_without_hashing(dimension):
    draw = np.random.default_rng(0)
    words = np.array([f"w{a}{b}" for a in "abcdefghij" for b in "klmnopqrst"])
    texts = [" ".join(draw.choice(words, 20)) for _ in range(30)]
    cosines, many = (HashedTfidf(texts, dimension=size)(texts) for size in (dimension, 1 << 16))
    error = np.abs(cosines @ cosines.T - many @ many.T)
    assert error.mean() < 1 / np.sqrt(dimension)
