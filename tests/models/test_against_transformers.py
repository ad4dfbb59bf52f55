"""Logits of tiny checkpoints equal those of `transformers` (tests/fixtures/make_model_fixtures.py)."""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from promptcot_jax.core import errors
from promptcot_jax.models import causal_lm, hf_config, hf_mapping

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
MODELS = ("tiny_llama", "tiny_qwen2", "tiny_qwen3")


def load(name, **changes):
    """Model, parameters, its checkpoint's tensors, and the recorded reference."""
    directory = FIXTURES / name
    config = hf_config.from_hf(
        json.loads((directory / "config.json").read_text()), str(directory / "config.json")
    )
    tensors = safetensors.numpy.load_file(directory / "model.safetensors")
    lm = causal_lm.CausalLM(dataclasses.replace(config, **changes))
    return (
        lm,
        hf_mapping.from_hf_tensors(tensors.__getitem__, lm.config),
        tensors,
        np.load(directory / "reference.npz"),
    )


@functools.partial(jax.jit, static_argnums=0)
def logits(lm, params, token_ids, segment_ids=None):
    states = lm.hidden_states(params, token_ids, segment_ids)
    return states.astype(jnp.float32) @ lm.output_embedding(params).astype(jnp.float32)


@pytest.mark.parametrize("name", MODELS)
def test_whole_rows(name):
    lm, params, _, reference = load(name)
    np.testing.assert_allclose(logits(lm, params, reference["token_ids"]), reference["plain"], atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_left_padded_rows(name):
    lm, params, _, reference = load(name)
    is_token = reference["is_token"]
    token_ids = np.where(is_token, reference["token_ids"], 0)
    ours = np.asarray(logits(lm, params, token_ids, is_token.astype(np.int32)))
    np.testing.assert_allclose(ours[is_token], reference["left_padded"][is_token], atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_packed_segments(name):
    lm, params, _, reference = load(name)
    segment_ids = jnp.asarray([[1] * 7 + [2] * 5])
    ours = np.asarray(logits(lm, params, reference["token_ids"][:1], segment_ids))
    np.testing.assert_allclose(ours, reference["packed"], atol=1e-4)
    assert np.abs(ours[0, 7:] - reference["plain"][0, 7:]).max() > 0.1  # not what one unbroken segment gives


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_is_near_and_not_float32(name):
    lm, params, _, reference = load(name, dtype="bfloat16", param_dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
    states = jax.eval_shape(lm.hidden_states, params, reference["token_ids"])
    unembedded = jax.eval_shape(lm.unembed, lm.decoding_layout(params), states)
    assert (states.dtype, unembedded.dtype) == (jnp.bfloat16, jnp.float32)
    ours = logits(lm, params, reference["token_ids"])
    error = np.abs(ours - reference["plain"]).max() / np.abs(reference["plain"]).max()
    assert 1e-4 < error < 0.05


@pytest.mark.parametrize("name", MODELS)
def test_tensors_go_in_and_out_unchanged(name):
    lm, params, tensors, _ = load(name)
    exported = dict(hf_mapping.to_hf_tensors(params, lm.config))
    assert hf_mapping.expected_tensors(lm.config) == {key: value.shape for key, value in tensors.items()}
    assert exported.keys() == tensors.keys()
    for key, value in tensors.items():
        np.testing.assert_array_equal(exported[key], value)


@pytest.mark.parametrize("name", MODELS)
def test_config_goes_in_and_out_unchanged(name):
    lm, *_ = load(name)
    assert hf_config.from_hf(hf_config.to_hf(lm.config, 1, None, 0), "config.json") == lm.config
    original = json.loads((FIXTURES / name / "config.json").read_text())
    exported = hf_config.to_hf(lm.config, 1, None, 0)
    for field in (
        "architectures",
        "model_type",
        "hidden_size",
        "rms_norm_eps",
        "tie_word_embeddings",
        "eos_token_id",
    ):
        assert exported[field] == original[field]


def test_a_misshaped_tensor_is_named():
    lm, _, tensors, _ = load("tiny_llama")
    tensors["model.layers.1.self_attn.k_proj.weight"] = np.zeros((16, 31), np.float32)
    with pytest.raises(
        errors.WrongUse, match=r"model\.layers\.1\.self_attn\.k_proj\.weight.*\(16, 31\).*\(16, 32\)"
    ):
        hf_mapping.from_hf_tensors(tensors.__getitem__, lm.config)
