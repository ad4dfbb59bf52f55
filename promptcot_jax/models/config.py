"""Shape of the one decoder that serves p_theta(z, x | c), q_phi(z | c, x) and the solver.

The paper trains Qwen2.5 and Qwen3 models and takes gpt-oss as a teacher. All families are one definition with
switches: biases, norms on heads, rotary scaling, windows, experts. A family's name says which switches its
`config.json` implies; they are stated all the same, and refused if they do not fit the name, since exported
otherwise the weights would load as another model.
"""

import dataclasses
from typing import Any, Literal, get_args

Family = Literal["llama", "qwen2", "qwen3", "qwen3_moe", "gemma2", "gemma3", "gpt_oss"]
FloatType = Literal["float32", "bfloat16"]
RoutingOrder = Literal["softmax_then_top_k", "top_k_then_softmax"]

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


def _check_positive(config: Any, *names: str) -> None:
    """Refuses numbers that are not above 0; None means that a feature is off."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise ValueError(f"{name} must be positive, got {value}.")


def _check_choice(config: Any, name: str, choices: tuple[Any, ...]) -> None:
    if getattr(config, name) not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {getattr(config, name)!r}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearScaling:
    """All rotary frequencies divided by `factor` (Gemma 3's global layers)."""

    factor: float

    def __post_init__(self):
        _check_positive(self, "factor")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Llama3Scaling:
    """Llama 3.1's: wavelengths divided by `factor` where they are long, kept where short, blended between.

    Attributes:
        low_frequency_factor: turns within `original_max_positions` up to which a frequency is divided.
        high_frequency_factor: turns from which on it is kept.
    """

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_max_positions: int

    def __post_init__(self):
        _check_positive(self, *(field.name for field in dataclasses.fields(self)))
        if self.low_frequency_factor >= self.high_frequency_factor:
            raise ValueError(
                f"low_frequency_factor={self.low_frequency_factor} must be below "
                f"high_frequency_factor={self.high_frequency_factor}: frequencies between them are blended."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class YarnScaling:
    """YaRN (arXiv 2309.00071): as Llama 3's by another ramp, and cosines and sines grow by a factor.

    Attributes:
        beta_fast: turns within `original_max_positions` from which on a frequency is kept.
        beta_slow: turns up to which it is divided by `factor`.
        attention_factor: multiplies cosine and sine; None: 0.1 ln(factor) + 1, as the paper says.
        truncate: the ramp begins and ends at whole pairs of dimensions.
    """

    factor: float
    original_max_positions: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    truncate: bool = True

    def __post_init__(self):
        _check_positive(
            self, "factor", "original_max_positions", "beta_fast", "beta_slow", "attention_factor"
        )
        if self.beta_slow >= self.beta_fast:
            raise ValueError(f"beta_slow={self.beta_slow} must be below beta_fast={self.beta_fast}.")


RopeScaling = LinearScaling | Llama3Scaling | YarnScaling


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlidingWindow:
    """Local layers: each token sees itself and the `size - 1` tokens before it.

    Attributes:
        pattern: which layers are local; repeated, and cut off, to the number of layers.
        rope_theta: rotary base of local layers, which are then not scaled; None: they turn as all others do.
    """

    size: int
    pattern: tuple[bool, ...]
    rope_theta: float | None = None

    def __post_init__(self):
        _check_positive(self, "size", "rope_theta")
        if not any(self.pattern):
            raise ValueError(f"pattern={self.pattern} has no local layer; leave the window out instead.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experts:
    """Every layer's MLP is a choice among experts, each of the decoder's `mlp_dim`.

    Attributes:
        order: whether the router's softmax is over all experts or over the chosen ones.
        renormalize: weights of the chosen experts are made to sum to 1; after "top_k_then_softmax" they do.
    """

    num_experts: int
    num_selected: int
    order: RoutingOrder = "softmax_then_top_k"
    renormalize: bool = False

    def __post_init__(self):
        if not 1 <= self.num_selected <= self.num_experts:
            raise ValueError(
                f"num_selected={self.num_selected} must be between 1 and num_experts={self.num_experts}."
            )
        _check_choice(self, "order", get_args(RoutingOrder))
        if self.renormalize and self.order == "top_k_then_softmax":
            raise ValueError("renormalize must be False with order 'top_k_then_softmax', which sums to 1.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClampedSwiglu:
    """gpt-oss's activation: (up + 1) * gate * sigmoid(alpha * gate), both clamped to `limit`."""

    alpha: float = 1.702
    limit: float = 7.0

    def __post_init__(self):
        _check_positive(self, "alpha", "limit")


Activation = Literal["silu", "gelu_tanh"] | ClampedSwiglu


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Shape and number formats of a decoder.

    Attributes:
        mlp_dim: width of the MLP; of each expert where there are experts.
        rope_scaling: of the rotary frequencies; None: none.
        qkv_bias: queries, keys and values have a bias.
        output_bias: attention's output projection has one.
        mlp_bias: the MLP's projections have one; of experts, the router too.
        qk_norm: each query and key head is normed before it is turned.
        sandwich_norms: attention's and the MLP's outputs are normed before they join the residual stream.
        zero_centered_norms: norms multiply by 1 + scale.
        scale_embeddings: token embeddings are multiplied by sqrt(embed_dim).
        attention_sinks: each head has a learned score that takes weight in the softmax and mixes in nothing.
        attention_soft_cap: scores are cap * tanh(scores / cap).
        logit_soft_cap: and so are logits.
        query_pre_attn_scalar: scores are divided by its root; None: `head_dim`.
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
    rope_scaling: RopeScaling | None = None
    window: SlidingWindow | None = None
    experts: Experts | None = None
    activation: Activation = "silu"
    norm_epsilon: float = 1e-6
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sandwich_norms: bool = False
    zero_centered_norms: bool = False
    scale_embeddings: bool = False
    attention_sinks: bool = False
    attention_soft_cap: float | None = None
    logit_soft_cap: float | None = None
    query_pre_attn_scalar: int | None = None
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
        _check_positive(
            self,
            *("rope_theta", "norm_epsilon"),
            *("attention_soft_cap", "logit_soft_cap", "query_pre_attn_scalar"),
        )
        for name in ("dtype", "param_dtype"):
            _check_choice(self, name, get_args(FloatType))
        self._check_family()

    def _check_family(self) -> None:
        _check_choice(self, "family", get_args(Family))
        free = _FREE[self.family]
        for name in _SWITCHES:
            value = getattr(self, name)
            value = value if isinstance(value, bool) else value is not None
            implied = _IMPLIED[self.family].get(name, False)
            if name not in free and value != implied:
                raise ValueError(
                    f"family '{self.family}' has {name}={implied}, got {value}; set it so, or name another "
                    "family: exported otherwise it would load as another model."
                )
        if "qkv_bias" in free and self.qkv_bias != self.output_bias:
            raise ValueError(
                f"family '{self.family}' has qkv_bias and output_bias both or neither, got {self.qkv_bias} "
                f"and {self.output_bias}."
            )
        if self.family == "qwen3_moe" and any(self.local_layers) and not all(self.local_layers):
            raise ValueError("family 'qwen3_moe' has windows in all layers or in none; set one of these.")
        order = _ORDERS.get(self.family)
        if self.experts is not None and self.experts.order != order:
            raise ValueError(f"family '{self.family}' routes by order '{order}', got {self.experts.order!r}.")
        if _ACTIVATIONS.get(self.family, "silu") != (
            "clamped_swiglu" if isinstance(self.activation, ClampedSwiglu) else self.activation
        ):
            raise ValueError(
                f"activation={self.activation!r} is not that of family '{self.family}'; it is "
                f"{_ACTIVATIONS.get(self.family, 'silu')!r}."
            )

    @property
    def local_rope(self) -> bool:
        """Whether local layers turn by a base of their own."""
        return self.window is not None and self.window.rope_theta is not None

    @property
    def group_size(self) -> int:
        """Query heads served by each key-value head."""
        return self.num_heads // self.num_kv_heads

    @property
    def score_scale(self) -> float:
        """What scores of queries and keys are multiplied by."""
        return (self.query_pre_attn_scalar or self.head_dim) ** -0.5

    @property
    def local_layers(self) -> tuple[bool, ...]:
        """Of each layer, whether it sees its window only."""
        pattern = self.window.pattern if self.window else (False,)
        return tuple(pattern[i % len(pattern)] for i in range(self.num_layers))

    def parameter_count(self) -> int:
        """Number of stored parameters; a tied output embedding counts once."""
        norms = self.embed_dim * (4 if self.sandwich_norms else 2)
        layer = self._attention_count() + self._mlp_count() + norms
        embeddings = self.vocab_size * self.embed_dim * (1 if self.tie_embeddings else 2)
        return self.num_layers * layer + embeddings + self.embed_dim

    def _attention_count(self) -> int:
        query_dim, kv_dim = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        matrices = 2 * self.embed_dim * query_dim + 2 * self.embed_dim * kv_dim
        biases = (query_dim + 2 * kv_dim) * self.qkv_bias + self.embed_dim * self.output_bias
        return matrices + biases + 2 * self.head_dim * self.qk_norm + self.num_heads * self.attention_sinks

    def _mlp_count(self) -> int:
        mlp = 3 * self.embed_dim * self.mlp_dim + (2 * self.mlp_dim + self.embed_dim) * self.mlp_bias
        if self.experts is None:
            return mlp
        return self.experts.num_experts * (mlp + self.embed_dim + self.mlp_bias)  # with the router's column


# What a family's name implies (False where nothing is said), and what its config.json can say either way.
_SWITCHES = (
    *("qkv_bias", "output_bias", "mlp_bias", "qk_norm", "sandwich_norms", "zero_centered_norms"),
    *("scale_embeddings", "attention_sinks", "attention_soft_cap", "logit_soft_cap", "query_pre_attn_scalar"),
    *("experts", "window", "local_rope"),
)
_GEMMA = {
    "sandwich_norms": True,
    "zero_centered_norms": True,
    "scale_embeddings": True,
    "query_pre_attn_scalar": True,
}
_IMPLIED: dict[str, dict[str, bool]] = {
    "llama": {},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True},
    "qwen3_moe": {"qk_norm": True, "experts": True},
    "gemma2": _GEMMA,
    "gemma3": _GEMMA | {"qk_norm": True},
    "gpt_oss": {"mlp_bias": True, "attention_sinks": True, "experts": True},
}
_BIASES, _CAPS = {"qkv_bias", "output_bias"}, {"attention_soft_cap", "logit_soft_cap"}
_FREE: dict[str, set[str]] = {
    "llama": _BIASES | {"mlp_bias"},
    "qwen2": {"window"},
    "qwen3": _BIASES | {"window"},
    "qwen3_moe": _BIASES | {"window"},
    "gemma2": _BIASES | _CAPS | {"window"},
    "gemma3": _BIASES | {"logit_soft_cap", "window", "local_rope"},
    "gpt_oss": _BIASES | {"window"},
}
_ORDERS = {"qwen3_moe": "softmax_then_top_k", "gpt_oss": "top_k_then_softmax"}
_ACTIVATIONS = {"gemma2": "gelu_tanh", "gemma3": "gelu_tanh", "gpt_oss": "clamped_swiglu"}
