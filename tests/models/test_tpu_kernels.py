"""The models' kernels compiled for TPUs, of which none is needed: what the compiler says of them.

`libtpu` brings that compiler (`pip install 'jax[tpu]'`, or the extra `tpu`). Values and gradients are tested
beside each module, the kernels being interpreted.
"""

import functools

import pytest

from tests import tpu_compiler

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("topology", ["v5p:2x2x1", "v6e:2x2x1"])]
GB = 1e9


compiled = functools.partial(tpu_compiler.facts, "models/compile_for_tpu.py")


def test_grouped_products_do_no_more_than_one_matrix_a_row(topology):
    needed = 3 * 2 * 16384 * 2048 * 768  # the product, and its gradients by rows and by matrices
    facts = compiled(topology)
    assert facts["megablox"]["operations"] < 1.01 * needed
    # Why it is not ragged_dot: for v6e it does 43 or 128 times as many, by version.
    assert (facts["ragged_dot"]["operations"] > 10 * needed) == topology.startswith("v6e")


def test_memory_of_experts_does_not_grow_with_the_tokens(topology):
    """But for inputs and outputs; from one chunk to several, float32 sums of the weights' gradients come."""
    facts = compiled(topology)
    float32_sums = 4 * 3 * 128 * 2048 * 768
    one, several = facts["experts 8192"]["temp_bytes"], facts["experts 32768"]["temp_bytes"]
    more_tokens = 24576 * 2048 * 2
    assert several < one + 1.3 * float32_sums + 4 * more_tokens


def test_experts_over_four_chips_hold_a_quarter(topology):
    facts = compiled(topology)
    whole = facts["experts 32768"]
    for mesh in ("experts, 4 chips", "experts, 2 x 2 chips"):
        assert facts[mesh]["argument_bytes"] == whole["argument_bytes"] / 4
        assert facts[mesh]["temp_bytes"] < 4.2 * GB


@pytest.mark.parametrize("kind", ["attention", "window"])
@pytest.mark.parametrize("length", [4096, 16384])
def test_attention_keeps_no_square_of_the_length(topology, kind, length):
    """Some arrays like the queries and none like the scores, of which a head's would be a gigabyte."""
    like_queries = length * 32 * 128 * 2
    assert compiled(topology)[f"{kind} {length}"]["temp_bytes"] < 6 * like_queries


def test_remat_keeps_less_on_the_chip(topology):
    """Four layers of 8,192 tokens; what is offloaded is on the host, and nothing is computed again for it."""
    facts = compiled(topology)
    projections, offload, full = (facts[f"decoder, {way}"] for way in ("projections", "offload", "full"))
    assert full["temp_bytes"] < offload["temp_bytes"] < projections["temp_bytes"]
    assert offload["host_bytes"] > 0.6 * GB
    assert projections["host_bytes"] == full["host_bytes"] == 0
    assert offload["operations"] < 1.01 * projections["operations"] < 0.8 * full["operations"]


def test_a_sharded_decoder_compiles_and_holds_a_quarter(topology):
    facts = compiled(topology)
    whole, quarter = facts["decoder, offload"], facts["decoder, offload, 2 x 2 chips"]
    assert quarter["argument_bytes"] < 0.26 * whole["argument_bytes"]
    assert quarter["temp_bytes"] < 0.5 * whole["temp_bytes"]


def test_attention_over_four_chips_holds_a_quarter(topology):
    facts = compiled(topology)
    whole, quarter = facts["attention 16384"], facts["attention 16384, 2 x 2 chips"]
    assert quarter["argument_bytes"] < 0.3 * whole["argument_bytes"]
    assert quarter["temp_bytes"] < 0.35 * whole["temp_bytes"]  # keys and values are gathered
