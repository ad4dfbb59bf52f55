"""The face of `models/`: a decoder as pure functions of a plain nested dict of parameters.

EM trains phi while theta scores, so one definition must serve several parameter sets; a `CausalLM` therefore
holds no arrays, is hashable (a static argument of `jax.jit`), and takes parameters with every call.

Two layouts. The *scanned* one, with every layer's weights stacked as [L, ...], is canonical: trainers,
checkpoints and teacher-forced scoring use it, and on an accelerator decoding too. On a CPU decoding has a
layout of its own, a tuple of layers (`decoding_layout`).
"""

import dataclasses
import functools
import operator
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from promptcot_jax.core.arrays import Array, Float, Int, Params
from promptcot_jax.models import attention, decoder, layers, lora, page_layouts, paged_cache
from promptcot_jax.models import config as config_lib
from promptcot_jax.parallel import hardware, launching, placing, sequence_shards
from promptcot_jax.parallel import rules as rules_lib

Remat = decoder.Remat


@dataclasses.dataclass(frozen=True)
class CausalLM:
    """A decoder-only language model.

    Attributes:
        rules: logical-axis rules by which activations are sharded; calls then need `jax.set_mesh`. Empty: no
            constraint on activations.
        platform: whose attention, expert and cache kernels; None takes those of the machine this runs on, a
            name is for compiling for another.
    """

    EXECUTION_ONLY: ClassVar = frozenset({"rules", "platform"})
    applies_adapters: ClassVar[bool] = True  # see `lora`

    config: config_lib.DecoderConfig
    rules: rules_lib.LogicalRules = ()
    platform: hardware.Platform | None = None

    @property
    def shares_prompts(self) -> bool:
        """Whether rows may hold a prompt once for several completions (`hidden_states`)."""
        return self.config.window is None

    @property
    def axis_rules(self) -> rules_lib.LogicalRules:
        """No axes but those of the table."""
        return ()

    def init(self, key: Array) -> Params:
        """Random parameters in the scanned layout."""
        return _init(decoder.Decoder(self.config), key)

    def logical_axes(self) -> Params:
        """Names of every parameter's dimensions, in the tree structure of the scanned parameters."""
        known = _logical_axes(self.config)
        return jax.tree.map(lambda names: names, known, is_leaf=lambda x: isinstance(x, tuple))

    def hidden_states(
        self,
        params: Params,
        token_ids: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"] | None = None,
        positions: Int[Array, "B T"] | None = None,
        prefix_ids: Int[Array, "B T"] | None = None,
        *,
        remat: Remat = "projections",
    ) -> Float[Array, "B T D"]:
        """States after the final norm; `output_embedding` turns them into logits.

        Args:
            segment_ids: tokens see earlier tokens of their own segment only; 0 is padding, whose states mean
                nothing. Segments are contiguous. None: each row is one segment without padding.
            positions: None counts from 0 in each segment.
            prefix_ids: an earlier segment that a token sees beside its own, which may be any of the first
                `splash.prefix_capacity` tokens of a row, or its own one. None: no token does.
            remat: what the backward pass keeps of each layer and does not compute again (`decoder.Remat`).
        """
        inputs = self._of_rows(token_ids, segment_ids, positions, prefix_ids)
        return _apply(self._decoder(remat), params, token_ids, inputs)

    def hidden_states_and_routers(
        self,
        params: Params,
        token_ids: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"] | None = None,
        positions: Int[Array, "B T"] | None = None,
        prefix_ids: Int[Array, "B T"] | None = None,
        *,
        remat: Remat = "projections",
    ) -> tuple[Float[Array, "B T D"], layers.RouterTotals]:
        """`hidden_states`, and what the routers did, with a leading axis [L]: for losses and metrics.

        Raises:
            ValueError: the decoder has no experts.
        """
        if self.config.experts is None:
            raise ValueError(f"This {self.config.family} decoder has no experts; call hidden_states.")
        inputs = self._of_rows(token_ids, segment_ids, positions, prefix_ids)
        applied: Any = self._decoder(remat).apply(
            {"params": params}, token_ids, inputs, mutable=[layers.ROUTERS]
        )
        states, reported = applied
        return states, reported[layers.ROUTERS]["layers"]["mlp"]["totals"][0]

    def _of_rows(
        self,
        token_ids: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"] | None,
        positions: Int[Array, "B T"] | None,
        prefix_ids: Int[Array, "B T"] | None,
    ) -> decoder.LayerInputs:
        """What layers see of whole rows."""
        if segment_ids is None:
            segment_ids = jnp.ones_like(token_ids)
        if positions is None:
            positions = attention.positions_in_segments(segment_ids)
        if prefix_ids is not None and not self.shares_prompts:
            raise ValueError("A window counts tokens of a row, so a model with one cannot share prompts.")
        is_plain = self._platform() == "plain"
        mask = attention.segment_mask(segment_ids, self.rules, prefix_ids) if is_plain else None
        rotary, local_rotary = _rotations(
            self.config, sequence_shards.as_sequence_shards(positions, self.rules)
        )
        return decoder.LayerInputs(rotary, local_rotary, segment_ids, prefix_ids, mask)

    def _platform(self) -> hardware.Platform:
        return self.platform or hardware.platform()

    def _decoder(self, remat: Remat) -> decoder.Decoder:
        return decoder.Decoder(self.config, self.rules, self._platform(), remat)

    def output_embedding(self, params: Params) -> Float[Array, "D V"]:
        """The matrix from hidden states to logits."""
        if "lm_head" in params:
            return params["lm_head"]["kernel"]
        return params["embed_tokens"]["embedding"].T

    def decoding_layout(self, params: Params) -> Params:
        """The parameters as `extend` and `unembed` read them fastest on this machine.

        The parameters themselves, where nothing of this applies, else a copy; make it once for a set of
        parameters.

        * Float32 masters of a model that computes in bfloat16 are cast: else every call would do it. What the
          arrays are counts, not `param_dtype`: training has masters of a model that was loaded in bfloat16.
        * On a mesh, matrices lie as `rules.for_decoding` says, so that no step gathers weights.
        * On a CPU, without rules, each layer's arrays are apart, with fused matrices and the output matrix in
          full, which is what makes decoding fast there.
        """
        is_in_type = params["embed_tokens"]["embedding"].dtype == self.config.dtype
        if not is_in_type or self._lies_otherwise_to_decode(params):
            params = _for_decoding(self, params)
        if self.rules or jax.default_backend() != "cpu":
            return params
        return _decoding_layout(self, lora.merged(params) if lora.is_adapted(params) else params)

    def decoding_specs(self, params: Params, mesh: Mesh | AbstractMesh) -> Params:
        """How `decoding_layout` splits parameters over a mesh."""
        return lora.partition_specs(self, params, mesh, rules_lib.for_decoding(self.rules))

    def decoding_shapes(self, params: Params, mesh: Mesh) -> Params:
        """Shapes of what `decoding_layout` makes of parameters, and where they lie on a mesh."""
        with jax.set_mesh(mesh):
            shapes = jax.eval_shape(self.decoding_layout, params)
        specs = self.decoding_specs(shapes, mesh)
        return placing.as_shapes(shapes, jax.tree.map(functools.partial(NamedSharding, mesh), specs))

    def _lies_otherwise_to_decode(self, params: Params) -> bool:
        """Whether any parameter lies elsewhere than in training, on the mesh entered."""
        if not self.rules:
            return False
        mesh = rules_lib.entered_mesh()
        return self.decoding_specs(params, mesh) != lora.partition_specs(self, params, mesh, self.rules)

    def init_cache(
        self, num_pages: int, page_size: int, layout: hardware.Platform | None = None
    ) -> paged_cache.PagedCache:
        """An empty cache; page 0 belongs to no row, so `num_pages - 1` can be given to rows.

        Args:
            layout: None takes the one of the model's platform.

        Raises:
            ValueError: the layout cannot have pages of that size.
        """
        return page_layouts.empty(self.config, num_pages, page_size, layout or self._platform(), self.rules)

    def extend(
        self,
        decoding_params: Params,
        token_ids: Int[Array, "B T"],
        cache_positions: paged_cache.CachePositions,
        cache: paged_cache.PagedCache,
    ) -> tuple[Float[Array, "B T D"], paged_cache.PagedCache]:
        """Reads one more token a row, or a page of tokens (see `paged_cache.CachePositions`).

        Args:
            decoding_params: in either layout; on a TPU the matrices should be in the compute type,
                `config.dtype`. Others are cast, and the compiler casts those of all layers together at the
                start of every call: a second set of weights.
        """
        inputs = decoder.LayerInputs(
            *_rotations(self.config, cache_positions.positions), cache_positions=cache_positions
        )
        embed = layers.TokenEmbedding(self.config, self.rules)
        x = _apply(embed, decoding_params["embed_tokens"], token_ids)
        x, cache = self._extend_layers(decoding_params["layers"], x, inputs, cache)
        x = _apply(layers.RMSNorm(self.config), decoding_params["norm"], x)
        hidden = x.reshape(*token_ids.shape, self.config.embed_dim)  # [B, T, D]
        return rules_lib.constrain(hidden, ("batch", None, "act_embed"), self.rules), cache

    def _extend_layers(
        self,
        stack: Params | tuple[Params, ...],
        x: Float[Array, "tokens D"],
        inputs: decoder.LayerInputs,
        cache: paged_cache.PagedCache,
    ) -> tuple[Float[Array, "tokens D"], paged_cache.PagedCache]:
        if isinstance(stack, tuple):
            layer = decoder.DecoderLayer(self.config, self.rules, fused=True, platform=self._platform())
            infos = map(decoder.LayerInfo, range(self.config.num_layers), self.config.local_layers)
            for layer_params, info in zip(stack, infos, strict=True):
                x, cache = _apply(layer, layer_params, x, inputs, cache, info)
            return x, cache
        layer = decoder.DecoderLayer(self.config, self.rules, platform=self._platform())

        def extend_layer(carry: Any, layer_params_and_info: Any) -> tuple[Any, None]:
            layer_params, info = layer_params_and_info
            return _apply(layer, layer_params, carry[0], inputs, carry[1], info), None

        (x, cache), _ = lax.scan(extend_layer, (x, cache), (stack, decoder.layer_infos(self.config)))
        return x, cache

    def unembed(self, decoding_params: Params, hidden: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """Logits in float32."""
        of_products = rules_lib.for_decoding(self.rules)
        logits = layers.logits(hidden, self.output_embedding(decoding_params), self.config, of_products)
        axes = ("batch", *(None,) * (logits.ndim - 2), "vocab")
        return rules_lib.constrain(logits, axes, self.rules)


def _rotations(
    config: config_lib.DecoderConfig, positions: Int[Array, "B T"]
) -> tuple[attention.Rotation, attention.Rotation | None]:
    """The rotation of all layers or of global ones, and that of local layers if it is another."""
    head_dim, window = config.head_dim, config.window
    rotary = attention.rotation(
        positions, head_dim=head_dim, theta=config.rope_theta, scaling=config.rope_scaling
    )
    if window is None or window.rope_theta is None:
        return rotary, None
    return rotary, attention.rotation(positions, head_dim=head_dim, theta=window.rope_theta)


def _apply(module: nn.Module, params: Params, *arguments: Any) -> Any:
    return module.apply({"params": params}, *arguments)


@functools.lru_cache(maxsize=64)  # self-play asks in each iteration, and a trace of the model takes a while
def _logical_axes(config: config_lib.DecoderConfig) -> Params:
    shapes = jax.eval_shape(functools.partial(_boxed_init, decoder.Decoder(config)), jax.random.key(0))
    return jax.tree.map(lambda box: tuple(box.names), shapes, is_leaf=lambda x: isinstance(x, nn.Partitioned))


def _boxed_init(module: decoder.Decoder, key: Array) -> Params:
    """Parameters with their logical axes, from a pass over one token."""
    one = jnp.ones((1, 1), jnp.int32)
    inputs = decoder.LayerInputs(*_rotations(module.config, one), mask=one[..., None] > 0)
    variables: Any = module.init(key, one, inputs)
    return variables["params"]


@functools.partial(jax.jit, static_argnums=0)
def _init(module: decoder.Decoder, key: Array) -> Params:
    return nn.unbox(_boxed_init(module, key))


@functools.partial(jax.jit, static_argnums=0)  # one program: eagerly, every slice would be compiled by itself
def _decoding_layout(lm: CausalLM, params: Params) -> Params:
    stack = tuple(
        _fused(jax.tree.map(operator.itemgetter(i), params["layers"])) for i in range(lm.config.num_layers)
    )
    return {
        "embed_tokens": params["embed_tokens"],
        "layers": stack,
        "norm": params["norm"],
        "lm_head": {"kernel": lm.output_embedding(params)},
    }


@launching.serialized
@functools.partial(jax.jit, static_argnums=0)
def _for_decoding(lm: CausalLM, params: Params) -> Params:
    """Parameters where products want them, in the compute type, but for scales of norms and sinks."""

    def cast(path: tuple[Any, ...], array: Array) -> Array:
        return array if path[-1].key in ("scale", "sinks") else array.astype(lm.config.dtype)

    cast_params = jax.tree_util.tree_map_with_path(cast, params)
    if not lm.rules:
        return cast_params
    specs = lm.decoding_specs(params, rules_lib.entered_mesh())
    return jax.tree.map(jax.lax.with_sharding_constraint, cast_params, specs)


def _fused(layer: Params) -> Params:
    """One layer's parameters with the projections that read the same input side by side."""

    def side_by_side(parts: list[Params]) -> Params:
        return jax.tree.map(lambda *arrays: jnp.concatenate(arrays, axis=-1), *parts)

    attention, feed_forward = dict(layer["self_attn"]), dict(layer["mlp"])
    attention["qkv_proj"] = side_by_side([attention.pop(name) for name in ("q_proj", "k_proj", "v_proj")])
    if "gate_proj" in feed_forward:  # and no experts
        feed_forward["gate_up_proj"] = side_by_side(
            [feed_forward.pop(name) for name in ("gate_proj", "up_proj")]
        )
    return {**layer, "self_attn": attention, "mlp": feed_forward}
