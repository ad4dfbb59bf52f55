"""One table between our parameter tree and Hugging Face tensor names, used by import and export alike.

Two things differ beyond names: Hugging Face keeps one tensor a layer where we stack [L, ...], and its
matrices are [out, in] where our kernels are [in, out].
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from promptcot_jax.core import errors
from promptcot_jax.core.arrays import Array, Params
from promptcot_jax.models import causal_lm
from promptcot_jax.models import config as config_lib

_OUTER = {
    ("embed_tokens", "embedding"): "model.embed_tokens.weight",
    ("norm", "scale"): "model.norm.weight",
    ("lm_head", "kernel"): "lm_head.weight",
}
_LAYER = {
    ("input_layernorm", "scale"): "input_layernorm.weight",
    ("self_attn", "q_proj", "kernel"): "self_attn.q_proj.weight",
    ("self_attn", "k_proj", "kernel"): "self_attn.k_proj.weight",
    ("self_attn", "v_proj", "kernel"): "self_attn.v_proj.weight",
    ("self_attn", "o_proj", "kernel"): "self_attn.o_proj.weight",
    ("self_attn", "q_proj", "bias"): "self_attn.q_proj.bias",
    ("self_attn", "k_proj", "bias"): "self_attn.k_proj.bias",
    ("self_attn", "v_proj", "bias"): "self_attn.v_proj.bias",
    ("self_attn", "q_norm", "scale"): "self_attn.q_norm.weight",
    ("self_attn", "k_norm", "scale"): "self_attn.k_norm.weight",
    ("post_attention_layernorm", "scale"): "post_attention_layernorm.weight",
    ("mlp", "gate_proj", "kernel"): "mlp.gate_proj.weight",
    ("mlp", "up_proj", "kernel"): "mlp.up_proj.weight",
    ("mlp", "down_proj", "kernel"): "mlp.down_proj.weight",
}


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """One array of our tree and the tensors it is made of (one, or one a layer)."""

    path: tuple[str, ...]
    shape: tuple[int, ...]
    names: tuple[str, ...]
    is_stacked: bool

    @property
    def is_transposed(self) -> bool:
        return self.path[-1] == "kernel"

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        shape = self.shape[1:] if self.is_stacked else self.shape
        return shape[::-1] if self.is_transposed else shape


@functools.cache
def _leaves(config: config_lib.DecoderConfig) -> tuple[_Leaf, ...]:
    """Every parameter of `config` in the table's order; a parameter the table does not know is an error."""
    shapes = jax.eval_shape(causal_lm.CausalLM(config).init, jax.random.key(0))
    by_path = {
        tuple(entry.key for entry in path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
    }
    leaves = [
        _Leaf(path, by_path.pop(path), (name,), False) for path, name in _OUTER.items() if path in by_path
    ]
    for inner, name in _LAYER.items():
        path = ("layers", *inner)
        if path in by_path:
            names = tuple(f"model.layers.{i}.{name}" for i in range(config.num_layers))
            leaves.append(_Leaf(path, by_path.pop(path), names, True))
    if by_path:
        raise KeyError(f"Parameters without a Hugging Face name: {sorted(by_path)}; add them to the table.")
    return tuple(leaves)


def expected_tensors(config: config_lib.DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a Hugging Face checkpoint; a tied output matrix is not among them."""
    return {name: leaf.tensor_shape for leaf in _leaves(config) for name in leaf.names}


def to_hf_tensors(params: Params, config: config_lib.DecoderConfig) -> Iterator[tuple[str, np.ndarray]]:
    """Tensors of a checkpoint one after the other, on the host, in the parameters' number format."""
    for leaf in _leaves(config):
        array: Any = params
        for key in leaf.path:
            array = array[key]
        for i, name in enumerate(leaf.names):
            tensor = np.asarray(array[i] if leaf.is_stacked else array)
            yield name, np.ascontiguousarray(tensor.T if leaf.is_transposed else tensor)


def from_hf_tensors(
    get: Callable[[str], np.ndarray],
    config: config_lib.DecoderConfig,
    place: Callable[[tuple[str, ...], np.ndarray], Array] = lambda path, array: jax.device_put(array),
) -> Params:
    """Parameters in the scanned layout and in `param_dtype`, from tensors fetched by name.

    Args:
        get: returns a tensor by its Hugging Face name; called once for each name.
        place: puts a finished host array, of the parameter at `path`, onto devices; by default the first.

    Raises:
        WrongUse: a tensor has another shape than the config says.
    """
    params: Params = {}
    for leaf in _leaves(config):
        array = np.empty(leaf.shape, jax.numpy.dtype(config.param_dtype))
        for i, name in enumerate(leaf.names):
            tensor = get(name)
            if tensor.shape != leaf.tensor_shape:
                raise errors.WrongUse(
                    f"Tensor '{name}' has shape {tensor.shape}, but the model's config asks for "
                    f"{leaf.tensor_shape}; the weights and the config do not belong together."
                )
            array[i if leaf.is_stacked else ...] = tensor.T if leaf.is_transposed else tensor
        branch = params
        for key in leaf.path[:-1]:
            branch = branch.setdefault(key, {})
        branch[leaf.path[-1]] = place(leaf.path, array)
    return params
