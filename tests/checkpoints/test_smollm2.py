"""SmolLM2-135M out of the package's GGUF file against `transformers` on the same file, as recorded.

The fixture is written by `tests/fixtures/make_smollm2_fixture.py`.
"""

import pytest

from promptcot_jax.checkpoints import load
from promptcot_jax.core.errors import WrongUse
from tests.checkpoints import recorded

FIXTURE = recorded.document("smollm2.json")
ROWS = FIXTURE["rows"]


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
def test_texts_have_the_token_ids_of_transformers(model, row):
    recorded.check_ids(model, row)


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
    recorded.check_log_probs(model, ROWS)


def test_greedy_continuations_are_those_of_transformers(model):
    recorded.check_greedy_continuations(model, ROWS)
