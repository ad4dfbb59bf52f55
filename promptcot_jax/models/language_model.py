"""What EM, sampling and training ask of a language model: `CausalLM` is one, a user's own may be another.

A model is a description without arrays: a frozen dataclass, so that programs are compiled once for it and it
is equal to another of the same settings. Parameters are a nested dict of arrays that come with every call.
`linen_model.LinenModel` makes one of a Flax Linen module; `docs/models.md` has a worked example.
"""

import dataclasses
import functools
import logging
from typing import Any, Protocol, TypeGuard, runtime_checkable

import jax
from jax.sharding import Mesh

from promptcot_jax.core.arrays import Array, Float, Int, Params
from promptcot_jax.models import paged_cache, splash
from promptcot_jax.models.config import FloatType, ModelConfig
from promptcot_jax.models.decoder import Remat
from promptcot_jax.models.layers import RouterTotals
from promptcot_jax.parallel import rules as rules_lib

log = logging.getLogger(__name__)


@runtime_checkable
class LanguageModel(Protocol):
    """A decoder-only language model, a frozen dataclass; see `CausalLM` for what each function computes.

    `rules`: logical-axis rules by which activations are sharded; calls then come inside `jax.set_mesh`.
    Empty until `on_mesh`.
    `axis_rules`: where axes of the model's own lie, beyond `rules.DEFAULT_RULES`; they win where both speak.
    """

    @property
    def config(self) -> ModelConfig: ...

    @property
    def rules(self) -> rules_lib.LogicalRules: ...

    @property
    def axis_rules(self) -> rules_lib.LogicalRules: ...

    # Parameters

    def init(self, key: Array) -> Params: ...

    def logical_axes(self) -> Params: ...

    # Whole rows: training and scoring

    def hidden_states(
        self,
        params: Params,
        token_ids: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"] | None = None,
        positions: Int[Array, "B T"] | None = None,
        *,
        remat: Remat = "projections",
    ) -> Float[Array, "B T D"]: ...

    def output_embedding(self, params: Params) -> Float[Array, "D V"]: ...

    # One token, or a page of tokens, after what a cache holds: sampling

    def decoding_layout(self, params: Params) -> Params: ...

    def init_cache(self, num_pages: int, page_size: int) -> paged_cache.PagedCache: ...

    def extend(
        self,
        decoding_params: Params,
        token_ids: Int[Array, "B T"],
        cache_positions: paged_cache.CachePositions,
        cache: paged_cache.PagedCache,
    ) -> tuple[Float[Array, "B T D"], paged_cache.PagedCache]: ...

    def unembed(self, decoding_params: Params, hidden: Float[Array, "... D"]) -> Float[Array, "... V"]: ...


def on_mesh(lm: LanguageModel) -> LanguageModel:
    """The model with its rules for a mesh."""
    return _replaced(lm, rules=rules_lib.extended(lm.axis_rules))


def in_types(lm: LanguageModel, *, dtype: FloatType, param_dtype: FloatType | None = None) -> LanguageModel:
    """The model that computes in `dtype`, and keeps its parameters in `param_dtype` where it is given."""
    types = {"dtype": dtype} if param_dtype is None else {"dtype": dtype, "param_dtype": param_dtype}
    return _replaced(lm, config=_replaced(lm.config, **types))


def _replaced(value: Any, **changes: Any) -> Any:
    return dataclasses.replace(value, **changes)


@runtime_checkable
class MixtureOfExperts(LanguageModel, Protocol):
    """A language model whose `config.experts` is not None; it reports what its routers did."""

    def hidden_states_and_routers(
        self,
        params: Params,
        token_ids: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"] | None = None,
        positions: Int[Array, "B T"] | None = None,
        *,
        remat: Remat = "projections",
    ) -> tuple[Float[Array, "B T D"], RouterTotals]: ...


def has_routers(lm: LanguageModel) -> TypeGuard[MixtureOfExperts]:
    """Whether a model is a mixture of experts."""
    return isinstance(lm, MixtureOfExperts) and getattr(lm.config, "experts", None) is not None


def prefix_capacity(lm: LanguageModel, row_length: int) -> int:
    """Within how many tokens of a row's beginning prompts may lie that several completions share.

    0: the model's `hidden_states` takes no `prefix_ids`; one that does says so by `shares_prompts = True`.
    """
    return splash.prefix_capacity(row_length) if getattr(lm, "shares_prompts", False) else 0


def abstract_params(lm: LanguageModel, mesh: Mesh | None = None, dtype: str | None = None) -> Params:
    """Shapes and dtypes of a model's parameters; with a mesh also where they lie.

    Args:
        dtype: another than the model's own.
    """
    shapes = jax.eval_shape(lambda: lm.init(jax.random.key(0)))
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype or leaf.dtype), shapes)
    if mesh is None:
        return shapes
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        param_shardings(lm, mesh),
    )


def param_shardings(lm: LanguageModel, mesh: Mesh) -> Params:
    """Where each parameter lies on a mesh, by the model's rules or else the default ones.

    What has to stay whole is logged, once for a model and mesh.

    Raises:
        WrongUse: a parameter does not divide over the mesh.
    """
    rules = lm.rules or rules_lib.DEFAULT_RULES
    shapes, axes = abstract_params(lm), lm.logical_axes()
    shardings = rules_lib.sharding_tree(mesh, axes, shapes, rules)
    _log_once(mesh, tuple(rules_lib.unsharded(mesh, axes, shapes, rules)))
    return shardings


@functools.lru_cache(maxsize=64)
def _log_once(mesh: Mesh, lines: tuple[str, ...]) -> None:
    for line in lines:
        log.info("%s", line)
