"""Logits of tiny checkpoints equal those of `transformers` (tests/fixtures/make_model_fixtures.py)."""

import copy
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
from promptcot_jax.models import causal_lm, hf_config, hf_mapping, paged_cache
from tests.cases import some_fast

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
MODELS = (
    *("tiny_llama", "tiny_llama_scaled", "tiny_qwen2", "tiny_qwen2_yarn", "tiny_qwen3", "tiny_qwen3_window"),
    *("tiny_gemma2", "tiny_gemma3", "tiny_qwen3_moe", "tiny_gpt_oss"),
)


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
    return lm.unembed(params, lm.hidden_states(params, token_ids, segment_ids))


@pytest.mark.parametrize("name", some_fast(MODELS, fast=(0, 3, 7, 8, 9)))
def test_whole_rows(name):
    lm, params, _, reference = load(name)
    np.testing.assert_allclose(logits(lm, params, reference["token_ids"]), reference["plain"], atol=1e-4)


@pytest.mark.parametrize("name", some_fast(MODELS, fast=(0, 7, 9)))
def test_left_padded_rows(name):
    lm, params, _, reference = load(name)
    is_token = reference["is_token"]
    token_ids = np.where(is_token, reference["token_ids"], 0)
    ours = np.asarray(logits(lm, params, token_ids, is_token.astype(np.int32)))
    np.testing.assert_allclose(ours[is_token], reference["left_padded"][is_token], atol=1e-4)


@pytest.mark.parametrize("name", some_fast(MODELS, fast=(0, 7, 9)))
def test_packed_segments(name):
    lm, params, _, reference = load(name)
    segment_ids = jnp.asarray([[1] * 7 + [2] * 5])
    ours = np.asarray(logits(lm, params, reference["token_ids"][:1], segment_ids))
    np.testing.assert_allclose(ours, reference["packed"], atol=1e-4)
    assert np.abs(ours[0, 7:] - reference["plain"][0, 7:]).max() > 0.1  # not what one unbroken segment gives


@pytest.mark.parametrize("name", some_fast(MODELS, fast=(0, 7, 9)))
def test_prompts_in_pages_and_decoding(name):
    lm, params, _, reference = load(name)
    token_ids, page = reference["token_ids"], 2  # windows begin inside pages, and pages lie before windows
    table = jnp.asarray([[3, 5, 1, 7, 9, 11], [2, 4, 6, 8, 10, 12]])
    params, cache, pieces = lm.decoding_layout(params), lm.init_cache(13, page), []
    for first, length in [(0, 2), (2, 2), (4, 2), *((t, 1) for t in range(6, 12))]:
        positions = jnp.broadcast_to(first + jnp.arange(length), (2, length))
        ids = token_ids[:, first : first + length]
        piece, cache = decode(lm, params, ids, paged_cache.CachePositions(table, positions), cache)
        pieces.append(piece)
    np.testing.assert_allclose(jnp.concatenate(pieces, axis=1), reference["plain"], atol=1e-4)


@functools.partial(jax.jit, static_argnums=0)
def decode(lm, params, token_ids, places, cache):
    states, cache = lm.extend(params, token_ids, places, cache)
    return lm.unembed(params, states), cache


WINDOW, LOCAL = {"size": 100}, {"rope_theta": None}
DROPPED = [
    ("tiny_llama_scaled", {"rope_scaling": None}),
    ("tiny_llama_scaled", {"qkv_bias": False}),
    ("tiny_llama_scaled", {"output_bias": False}),
    ("tiny_llama_scaled", {"mlp_bias": False}),
    ("tiny_qwen2_yarn", {"rope_scaling": None}),
    ("tiny_qwen2_yarn", {"rope_scaling": {"attention_factor": 1.0}}),
    ("tiny_qwen2_yarn", {"rope_scaling": {"beta_fast": 2.0}}),
    ("tiny_qwen2_yarn", {"rope_scaling": {"truncate": False}}),
    ("tiny_qwen3_window", {"window": WINDOW}),
    ("tiny_qwen3_window", {"window": {"pattern": (True,)}}),
    ("tiny_gemma2", {"window": WINDOW}),
    ("tiny_gemma2", {"attention_soft_cap": None}),
    ("tiny_gemma2", {"logit_soft_cap": None}),
    ("tiny_gemma2", {"query_pre_attn_scalar": None}),
    ("tiny_gemma2", {"scale_embeddings": False}),
    ("tiny_gemma2", {"zero_centered_norms": False}),
    ("tiny_gemma2", {"sandwich_norms": False}),
    ("tiny_gemma2", {"activation": "silu"}),
    ("tiny_gemma3", {"window": WINDOW}),
    ("tiny_gemma3", {"window": LOCAL}),
    ("tiny_gemma3", {"rope_scaling": None}),
    ("tiny_gemma3", {"qk_norm": False}),
    ("tiny_qwen3_moe", {"experts": {"renormalize": False}}),
    ("tiny_qwen3_moe", {"experts": {"num_selected": 1}}),
    ("tiny_gpt_oss", {"window": WINDOW}),
    ("tiny_gpt_oss", {"attention_sinks": False}),
    ("tiny_gpt_oss", {"activation": {"limit": 100.0}}),
    ("tiny_gpt_oss", {"activation": {"alpha": 1.0}}),
    ("tiny_gpt_oss", {"mlp_bias": False}),
    ("tiny_gpt_oss", {"experts": {"order": "softmax_then_top_k"}}),
    ("tiny_gpt_oss", {"rope_scaling": None}),
]


@pytest.mark.parametrize(("name", "changes"), some_fast(DROPPED, fast=range(0, 99, 5)), ids=str)
def test_the_fixtures_notice_each_feature(name, changes):
    lm, params, _, reference = load(name)
    config = copy.copy(lm.config)
    for field, value in changes.items():  # past the checks, which would refuse a family without its features
        group = getattr(config, field)
        value = dataclasses.replace(group, **value) if isinstance(value, dict) else value
        object.__setattr__(config, field, value)
    ours = logits(causal_lm.CausalLM(config), params, reference["token_ids"])
    assert np.abs(ours - reference["plain"]).max() > 1e-2


@pytest.mark.parametrize("name", some_fast(MODELS, fast=(0, 7, 9)))
def test_bfloat16_is_near_and_not_float32(name):
    lm, params, _, reference = load(name, dtype="bfloat16", param_dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
    states = jax.eval_shape(lm.hidden_states, params, reference["token_ids"])
    unembedded = jax.eval_shape(lm.unembed, lm.decoding_layout(params), states)
    assert (states.dtype, unembedded.dtype) == (jnp.bfloat16, jnp.float32)
    ours = logits(lm, params, reference["token_ids"])
    error = np.abs(ours - reference["plain"]).max() / np.abs(reference["plain"]).max()
    assert 1e-4 < error < (0.1 if "gemma" in name else 0.05)  # whose logits are capped, and layers are seven


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
