"""A language model out of a Flax Linen module, for users with an architecture of their own.

The module reads tokens once, whichever way they come: a `TokenPass` is whole rows, in training and scoring,
or what follows a cache, in sampling, and its `attend` chooses the kernels of a platform and the split over a
mesh. What else EM, sampling and training need of a `LanguageModel` follows from it here. Logical axes come
with the parameters: from `nn.with_logical_partitioning`, or from T5X's `param_with_axes`.
"""

import abc
import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import partitioning

from promptcot_jax.core.arrays import Array, Bool, Float, Int, Params
from promptcot_jax.core.settings import PositiveInt, settings
from promptcot_jax.models import attention, layers, page_layouts, paged_cache
from promptcot_jax.models.config import FloatType
from promptcot_jax.models.decoder import Remat
from promptcot_jax.parallel import hardware
from promptcot_jax.parallel import rules as rules_lib

_PARAMS, _AXES = "params", "params_axes"  # the second is where T5X's layers keep their axes


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class PassSetting:
    """What is known of a pass when it is traced."""

    num_layers: int
    rules: rules_lib.LogicalRules
    platform: hardware.Platform


class TokenPass(NamedTuple):
    """One pass: a pytree, broadcast to all layers.

    Attributes:
        positions: of every token in its own sequence, for rotary or absolute embeddings.
        segment_ids: of whole rows; 0 is padding.
        mask: of whole rows on the platform "plain", made once for all layers.
        cache_positions: of a pass over a cache.
    """

    setting: PassSetting
    positions: Int[Array, "B T"]
    segment_ids: Int[Array, "B T"] | None = None
    mask: Bool[Array, "B T S"] | None = None
    cache_positions: paged_cache.CachePositions | None = None

    def attend(
        self,
        queries: Float[Array, "B T N H"],
        keys: Float[Array, "B T K H"],
        values: Float[Array, "B T K H"],
        cache: paged_cache.PagedCache | None,
        layer: paged_cache.Index,
        *,
        scale: float | None = None,
        soft_cap: float | None = None,
        window: int | None = None,
        sinks: Float[Array, " N"] | None = None,
    ) -> tuple[Float[Array, "B T N H"], paged_cache.PagedCache | None]:
        """Causal softmax attention of one layer, and the cache with this layer's keys and values in it.

        Args:
            keys: rotated already, where the model does; K divides N.
            cache: as the last layer left it; None where whole rows are read, and then None comes back.
            layer: its number, from 0.
            scale: scores are multiplied by it; None: 1 / sqrt(H).
            soft_cap: scores are then cap * tanh(scores / cap).
            window: a query sees so many tokens, itself included; None: all before it.
            sinks: a score of each head that takes its share of the softmax and mixes in nothing.
        """
        rule = attention.ScoreRule(
            scale=queries.shape[-1] ** -0.5 if scale is None else scale,
            soft_cap=soft_cap,
            reach=None if window is None else jnp.int32(window),
            sinks=sinks,
        )
        if self.cache_positions is None:
            keys, values = jnp.swapaxes(keys, 1, 2), jnp.swapaxes(values, 1, 2)  # [B, K, T, H]
            mixed = attention.attend_in_rows(
                queries,
                keys,
                values,
                mask=self.mask,
                segment_ids=self.segment_ids,
                rule=rule,
                window=window,
                rules=self.setting.rules,
            )
            return mixed, None
        assert cache is not None
        mixed, cache = paged_cache.write_and_attend(
            queries,
            keys,
            values,
            cache,
            self.cache_positions,
            layer,
            rule=rule,
            num_layers=self.setting.num_layers,
            rules=self.setting.rules,
        )
        return mixed.reshape(queries.shape), cache


def _over_rows(
    setting: PassSetting,
    token_ids: Int[Array, "B T"],
    segment_ids: Int[Array, "B T"] | None,
    positions: Int[Array, "B T"] | None,
) -> TokenPass:
    """Of whole rows; by default each row is one segment, and positions count from 0 in each."""
    segment_ids = jnp.ones_like(token_ids) if segment_ids is None else segment_ids
    positions = attention.positions_in_segments(segment_ids) if positions is None else positions
    mask = attention.segment_mask(segment_ids, setting.rules) if setting.platform == "plain" else None
    return TokenPass(setting, positions, segment_ids, mask)


@settings
class LinenConfig:
    """What the package reads of a model's settings; a subclass adds those of its layers."""

    vocab_size: PositiveInt
    num_layers: PositiveInt
    num_kv_heads: PositiveInt  # with `head_dim` the shape of what a token leaves in the cache of each layer
    head_dim: PositiveInt
    max_positions: PositiveInt
    logit_soft_cap: float | None = None
    dtype: FloatType = "float32"
    param_dtype: FloatType = "float32"


@dataclasses.dataclass(frozen=True)
class LinenModel(abc.ABC):
    """A `language_model.LanguageModel` whose subclass says which module it is, and which its output matrix.

    Attributes:
        rules: logical-axis rules by which activations are sharded; loaders set them for a mesh.
        platform: whose attention and cache kernels; None takes those of the machine this runs on.
        axis_rules: where logical axes of the module's own lie, as (("joined_kv", "tensor"), ("kv", None)).
    """

    EXECUTION_ONLY: ClassVar = frozenset({"rules", "platform"})
    # Whether the kernels that LoRA may adapt are `layers.Projection`s, stacked over layers and named as its
    # targets: others would carry an adapter and not apply it.
    applies_adapters: ClassVar[bool] = False

    config: LinenConfig
    rules: rules_lib.LogicalRules = ()
    platform: hardware.Platform | None = None
    axis_rules: rules_lib.LogicalRules = ()

    @abc.abstractmethod
    def module(self, remat: Remat) -> nn.Module:
        """The Linen module, called as `module(token_ids, tokens, cache)`.

        It returns hidden states after the final norm, [B, T, D], and the cache, which has gone through
        `tokens.attend` (`tokens` is a `TokenPass`) in every layer.

        Args:
            remat: what the backward pass keeps of each layer; see `decoder.rematerialized`.
        """

    @abc.abstractmethod
    def output_embedding(self, params: Params) -> Float[Array, "D V"]:
        """The matrix from hidden states to logits, out of the parameters."""

    def init(self, key: Array) -> Params:
        """Random parameters."""
        return _init(self, key)

    def logical_axes(self) -> Params:
        """Names of every parameter's dimensions, in the tree structure of the parameters.

        Parameters without names are whole on every device.
        """
        variables = jax.eval_shape(functools.partial(_boxed_init, self), jax.random.key(0))
        of_t5x: Any = partitioning.get_axis_names(variables.get(_AXES, {}))
        named = dict(_leaves(of_t5x))

        def names(path: Any, leaf: Any) -> tuple[str | None, ...]:
            if isinstance(leaf, nn.Partitioned):
                return tuple(leaf.names or ())
            return named.get(jax.tree_util.keystr(path)) or (None,) * leaf.ndim

        return jax.tree_util.tree_map_with_path(names, variables[_PARAMS], is_leaf=_is_box)

    def hidden_states(
        self,
        params: Params,
        token_ids: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"] | None = None,
        positions: Int[Array, "B T"] | None = None,
        *,
        remat: Remat = "projections",
    ) -> Float[Array, "B T D"]:
        """States after the final norm; see `CausalLM.hidden_states`."""
        over_rows = _over_rows(self._setting(), token_ids, segment_ids, positions)
        return self._apply(params, remat, token_ids, over_rows, None)[0]

    def decoding_layout(self, params: Params) -> Params:
        """The parameters as `extend` reads them: as they are, unless a subclass knows a faster way."""
        return params

    def init_cache(self, num_pages: int, page_size: int) -> paged_cache.PagedCache:
        """An empty cache; page 0 belongs to no row, so `num_pages - 1` can be given to rows."""
        return page_layouts.empty(self.config, num_pages, page_size, self._setting().platform, self.rules)

    def extend(
        self,
        decoding_params: Params,
        token_ids: Int[Array, "B T"],
        cache_positions: paged_cache.CachePositions,
        cache: paged_cache.PagedCache,
    ) -> tuple[Float[Array, "B T D"], paged_cache.PagedCache]:
        """Reads one more token a row, or a page of tokens (see `paged_cache.CachePositions`)."""
        over_cache = TokenPass(self._setting(), cache_positions.positions, cache_positions=cache_positions)
        return self._apply(decoding_params, "none", token_ids, over_cache, cache)

    def unembed(self, decoding_params: Params, hidden: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """Logits in float32."""
        return layers.logits(hidden, self.output_embedding(decoding_params), self.config, self.rules)

    def _setting(self) -> PassSetting:
        return PassSetting(self.config.num_layers, self.rules, self.platform or hardware.platform())

    def _apply(
        self,
        params: Params,
        remat: Remat,
        token_ids: Int[Array, "B T"],
        tokens: TokenPass,
        cache: paged_cache.PagedCache | None,
    ) -> Any:
        """The module's hidden states and cache; flax's own constraints in it follow the rules."""
        rules = self.rules
        if (
            rules and tokens.cache_positions is not None
        ):  # one token of each row: no axis of a mesh divides that
            rules = tuple({**dict(rules), "length": None}.items())
        with nn.logical_axis_rules(rules):
            return self.module(remat).apply({_PARAMS: params}, token_ids, tokens, cache)


def _boxed_init(lm: LinenModel, key: Array) -> Any:
    """All that a module declares, from a pass over one token."""
    one = jnp.ones((1, 1), jnp.int32)
    setting = PassSetting(lm.config.num_layers, (), "plain")
    return lm.module("none").init(key, one, _over_rows(setting, one, None, None), None)


@functools.partial(jax.jit, static_argnums=0)
def _init(lm: LinenModel, key: Array) -> Params:
    return nn.unbox(_boxed_init(lm, key)[_PARAMS])


def _is_box(leaf: Any) -> bool:
    return isinstance(leaf, nn.Partitioned)


def _leaves(axes: Any) -> list[tuple[str, tuple[str | None, ...]]]:
    """Paths and axes of `params_axes`."""
    paths = jax.tree_util.tree_leaves_with_path(
        dict(axes), is_leaf=lambda leaf: isinstance(leaf, jax.sharding.PartitionSpec)
    )
    return [(jax.tree_util.keystr(path), tuple(names)) for path, names in paths]
