"""Shared toys of the tests: a byte tokenizer, a two-layer decoder, a handful of triples."""

from promptcot_jax.models import config as model_config


def toy_config(family: str = "llama", **changes) -> model_config.DecoderConfig:
    """A two-layer decoder with grouped-query attention, small enough to enumerate its vocabulary."""
    settings = dict(
        vocab_size=270,
        embed_dim=32,
        mlp_dim=48,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        family=family,
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        tie_embeddings=True,
        max_positions=512,
    )
    return model_config.DecoderConfig(**(settings | changes))
