"""The feed-forward half of a layer: one gated MLP, or a router and its experts."""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from promptcot_jax.core.arrays import Array, Bool, Float
from promptcot_jax.models import config as config_lib
from promptcot_jax.models import experts, linear, platforms
from promptcot_jax.models.linear import Projection
from promptcot_jax.parallel import rules as rules_lib

ROUTERS = "routers"  # the collection into which layers put their `RouterTotals`


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
        x = rules_lib.constrain(x, (self.tokens, "act_embed"), self.rules)
        if self.fused:
            joined = Projection(config, 2 * config.mlp_dim, axes, config.mlp_bias, name="gate_up_proj")(x)
            gate, up = jnp.split(joined, 2, axis=-1)
        else:
            gate = Projection(config, config.mlp_dim, axes, config.mlp_bias, name="gate_proj")(x)
            up = Projection(config, config.mlp_dim, axes, config.mlp_bias, name="up_proj")(x)
        hidden = activate(gate, up, config.activation)
        hidden = rules_lib.constrain(hidden, (self.tokens, "mlp"), self.rules)
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
        kernel = linear.declare(self, "kernel", linear.INIT, shape, axes)
        logits = jnp.matmul(x, kernel.astype(x.dtype), preferred_element_type=jnp.float32)
        if self.config.mlp_bias:
            bias = linear.declare(self, "bias", nn.initializers.zeros_init(), shape[1:], axes[1:])
            logits = logits + bias.astype(jnp.float32)
        return logits


class StackedProjection(nn.Module):
    """Declares the matrices of all experts, [E, in, out], and their biases; `experts` multiplies by them."""

    config: config_lib.DecoderConfig
    shape: tuple[int, int, int]
    axes: tuple[str, str, str]

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "E width_in width_out"], Float[Array, "E width_out"] | None]:
        kernel = linear.declare(self, "kernel", _OF_EXPERTS, self.shape, self.axes)
        if not self.config.mlp_bias:
            return kernel, None
        shape, axes = (self.shape[0], self.shape[2]), (self.axes[0], self.axes[2])
        return kernel, linear.declare(self, "bias", nn.initializers.zeros_init(), shape, axes)


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
    platform: platforms.Platform = "plain"

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
