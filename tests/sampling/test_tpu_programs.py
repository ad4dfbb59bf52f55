"""The engine's programs with the cache's layout for TPUs: interpreted on a CPU, and compiled for TPUs.

Nothing here needs a TPU. What is compiled is the engine's own programs at the size of Qwen2.5 7B, for one
chip and for four; the compiler then says what it would keep and move. `libtpu` brings that compiler
(`pip install 'jax[tpu]'`, or the extra `tpu`).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from promptcot_jax.models import causal_lm
from promptcot_jax.sampling import slots
from tests import toys, tpu_compiler

PAGE = 64
MIB = 2**20


def greedy_burst(lm, params, cache, *, num_steps):
    """Two rows go on from a prompt, one of them in a copy of its last page; the third slot stands idle."""
    prompt = np.random.default_rng(3).integers(1, 256, 2 * PAGE).astype(np.int32)
    blocks = slots.Blocks(
        token_ids=prompt.reshape(2, PAGE),
        first_positions=np.array([0, PAGE], np.int32),
        page_table=np.array([[2, 5, 0], [2, 5, 0]], np.int32),
    )
    cache = slots.read_blocks(lm, params, cache, blocks)
    copies = slots.Copies(np.array([5, 0, 0], np.int32), np.array([1, 0, 0], np.int32))
    cache = slots.copy_pages(lm, cache, copies)
    batch = slots.idle_slots(3, 3)
    batch.page_table[:2] = [[2, 1, 3], [2, 5, 4]]
    batch.positions[:2] = [PAGE + 20, 2 * PAGE - 2]  # the second goes on into a page of its own
    batch.last_ids[:2] = [11, prompt[-2]]
    batch.budgets[:2] = num_steps
    batch.numbers.temperature[:] = 0.0
    burst, _ = slots.decode_burst(
        lm, params, cache, batch, jax.random.key(0), np.int32(num_steps), np.int32(3), max_steps=num_steps
    )
    return burst


@pytest.mark.slow
def test_a_burst_decodes_what_the_plain_layout_decodes():
    lm = causal_lm.CausalLM(toys.toy_config("qwen2", tie_embeddings=False))
    noise = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(leaf + 0.2 * noise.normal(size=leaf.shape), jnp.float32),
        lm.init(jax.random.key(0)),
    )
    rounded = toys.RoundedPages(*lm.init_cache(6, PAGE, "plain"))
    plain = greedy_burst(lm, params, rounded, num_steps=4)
    with pltpu.force_tpu_interpret_mode():
        tpu = greedy_burst(lm, params, lm.init_cache(6, PAGE, "tpu"), num_steps=4)
    np.testing.assert_array_equal(tpu.token_ids[:2], plain.token_ids[:2])
    np.testing.assert_allclose(tpu.log_probs[:2], plain.log_probs[:2], atol=1e-3)  # rounded keys: halves
    assert len(np.unique(plain.token_ids[:2])) > 2
    np.testing.assert_array_equal(tpu.num_new, [4, 4, 0])


compiled = functools.partial(tpu_compiler.facts, "sampling/compile_for_tpu.py")


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5p:2x2x1", "v6e:2x2x1"])
@pytest.mark.parametrize("mesh", ["1x1", "2x2"])
@pytest.mark.parametrize("program", ["decode_burst", "read_blocks", "copy_pages"])
def test_the_cache_is_updated_in_place(topology, mesh, program):
    facts = compiled(topology)[f"{program} {mesh}"]
    assert facts["alias_bytes"] >= facts["pool_bytes"]
    assert not facts["moves_of_the_pool"]
    assert not facts["moves_of_stacked_weights"]
    assert facts["has_kernel"] == (program == "decode_burst")
    # Compiled by itself, token choice takes four float32 arrays over the vocabulary; the logits and a copy
    # for another memory come on top. All else is small: one layer's keys would be 64 or 256 MiB.
    of_token_choice = 6 * facts["logits_bytes"] if program == "decode_burst" else 0
    assert facts["temp_bytes"] < of_token_choice + 16 * MIB


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5p:2x2x1", "v6e:2x2x1"])
def test_an_empty_cache_is_never_whole_on_one_of_several_chips(topology):
    facts = compiled(topology)["empty_cache 2x2"]
    assert facts["output_bytes"] < facts["pool_bytes"] + MIB
    assert facts["temp_bytes"] < MIB


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5p:2x2x1", "v6e:2x2x1"])
def test_the_compiler_would_copy_without_these_precautions(topology):
    """The facts above are not true of any program: each precaution undone shows."""
    facts = compiled(topology)
    kept = facts["small decode_burst"]
    assert not kept["moves_of_the_pool"]
    assert not kept["moves_of_stacked_weights"]
    assert facts["small decode_burst, heads as a slice of the write"]["moves_of_the_pool"]
    assert facts["small decode_burst, no barrier after the projections"]["moves_of_stacked_weights"]
