"""The Linen definition of the decoder: each weight is declared once, with its shape, axes and initializer.

One layer serves both layouts. Training scans it over parameters stacked as [L, ...], so that one layer is
traced and compiled; decoding on a CPU calls it on each layer's own arrays, since a scan copies every layer's
slice at every step there, with the matrices that read one input side by side in one (`fused`): fewer, larger
products, of which a step of few tokens is made.

Layers that differ beyond their parameters (a window or none, one rotary base or another) stay one traced
layer: a flag is scanned beside the parameters and selects reach and rotation.

Tokens stay flat, [B*T, D], through all projections: the matmuls are then plain matrix products, which XLA
runs faster on CPU. Those of whole rows stand stretch after stretch (`parallel.sequence_shards`), which is row
after row unless a mesh splits positions. Attention is one batched product for each key-value head, its group
of query heads laid side by side, so that keys and values are never repeated.

Activations are constrained by `parallel.rules` rather than by `nn.with_logical_constraint`, which fails
where a mesh axis does not divide a dimension (3 heads over 2 devices) and drops constraints silently where
no rules are entered.
"""

import functools
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from promptcot_jax.core.arrays import Array, Bool, Float, Int
from promptcot_jax.models import config as config_lib
from promptcot_jax.models import linear, mlp, paged_cache, platforms, rope, splash
from promptcot_jax.models import scores as scores_lib
from promptcot_jax.models.linear import Projection, declare
from promptcot_jax.parallel import rules as rules_lib
from promptcot_jax.parallel import sequence_shards
from promptcot_jax.parallel.rules import constrain


class LayerInputs(NamedTuple):
    """What every layer of one forward pass shares: whole rows or places in a cache."""

    rotary: rope.Rotation  # of sequence shards, where rows are whole
    local_rotary: rope.Rotation | None = None  # of local layers, where these have a base of their own
    segment_ids: Int[Array, "B T"] | None = None  # 0 is padding
    mask: Bool[Array, "B T S"] | None = None  # plain attention's, made once for all layers
    places: paged_cache.Places | None = None

    @property
    def tokens(self) -> rules_lib.LogicalAxis:
        """What flat tokens lie over; those a cache is read with, one or a page a row, are not split."""
        return sequence_shards.TOKENS if self.places is None else "batch"

    def rules_of_products(self, rules: rules_lib.LogicalRules) -> rules_lib.LogicalRules:
        """The table that matrix products follow."""
        return rules if self.places is None else rules_lib.for_decoding(rules)

    @property
    def rows_shape(self) -> tuple[int, ...]:
        """(B, T) of whole rows."""
        array = self.mask if self.segment_ids is None else self.segment_ids
        assert array is not None
        return array.shape[:2]


class LayerKind(NamedTuple):
    """What tells a layer from the others besides its parameters; of a scan, arrays over [L]."""

    number: Int[Array, ""] | int
    is_local: Bool[Array, ""] | bool


def layer_kinds(config: config_lib.DecoderConfig) -> LayerKind:
    """Of all layers, stacked as their parameters are."""
    return LayerKind(jnp.arange(config.num_layers), jnp.asarray(config.local_layers))


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


class Attention(nn.Module):
    """Causal grouped-query attention, inside segments or over the cache where there is one."""

    config: config_lib.DecoderConfig
    rules: rules_lib.LogicalRules = ()
    fused: bool = False
    platform: platforms.Platform = "plain"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "tokens D"],
        inputs: LayerInputs,
        cache: paged_cache.PagedCache | None,
        kind: LayerKind,
    ) -> tuple[Float[Array, "tokens D"], paged_cache.PagedCache | None]:
        config = self.config
        flat = self._project(x, inputs)
        if cache is not None and not self.fused:
            # Else XLA for TPUs merges the split into heads with the product, and lays out the stacked weights
            # of all layers anew for it at every call (`tests/sampling/compile_for_tpu.py` shows it).
            flat = lax.optimization_barrier(flat)
        flat_queries, flat_keys, flat_values = flat
        rotary = self._rotary(inputs, kind)
        rows = inputs.tokens
        queries = self._heads(flat_queries, (rows, None, "heads", None), "q_norm", rotary)
        keys = self._heads(flat_keys, (rows, None, "kv_heads", None), "k_norm", rotary)
        values = self._heads(flat_values, (rows, None, "kv_heads", None), None, rotary)
        rule = self._score_rule(kind)
        if cache is None:
            mixed = self._attend_in_rows(queries, keys, values, inputs, kind, rule)
        else:
            assert inputs.places is not None
            mixed, cache = paged_cache.write_and_attend(
                queries,
                keys,
                values,
                cache,
                inputs.places,
                kind.number,
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
        kind: LayerKind,
        rule: scores_lib.ScoreRule,
    ) -> Float[Array, "tokens N*H"]:
        axes = (("heads", queries), ("kv_heads", keys), ("kv_heads", values))
        queries, keys, values = (self._of_rows(heads, axis, inputs) for axis, heads in axes)
        keys, values = jnp.swapaxes(keys, 1, 2), jnp.swapaxes(values, 1, 2)  # [B, K, T, H]
        mixed = self._mix(queries, keys, values, inputs, kind, rule)
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
        kind: LayerKind,
        rule: scores_lib.ScoreRule,
    ) -> Float[Array, "B T N H"]:
        """This platform's attention over whole rows."""
        everywhere = functools.partial(
            attend_in_rows,
            *(queries, keys, values),
            mask=inputs.mask,
            segment_ids=inputs.segment_ids,
            rule=rule,
            rules=self.rules,
        )
        window = self.config.window
        if window is None or self.platform == "plain":
            return everywhere()
        # The kernel's schedule of blocks is made when it is traced: one for each reach.
        return lax.cond(kind.is_local, functools.partial(everywhere, window=window.size), everywhere)

    def _score_rule(self, kind: LayerKind) -> scores_lib.ScoreRule:
        """This layer's, with its sinks."""
        config, reach, sinks = self.config, None, None
        if config.window is not None:
            reach = jnp.where(kind.is_local, config.window.size, scores_lib.EVERYTHING)
        if config.attention_sinks:
            sinks = declare(self, "sinks", nn.initializers.zeros_init(), (config.num_heads,), ("heads",))
        return scores_lib.ScoreRule(
            scale=config.score_scale, soft_cap=config.attention_soft_cap, reach=reach, sinks=sinks
        )

    def _rotary(self, inputs: LayerInputs, kind: LayerKind) -> rope.Rotation:
        if inputs.local_rotary is None:
            return inputs.rotary
        choose = functools.partial(jnp.where, kind.is_local)
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
        rotary: rope.Rotation,
    ) -> Float[Array, "B T heads H"]:
        """Flat features as heads; queries and keys (those with a norm's name) are normed and rotated."""
        config = self.config
        heads = flat.reshape(*rotary.cosine.shape[:2], -1, config.head_dim)  # [B, T, heads, H]
        if norm is not None:
            if config.qk_norm:
                heads = RMSNorm(config, "head_dim", name=norm)(heads)
            heads = rope.rotate(heads, rotary)
        return constrain(heads, axes, self.rules)


def segment_mask(segment_ids: Int[Array, "B T"], rules: rules_lib.LogicalRules) -> Bool[Array, "B T T"]:
    """Which tokens each token of a row sees: those up to itself of its own segment."""
    slots = jnp.arange(segment_ids.shape[1])
    is_past = slots[None, :] <= slots[:, None]  # [T, T]
    # Padding sees padding, which keeps its softmax finite; nothing else sees it.
    mask = is_past & (segment_ids[:, :, None] == segment_ids[:, None, :])
    return constrain(mask, ("batch", "length", None), rules)


def attend_in_rows(
    queries: Float[Array, "B T N H"],
    keys: Float[Array, "B K T H"],
    values: Float[Array, "B K T H"],
    *,
    mask: Bool[Array, "B T T"] | None,
    segment_ids: Int[Array, "B T"] | None,
    rule: scores_lib.ScoreRule,
    window: int | None = None,
    rules: rules_lib.LogicalRules = (),
) -> Float[Array, "B T N H"]:
    """Attention over whole rows: plain where there is a mask, else by the kernel of TPUs.

    Args:
        window: the reach, which the kernel has to know when it is traced; the mask's is in `rule`.
    """
    if mask is not None:
        # A query sees keys of the whole row: gathered once, where positions are split.
        whole = ("batch", "kv_heads", None, None)
        keys, values = (constrain(x, whole, rules) for x in (keys, values))
        return attend(queries, keys, values, mask, rule)
    assert segment_ids is not None
    return splash.attend(
        queries,
        keys,
        values,
        segment_ids,
        scale=rule.scale,
        window=window,
        soft_cap=rule.soft_cap,
        sinks=rule.sinks,
        rules=rules,
    )


def attend(
    queries: Float[Array, "B T N H"],
    keys: Float[Array, "B K S H"],
    values: Float[Array, "B K S H"],
    mask: Bool[Array, "B T S"],
    rule: scores_lib.ScoreRule,
) -> Float[Array, "B T N H"]:
    """Softmax attention of N query heads over K key-value heads.

    A query whose mask is empty (padding) gets a finite mean of all values; nothing reads it.
    """
    batch, length, num_heads, head_dim = queries.shape
    num_kv_heads, num_slots = keys.shape[1:3]
    scaled = queries * jnp.asarray(rule.scale, queries.dtype)
    grouped = scaled.reshape(batch, length, num_kv_heads, -1, head_dim)
    grouped = grouped.transpose(0, 2, 1, 3, 4)  # [B, K, T, N/K, H]: merged with heads, positions stay split
    rows = grouped.reshape(batch, num_kv_heads, -1, head_dim)  # [B, K, T*N/K, H]
    scores = jnp.einsum("BKRH,BKSH->BKRS", rows, keys, preferred_element_type=jnp.float32)
    scores = rule.capped(scores).reshape(batch, num_kv_heads, length, -1, num_slots)
    if rule.reach is not None:
        mask = mask & rule.sees(jnp.arange(length)[:, None] - jnp.arange(num_slots))
    scores = jnp.where(mask[:, None, :, None], scores, jnp.finfo(jnp.float32).min)
    weights = softmax_with_sinks(scores, rule.sinks).astype(values.dtype)
    weights = weights.reshape(batch, num_kv_heads, -1, num_slots)
    mixed = jnp.einsum("BKRS,BKSH->BKRH", weights, values)
    mixed = mixed.reshape(batch, num_kv_heads, length, -1, head_dim)
    return mixed.swapaxes(1, 2).reshape(queries.shape)  # from [B, T, K, N/K, H]


def softmax_with_sinks(
    scores: Float[Array, "B K T G S"], sinks: Float[Array, " N"] | None
) -> Float[Array, "B K T G S"]:
    """Softmax over keys; each head's sink takes its share of the sum."""
    if sinks is None:
        return jax.nn.softmax(scores, axis=-1)
    sinks = sinks.astype(jnp.float32).reshape(scores.shape[1], 1, -1, 1)  # [K, 1, N/K, 1]
    maximum = lax.stop_gradient(jnp.maximum(jnp.max(scores, axis=-1, keepdims=True), sinks))
    weights = jnp.exp(scores - maximum)
    return weights / (jnp.sum(weights, axis=-1, keepdims=True) + jnp.exp(sinks - maximum))


class DecoderLayer(nn.Module):
    """Pre-norm attention and MLP, each added to the residual stream; Gemma norms what is added once more."""

    config: config_lib.DecoderConfig
    rules: rules_lib.LogicalRules = ()
    fused: bool = False
    platform: platforms.Platform = "plain"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "tokens D"],
        inputs: LayerInputs,
        cache: paged_cache.PagedCache | None,
        kind: LayerKind,
    ) -> tuple[Float[Array, "tokens D"], paged_cache.PagedCache | None]:
        config, sandwich = self.config, self.config.sandwich_norms
        attention = Attention(config, self.rules, self.fused, self.platform, name="self_attn")
        mixed, cache = attention(RMSNorm(config, name="input_layernorm")(x), inputs, cache, kind)
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
            return mlp.Mlp(config, of_products, self.fused, inputs.tokens, name="mlp")(x)
        is_token = None
        if inputs.segment_ids is not None:
            is_token = sequence_shards.as_sequence_shards(inputs.segment_ids, self.rules).reshape(-1) > 0
        experts_mlp = mlp.ExpertMlp(config, config.experts, of_products, self.platform, name="mlp")
        return experts_mlp(x, is_token)


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
        return declare(self, "kernel", linear.INIT, shape, ("embed", "vocab"))


# What the backward pass keeps of each layer; it computes the rest again.
# "none": everything that differentiation asks for, nothing again. About three times the memory of
#     "projections", and on CPU no faster.
# "projections": the layer's input, outputs of projections, and what the attention kernel of TPUs wants back;
#     norms, rotations, activations, experts, and on other machines attention scores, are computed again.
# "offload": the same, in the host's memory: chips hold the inputs.
# "full": the layer's input only.
Remat = Literal["none", "projections", "offload", "full"]
_KEPT = (linear.OUTPUT, splash.RESIDUALS)


def rematerialized(layer: type[nn.Module], remat: Remat) -> type[nn.Module]:
    """A layer's class, differentiated as `remat` says.

    Outputs of projections are those of `linear.Projection`, or named `linear.OUTPUT` with `checkpoint_name`.
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
    platform: platforms.Platform = "plain"
    remat: Remat = "projections"

    @nn.compact
    def __call__(self, token_ids: Int[Array, "B T"], inputs: LayerInputs) -> Float[Array, "B T D"]:
        config = self.config
        if not config.tie_embeddings:
            OutputEmbedding(config, name="lm_head")()
        of_shards = sequence_shards.as_sequence_shards(token_ids, self.rules)
        x = TokenEmbedding(config, self.rules, inputs.tokens, name="embed_tokens")(of_shards)
        per_layer: Any = (nn.broadcast, nn.broadcast, 0)  # of the arguments; flax annotates this as an int
        layers = nn.scan(
            rematerialized(DecoderLayer, self.remat),
            variable_axes={"params": 0, mlp.ROUTERS: 0},
            split_rngs={"params": True},
            in_axes=per_layer,
            length=config.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        stack = layers(config, self.rules, platform=self.platform, name="layers")
        x, _ = stack(x, inputs, None, layer_kinds(config))
        x = RMSNorm(config, name="norm")(x)
        hidden = x.reshape(*of_shards.shape, config.embed_dim)
        hidden = sequence_shards.as_rows(hidden, token_ids.shape, self.rules)  # [B, T, D]
        return constrain(hidden, ("batch", "length", "act_embed"), self.rules)
