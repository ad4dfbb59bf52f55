"""Decoders with the kernels for TPUs, interpreted on a CPU, are the decoders they are with plain JAX.

Values and gradients differ by the order of sums, through two layers: 1e-4 of the largest number.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promptcot_jax.models import causal_lm
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.parallel import rules
from tests import toys
from tests.cases import some_fast

pytestmark = pytest.mark.usefixtures("interpreted_kernels")
LENGTH = 24


@functools.cache
def make(family):
    """A model whose weights are wide enough for every part of it to matter, and rows of packed segments."""
    lm = causal_lm.CausalLM(toys.toy_config(family, rope_theta=100.0))
    noise = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(leaf + 0.2 * noise.normal(size=leaf.shape), jnp.float32),
        lm.init(jax.random.key(0)),
    )
    token_ids = jnp.asarray(noise.integers(1, 256, (4, LENGTH)), jnp.int32)
    segment_ids = np.ones((4, LENGTH), np.int32)
    segment_ids[0, 9:] = 2
    segment_ids[0, 20:] = 0
    segment_ids[1, :3] = 0
    return lm, params, token_ids, jnp.asarray(segment_ids)


def states_and_gradients(
    lm, params, token_ids, segment_ids, positions=None, prefix_ids=None, remat="projections"
):
    def total(params):
        states = lm.hidden_states(params, token_ids, segment_ids, positions, prefix_ids, remat=remat)
        states = jnp.where(segment_ids[..., None] != 0, states, 0.0)
        return jnp.sum(jnp.sin(states)), states

    (_, states), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    return states, gradients


def assert_close(actual, expected):
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4 * max(1.0, np.abs(other).max()))


@pytest.mark.parametrize("family", some_fast(["llama", "gemma2", "gpt_oss"]))
def test_kernels_give_what_plain_jax_gives(family):
    lm, *inputs = make(family)
    assert_close(
        states_and_gradients(dataclasses.replace(lm, platform="tpu"), *inputs),
        states_and_gradients(lm, *inputs),
    )


def test_a_shared_prompt_is_what_plain_jax_has_of_it():
    """The first quarter of a row, then two completions; the other rows are packed as before."""
    lm, params, token_ids, segment_ids = make("llama")
    segment_ids = segment_ids.at[2].set(jnp.repeat(jnp.asarray([3, 1, 2]), jnp.asarray([6, 8, 10])))
    prefix_ids = segment_ids.at[2].set(3)
    positions = jnp.asarray(np.r_[0:6, 6:14, 6:16][None].repeat(4, 0))
    inputs = params, token_ids, segment_ids, positions, prefix_ids
    expected = states_and_gradients(lm, *inputs)
    assert_close(states_and_gradients(dataclasses.replace(lm, platform="tpu"), *inputs), expected)
    alone, _ = states_and_gradients(lm, params, token_ids, segment_ids, positions)
    assert np.abs(alone - expected[0])[2, 6:].min(axis=-1).max() > 1e-3  # a prompt that is seen is felt
    np.testing.assert_array_equal(alone[:2], expected[0][:2])


@pytest.mark.parametrize("remat", some_fast(["offload", "full"], fast=()))
def test_remat_changes_nothing(remat):
    lm, *inputs = make("gemma2")
    lm = dataclasses.replace(lm, platform="tpu")
    assert_close(states_and_gradients(lm, *inputs, remat=remat), states_and_gradients(lm, *inputs))


@pytest.mark.slow
def test_sharded_equals_single_device():
    single, params, *rows = make("gemma2")
    expected = states_and_gradients(single, params, *rows)
    lm = dataclasses.replace(single, platform="tpu", rules=rules.DEFAULT_RULES)
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(fsdp=2, sequence=2, tensor=2))
    sharded = jax.device_put(params, rules.sharding_tree(mesh, lm.logical_axes(), params))
    with jax.set_mesh(mesh):
        assert_close(states_and_gradients(lm, sharded, *rows), expected)


def test_the_platform_follows_the_machine(monkeypatch):
    lm, params, token_ids, _ = make("llama")
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    text = str(jax.make_jaxpr(lm.hidden_states)(params, token_ids))
    assert "pallas_call" in text
    plain = dataclasses.replace(lm, platform="plain")
    assert "pallas_call" not in str(jax.make_jaxpr(plain.hidden_states)(params, token_ids))
