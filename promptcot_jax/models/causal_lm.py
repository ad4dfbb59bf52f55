"""The only face of `models/`: a decoder as pure functions of a plain nested dict of parameters.

EM trains phi while theta scores, so one definition must serve several parameter sets; a `CausalLM` therefore
holds no arrays, is hashable (a static argument of `jax.jit`), and takes parameters with every call.

Two layouts. The *scanned* one, with every layer's weights stacked as [L, ...], is canonical: trainers,
checkpoints and teacher-forced scoring use it. The *decoding* one holds a tuple of layers; `extend` and
`unembed` use it.
"""

import dataclasses
import functools
import operator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from promptcot_jax.core.arrays import Array, Bool, Float, Int, Params
from promptcot_jax.models import cache as cache_lib
from promptcot_jax.models import config as config_lib
from promptcot_jax.models import decoder, rope
from promptcot_jax.parallel import rules as rules_lib

Cache = cache_lib.Cache


@dataclasses.dataclass(frozen=True)
class CausalLM:
    """A decoder-only language model.

    Attributes:
        rules: logical-axis rules by which activations are sharded; calls then need `jax.set_mesh`. Empty: no
            constraint on activations.
    """

    config: config_lib.DecoderConfig
    rules: rules_lib.LogicalRules = ()

    def init(self, key: Array) -> Params:
        """Random parameters in the scanned layout."""
        return _init(decoder.Decoder(self.config), key)

    def logical_axes(self) -> Params:
        """Names of every parameter's dimensions, in the tree structure of the scanned parameters."""
        shapes = jax.eval_shape(
            functools.partial(_boxed_init, decoder.Decoder(self.config)), jax.random.key(0)
        )
        return jax.tree.map(
            lambda box: tuple(box.names), shapes, is_leaf=lambda x: isinstance(x, nn.Partitioned)
        )

    def hidden_states(
        self,
        params: Params,
        token_ids: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"] | None = None,
        positions: Int[Array, "B T"] | None = None,
        *,
        remat: bool = False,
    ) -> Float[Array, "B T D"]:
        """States after the final norm; `output_embedding` turns them into logits.

        Args:
            segment_ids: tokens see earlier tokens of their own segment only; 0 is padding, whose states mean
                nothing. Segments are contiguous. None: each row is one segment without padding.
            positions: None counts from 0 in each segment.
            remat: recompute each layer in the backward pass instead of keeping its activations.
        """
        if segment_ids is None:
            segment_ids = jnp.ones_like(token_ids)
        if positions is None:
            positions = rope.positions_in_segments(segment_ids)
        slots = jnp.arange(token_ids.shape[1])
        is_past = slots[None, :] <= slots[:, None]  # [T, T]
        # Padding sees padding, which keeps its softmax finite; nothing else sees it.
        mask = is_past & (segment_ids[:, :, None] == segment_ids[:, None, :])
        around = decoder.Surroundings(self._turn(positions), mask)
        return _apply(decoder.Decoder(self.config, self.rules, remat), params, token_ids, around)

    def output_embedding(self, params: Params) -> Float[Array, "D V"]:
        """The matrix from hidden states to logits (of the scanned layout)."""
        if self.config.tie_embeddings:
            return params["embed_tokens"]["embedding"].T
        return params["lm_head"]["kernel"]

    def decoding_layout(self, params: Params) -> Params:
        """The parameters with each layer's arrays apart and the output matrix in full.

        Convert once, outside the loop that decodes: the copies are what makes the loop fast.
        """
        return _decoding_layout(self, params)

    def init_cache(self, batch: int, length: int) -> Cache:
        """A cache of `length` free slots for `batch` rows."""
        return cache_lib.empty_cache(self.config, batch, length)

    def extend(
        self,
        decoding_params: Params,
        token_ids: Int[Array, "B T"],
        is_token: Bool[Array, "B T"],
        cache: Cache,
    ) -> tuple[Float[Array, "B T D"], Cache]:
        """Reads T more tokens a row: left-padded prompts at once (prefill), or one token (decode).

        The caller keeps `cache.num_written + T` within the cache's length; more would overwrite slots.
        """
        slots = cache_lib.take_slots(cache, is_token)
        around = decoder.Surroundings(self._turn(slots.positions), slots.mask, cache.num_written)
        embed = decoder.TokenEmbedding(self.config, self.rules)
        x = _apply(embed, decoding_params["embed_tokens"], token_ids)
        layer, layer_caches = decoder.DecoderLayer(self.config, self.rules), []
        for layer_params, layer_cache in zip(decoding_params["layers"], cache.layers, strict=True):
            x, layer_cache = _apply(layer, layer_params, x, around, layer_cache)
            layer_caches.append(layer_cache)
        x = _apply(decoder.RMSNorm(self.config), decoding_params["norm"], x)
        hidden = x.reshape(*token_ids.shape, self.config.embed_dim)  # [B, T, D]
        hidden = decoder.constrain(hidden, ("batch", "length", "act_embed"), self.rules)
        return hidden, Cache(tuple(layer_caches), slots.is_token, cache.num_written + token_ids.shape[1])

    def unembed(self, decoding_params: Params, hidden: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """Logits in float32."""
        kernel = decoding_params["lm_head"]["kernel"].astype(self.config.dtype)
        flat = hidden.reshape(-1, hidden.shape[-1])
        logits = jnp.matmul(flat, kernel, preferred_element_type=jnp.float32)
        logits = decoder.constrain(logits, ("batch", "vocab"), self.rules)
        return logits.reshape(*hidden.shape[:-1], -1)

    def _turn(self, positions: Int[Array, "B T"]) -> rope.Rotation:
        return rope.rotation(positions, head_dim=self.config.head_dim, theta=self.config.rope_theta)


def _apply(module: nn.Module, params: Params, *arguments: Any) -> Any:
    return module.apply({"params": params}, *arguments)


def _boxed_init(module: decoder.Decoder, key: Array) -> Params:
    """Parameters with their logical axes around them, from a pass over one token."""
    one = jnp.ones((1, 1), jnp.int32)
    turn = rope.rotation(one, head_dim=module.config.head_dim, theta=module.config.rope_theta)
    variables: Any = module.init(key, one, decoder.Surroundings(turn, one[..., None] > 0))
    return variables["params"]


@functools.partial(jax.jit, static_argnums=0)
def _init(module: decoder.Decoder, key: Array) -> Params:
    return nn.unbox(_boxed_init(module, key))


@functools.partial(jax.jit, static_argnums=0)  # one program: eagerly, every slice would be compiled by itself
def _decoding_layout(lm: CausalLM, params: Params) -> Params:
    layers = tuple(
        jax.tree.map(operator.itemgetter(i), params["layers"]) for i in range(lm.config.num_layers)
    )
    return {
        "embed_tokens": params["embed_tokens"],
        "layers": layers,
        "norm": params["norm"],
        "lm_head": {"kernel": lm.output_embedding(params)},
    }
