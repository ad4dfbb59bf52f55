"""What tests of `annotate` and `verify` share: stages that ask a model, behind an endpoint or in JAX."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import pytest

from promptcot_jax.checkpoints import store
from promptcot_jax.models import causal_lm
from promptcot_jax.run import cli
from tests import toys
from tests.openai_server import Fail, Play

Answer = Callable[[dict[str, Any], int], Play]


def save_toy(directory: Path) -> str:
    """A model of random weights: nothing that it writes can be used."""
    lm = causal_lm.CausalLM(toys.toy_config(max_positions=4096))
    store.save_model(directory, lm, lm.init(jax.random.key(0)), toys.byte_tokenizer(), provenance={})
    return str(directory)


def knowing_no_stranger(answer: Answer) -> Answer:
    """A server that has all models but one named "stranger"."""

    def known(body, attempt):
        return Fail(404, message="no such model") if body["model"] == "stranger" else answer(body, attempt)

    return known


def refusal(
    arguments: Sequence[str], more: Sequence[str], directory: Path, capsys: pytest.CaptureFixture
) -> str:
    """The one sentence of a command that must be refused as wrong use; "{tmp}" in `more` is the directory."""
    assert cli.main([*arguments, *(text.replace("{tmp}", str(directory)) for text in more)]) == 2
    *_, sentence = capsys.readouterr().err.splitlines()
    assert sentence.startswith("promptcot: ")
    return sentence
