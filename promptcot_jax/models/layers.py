"""What a decoder layer is made of, besides attention: parameters, projections, norms, embeddings and MLPs.

Tokens stay flat, [B*T, D], through all of it: the matmuls are then plain matrix products, which XLA runs
faster on a CPU. Activations are constrained by `parallel.rules` rather than by `nn.with_logical_constraint`,
which fails where a mesh axis does not divide a dimension (3 heads over 2 devices) and drops constraints
silently where no rules are entered.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from promptcot_jax.core.arrays import Array, Bool, Float, Int
from promptcot_jax.models import config as config_lib
from promptcot_jax.models import experts
from promptcot_jax.parallel import rules as rules_lib
from promptcot_jax.parallel.hardware import Platform
from promptcot_jax.parallel.rules import constrain

# Unit variance in, unit variance out, whatever the width. The 0.02 of the Llama and Qwen code is meant for
# widths of thousands: with it a decoder of width 96 took three times as many steps to learn to copy from z.
INIT = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
ROUTERS = "routers"  # the collection into which layers put their `RouterTotals`
OUTPUT = "projection"  # name of every projection's output, for remat policies


def declare(
    module: nn.Module,
    name: str,
    init: nn.initializers.Initializer,
    shape: tuple[int, ...],
    axes: tuple[str, ...],
) -> Array:
    """Declares a parameter of `module` with logical axes, in the configured number format."""
    boxed: Any = nn.with_logical_partitioning(init, axes)  # flax unboxes the value where it is read
    return module.param(name, boxed, shape, module.config.param_dtype)


class Projection(nn.Module):
    """Matrix product over flat tokens, with a bias where the family has one."""

    config: config_lib.ModelConfig
    features: int
    axes: tuple[str, str]
    has_bias: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "tokens in"]) -> Float[Array, "tokens out"]:
        config = self.config
        kernel = declare(self, "kernel", INIT, (x.shape[-1], self.features), self.axes)
        y = x @ kernel.astype(config.dtype)
        if self.has_variable("params", "lora_a"):  # an adapted model, see `models/lora.py`
            a, b, scale = (
                self.get_variable("params", name).astype(config.dtype)
                for name in ("lora_a", "lora_b", "lora_scale")
            )
            y = y + scale * ((x @ a) @ b)
        if self.has_bias:
            bias = declare(self, "bias", nn.initializers.zeros_init(), (self.features,), self.axes[1:])
            y = y + bias.astype(config.dtype)
        return checkpoint_name(y, OUTPUT)


class RMSNorm(nn.Module):
    """Scale to unit root mean square, in float32."""

    config: config_lib.DecoderConfig
    axis: str = "embed"

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        centered = self.config.zero_centered_norms
        init = nn.initializers.zeros_init() if centered else nn.initializers.ones_init()
        scale = declare(self, "scale", init, x.shape[-1:], (self.axis,)).astype(jnp.float32)
        wide = x.astype(jnp.float32)
        normed = wide * jax.lax.rsqrt(
            jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.config.norm_epsilon
        )
        return (normed * (1.0 + scale if centered else scale)).astype(self.config.dtype)


class TokenEmbedding(nn.Module):
    """Rows of the embedding matrix, flat."""

    config: config_lib.DecoderConfig
    rules: rules_lib.LogicalRules = ()
    tokens: rules_lib.LogicalAxis = "batch"

    @nn.compact
    def __call__(self, token_ids: Int[Array, "B T"]) -> Float[Array, "tokens D"]:
        config = self.config
        shape = (config.vocab_size, config.embed_dim)
        init = nn.initializers.normal(config.embed_dim**-0.5)  # as an output matrix it must not saturate
        embedding = declare(self, "embedding", init, shape, ("vocab", "embed"))
        rows = jnp.take(embedding, token_ids.reshape(-1), axis=0).astype(config.dtype)
        if config.scale_embeddings:
            rows = rows * jnp.asarray(config.embed_dim**0.5, config.dtype)
        return constrain(rows, (self.tokens, "act_embed"), self.rules)


class OutputEmbedding(nn.Module):
    """Declares the untied output matrix; losses and samplers decide on which tokens to spend it."""

    config: config_lib.DecoderConfig

    @nn.compact
    def __call__(self) -> Float[Array, "D V"]:
        shape = (self.config.embed_dim, self.config.vocab_size)
        return declare(self, "kernel", INIT, shape, ("embed", "vocab"))


def logits(
    hidden: Float[Array, "... D"],
    output_embedding: Float[Array, "D V"],
    config: config_lib.ModelConfig,
    rules: rules_lib.LogicalRules,
) -> Float[Array, "... V"]:
    """Logits in float32, of a product in the compute type."""
    flat = hidden.reshape(-1, hidden.shape[-1])
    product = jnp.matmul(flat, output_embedding.astype(config.dtype), preferred_element_type=jnp.float32)
    if (cap := config.logit_soft_cap) is not None:
        product = cap * jnp.tanh(product / cap)
    product = constrain(product, ("batch", "vocab"), rules)
    return product.reshape(*hidden.shape[:-1], -1)


def activate(
    gate: Float[Array, "..."], up: Float[Array, "..."], activation: config_lib.Activation
) -> Float[Array, "..."]:
    """The gated activation between an MLP's projections."""
    if activation == "silu":
        return nn.silu(gate) * up
    if activation == "gelu_tanh":
        return nn.gelu(gate, approximate=True) * up
    gate, up = jnp.minimum(gate, activation.limit), jnp.clip(up, -activation.limit, activation.limit)
    return (up + 1.0) * gate * nn.sigmoid(activation.alpha * gate)


class Mlp(nn.Module):
    """Gated MLP: an activation of gate and up, projected down."""

    config: config_lib.DecoderConfig
    rules: rules_lib.LogicalRules = ()
    fused: bool = False
    tokens: rules_lib.LogicalAxis = "batch"  # what flat tokens lie over

    @nn.compact
    def __call__(self, x: Float[Array, "tokens D"]) -> Float[Array, "tokens D"]:
        config, axes = self.config, ("embed", "mlp")
        x = constrain(x, (self.tokens, "act_embed"), self.rules)
        if self.fused:
            joined = Projection(config, 2 * config.mlp_dim, axes, config.mlp_bias, name="gate_up_proj")(x)
            gate, up = jnp.split(joined, 2, axis=-1)
        else:
            gate = Projection(config, config.mlp_dim, axes, config.mlp_bias, name="gate_proj")(x)
            up = Projection(config, config.mlp_dim, axes, config.mlp_bias, name="up_proj")(x)
        hidden = activate(gate, up, config.activation)
        hidden = constrain(hidden, (self.tokens, "mlp"), self.rules)
        axes = ("mlp", "embed")
        return Projection(config, config.embed_dim, axes, config.mlp_bias, name="down_proj")(hidden)


class RouterTotals(NamedTuple):
    """What a layer's router did to real tokens; losses as totals, to be divided by `num_tokens`."""

    load_balancing: Float[Array, ""]
    router_z: Float[Array, ""]
    num_tokens: Float[Array, ""]
    tokens_per_expert: Float[Array, " E"]


class Router(nn.Module):
    """Scores of all experts, in float32."""

    config: config_lib.DecoderConfig
    num_experts: int

    @nn.compact
    def __call__(self, x: Float[Array, "tokens D"]) -> Float[Array, "tokens E"]:
        shape, axes = (x.shape[-1], self.num_experts), ("embed", "router")
        kernel = declare(self, "kernel", INIT, shape, axes)
        logits = jnp.matmul(x, kernel.astype(x.dtype), preferred_element_type=jnp.float32)
        if self.config.mlp_bias:
            bias = declare(self, "bias", nn.initializers.zeros_init(), shape[1:], axes[1:])
            logits = logits + bias.astype(jnp.float32)
        return logits


class StackedProjection(nn.Module):
    """Declares the matrices of all experts, [E, in, out], and their biases; `experts` multiplies by them."""

    config: config_lib.DecoderConfig
    shape: tuple[int, int, int]
    axes: tuple[str, str, str]

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "E width_in width_out"], Float[Array, "E width_out"] | None]:
        kernel = declare(self, "kernel", _OF_EXPERTS, self.shape, self.axes)
        if not self.config.mlp_bias:
            return kernel, None
        shape, axes = (self.shape[0], self.shape[2]), (self.axes[0], self.axes[2])
        return kernel, declare(self, "bias", nn.initializers.zeros_init(), shape, axes)


_OF_EXPERTS = nn.initializers.variance_scaling(1.0, "fan_in", "normal", batch_axis=(0,))


class Experts(nn.Module):
    """Declares the weights of every expert of a layer."""

    config: config_lib.DecoderConfig
    num_experts: int

    @nn.compact
    def __call__(self) -> experts.ExpertWeights:
        config = self.config
        into, out_of = ("experts", "expert_embed", "expert_mlp"), ("experts", "expert_mlp", "expert_embed")
        wide = (self.num_experts, config.embed_dim, config.mlp_dim)
        gate, gate_bias = StackedProjection(config, wide, into, name="gate_proj")()
        up, up_bias = StackedProjection(config, wide, into, name="up_proj")()
        narrow = (self.num_experts, config.mlp_dim, config.embed_dim)
        down, down_bias = StackedProjection(config, narrow, out_of, name="down_proj")()
        return experts.ExpertWeights(gate, up, down, gate_bias, up_bias, down_bias)


class ExpertMlp(nn.Module):
    """Each token through the experts that its router chooses."""

    config: config_lib.DecoderConfig
    choice: config_lib.Experts
    rules: rules_lib.LogicalRules = ()
    platform: Platform = "plain"

    @nn.compact
    def __call__(
        self, x: Float[Array, "tokens D"], is_token: Bool[Array, " tokens"] | None
    ) -> Float[Array, "tokens D"]:
        config, choice = self.config, self.choice
        routing = experts.route(
            Router(config, choice.num_experts, name="router")(x),
            num_selected=choice.num_selected,
            order=choice.order,
            renormalize=choice.renormalize,
        )
        if is_token is not None:
            self.sow(ROUTERS, "totals", _totals(routing, is_token))
        return experts.apply_experts(
            x,
            routing,
            Experts(config, choice.num_experts, name="experts")(),
            activation=lambda gate, up: activate(gate, up, config.activation),
            rules=self.rules,
            platform=self.platform,
        )


def _totals(routing: experts.Routing, is_token: Bool[Array, " tokens"]) -> RouterTotals:
    load_balancing, num_tokens = experts.load_balancing_total(routing, is_token)
    router_z, _ = experts.router_z_total(routing, is_token)
    return RouterTotals(load_balancing, router_z, num_tokens, experts.tokens_per_expert(routing, is_token))
