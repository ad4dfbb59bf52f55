"""LoRA (arXiv 2106.09685): a frozen model, and a product of two thin matrices beside some projections.

Four or eight chips hold the weights of a 32B model and no optimizer states of it. With LoRA
p_theta and q_phi share one frozen base, and each has an adapter of its own: `y = x W + scale * (x A) B`, with
scale = alpha / rank, A drawn and B zero at the start.

An adapted model is the base's tree with three more leaves beside a kernel: `lora_a` [L, in, rank], `lora_b`
[L, rank, out], which are trained, and `lora_scale` [L], which is not. `layers.Projection` applies what it
finds there, so training, scoring and decoding need not know; the base's arrays are those of the base.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from promptcot_jax.core.arrays import Array, Params
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.settings import PositiveFloat, PositiveInt, settings
from promptcot_jax.models import language_model
from promptcot_jax.models.language_model import LanguageModel
from promptcot_jax.parallel import placing
from promptcot_jax.parallel import rules as rules_lib

TRAINED = ("lora_a", "lora_b")
_SCALE = "lora_scale"
_ALL = (*TRAINED, _SCALE)
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

_Flat = dict[tuple[str, ...], Any]


@settings
class LoraConfig:
    """Which projections get an adapter, and its size; `alpha / rank` multiplies it."""

    rank: PositiveInt = 16
    alpha: PositiveFloat = 32.0
    targets: tuple[str, ...] = _PROJECTIONS

    def __post_init__(self):
        if unknown := sorted(set(self.targets) - set(_PROJECTIONS)) or not self.targets:
            raise ValueError(f"targets must be some of {_PROJECTIONS}, got {unknown or self.targets}.")


def is_adapted(params: Params) -> bool:
    """Whether a tree of parameters is that of an adapted model."""
    return any(path[-1] == _SCALE for path in _flat(params))


def attach(
    lm: LanguageModel, params: Params, config: LoraConfig, key: Array, mesh: Mesh | None = None
) -> Params:
    """The model with a new adapter, which changes nothing yet; the arrays of `params` are shared.

    Args:
        mesh: where the adapter goes, by the rules; None: the first device.

    Raises:
        WrongUse: the model has none of the targets (experts get no adapter).
    """
    shardings = None if mesh is None else adapter_shardings(lm, config, mesh)
    adapter = jax.jit(functools.partial(_new_adapter, lm, config), out_shardings=shardings)(key)
    return join(adapter, params)


def check(lm: LanguageModel, params: Params, config: LoraConfig | None) -> None:
    """Refuses parameters whose adapter is not of the shape that a fit is made for; its scale is its own.

    Raises:
        WrongUse: says what the model has.
    """
    shapes = _shapes_of(adapter_of(params))
    ranks = {shape[-1] for path, shape in shapes.items() if path[-1] == "lora_a"}
    targets = {path[-2] for path in shapes}
    if shapes != ({} if config is None else _shapes_of(abstract_adapter(lm, config))):
        found = f"an adapter of rank {min(ranks)} at {sorted(targets)}" if ranks else "no adapter"
        raise WrongUse(
            f"The model has {found}, but the setting asks for {config or 'none'}; set LORA as the model "
            "was trained with."
        )


def _shapes_of(adapter: Params) -> dict[tuple[str, ...], tuple[int, ...]]:
    return {path: leaf.shape for path, leaf in _flat(adapter).items()}


def split(params: Params) -> tuple[Params, Params]:
    """What is trained of a model, and what is frozen: all and nothing, unless it is adapted."""
    if not is_adapted(params):
        return params, {}
    flat = _flat(params)
    trained = {path: leaf for path, leaf in flat.items() if path[-1] in TRAINED}
    frozen = {path: leaf for path, leaf in flat.items() if path[-1] not in TRAINED}
    return _tree(trained), _tree(frozen)


def join(some: Params, others: Params) -> Params:
    """The tree that has the leaves of both."""
    return _tree(_flat(some) | _flat(others))


def base_of(params: Params) -> Params:
    """A model without its adapter."""
    return _tree({path: leaf for path, leaf in _flat(params).items() if path[-1] not in _ALL})


def adapter_of(params: Params) -> Params:
    """The leaves that an adapted model has beyond its base's."""
    return _tree({path: leaf for path, leaf in _flat(params).items() if path[-1] in _ALL})


@jax.jit
def merged(params: Params) -> Params:
    """A plain model that computes what the adapted one does; sums are taken in float32."""
    flat = _flat(params)
    plain = {path: leaf for path, leaf in flat.items() if path[-1] not in _ALL}
    for path in [path for path in flat if path[-1] == _SCALE]:
        a, b, scale = (flat[*path[:-1], name].astype(jnp.float32) for name in _ALL)
        kernel = plain[*path[:-1], "kernel"]
        delta = scale[..., None, None] * jnp.matmul(a, b)
        plain[*path[:-1], "kernel"] = (kernel.astype(jnp.float32) + delta).astype(kernel.dtype)
    return _tree(plain)


def merge_in_place(params: Params) -> None:
    """`merged` of one projection after the other, in the tree given; frees what nobody else holds."""
    if _SCALE not in params:
        for branch in params.values():
            if isinstance(branch, dict):
                merge_in_place(branch)
        return
    adapted = {name: params[name] for name in ("kernel", *_ALL)}
    params["kernel"] = jax.device_put(merged(adapted)["kernel"], params["kernel"].sharding)
    for name in _ALL:
        del params[name]


def abstract_params(lm: LanguageModel, mesh: Mesh, dtype: str, adapter: LoraConfig | None = None) -> Params:
    """Shapes of a model's parameters in one type, and where they lie; with an adapter in float32 besides."""
    base = language_model.abstract_params(lm, mesh, dtype)
    return base if adapter is None else join(abstract_adapter(lm, adapter, mesh), base)


def abstract_adapter(lm: LanguageModel, config: LoraConfig, mesh: Mesh | None = None) -> Params:
    """Shapes of an adapter's arrays, which are in float32; with a mesh also where they lie."""
    shapes = jax.eval_shape(lambda: _new_adapter(lm, config, jax.random.key(0)))
    return shapes if mesh is None else placing.as_shapes(shapes, adapter_shardings(lm, config, mesh))


def adapter_shardings(lm: LanguageModel, config: LoraConfig, mesh: Mesh) -> Params:
    """Where the rules want an adapter."""
    shapes, rules = abstract_adapter(lm, config), lm.rules or rules_lib.DEFAULT_RULES
    specs = partition_specs(lm, shapes, mesh, rules)
    return jax.tree.map(functools.partial(NamedSharding, mesh), specs)


def partition_specs(
    lm: LanguageModel, params: Params, mesh: Mesh | AbstractMesh, rules: rules_lib.LogicalRules
) -> Params:
    """How a table splits a model's parameters; an adapter as its projection, but for the rank."""
    axes = _flat(lm.logical_axes())

    def axes_of(path: tuple[str, ...]) -> tuple[str | None, ...]:
        if path[-1] not in _ALL:
            return axes[path]
        layers, into, out_of = axes[*path[:-1], "kernel"]
        return {"lora_a": (layers, into, None), "lora_b": (layers, None, out_of), _SCALE: (layers,)}[path[-1]]

    return _tree(
        {
            path: rules_lib.partition_spec(mesh, axes_of(path), leaf.shape, rules)
            for path, leaf in _flat(params).items()
        }
    )


def _flat(params: Params) -> _Flat:
    flat: Any = traverse_util.flatten_dict(params)
    return flat


def _tree(flat: _Flat) -> Params:
    return traverse_util.unflatten_dict(flat)


def _new_adapter(lm: LanguageModel, config: LoraConfig, key: Array) -> Params:
    """Fresh matrices in float32; each pair has noise of its own."""
    if not getattr(lm, "applies_adapters", False):
        raise WrongUse(
            f"LoRA: {type(lm).__name__} does not say that it applies adapters; leave LORA at None, or build "
            "its projections with layers.Projection and set applies_adapters (docs/models.md)."
        )
    flat = _flat(language_model.abstract_params(lm))
    kernels = [
        path
        for path, leaf in flat.items()
        if path[-1] == "kernel" and path[-2] in config.targets and leaf.ndim == 3
    ]
    if not kernels:
        raise WrongUse(
            f"LoRA: this decoder has none of the projections {config.targets} (experts get no adapter); "
            "choose others."
        )
    adapter: _Flat = {}
    for i, path in enumerate(sorted(kernels)):
        num_layers, into, out_of = flat[path].shape
        noise = jax.random.normal(jax.random.fold_in(key, i), (num_layers, into, config.rank))
        adapter[*path[:-1], "lora_a"] = noise / math.sqrt(into)
        adapter[*path[:-1], "lora_b"] = jnp.zeros((num_layers, config.rank, out_of))
        adapter[*path[:-1], _SCALE] = jnp.full((num_layers,), config.alpha / config.rank)
    return _tree(adapter)
