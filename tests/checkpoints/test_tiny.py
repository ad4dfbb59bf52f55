"""promptcot-tiny, as the package carries it: its digest, and `transformers` on the same files as recorded.

The fixture is written by `tests/fixtures/make_tiny_fixture.py`.
"""

import hashlib
import json
import pathlib

import numpy as np
import pytest

from promptcot_jax.checkpoints import load
from promptcot_jax.core import prng
from promptcot_jax.sampling import generation, scoring, token_choice

FIXTURE = json.loads((pathlib.Path(__file__).parents[1] / "fixtures" / "promptcot_tiny.json").read_text())
ROWS = FIXTURE["rows"]


@pytest.fixture(scope="module")
def model():
    return load.load_model("promptcot-tiny")


def test_the_card_names_the_digest_and_the_size_of_the_weights(model):
    weights = (load.tiny_path() / "model.safetensors").read_bytes()
    card = (load.tiny_path() / "README.md").read_text()
    assert len(weights) < 6_000_000
    assert hashlib.sha256(weights).hexdigest() in card
    assert f"{model.lm.config.parameter_count():,}" in card
    assert model.source == "promptcot-tiny"


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_texts_have_the_token_ids_of_transformers(model, row):
    assert model.tokenizer.encode(row["text"]) == row["token_ids"]
    assert model.tokenizer.decode(row["token_ids"]) == row["text"]


def test_log_probs_are_those_of_transformers(model):
    found = scoring.score(
        model.lm,
        model.params,
        [row["token_ids"][:1] for row in ROWS],
        [row["token_ids"][1:] + row["continuation_ids"] for row in ROWS],
        pad_id=model.tokenizer.pad_id,
    )
    for row, log_probs in zip(ROWS, found, strict=True):
        expected = np.array(row["log_probs"] + row["continuation_log_probs"])
        np.testing.assert_allclose(log_probs, expected, atol=2e-4, rtol=0)


def test_greedy_continuations_are_those_of_transformers(model):
    completions = generation.generate(
        model.lm,
        model.lm.decoding_layout(model.params),
        [row["token_ids"] for row in ROWS],
        sampling=token_choice.SamplingConfig(temperature=0.0, max_new_tokens=24),
        stop_ids=model.tokenizer.stop_ids,
        key=prng.stream_key(0, "rollout"),
    )
    for row, completion in zip(ROWS, completions, strict=True):
        assert list(completion.token_ids) == row["continuation_ids"]
