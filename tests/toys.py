"""Shared toys of the tests: a byte tokenizer, a two-layer decoder and its cache, a handful of triples."""

import os
import pathlib
from collections.abc import Sequence

import jax.numpy as jnp
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from promptcot_jax.core import records
from promptcot_jax.data import templates
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.models import config as model_config
from promptcot_jax.models import page_layouts

# Real data beside the repository; the tests that use them are skipped where they are not there.
SHARED = pathlib.Path(os.environ.get("PROMPTCOT_SHARED", pathlib.Path(__file__).parents[2] / "shared"))
SEED_TRIPLES = SHARED / "data" / "seed" / "math_triples_train.jsonl"


_GEMMA = {
    "sandwich_norms": True,
    "zero_centered_norms": True,
    "scale_embeddings": True,
    "activation": "gelu_tanh",
    "query_pre_attn_scalar": 5,
    "logit_soft_cap": 3.0,
}
# What each family's name implies, and some of what it allows.
FAMILIES = {
    "llama": {},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True},
    "qwen3_moe": {
        "qk_norm": True,
        "experts": model_config.Experts(num_experts=4, num_selected=2, renormalize=True),
    },
    "gemma2": _GEMMA
    | {
        "attention_soft_cap": 2.0,
        "window": model_config.SlidingWindow(size=5, pattern=(True, False)),
    },
    "gemma3": _GEMMA
    | {
        "qk_norm": True,
        "rope_scaling": model_config.LinearScaling(factor=8.0),
        "window": model_config.SlidingWindow(size=5, pattern=(True, False), rope_theta=20.0),
    },
    "gpt_oss": {
        "qkv_bias": True,
        "output_bias": True,
        "mlp_bias": True,
        "attention_sinks": True,
        "activation": model_config.ClampedSwiglu(limit=1.0),
        "window": model_config.SlidingWindow(size=5, pattern=(True, False)),
        "rope_scaling": model_config.YarnScaling(factor=4.0, original_max_positions=64, truncate=False),
        "experts": model_config.Experts(num_experts=4, num_selected=2, order="top_k_then_softmax"),
    },
}


def toy_config(family: str = "llama", **changes) -> model_config.DecoderConfig:
    """A two-layer decoder with grouped-query attention, small enough to enumerate its vocabulary."""
    settings = {
        "vocab_size": 270,
        "embed_dim": 32,
        "mlp_dim": 48,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 8,
        "family": family,
        "tie_embeddings": True,
        "max_positions": 512,
    }
    return model_config.DecoderConfig(**(settings | FAMILIES[family] | changes))


class RoundedPages(page_layouts.PlainPages):
    """A plain cache that holds what bfloat16 can hold, to compare that of TPUs with."""

    def write(self, keys, values, places, first_page):
        rounded = (array.astype(jnp.bfloat16).astype(jnp.float32) for array in (keys, values))
        return RoundedPages(*super().write(*rounded, places, first_page))


def byte_tokenizer(
    chat_template: str | None = None,
    *,
    merges: Sequence[tuple[str, str]] = (),
    special_markers: bool = True,
) -> Tokenizer:
    """One id per byte (0-255), then `<|endoftext|>` 256, `<|pad|>` 257 and the four markers 258-261.

    `merges` (of byte-level letters) and `special_markers=False` make it more like a stranger's tokenizer.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())  # one printable character stands for each byte
    pieces = [*letters, *(first + second for first, second in merges)]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>", "<|pad|>", *(templates.MARKERS if special_markers else ())])
    return Tokenizer.from_backend(
        backend, eos_token="<|endoftext|>", pad_token="<|pad|>", chat_template=chat_template
    )


def chatml_tokenizer(*, has_template: bool = True) -> Tokenizer:
    """The byte tokenizer with SmolLM2's two tokens of turns, 262 and 263, and its template."""
    backend = byte_tokenizer().backend
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}"
        "{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    return Tokenizer.from_backend(
        backend, eos_token="<|im_end|>", chat_template=template if has_template else None
    )


def toy_triples() -> list[records.Triple]:
    """Four short triples, one of them on programming, all of different lengths."""
    return [
        records.Triple(
            id="toy-0",
            concepts=("remainders", "powers"),
            level="2",
            rationale="Take a power whose remainders repeat, and ask for one far out.",
            problem="What is the remainder of $2^{100}$ on division by 7?",
        ),
        records.Triple(
            id="toy-1",
            concepts=("triangles",),
            level="AIME",
            rationale="Start from a right triangle with whole sides.",
            problem="A right triangle has legs 5 and 12. Find its hypotenuse.",
        ),
        records.Triple(
            id="toy-2",
            domain="code",
            concepts=("loops", "sums"),
            rationale="Read a list, keep a running sum.",
            problem="Read n numbers and print their sum.",
        ),
        records.Triple(
            id="toy-3",
            concepts=("counting", "symmetry"),
            level="5",
            rationale="Colour few things; turning them makes some colourings equal.\nAsk how many remain.",
            problem="How many ways are there to colour a square's corners with 3 colours, up to rotation? ♠",
        ),
    ]
