import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promptcot_jax.models import causal_lm, flops
from promptcot_jax.models import config as model_config
from tests import toys

SHAPE = {
    "vocab_size": 100,
    "embed_dim": 8,
    "mlp_dim": 10,
    "num_layers": 3,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 6,
}


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_by_hand(tie_embeddings):
    """q and o are 8 x 24, k and v 8 x 12, three MLP matrices 8 x 10; the output matrix is 8 x 100 once."""
    config = toys.toy_config(**SHAPE, tie_embeddings=tie_embeddings)
    parameters = 3 * (2 * 192 + 2 * 96 + 3 * 80) + 800
    assert flops.matmul_parameters(config) == parameters == 3248
    # Scores and mixing: 2 products of 24 multiply-adds, in 3 layers, for each pair of tokens.
    assert flops.forward_flops(config, num_tokens=5, num_seen=15) == 2 * (5 * 3248 + 3 * 2 * 24 * 15)
    assert flops.training_flops(config, num_tokens=5, num_seen=15) == 6 * (5 * 3248 + 2160)


def test_a_known_model_has_six_flops_per_parameter_and_token():
    """Qwen2.5-32B: 31.0 B parameters beside the embedding, and an output matrix of its own (model card)."""
    config = toys.toy_config(
        "qwen2",
        vocab_size=152064,
        embed_dim=5120,
        mlp_dim=27648,
        num_layers=64,
        num_heads=40,
        num_kv_heads=8,
        head_dim=128,
        tie_embeddings=False,
    )
    embedding = 152064 * 5120
    assert flops.training_flops(config, 1, 0) == pytest.approx(
        6 * (config.parameter_count() - embedding), rel=1e-3
    )
    assert flops.training_flops(config, 1, 0) == pytest.approx(6 * (31.0e9 + embedding), rel=0.01)


def test_of_experts_those_count_that_a_token_is_sent_to():
    """Qwen3-30B-A3B: 3.3 B parameters work on a token, the embedding included (model card)."""
    config = toys.toy_config(
        "qwen3_moe",
        vocab_size=151936,
        embed_dim=2048,
        mlp_dim=768,
        num_layers=48,
        num_heads=32,
        num_kv_heads=4,
        head_dim=128,
        experts=model_config.Experts(num_experts=128, num_selected=8, renormalize=True),
    )
    assert flops.matmul_parameters(config) + 151936 * 2048 == pytest.approx(3.3e9, rel=0.02)


def test_xla_counts_the_same_for_one_layer():
    """One layer, since XLA counts the body of a scan once; it computes all T x T scores, masked or not."""
    config = toys.toy_config(
        vocab_size=512, embed_dim=256, mlp_dim=768, num_layers=1, num_heads=8, num_kv_heads=4, head_dim=32
    )
    lm = causal_lm.CausalLM(config)
    rows, length = 2, 128

    def logits(params, token_ids):
        return lm.hidden_states(params, token_ids) @ lm.output_embedding(params)

    params = jax.eval_shape(lm.init, jax.random.key(0))
    token_ids = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    counted = jax.jit(logits).lower(params, token_ids).compile().cost_analysis()
    assert counted["flops"] == pytest.approx(
        flops.forward_flops(config, rows * length, rows * length**2), rel=0.03
    )


def test_a_token_of_a_windowed_layer_sees_no_more_than_the_window():
    """Of 6 tokens, windows of 4 hide 1 + 2 of 21; in two of three layers that is 2 in the mean."""
    window = model_config.SlidingWindow(size=4, pattern=(True, True, False))
    config = toys.toy_config("gemma2", num_layers=3, window=window)
    assert flops.tokens_seen(config, np.arange(1, 7)).sum() == pytest.approx(21 - 2)
    assert flops.tokens_seen(toys.toy_config(), np.arange(1, 7)).sum() == 21
