"""Shape of the one decoder that serves p_theta(z, x | c), q_phi(z | c, x) and the solver.

The paper trains Qwen2.5 models; Llama, Qwen2 / Qwen2.5 and Qwen3 differ by three switches only (bias on q, k
and v; a norm on each query and key head; tied embeddings), so one definition holds all of them.
"""

import dataclasses
from typing import Literal

Family = Literal["llama", "qwen2", "qwen3"]
FloatType = Literal["float32", "bfloat16"]

_FAMILIES = ("llama", "qwen2", "qwen3")
_FLOAT_TYPES = ("float32", "bfloat16")
_SIZES = (
    "vocab_size",
    "embed_dim",
    "mlp_dim",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "max_positions",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Shape and number formats of a decoder.

    Attributes:
        max_positions: longest sequence the weights were trained for; recorded on export, and no limit here.
        family: the architecture named on export.
        dtype: activations and matmul inputs. Norms, rotary angles, attention scores, logits are in float32.
        param_dtype: stored parameters.
    """

    vocab_size: int
    embed_dim: int
    mlp_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope_theta: float = 10000.0
    norm_epsilon: float = 1e-6
    qkv_bias: bool = False
    qk_norm: bool = False
    tie_embeddings: bool = False
    max_positions: int = 2048
    family: Family = "llama"
    dtype: FloatType = "float32"
    param_dtype: FloatType = "float32"

    def __post_init__(self):
        for name in _SIZES:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads={self.num_heads} must be a multiple of num_kv_heads={self.num_kv_heads}: each "
                "key-value head serves a whole group of query heads."
            )
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim must be even, since rotary embeddings turn pairs; got {self.head_dim}."
            )
        if self.rope_theta <= 0.0 or self.norm_epsilon <= 0.0:
            raise ValueError(
                f"rope_theta and norm_epsilon must be positive, got {self.rope_theta}, {self.norm_epsilon}."
            )
        if self.family not in _FAMILIES:
            raise ValueError(f"family must be one of {_FAMILIES}, got {self.family!r}.")
        if self.qkv_bias != (self.family == "qwen2") or self.qk_norm != (self.family == "qwen3"):
            raise ValueError(
                f"family '{self.family}' with qkv_bias={self.qkv_bias}, qk_norm={self.qk_norm}: Qwen2 has "
                "the bias, Qwen3 the norm, Llama neither; exported otherwise it would load as another model."
            )
        for name in ("dtype", "param_dtype"):
            if getattr(self, name) not in _FLOAT_TYPES:
                raise ValueError(f"{name} must be one of {_FLOAT_TYPES}, got {getattr(self, name)!r}.")

    @property
    def group_size(self) -> int:
        """Query heads served by each key-value head."""
        return self.num_heads // self.num_kv_heads

    def parameter_count(self) -> int:
        """Number of stored parameters; a tied output embedding counts once."""
        query_dim, kv_dim = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        attention = 2 * self.embed_dim * query_dim + 2 * self.embed_dim * kv_dim
        attention += (query_dim + 2 * kv_dim) * self.qkv_bias + 2 * self.head_dim * self.qk_norm
        layer = attention + 3 * self.embed_dim * self.mlp_dim + 2 * self.embed_dim
        embeddings = self.vocab_size * self.embed_dim * (1 if self.tie_embeddings else 2)
        return self.num_layers * layer + embeddings + self.embed_dim
