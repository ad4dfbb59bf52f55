"""A small decoder in T5X's style as a model of one's own: `docs/models.md` walks through it.

Layers and their logical axis names are those of T5X's minimal examples: gated GELU, RMS norms, no biases,
`param_with_axes`, activations constrained by name, layers scanned. In the place of T5's relative position
biases, positions are rotary: attention over a paged cache adds nothing to scores.

T5X's tables of rules would say where `joined_kv` and `kv` lie; here `axis_rules` does.
"""

import dataclasses
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.partitioning import param_with_axes, scan_with_axes
from jax.ad_checkpoint import checkpoint_name

from promptcot_jax.models import attention, decoder, layers, linen_model, paged_cache
from promptcot_jax.parallel import rules

Pass = linen_model.TokenPass
Cache: TypeAlias = paged_cache.PagedCache | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5xConfig(linen_model.LinenConfig):
    """Sizes; T5 has as many key-value heads as heads."""

    emb_dim: int
    mlp_dim: int
    num_heads: int
    rope_theta: float = 10_000.0

    def __post_init__(self):
        super().__post_init__()
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads={self.num_heads} must be a multiple of num_kv_heads={self.num_kv_heads}."
            )


@dataclasses.dataclass(frozen=True)
class T5xDecoder(linen_model.LinenModel):
    """The model as EM, sampling and training see it."""

    config: T5xConfig
    axis_rules: rules.LogicalRules = (("joined_kv", "tensor"), ("kv", None))

    def module(self, remat: decoder.Remat) -> nn.Module:
        return Decoder(self.config, remat)

    def output_embedding(self, params: dict[str, Any]) -> jax.Array:
        return params["logits_kernel"]


class LayerNorm(nn.Module):
    """T5's: scale to unit root mean square, without mean or bias."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = param_with_axes("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32, axes=("embed",))
        wide = x.astype(jnp.float32)
        normed = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + 1e-6)
        return (normed * scale).astype(x.dtype)


class Dense(nn.Module):
    """A matrix product without bias."""

    config: T5xConfig
    features: int
    axes: tuple[str, str]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1], self.features)
        kernel = param_with_axes("kernel", layers.INIT, shape, self.config.param_dtype, axes=self.axes)
        # The name lets the backward pass keep this output (remat "projections").
        return checkpoint_name(x @ kernel.astype(self.config.dtype), layers.OUTPUT)


class SelfAttention(nn.Module):
    """Causal attention: this module says what queries, keys and values are, the pass what they meet."""

    config: T5xConfig

    @nn.compact
    def __call__(self, x: jax.Array, tokens: Pass, cache: Cache, layer: jax.Array) -> tuple[jax.Array, Cache]:
        config = self.config
        turn = attention.rotation(tokens.positions, head_dim=config.head_dim, theta=config.rope_theta)

        def heads(name: str, number: int) -> jax.Array:
            flat = Dense(config, number * config.head_dim, ("embed", "joined_kv"), name=name)(x)
            split = flat.reshape(*x.shape[:2], number, config.head_dim)  # [B, T, heads, H]
            return nn.with_logical_constraint(split, ("batch", "length", "heads", "kv"))

        queries = attention.rotate(heads("query", config.num_heads), turn)
        keys = attention.rotate(heads("key", config.num_kv_heads), turn)
        values = heads("value", config.num_kv_heads)
        mixed, cache = tokens.attend(queries, keys, values, cache, layer)
        flat = mixed.reshape(*x.shape[:2], -1)
        return Dense(config, config.emb_dim, ("joined_kv", "embed"), name="out")(flat), cache


class MlpBlock(nn.Module):
    """T5 1.1's gated GELU."""

    config: T5xConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        config = self.config
        gate = nn.gelu(Dense(config, config.mlp_dim, ("embed", "mlp"), name="wi_0")(x))
        hidden = gate * Dense(config, config.mlp_dim, ("embed", "mlp"), name="wi_1")(x)
        hidden = nn.with_logical_constraint(hidden, ("batch", "length", "mlp"))
        return Dense(config, config.emb_dim, ("mlp", "embed"), name="wo")(hidden)


class DecoderLayer(nn.Module):
    """Pre-norm attention and MLP. The scan carries the residual stream and the cache."""

    config: T5xConfig

    @nn.compact
    def __call__(
        self, carry: tuple[jax.Array, Cache], tokens: Pass, layer: jax.Array
    ) -> tuple[tuple[jax.Array, Cache], None]:
        x, cache = carry
        x = nn.with_logical_constraint(x, ("batch", "length", "embed"))
        normed = LayerNorm(name="pre_self_attention_layer_norm")(x)
        mixed, cache = SelfAttention(self.config, name="self_attention")(normed, tokens, cache, layer)
        x = x + mixed
        x = x + MlpBlock(self.config, name="mlp")(LayerNorm(name="pre_mlp_layer_norm")(x))
        return (x, cache), None


class Decoder(nn.Module):
    """Token ids to hidden states after the final norm; the logits' matrix is declared, and used elsewhere."""

    config: T5xConfig
    remat: decoder.Remat

    @nn.compact
    def __call__(self, token_ids: jax.Array, tokens: Pass, cache: Cache) -> tuple[jax.Array, Cache]:
        config = self.config
        shape, dtype = (config.vocab_size, config.emb_dim), config.param_dtype
        init = nn.initializers.normal(config.emb_dim**-0.5)
        embedding = param_with_axes("token_embedding", init, shape, dtype, axes=("vocab", "embed"))
        param_with_axes("logits_kernel", layers.INIT, shape[::-1], dtype, axes=("embed", "vocab"))
        x = jnp.take(embedding, token_ids, axis=0).astype(config.dtype)
        per_layer: Any = (nn.broadcast, 0)  # of the arguments; flax annotates this as an int
        scanned = scan_with_axes(
            decoder.rematerialized(DecoderLayer, self.remat),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=per_layer,
            length=config.num_layers,
            axis_name="layers",
        )
        stack = scanned(config, name="decoder")
        (x, cache), _ = stack((x, cache), tokens, jnp.arange(config.num_layers))
        return LayerNorm(name="decoder_norm")(x), cache
