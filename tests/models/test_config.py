"""A decoder's shape refuses what cannot be, and counts its parameters exactly."""

import dataclasses

import jax
import pytest

from promptcot_jax.models import causal_lm
from promptcot_jax.models import config as config_lib
from tests import toys


@pytest.mark.parametrize("family", toys.FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_counted_as_they_are_made(family, tied):
    config = toys.toy_config(family, num_layers=3, tie_embeddings=tied)
    shapes = jax.eval_shape(causal_lm.CausalLM(config).init, jax.random.key(0))
    assert config.parameter_count() == sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_every_bias_is_counted():
    config = toys.toy_config(qkv_bias=True, output_bias=True, mlp_bias=True)
    shapes = jax.eval_shape(causal_lm.CausalLM(config).init, jax.random.key(0))
    assert config.parameter_count() == sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    ("family", "changes", "named"),
    [
        ("llama", {"vocab_size": 0}, "vocab_size must be at least 1"),
        ("llama", {"num_kv_heads": 3}, "num_kv_heads=3"),
        ("llama", {"head_dim": 7}, "head_dim must be even"),
        ("llama", {"rope_theta": 0.0}, "rope_theta must be positive"),
        ("llama", {"qk_norm": True}, "'llama' has qk_norm=False, got True"),
        ("llama", {"qkv_bias": True}, "qkv_bias and output_bias both or neither"),
        ("llama", {"activation": "gelu_tanh"}, "activation='gelu_tanh'"),
        ("llama", {"window": config_lib.SlidingWindow(size=4, pattern=(True,))}, "'llama' has window=False"),
        (
            "qwen3_moe",
            {"window": config_lib.SlidingWindow(size=4, pattern=(True, False))},
            "all layers or in none",
        ),
        ("qwen2", {"qkv_bias": False}, "'qwen2' has qkv_bias=True, got False"),
        ("qwen3_moe", {"experts": None}, "'qwen3_moe' has experts=True, got False"),
        ("gemma2", {"logit_soft_cap": -1.0}, "logit_soft_cap must be positive"),
        ("gemma3", {"attention_soft_cap": 4.0}, "'gemma3' has attention_soft_cap=False"),
        ("gpt_oss", {"attention_sinks": False}, "'gpt_oss' has attention_sinks=True"),
        ("gpt_oss", {"experts": config_lib.Experts(num_experts=4, num_selected=2)}, "by order"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_by_name(family, changes, named):
    with pytest.raises(ValueError, match=named):
        toys.toy_config(family, **changes)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: config_lib.Experts(num_experts=4, num_selected=5), "num_selected=5.*num_experts=4"),
        (
            lambda: config_lib.Experts(
                num_experts=4, num_selected=2, order="top_k_then_softmax", renormalize=True
            ),
            "renormalize",
        ),
        (lambda: config_lib.SlidingWindow(size=0, pattern=(True,)), "size must be at least 1"),
        (lambda: config_lib.SlidingWindow(size=4, pattern=(False,)), "no local layer"),
        (lambda: config_lib.YarnScaling(factor=0.0, original_max_positions=9), "factor must be positive"),
        (
            lambda: config_lib.YarnScaling(factor=2.0, original_max_positions=9, beta_slow=40.0),
            "beta_slow=40.0.*beta_fast=32.0",
        ),
        (
            lambda: config_lib.Llama3Scaling(
                factor=2.0, low_frequency_factor=4.0, high_frequency_factor=4.0, original_max_positions=9
            ),
            "low_frequency_factor=4.0.*high_frequency_factor=4.0",
        ),
        (lambda: config_lib.ClampedSwiglu(limit=0.0), "limit must be positive"),
    ],
)
def test_groups_of_settings_refuse_nonsense(make, named):
    with pytest.raises(ValueError, match=named):
        make()


def test_a_pattern_is_repeated_and_cut_off():
    window = config_lib.SlidingWindow(size=4, pattern=(True, True, False), rope_theta=10.0)
    config = dataclasses.replace(toys.toy_config("gemma3"), num_layers=5, window=window)
    assert config.local_layers == (True, True, False, True, True)
