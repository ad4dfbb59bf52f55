"""Shapes and places of a model's parameters, for whoever loads, draws or trains it."""

import logging

import jax
import jax.numpy as jnp
import pytest

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.models import causal_lm, language_model
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.parallel import rules
from tests import toys

LM = causal_lm.CausalLM(toys.toy_config("qwen3", dtype="bfloat16", param_dtype="bfloat16"))


def test_shapes_are_those_of_new_parameters():
    params = LM.init(jax.random.key(0))
    described = language_model.abstract_params(LM)
    assert described == jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    masters = language_model.abstract_params(LM, dtype="float32")
    assert {leaf.dtype for leaf in jax.tree.leaves(masters)} == {jnp.dtype("float32")}


def test_places_are_the_rules_of_the_model_or_the_default_ones():
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(fsdp=4, tensor=2))
    shapes = language_model.abstract_params(LM, mesh)
    expected = rules.sharding_tree(mesh, LM.logical_axes(), shapes)
    assert jax.tree.map(lambda leaf: leaf.sharding, shapes) == expected
    own = tuple((dict(rules.DEFAULT_RULES) | {"mlp": None}).items())
    of_own = language_model.param_shardings(causal_lm.CausalLM(LM.config, own), mesh)
    assert "tensor" not in str(of_own["layers"]["mlp"]["up_proj"]["kernel"].spec)


def test_what_stays_whole_is_said_once_for_a_mesh(caplog):
    lm = causal_lm.CausalLM(toys.toy_config("llama", vocab_size=271))
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(tensor=2))
    with caplog.at_level(logging.INFO, logger="promptcot_jax"):
        for _ in range(2):
            language_model.param_shardings(lm, mesh)
    assert caplog.messages == [
        "embed_tokens.embedding: axis 'vocab' of size 271 is whole on each device of tensor 2"
    ]


def test_a_mesh_that_does_not_divide_the_model_is_refused():
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(fsdp=3))
    with pytest.raises(WrongUse, match="its axis 'embed' of size 32 does not divide over 3 devices"):
        language_model.abstract_params(LM, mesh)
