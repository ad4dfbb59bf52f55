"""Floating-point operations that a decoder needs by its formula: the numerator of MFU.

Model FLOPs in the sense of PaLM (arXiv 2204.02311, appendix B): multiply-adds of the matrix products count
two, the backward pass costs twice the forward pass, and nothing is counted for embedding lookups, norms,
rotations or softmax, nor for what remat computes again. Where PaLM counts attention over the whole row, here
each token counts the tokens it sees (earlier ones of its own segment, and itself), so that neither padding
nor the masked half of the scores makes the figure better than it is.
"""

import numpy as np

from promptcot_jax.core.arrays import Array
from promptcot_jax.models.config import DecoderConfig
from promptcot_jax.models.language_model import ModelConfig


def matmul_parameters(config: DecoderConfig) -> int:
    """Parameters that one token is multiplied with: the layers' matrices and the output matrix."""
    query_dim, kv_dim = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    attention = config.embed_dim * (2 * query_dim + 2 * kv_dim)
    return config.num_layers * (attention + _mlp_parameters(config)) + config.vocab_size * config.embed_dim


def _mlp_parameters(config: DecoderConfig) -> int:
    """Of one layer's MLP, those that one token meets (of experts, the router and the ones it is sent to)."""
    mlp, experts = 3 * config.embed_dim * config.mlp_dim, config.experts
    if experts is None:
        return mlp
    return experts.num_selected * mlp + experts.num_experts * config.embed_dim


def tokens_seen(config: ModelConfig, counts: Array | np.ndarray) -> Array | np.ndarray:
    """What a token sees on the mean of the layers, of which some may have windows.

    Args:
        counts: earlier tokens of its segment and itself.
    """
    if not isinstance(config, DecoderConfig) or config.window is None:
        return counts
    share = float(np.mean(config.local_layers))
    return share * counts.clip(max=config.window.size) + (1.0 - share) * counts


def forward_flops(config: DecoderConfig, num_tokens: int, num_seen: int) -> int:
    """Of one forward pass with logits for every token.

    Args:
        num_seen: `tokens_seen`, summed over tokens; for one row of T tokens without windows T (T + 1) / 2.
    """
    scores_and_mixing = 2 * config.num_heads * config.head_dim  # multiply-adds per layer and token seen
    return 2 * (matmul_parameters(config) * num_tokens + config.num_layers * scores_and_mixing * num_seen)


def training_flops(
    config: DecoderConfig, num_tokens: int, num_seen: int, *, trains_weights: bool = True
) -> int:
    """Of a forward and a backward pass; see `forward_flops`.

    Args:
        trains_weights: else an adapter is trained, whose own products are too thin to count: products with
            weights are then differentiated by activations only, attention's by both factors all the same.
    """
    attention = forward_flops(config, 0, num_seen)
    return 3 * attention + (3 if trains_weights else 2) * forward_flops(config, num_tokens, 0)
