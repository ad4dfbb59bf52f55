"""The decoder that serves p_theta, q_phi and the solver: attention's weights, the layer, and layers in a
scan.

Each weight is declared once, with its shape, axes and initializer, here (attention) or in `layers`. One layer
serves both layouts. Training scans it over parameters stacked as [L, ...], so that one layer is traced and
compiled; decoding on a CPU calls it on each layer's own arrays, since a scan copies every layer's slice at
every step there, with the matrices that read one input side by side in one (`fused`): fewer, larger products,
of which a step of few tokens is made.

Layers that differ beyond their parameters (a window or none, one rotary base or another) stay one traced
layer: a flag is scanned beside the parameters and selects reach and rotation. Flat tokens of whole rows are
ordered by sequence shard (`parallel.sequence_shards`), which is the order of rows unless a mesh splits
positions.
"""

import functools
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from promptcot_jax.core.arrays import Array, Bool, Float, Int
from promptcot_jax.models import attention, layers, paged_cache, splash
from promptcot_jax.models import config as config_lib
from promptcot_jax.models.layers import Projection, RMSNorm, declare
from promptcot_jax.parallel import rules as rules_lib
from promptcot_jax.parallel import sequence_shards
from promptcot_jax.parallel.hardware import Platform
from promptcot_jax.parallel.rules import constrain


class LayerInputs(NamedTuple):
    """What every layer of one forward pass shares: whole rows or positions in a cache."""

    rotary: attention.Rotation  # of sequence shards, where rows are whole
    local_rotary: attention.Rotation | None = None  # of local layers, where these have a base of their own
    segment_ids: Int[Array, "B T"] | None = None  # 0 is padding
    prefix_ids: Int[Array, "B T"] | None = None  # where prompts are shared
    mask: Bool[Array, "B T S"] | None = None  # plain attention's, made once for all layers
    cache_positions: paged_cache.CachePositions | None = None

    @property
    def tokens(self) -> rules_lib.LogicalAxis:
        """What flat tokens lie over; those a cache is read with, one or a page a row, are not split."""
        return sequence_shards.TOKENS if self.cache_positions is None else "batch"

    def rules_of_products(self, rules: rules_lib.LogicalRules) -> rules_lib.LogicalRules:
        """The table that matrix products follow."""
        return rules if self.cache_positions is None else rules_lib.for_decoding(rules)

    @property
    def rows_shape(self) -> tuple[int, ...]:
        """(B, T) of whole rows."""
        array = self.mask if self.segment_ids is None else self.segment_ids
        assert array is not None
        return array.shape[:2]


class LayerInfo(NamedTuple):
    """In what a layer differs besides its parameters; in a scan, arrays over [L]."""

    number: Int[Array, ""] | int
    is_local: Bool[Array, ""] | bool


def layer_infos(config: config_lib.DecoderConfig) -> LayerInfo:
    """Of all layers, stacked as their parameters are."""
    return LayerInfo(jnp.arange(config.num_layers), jnp.asarray(config.local_layers))


class Attention(nn.Module):
    """Causal grouped-query attention, inside segments or over the cache where there is one."""

    config: config_lib.DecoderConfig
    rules: rules_lib.LogicalRules = ()
    fused: bool = False
    platform: Platform = "plain"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "tokens D"],
        inputs: LayerInputs,
        cache: paged_cache.PagedCache | None,
        layer: LayerInfo,
    ) -> tuple[Float[Array, "tokens D"], paged_cache.PagedCache | None]:
        config = self.config
        flat = self._project(x, inputs)
        if cache is not None and not self.fused:
            # Else XLA for TPUs merges the split into heads with the product, and lays out the stacked weights
            # of all layers anew for it at every call (`tests/sampling/compile_for_tpu.py` shows it).
            flat = lax.optimization_barrier(flat)
        flat_queries, flat_keys, flat_values = flat
        rotary = self._rotary(inputs, layer)
        rows = inputs.tokens
        queries = self._heads(flat_queries, (rows, None, "heads", None), "q_norm", rotary)
        keys = self._heads(flat_keys, (rows, None, "kv_heads", None), "k_norm", rotary)
        values = self._heads(flat_values, (rows, None, "kv_heads", None), None, rotary)
        rule = self._score_rule(layer)
        if cache is None:
            mixed = self._attend_in_rows(queries, keys, values, inputs, layer, rule)
        else:
            assert inputs.cache_positions is not None
            mixed, cache = paged_cache.write_and_attend(
                queries,
                keys,
                values,
                cache,
                inputs.cache_positions,
                layer.number,
                rule=rule,
                num_layers=config.num_layers,
                rules=self.rules,
            )
        mixed = constrain(mixed, (inputs.tokens, "heads"), inputs.rules_of_products(self.rules))
        axes = ("heads", "embed")
        output = Projection(config, config.embed_dim, axes, config.output_bias, name="o_proj")(mixed)
        return output, cache

    def _attend_in_rows(
        self,
        queries: Float[Array, "shards positions N H"],
        keys: Float[Array, "shards positions K H"],
        values: Float[Array, "shards positions K H"],
        inputs: LayerInputs,
        layer: LayerInfo,
        rule: attention.ScoreRule,
    ) -> Float[Array, "tokens N*H"]:
        axes = (("heads", queries), ("kv_heads", keys), ("kv_heads", values))
        queries, keys, values = (self._of_rows(heads, axis, inputs) for axis, heads in axes)
        keys, values = jnp.swapaxes(keys, 1, 2), jnp.swapaxes(values, 1, 2)  # [B, K, T, H]
        mixed = self._mix(queries, keys, values, inputs, layer, rule)
        mixed = sequence_shards.as_sequence_shards(mixed, self.rules)
        return mixed.reshape(mixed.shape[0] * mixed.shape[1], -1)

    def _of_rows(
        self, heads: Float[Array, "shards positions heads H"], axis: str, inputs: LayerInputs
    ) -> Float[Array, "B T heads H"]:
        rows = sequence_shards.as_rows(heads, inputs.rows_shape, self.rules)
        return constrain(rows, ("batch", "length", axis, None), self.rules)

    def _mix(
        self,
        queries: Float[Array, "B T N H"],
        keys: Float[Array, "B K T H"],
        values: Float[Array, "B K T H"],
        inputs: LayerInputs,
        layer: LayerInfo,
        rule: attention.ScoreRule,
    ) -> Float[Array, "B T N H"]:
        """This platform's attention over whole rows."""
        everywhere = functools.partial(
            attention.attend_in_rows,
            *(queries, keys, values),
            mask=inputs.mask,
            segment_ids=inputs.segment_ids,
            prefix_ids=inputs.prefix_ids,
            rule=rule,
            rules=self.rules,
        )
        window = self.config.window
        if window is None or self.platform == "plain":
            return everywhere()
        # The kernel's schedule of blocks is made when it is traced: one for each reach.
        return lax.cond(layer.is_local, functools.partial(everywhere, window=window.size), everywhere)

    def _score_rule(self, layer: LayerInfo) -> attention.ScoreRule:
        """This layer's, with its sinks."""
        config, reach, sinks = self.config, None, None
        if config.window is not None:
            reach = jnp.where(layer.is_local, config.window.size, attention.EVERYTHING)
        if config.attention_sinks:
            sinks = declare(self, "sinks", nn.initializers.zeros_init(), (config.num_heads,), ("heads",))
        return attention.ScoreRule(
            scale=config.score_scale, soft_cap=config.attention_soft_cap, reach=reach, sinks=sinks
        )

    def _rotary(self, inputs: LayerInputs, layer: LayerInfo) -> attention.Rotation:
        if inputs.local_rotary is None:
            return inputs.rotary
        choose = functools.partial(jnp.where, layer.is_local)
        return jax.tree.map(choose, inputs.local_rotary, inputs.rotary)

    def _project(self, x: Float[Array, "tokens D"], inputs: LayerInputs) -> list[Float[Array, "tokens _"]]:
        """Queries, keys and values, flat."""
        config, tokens, of_products = self.config, inputs.tokens, inputs.rules_of_products(self.rules)
        x = constrain(x, (tokens, "act_embed"), of_products)
        sizes = [n * config.head_dim for n in (config.num_heads, config.num_kv_heads, config.num_kv_heads)]
        if self.fused:
            axes = ("embed", "heads")
            joined = Projection(config, sum(sizes), axes, config.qkv_bias, name="qkv_proj")(x)
            return jnp.split(joined, [sizes[0], sizes[0] + sizes[1]], axis=-1)
        flat = []
        for name, axis, size in zip(
            ("q_proj", "k_proj", "v_proj"), ("heads", "kv_heads", "kv_heads"), sizes, strict=True
        ):
            features = Projection(config, size, ("embed", axis), config.qkv_bias, name=name)(x)
            features = constrain(features, (tokens, axis), of_products)
            # Over a cache this is where features return to their rows: before they are cut into heads, which
            # shards of a product may not hold whole.
            flat.append(constrain(features, (tokens, axis), self.rules))
        return flat

    def _heads(
        self,
        flat: Float[Array, "tokens _"],
        axes: tuple[rules_lib.LogicalAxis, ...],
        norm: str | None,
        rotary: attention.Rotation,
    ) -> Float[Array, "B T heads H"]:
        """Flat features as heads; queries and keys (those with a norm's name) are normed and rotated."""
        config = self.config
        heads = flat.reshape(*rotary.cosine.shape[:2], -1, config.head_dim)  # [B, T, heads, H]
        if norm is not None:
            if config.qk_norm:
                heads = RMSNorm(config, "head_dim", name=norm)(heads)
            heads = attention.rotate(heads, rotary)
        return constrain(heads, axes, self.rules)


class DecoderLayer(nn.Module):
    """Pre-norm attention and MLP, each added to the residual stream; Gemma norms what is added once more."""

    config: config_lib.DecoderConfig
    rules: rules_lib.LogicalRules = ()
    fused: bool = False
    platform: Platform = "plain"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "tokens D"],
        inputs: LayerInputs,
        cache: paged_cache.PagedCache | None,
        layer: LayerInfo,
    ) -> tuple[Float[Array, "tokens D"], paged_cache.PagedCache | None]:
        config, sandwich = self.config, self.config.sandwich_norms
        self_attn = Attention(config, self.rules, self.fused, self.platform, name="self_attn")
        mixed, cache = self_attn(RMSNorm(config, name="input_layernorm")(x), inputs, cache, layer)
        if sandwich:
            mixed = constrain(mixed, (inputs.tokens, "act_embed"), self.rules)
            mixed = RMSNorm(config, name="post_attention_layernorm")(mixed)
        x = constrain(x + mixed, (inputs.tokens, "act_embed"), self.rules)
        # Hugging Face's names: without sandwich norms, the one after attention is the one before the MLP.
        before = "pre_feedforward_layernorm" if sandwich else "post_attention_layernorm"
        y = self._mlp(RMSNorm(config, name=before)(x), inputs)
        if sandwich:
            y = constrain(y, (inputs.tokens, "act_embed"), self.rules)
            y = RMSNorm(config, name="post_feedforward_layernorm")(y)
        return constrain(x + y, (inputs.tokens, "act_embed"), self.rules), cache

    def _mlp(self, x: Float[Array, "tokens D"], inputs: LayerInputs) -> Float[Array, "tokens D"]:
        config, of_products = self.config, inputs.rules_of_products(self.rules)
        if config.experts is None:
            return layers.Mlp(config, of_products, self.fused, inputs.tokens, name="mlp")(x)
        is_token = None
        if inputs.segment_ids is not None:
            is_token = sequence_shards.as_sequence_shards(inputs.segment_ids, self.rules).reshape(-1) > 0
        experts_mlp = layers.ExpertMlp(config, config.experts, of_products, self.platform, name="mlp")
        return experts_mlp(x, is_token)


# What the backward pass keeps of each layer; it computes the rest again.
# "none": everything that differentiation asks for, nothing again. About three times the memory of
#     "projections", and on CPU no faster.
# "projections": the layer's input, outputs of projections, and what the attention kernel of TPUs wants back;
#     norms, rotations, activations, experts, and on other machines attention scores, are computed again.
# "offload": the same, in the host's memory: chips hold the inputs.
# "full": the layer's input only.
Remat = Literal["none", "projections", "offload", "full"]
_KEPT = (layers.OUTPUT, splash.RESIDUALS)


def rematerialized(layer: type[nn.Module], remat: Remat) -> type[nn.Module]:
    """A layer's class, differentiated as `remat` says.

    Outputs of projections are those of `layers.Projection`, or named `layers.OUTPUT` with `checkpoint_name`.
    """
    if remat == "none":
        return layer
    policies = jax.checkpoint_policies
    ways = {
        "projections": policies.save_only_these_names(*_KEPT),
        "offload": policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=list(_KEPT),
            offload_src="device",
            offload_dst="pinned_host",
        ),
        "full": policies.nothing_saveable,
    }
    return nn.remat(layer, prevent_cse=False, policy=ways[remat])


class Decoder(nn.Module):
    """Token ids to hidden states after the final norm, layers scanned over stacked parameters."""

    config: config_lib.DecoderConfig
    rules: rules_lib.LogicalRules = ()
    platform: Platform = "plain"
    remat: Remat = "projections"

    @nn.compact
    def __call__(self, token_ids: Int[Array, "B T"], inputs: LayerInputs) -> Float[Array, "B T D"]:
        config = self.config
        if not config.tie_embeddings:
            layers.OutputEmbedding(config, name="lm_head")()
        of_shards = sequence_shards.as_sequence_shards(token_ids, self.rules)
        x = layers.TokenEmbedding(config, self.rules, inputs.tokens, name="embed_tokens")(of_shards)
        per_layer: Any = (nn.broadcast, nn.broadcast, 0)  # of the arguments; flax annotates this as an int
        scanned = nn.scan(
            rematerialized(DecoderLayer, self.remat),
            variable_axes={"params": 0, layers.ROUTERS: 0},
            split_rngs={"params": True},
            in_axes=per_layer,
            length=config.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        stack = scanned(config, self.rules, platform=self.platform, name="layers")
        x, _ = stack(x, inputs, None, layer_infos(config))
        x = RMSNorm(config, name="norm")(x)
        hidden = x.reshape(*of_shards.shape, config.embed_dim)
        hidden = sequence_shards.as_rows(hidden, token_ids.shape, self.rules)  # [B, T, D]
        return constrain(hidden, ("batch", "length", "act_embed"), self.rules)
