"""Shape of the one decoder that serves p_theta(z, x | c), q_phi(z | c, x) and the solver.

The paper trains Qwen2.5 and Qwen3 models and takes gpt-oss as a teacher. All families are one definition with
switches: biases, norms on heads, rotary scaling, windows, experts. A family's name says which switches its
`config.json` implies (`families`); they are stated all the same, and refused if they do not fit the name,
since exported otherwise the weights would load as another model.
"""

from typing import Annotated, Literal, Protocol, runtime_checkable

from promptcot_jax.core.settings import PositiveFloat, PositiveInt, Range, settings
from promptcot_jax.models import families
from promptcot_jax.models.families import Family, RoutingOrder

FloatType = Literal["float32", "bfloat16"]


@runtime_checkable
class ModelConfig(Protocol):
    """The facts about a model that other rooms read; a frozen dataclass, whose types loaders replace."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def max_positions(self) -> int: ...

    @property
    def num_layers(self) -> int: ...

    @property
    def logit_soft_cap(self) -> float | None: ...

    @property
    def dtype(self) -> FloatType: ...  # of computation

    @property
    def param_dtype(self) -> FloatType: ...


@settings
class LinearScaling:
    """All rotary frequencies divided by `factor` (Gemma 3's global layers)."""

    factor: PositiveFloat


@settings
class Llama3Scaling:
    """Llama 3.1's: wavelengths divided by `factor` where they are long, kept where short, blended between."""

    factor: PositiveFloat
    low_frequency_factor: PositiveFloat  # rotations in `original_max_positions` up to which one is divided
    high_frequency_factor: PositiveFloat  # rotations from which on it is kept
    original_max_positions: PositiveInt

    def __post_init__(self):
        if self.low_frequency_factor >= self.high_frequency_factor:
            raise ValueError(
                f"low_frequency_factor={self.low_frequency_factor} must be below "
                f"high_frequency_factor={self.high_frequency_factor}: frequencies between them are blended."
            )


@settings
class YarnScaling:
    """YaRN (arXiv 2309.00071): as Llama 3's by another ramp, and cosines and sines grow by a factor."""

    factor: PositiveFloat
    original_max_positions: PositiveInt
    beta_fast: PositiveFloat = 32.0  # rotations in `original_max_positions` from which on one is kept
    beta_slow: PositiveFloat = 1.0  # rotations up to which it is divided by `factor`
    # Multiplies cosine and sine; None: 0.1 ln(factor) + 1, as the paper says.
    attention_factor: PositiveFloat | None = None
    truncate: bool = True  # the ramp begins and ends at whole pairs of dimensions

    def __post_init__(self):
        if self.beta_slow >= self.beta_fast:
            raise ValueError(f"beta_slow={self.beta_slow} must be below beta_fast={self.beta_fast}.")


RopeScaling = LinearScaling | Llama3Scaling | YarnScaling


@settings
class SlidingWindow:
    """Local layers: each token sees itself and the `size - 1` tokens before it."""

    size: PositiveInt
    pattern: tuple[bool, ...]  # which layers are local; repeated, and cut off, to the number of layers
    rope_theta: PositiveFloat | None = None  # base of local layers, then unscaled; None: that of all others

    def __post_init__(self):
        if not any(self.pattern):
            raise ValueError(f"pattern={self.pattern} has no local layer; leave the window out instead.")


@settings
class Experts:
    """Every layer's MLP is a choice among experts, each of the decoder's `mlp_dim`."""

    num_experts: int
    num_selected: int
    order: RoutingOrder = "softmax_then_top_k"  # the router's softmax is over all experts or the chosen ones
    # Weights of the chosen experts are made to sum to 1; after "top_k_then_softmax" they do.
    renormalize: bool = False

    def __post_init__(self):
        if not 1 <= self.num_selected <= self.num_experts:
            raise ValueError(
                f"num_selected={self.num_selected} must be between 1 and num_experts={self.num_experts}."
            )
        if self.renormalize and self.order == "top_k_then_softmax":
            raise ValueError("renormalize must be False with order 'top_k_then_softmax', which sums to 1.")


@settings
class ClampedSwiglu:
    """gpt-oss's activation: (up + 1) * gate * sigmoid(alpha * gate), both clamped to `limit`."""

    alpha: PositiveFloat = 1.702
    limit: PositiveFloat = 7.0


Activation = Literal["silu", "gelu_tanh"] | ClampedSwiglu


@settings
class DecoderConfig:
    """Shape and number formats of a decoder."""

    vocab_size: PositiveInt
    embed_dim: PositiveInt
    mlp_dim: PositiveInt  # width of the MLP; of each expert where there are experts
    num_layers: PositiveInt
    num_heads: PositiveInt
    num_kv_heads: PositiveInt
    head_dim: PositiveInt
    rope_theta: PositiveFloat = 10000.0
    rope_scaling: RopeScaling | None = None  # of the rotary frequencies
    window: SlidingWindow | None = None
    experts: Experts | None = None
    activation: Activation = "silu"
    norm_epsilon: PositiveFloat = 1e-6
    qkv_bias: bool = False  # queries, keys and values have a bias
    output_bias: bool = False  # attention's output projection has one
    mlp_bias: bool = False  # the MLP's projections have one; of experts, the router too
    qk_norm: bool = False  # each query and key head is normed before it is rotated
    sandwich_norms: bool = False  # attention's and the MLP's outputs are normed before the residual stream
    zero_centered_norms: bool = False  # norms multiply by 1 + scale
    scale_embeddings: bool = False  # token embeddings are multiplied by sqrt(embed_dim)
    attention_sinks: bool = False  # each head has a learned score that takes weight and mixes in nothing
    attention_soft_cap: PositiveFloat | None = None  # scores are cap * tanh(scores / cap)
    logit_soft_cap: PositiveFloat | None = None  # and so are logits
    # Scores are divided by its root; None: `head_dim`.
    query_pre_attn_scalar: Annotated[int, Range(above=0)] | None = None
    tie_embeddings: bool = False
    # Longest sequence that the weights were trained for; recorded on export, and no limit here.
    max_positions: PositiveInt = 2048
    family: Family = "llama"  # the architecture named on export
    # Of activations and matmul inputs. Norms, rotary angles, attention scores, logits are in float32.
    dtype: FloatType = "float32"
    param_dtype: FloatType = "float32"  # of stored parameters

    def __post_init__(self):
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads={self.num_heads} must be a multiple of num_kv_heads={self.num_kv_heads}: each "
                "key-value head serves a whole group of query heads."
            )
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim must be even, since rotary embeddings rotate pairs; got {self.head_dim}."
            )
        self._check_family()

    def _check_family(self) -> None:
        family = families.FAMILIES[self.family]
        for name in families.SWITCHES:
            value, implied = getattr(self, name), name in family.implied
            value = value if isinstance(value, bool) else value is not None
            if name not in family.free and value != implied:
                raise ValueError(
                    f"family '{self.family}' has {name}={implied}, got {value}; set it so, or name another "
                    "family: exported otherwise it would load as another model."
                )
        if "qkv_bias" in family.free and self.qkv_bias != self.output_bias:
            raise ValueError(
                f"family '{self.family}' has qkv_bias and output_bias both or neither, got {self.qkv_bias} "
                f"and {self.output_bias}."
            )
        if self.family == "qwen3_moe" and any(self.local_layers) and not all(self.local_layers):
            raise ValueError("family 'qwen3_moe' has windows in all layers or in none; set one of these.")
        if self.experts is not None and self.experts.order != family.routing_order:
            raise ValueError(
                f"family '{self.family}' routes by order '{family.routing_order}', got "
                f"{self.experts.order!r}."
            )
        clamped = isinstance(self.activation, ClampedSwiglu)
        if family.activation != ("clamped_swiglu" if clamped else self.activation):
            raise ValueError(
                f"activation={self.activation!r} is not that of family '{self.family}'; it is "
                f"{family.activation!r}."
            )

    @property
    def local_rope(self) -> bool:
        """Whether local layers rotate by a base of their own."""
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
