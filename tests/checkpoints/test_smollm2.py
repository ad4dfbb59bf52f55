"""SmolLM2-135M out of the package's GGUF file against `transformers` on the same file, as recorded.

The fixture is written by `tests/fixtures/make_smollm2_fixture.py`. Tolerance 2e-4 on a token's
log-probability (the largest difference seen was 3e-5): both sides compute in float32 through 30 layers but
add up in different orders, and log-probabilities reach -22.
"""

import json
import pathlib

import numpy as np
import pytest

from promptcot_jax.checkpoints import load
from promptcot_jax.core import prng
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.sampling import generation, scoring, token_choice

FIXTURE = json.loads((pathlib.Path(__file__).parents[1] / "fixtures" / "smollm2.json").read_text())
ROWS = FIXTURE["rows"]
TOLERANCE = 2e-4


@pytest.fixture(scope="module")
def model():
    try:
        load.smollm2_path()
    except WrongUse as missing:
        pytest.skip(str(missing))
    return load.load_model("smollm2-135m")


@pytest.fixture(scope="module")
def tokenizer(model):
    return model.tokenizer


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_texts_have_the_token_ids_of_transformers(tokenizer, row):
    assert tokenizer.encode(row["text"]) == row["token_ids"]
    assert tokenizer.decode(row["token_ids"]) == row["text"]


def test_digits_are_split_off_before_spaces_are_joined(tokenizer):
    """SmolLM2's own tokenizer splits off digits first, so that both spaces are one piece; llama.cpp and we
    follow it. `transformers` (5.24) does not read that rule out of a GGUF file and makes two of them."""
    two_spaces = tokenizer.encode("a  b c")[1]
    assert tokenizer.decode([two_spaces]) == " "
    assert [tokenizer.decode([i]) for i in tokenizer.encode("a  12")] == ["a", "  ", "1", "2"]


@pytest.mark.parametrize("chat", FIXTURE["chats"], ids=range(len(FIXTURE["chats"])))
def test_conversations_are_rendered_as_transformers_does(tokenizer, chat):
    assert tokenizer.render_chat(chat["messages"]) == chat["text"]


def test_special_ids_are_those_of_the_file(tokenizer):
    assert tokenizer.eos_id == tokenizer.pad_id == 2
    assert tokenizer.stop_ids == (2,)
    assert not tokenizer.adds_bos


def test_log_probs_are_those_of_transformers(model):
    """All tokens after the first, prompt and continuation, in one padded batch."""
    found = scoring.score(
        model.lm,
        model.params,
        [row["token_ids"][:1] for row in ROWS],
        [row["token_ids"][1:] + row["continuation_ids"] for row in ROWS],
        pad_id=model.tokenizer.pad_id,
    )
    for row, log_probs in zip(ROWS, found, strict=True):
        expected = np.array(row["log_probs"] + row["continuation_log_probs"])
        np.testing.assert_allclose(log_probs, expected, atol=TOLERANCE, rtol=0)


def test_greedy_continuations_are_those_of_transformers(model):
    """Through prefill and the cache; every row of the fixture in a slot."""
    completions = generation.generate(
        model.lm,
        model.params,
        [row["token_ids"] for row in ROWS],
        sampling=token_choice.SamplingConfig(temperature=0.0, max_new_tokens=24),
        stop_ids=model.tokenizer.stop_ids,
        key=prng.stream_key(0, "rollout"),
    )
    for row, completion in zip(ROWS, completions, strict=True):
        assert list(completion.token_ids) == row["continuation_ids"]
        assert completion.finish_reason == ("stop" if row["continuation_ids"][-1] == 2 else "length")
        np.testing.assert_allclose(
            completion.log_probs, row["continuation_log_probs"], atol=TOLERANCE, rtol=0
        )
