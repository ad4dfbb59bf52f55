"""Comparison of a whole model with what `transformers` made of the same files, as a fixture records it."""

import json
import pathlib

import numpy as np

from promptcot_jax.checkpoints.load import LoadedModel
from promptcot_jax.core import prng
from promptcot_jax.sampling import generation, scoring, token_choice

# Of a token's log-probability (the largest difference seen was 3e-5): both sides compute in float32, SmolLM2
# through 30 layers, but add up in different orders, and log-probabilities reach -22.
TOLERANCE = 2e-4


def document(name: str) -> dict:
    return json.loads((pathlib.Path(__file__).parents[1] / "fixtures" / name).read_text())


def check_ids(model: LoadedModel, row: dict):
    assert model.tokenizer.encode(row["text"]) == row["token_ids"]
    assert model.tokenizer.decode(row["token_ids"]) == row["text"]


def check_log_probs(model: LoadedModel, rows: list[dict]):
    """All tokens after the first, prompt and continuation, in one padded batch."""
    found = scoring.score(
        model.lm,
        model.params,
        [row["token_ids"][:1] for row in rows],
        [row["token_ids"][1:] + row["continuation_ids"] for row in rows],
        pad_id=model.tokenizer.pad_id,
    )
    for row, log_probs in zip(rows, found, strict=True):
        expected = np.array(row["log_probs"] + row["continuation_log_probs"])
        np.testing.assert_allclose(log_probs, expected, atol=TOLERANCE, rtol=0)


def check_greedy_continuations(model: LoadedModel, rows: list[dict]):
    """Through prefill and the cache; every row in a slot."""
    completions = generation.generate(
        model.lm,
        model.lm.decoding_layout(model.params),
        [row["token_ids"] for row in rows],
        sampling=token_choice.SamplingConfig(temperature=0.0, max_new_tokens=24),
        stop_ids=model.tokenizer.stop_ids,
        key=prng.stream_key(0, "rollout"),
    )
    for row, completion in zip(rows, completions, strict=True):
        assert list(completion.token_ids) == row["continuation_ids"]
        stopped = row["continuation_ids"][-1] in model.tokenizer.stop_ids
        assert completion.finish_reason == ("stop" if stopped else "length")
        np.testing.assert_allclose(
            completion.log_probs, row["continuation_log_probs"], atol=TOLERANCE, rtol=0
        )
