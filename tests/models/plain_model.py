"""A model of one's own in few lines, with this package's projections, so that it can carry adapters."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from promptcot_jax.models import decoder, layers, linen_model


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlainConfig(linen_model.LinenConfig):
    """Hidden states are as wide as all heads together."""

    window: int | None = None


@dataclasses.dataclass(frozen=True)
class PlainModel(linen_model.LinenModel):
    """Attention without positions, tied embeddings."""

    applies_adapters = True
    config: PlainConfig

    def module(self, remat):
        return Module(self.config, remat)

    def output_embedding(self, params):
        return params["embedding"].T


class Layer(nn.Module):
    """The residual stream plus attention."""

    config: PlainConfig

    @nn.compact
    def __call__(self, carry, tokens, layer):
        x, cache = carry
        config = self.config
        shape = (*x.shape[:2], config.num_kv_heads, config.head_dim)

        def project(name, axes, x):
            return layers.Projection(config, x.shape[-1], axes, name=name)(x.reshape(-1, x.shape[-1]))

        names = ("q_proj", "k_proj", "v_proj")
        queries, keys, values = (project(name, ("embed", "heads"), x).reshape(shape) for name in names)
        mixed, cache = tokens.attend(queries, keys, values, cache, layer, window=config.window)
        return (
            x + project("o_proj", ("heads", "embed"), mixed.reshape(x.shape)).reshape(x.shape),
            cache,
        ), None


class Module(nn.Module):
    """Token ids to hidden states."""

    config: PlainConfig
    remat: decoder.Remat

    @nn.compact
    def __call__(self, token_ids, tokens, cache):
        config = self.config
        shape = (config.vocab_size, config.num_kv_heads * config.head_dim)
        init = nn.with_logical_partitioning(nn.initializers.normal(1.0), ("vocab", "embed"))
        x = jnp.take(self.param("embedding", init, shape), token_ids, axis=0)
        layers = nn.scan(
            decoder.rematerialized(Layer, self.remat),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, 0),
            length=config.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        (x, cache), _ = layers(config, name="layers")((x, cache), tokens, jnp.arange(config.num_layers))
        return x, cache
