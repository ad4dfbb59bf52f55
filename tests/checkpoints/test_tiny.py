"""promptcot-tiny, as the package carries it: its digest, and `transformers` on the same files as recorded.

The fixture is written by `tests/fixtures/make_tiny_fixture.py`.
"""

import hashlib

import pytest

from promptcot_jax.checkpoints import load
from tests.checkpoints import recorded

ROWS = recorded.document("promptcot_tiny.json")["rows"]


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
    recorded.check_ids(model, row)


def test_log_probs_are_those_of_transformers(model):
    recorded.check_log_probs(model, ROWS)


def test_greedy_continuations_are_those_of_transformers(model):
    recorded.check_greedy_continuations(model, ROWS)
