"""What a decoder's programs need by formula: floating-point operations, the numerator of MFU, and bytes
moved.

Model FLOPs in the sense of PaLM (arXiv 2204.02311, appendix B): multiply-adds of the matrix products count
two, the backward pass twice the forward pass, and embedding lookups, norms, rotations, softmax and what remat
computes again nothing. Each token counts the tokens it sees in attention, so that neither padding nor the
masked half of the scores makes the figure better than it is.

The planner's `Work` adds the bytes that one chip reads and writes. A training step makes the products of 3
forward passes (4 with remat "full"; an adapter's one less, but for attention), reads the weights once a
micro-batch in each of them, and moves 32 bytes a trained parameter for AdamW: parameter, gradient and two
moments in float32, read and written. Rows count as full, one segment each; decoding counts a context of half
the longest request in every slot.
"""

import math

import numpy as np
from jax.sharding import Mesh

from promptcot_jax.core.arrays import Array
from promptcot_jax.models.config import DecoderConfig, FloatType, ModelConfig
from promptcot_jax.parallel import rules
from promptcot_jax.parallel.programs import Work

_ADAM_BYTES = 32
_BYTES = {"float32": 4, "bfloat16": 2}


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


def training_work(
    config: DecoderConfig,
    mesh: Mesh,
    *,
    num_rows: int,
    length: int,
    micro_batches: int,
    remat: str,
    num_trained: int,
    is_adapter: bool,
) -> Work:
    """One training step on full rows."""
    num_tokens = num_rows * length
    seen, again = _seen(config, num_rows, length), int(remat == "full")
    once = training_flops(config, num_tokens, seen, trains_weights=not is_adapter)
    passes = 3 + again - is_adapter
    optimizer = _ADAM_BYTES * num_trained / mesh.size
    return Work(
        flops=float(once + again * forward_flops(config, num_tokens, seen)),
        memory_bytes=passes * micro_batches * _weight_bytes(config, mesh, config.dtype) + optimizer,
        tokens=num_tokens,
    )


def scoring_work(config: DecoderConfig, mesh: Mesh, *, num_rows: int, length: int) -> Work:
    """One batch of full rows."""
    return _forward_work(config, num_rows, length, _weight_bytes(config, mesh, config.dtype))


def prefill_work(config: DecoderConfig, mesh: Mesh, *, num_blocks: int, page_size: int) -> Work:
    """One call that reads blocks of prompts."""
    return _forward_work(config, num_blocks, page_size, _held_weight_bytes(config, mesh, config.dtype))


def _forward_work(config: DecoderConfig, num_rows: int, length: int, memory_bytes: float) -> Work:
    num_tokens = num_rows * length
    flops = float(forward_flops(config, num_tokens, _seen(config, num_rows, length)))
    return Work(flops=flops, memory_bytes=memory_bytes, tokens=num_tokens)


def decoding_work(
    config: DecoderConfig, mesh: Mesh, *, num_slots: int, context: int, param_dtype: FloatType
) -> Work:
    """One step of all slots."""
    shards = rules.num_shards(mesh, "batch", rules.DEFAULT_RULES)
    of_token = 2 * 2 * config.num_layers * config.num_kv_heads * config.head_dim  # keys and values, bfloat16
    heads = math.gcd(config.num_kv_heads, mesh.shape["tensor"])
    seen = int(tokens_seen(config, np.array(context)))
    cache = num_slots / shards * context * of_token / heads
    return Work(
        flops=float(forward_flops(config, num_slots, num_slots * seen)),
        memory_bytes=_held_weight_bytes(config, mesh, param_dtype) + cache,
        tokens=num_slots,
    )


def _weight_bytes(config: DecoderConfig, mesh: Mesh, dtype: FloatType) -> float:
    """Weights that a chip multiplies with in one pass, of experts all that it holds."""
    split = mesh.shape["tensor"] * (mesh.shape["expert"] if config.experts else 1)
    return config.parameter_count() * _BYTES[dtype] / split


def _held_weight_bytes(config: DecoderConfig, mesh: Mesh, dtype: FloatType) -> float:
    """Weights that a chip holds to decode, and multiplies with where they lie."""
    split = rules.num_shards(mesh, "mlp", rules.for_decoding(rules.DEFAULT_RULES))
    return config.parameter_count() * _BYTES[dtype] / split


def _seen(config: DecoderConfig, num_rows: int, length: int) -> int:
    return num_rows * int(np.sum(tokens_seen(config, np.arange(1, length + 1))))
