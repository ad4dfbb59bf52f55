"""Lower bounds of a program's time from what a chip can do at most: estimates, nothing here was timed.

Of one call and one chip:

    compute = FLOPs / chips / peak FLOP/s          FLOPs by formula (`models/flops.py`), not by the compiler
    memory  = bytes read and written / bandwidth   weights once for each pass, optimizer, cache, activations
    links   = bytes sent / half the links' rate    of all collectives; a stated rate counts both directions
    step    = max(compute, memory, links)          as if all three overlapped perfectly

A training step makes 3 forward passes' worth of products (4 with remat "full"; an adapter's makes one less,
but for attention), reads the weights that it computes with once a micro-batch in each of these passes, and
moves 32 bytes a trained parameter for AdamW: parameter, gradient and two moments in float32, read and
written. Rows count as full, one segment each. Prefill and decoding read the weights that a chip holds, where
training and scoring gather them; decoding counts a context of half the longest request in every slot.
"""

import dataclasses
import math

import numpy as np
from jax.sharding import Mesh

from promptcot_jax.models import flops
from promptcot_jax.models.config import DecoderConfig, FloatType
from promptcot_jax.parallel import rules
from promptcot_jax.parallel.hardware import Hardware

_ADAM_BYTES = 32
_WIDTH = {"float32": 4, "bfloat16": 2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """Of one call: products over all chips, bytes of memory of one chip, and tokens that come of it."""

    flops: float
    memory_bytes: float
    tokens: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """Seconds of one call by each bound."""

    compute: float
    memory: float
    links: float
    tokens: int

    @property
    def seconds(self) -> float:
        return max(self.compute, self.memory, self.links)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def bound(self) -> str:
        """Which of them it is."""
        times = {"compute": self.compute, "memory": self.memory, "links": self.links}
        return max(times, key=times.__getitem__)


def estimate(work: Work, hardware: Hardware, num_chips: int, bytes_sent: float) -> Estimate:
    """The bounds of one call.

    Args:
        bytes_sent: by a chip in all collectives of the call.
    """
    return Estimate(
        compute=work.flops / num_chips / hardware.bf16_flops,
        memory=work.memory_bytes / hardware.hbm_bandwidth,
        links=bytes_sent / (hardware.link_bandwidth / 2),
        tokens=work.tokens,
    )


def of_training(
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
    once = flops.training_flops(config, num_tokens, seen, trains_weights=not is_adapter)
    passes = 3 + again - is_adapter
    optimizer = _ADAM_BYTES * num_trained / mesh.size
    return Work(
        flops=float(once + again * flops.forward_flops(config, num_tokens, seen)),
        memory_bytes=passes * micro_batches * _weight_bytes(config, mesh, config.dtype) + optimizer,
        tokens=num_tokens,
    )


def of_scoring(config: DecoderConfig, mesh: Mesh, *, num_rows: int, length: int) -> Work:
    """One batch of full rows."""
    num_tokens = num_rows * length
    return Work(
        flops=float(flops.forward_flops(config, num_tokens, _seen(config, num_rows, length))),
        memory_bytes=_weight_bytes(config, mesh, config.dtype),
        tokens=num_tokens,
    )


def of_prefill(config: DecoderConfig, mesh: Mesh, *, num_blocks: int, page_size: int) -> Work:
    """One call that reads blocks of prompts."""
    num_tokens = num_blocks * page_size
    return Work(
        flops=float(flops.forward_flops(config, num_tokens, _seen(config, num_blocks, page_size))),
        memory_bytes=_held_weight_bytes(config, mesh, config.dtype),
        tokens=num_tokens,
    )


def of_decoding(
    config: DecoderConfig, mesh: Mesh, *, num_slots: int, context: int, param_dtype: FloatType
) -> Work:
    """One step of all slots."""
    lanes = rules.num_shards(mesh, "batch", rules.DEFAULT_RULES)
    of_token = 2 * 2 * config.num_layers * config.num_kv_heads * config.head_dim  # keys and values, bfloat16
    heads = math.gcd(config.num_kv_heads, mesh.shape["tensor"])
    seen = int(flops.tokens_seen(config, np.array(context)))
    cache = num_slots / lanes * context * of_token / heads
    return Work(
        flops=float(flops.forward_flops(config, num_slots, num_slots * seen)),
        memory_bytes=_held_weight_bytes(config, mesh, param_dtype) + cache,
        tokens=num_slots,
    )


def _weight_bytes(config: DecoderConfig, mesh: Mesh, dtype: FloatType) -> float:
    """Weights that a chip multiplies with in one pass, of experts all that it holds."""
    split = mesh.shape["tensor"] * (mesh.shape["expert"] if config.experts else 1)
    return config.parameter_count() * _WIDTH[dtype] / split


def _held_weight_bytes(config: DecoderConfig, mesh: Mesh, dtype: FloatType) -> float:
    """Weights that a chip holds to decode, and multiplies with where they lie."""
    split = rules.num_shards(mesh, "mlp", rules.for_decoding(rules.DEFAULT_RULES))
    return config.parameter_count() * _WIDTH[dtype] / split


def _seen(config: DecoderConfig, num_rows: int, length: int) -> int:
    return num_rows * int(np.sum(flops.tokens_seen(config, np.arange(1, length + 1))))
