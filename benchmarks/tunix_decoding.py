"""Tunix's side of decoding.py, for an interpreter with google-tunix: its own `Sampler` over its own Llama.

The cache holds just prompt and new tokens, each prompt is as long as the sampler is told to pad to, and no id
ends a row or counts as padding. What remains is the sampler's own: it reads the logits of the whole prompt,
and its loop runs once more than there are tokens left to write.

Compare under one version of JAX: at one row, 0.12.0 takes 1.7 times as long as 0.10.2 over the same sampler
(`decoding.py --tunix_python=PATH --rows=1` with either).
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pairs
from flax import nnx
from tunix.generate import sampler
from tunix.models.llama3 import model

NO_TOKEN = -1  # outside of the vocabulary


class FixedPrompts:
    """Stands in for a tokenizer, which the sampler insists on: prompt "3" is row 3 of `token_ids`."""

    def __init__(self, token_ids: list[list[int]]):
        self.token_ids = token_ids

    def encode(self, text: str) -> list[int]:
        return self.token_ids[int(text)]

    def decode(self, token_ids: list[int]) -> str:
        return ""

    def bos_id(self) -> None:
        return None  # nothing goes before the prompt

    def eos_id(self) -> int:
        return NO_TOKEN

    def pad_id(self) -> int:
        return NO_TOKEN


def random_llama(rng: np.random.Generator) -> model.Llama3:
    """The shape of all speed comparisons, float32."""
    shape = pairs.SHAPE_135M
    config = config_of(shape, shape["vocab_size"])
    return drawn(config, rng)


def config_of(shape: dict, vocab_size: int, **more: Any) -> model.ModelConfig:
    """Tunix's configuration of one of our shapes."""
    return model.ModelConfig(
        vocab_size=vocab_size,
        embed_dim=shape["embed_dim"],
        hidden_dim=shape["mlp_dim"],
        num_layers=shape["num_layers"],
        num_heads=shape["num_heads"],
        num_kv_heads=shape["num_kv_heads"],
        head_dim=shape["head_dim"],
        rope_theta=10000,
        norm_eps=1e-5,
        weight_tying=True,
        **more,
    )


def drawn(config: model.ModelConfig, rng: np.random.Generator) -> model.Llama3:
    """Random weights, drawn array by array for a low peak of memory. Tunix's own leaves the MLPs at zero."""
    graph, shapes = nnx.split(nnx.eval_shape(lambda: model.Llama3(config, rngs=nnx.Rngs(0))))
    params = jax.tree.map(
        lambda array: jax.device_put(0.02 * rng.standard_normal(array.shape, np.float32)), shapes
    )
    return nnx.merge(graph, params)


def tunix_side(rows: int, prompt_tokens: int, new_tokens: int, temperature: float) -> Callable[[], float]:
    shape = pairs.SHAPE_135M
    rng = np.random.default_rng(0)
    llama = random_llama(rng)
    prompts = rng.integers(0, shape["vocab_size"], (rows, prompt_tokens)).tolist()
    cache = sampler.CacheConfig(
        cache_size=prompt_tokens + new_tokens,
        num_layers=shape["num_layers"],
        num_kv_heads=shape["num_kv_heads"],
        head_dim=shape["head_dim"],
    )
    sample = sampler.Sampler(llama, FixedPrompts(prompts), cache)
    names = [str(row) for row in range(rows)]

    def work() -> float:
        start = time.perf_counter()
        out = sample(
            names,
            max_generation_steps=new_tokens,
            max_prompt_length=prompt_tokens,
            temperature=temperature,
            top_p=1.0 if temperature else None,  # without top_p it is greedy at any temperature
        )
        seconds = time.perf_counter() - start
        if any(len(token_ids) != new_tokens or NO_TOKEN in token_ids for token_ids in out.tokens):
            raise SystemExit("A row ended before its budget.")
        return seconds

    return work
