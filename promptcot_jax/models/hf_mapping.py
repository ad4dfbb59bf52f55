"""One table between our parameter tree and Hugging Face tensor names, used by import and export alike.

Beyond names three things differ: Hugging Face keeps one tensor a layer (in Qwen3-MoE, an expert of a layer)
where we stack [L, ...]; its matrices are [out, in] where our kernels are [in, out]; and gpt-oss keeps the
columns of gate and up in turns in one tensor. So each slice of a parameter comes from one tensor (`_Row`).
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from promptcot_jax.core import errors
from promptcot_jax.core.arrays import Array, Params
from promptcot_jax.models import causal_lm
from promptcot_jax.models import config as config_lib

Path = tuple[str, ...]

_OUTER: dict[str, tuple[Path, ...]] = {
    "model.embed_tokens.weight": (("embed_tokens", "embedding"),),
    "model.norm.weight": (("norm", "scale"),),
    "lm_head.weight": (("lm_head", "kernel"),),
}
_LAYER: dict[str, tuple[Path, ...]] = {
    "input_layernorm.weight": (("input_layernorm", "scale"),),
    "self_attn.q_proj.weight": (("self_attn", "q_proj", "kernel"),),
    "self_attn.k_proj.weight": (("self_attn", "k_proj", "kernel"),),
    "self_attn.v_proj.weight": (("self_attn", "v_proj", "kernel"),),
    "self_attn.o_proj.weight": (("self_attn", "o_proj", "kernel"),),
    "self_attn.q_proj.bias": (("self_attn", "q_proj", "bias"),),
    "self_attn.k_proj.bias": (("self_attn", "k_proj", "bias"),),
    "self_attn.v_proj.bias": (("self_attn", "v_proj", "bias"),),
    "self_attn.o_proj.bias": (("self_attn", "o_proj", "bias"),),
    "self_attn.q_norm.weight": (("self_attn", "q_norm", "scale"),),
    "self_attn.k_norm.weight": (("self_attn", "k_norm", "scale"),),
    "self_attn.sinks": (("self_attn", "sinks"),),
    "post_attention_layernorm.weight": (("post_attention_layernorm", "scale"),),
    "pre_feedforward_layernorm.weight": (("pre_feedforward_layernorm", "scale"),),
    "post_feedforward_layernorm.weight": (("post_feedforward_layernorm", "scale"),),
}
_MLP: dict[str, tuple[Path, ...]] = {
    "mlp.gate_proj.weight": (("mlp", "gate_proj", "kernel"),),
    "mlp.up_proj.weight": (("mlp", "up_proj", "kernel"),),
    "mlp.down_proj.weight": (("mlp", "down_proj", "kernel"),),
    "mlp.gate_proj.bias": (("mlp", "gate_proj", "bias"),),
    "mlp.up_proj.bias": (("mlp", "up_proj", "bias"),),
    "mlp.down_proj.bias": (("mlp", "down_proj", "bias"),),
}
_QWEN3_MOE: dict[str, tuple[Path, ...]] = {
    "mlp.gate.weight": (("mlp", "router", "kernel"),),
    "mlp.experts.{expert}.gate_proj.weight": (("mlp", "experts", "gate_proj", "kernel"),),
    "mlp.experts.{expert}.up_proj.weight": (("mlp", "experts", "up_proj", "kernel"),),
    "mlp.experts.{expert}.down_proj.weight": (("mlp", "experts", "down_proj", "kernel"),),
}
_GPT_OSS: dict[str, tuple[Path, ...]] = {
    "mlp.router.weight": (("mlp", "router", "kernel"),),
    "mlp.router.bias": (("mlp", "router", "bias"),),
    "mlp.experts.gate_up_proj": (
        ("mlp", "experts", "gate_proj", "kernel"),
        ("mlp", "experts", "up_proj", "kernel"),
    ),
    "mlp.experts.gate_up_proj_bias": (
        ("mlp", "experts", "gate_proj", "bias"),
        ("mlp", "experts", "up_proj", "bias"),
    ),
    "mlp.experts.down_proj": (("mlp", "experts", "down_proj", "kernel"),),
    "mlp.experts.down_proj_bias": (("mlp", "experts", "down_proj", "bias"),),
}
_OF_FAMILY = {"qwen3_moe": _QWEN3_MOE, "gpt_oss": _GPT_OSS}

# Checkpoints of models that also see keep the decoder under one of these, beside the parts that see.
_TEXT_PREFIXES = (("language_model.model.", "model."), ("model.language_model.", "model."))
_TEXT_PREFIXES += (("language_model.lm_head.", "lm_head."),)
_VISION = re.compile(r"^(model\.)?(vision_tower|multi_modal_projector)\.")


@dataclasses.dataclass(frozen=True)
class _Row:
    """One kind of tensor: its name, and the parameters whose slices it holds.

    `stacked` are the sizes of what the name counts: nothing, layers, or layers and experts. Two parameters
    have their columns in one tensor in turns.
    """

    name: str
    paths: tuple[Path, ...]
    shape: tuple[int, ...]  # of each parameter
    stacked: tuple[int, ...]

    @property
    def is_transposed(self) -> bool:
        return self.paths[0][-1] == "kernel" and self.name.endswith(".weight")

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        *rest, columns = self.shape[len(self.stacked) :]
        shape = (*rest, columns * len(self.paths))
        return shape[::-1] if self.is_transposed else shape

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Every tensor of this kind, and at which leading indices of the parameters it belongs."""
        for index in itertools.product(*map(range, self.stacked)):
            counted = dict(zip(("layer", "expert"), index, strict=False))
            yield self.name.format(**counted), index

    def from_tensor(self, tensor: np.ndarray) -> list[np.ndarray]:
        """The slice of each parameter."""
        tensor = tensor.T if self.is_transposed else tensor
        return [tensor[..., i :: len(self.paths)] for i in range(len(self.paths))]

    def to_tensor(self, slices: list[np.ndarray]) -> np.ndarray:
        """Undoes `from_tensor`."""
        joined = slices[0] if len(slices) == 1 else np.stack(slices, axis=-1).reshape(self.tensor_shape)
        return np.ascontiguousarray(joined.T if self.is_transposed else joined)


@functools.cache
def _rows(config: config_lib.DecoderConfig) -> tuple[_Row, ...]:
    """Every parameter of `config` in the table's order; a parameter the table does not know is an error."""
    shapes = jax.eval_shape(causal_lm.CausalLM(config).init, jax.random.key(0))
    by_path = {
        tuple(entry.key for entry in path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
    }
    table = dict(_OUTER)
    for name, paths in (_LAYER | _OF_FAMILY.get(config.family, _MLP)).items():
        table["model.layers.{layer}." + name] = tuple(("layers", *path) for path in paths)
    rows = []
    for name, paths in table.items():
        if paths[0] in by_path:
            counts = ("{layer}" in name) + ("{expert}" in name)
            shape = [by_path.pop(path) for path in paths][0]
            rows.append(_Row(name, paths, shape, shape[:counts]))
    if by_path:
        raise KeyError(f"Parameters without a Hugging Face name: {sorted(by_path)}; add them to the table.")
    return tuple(rows)


def expected_tensors(config: config_lib.DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a Hugging Face checkpoint; a tied output matrix is not among them."""
    return {name: row.tensor_shape for row in _rows(config) for name, _ in row.tensors()}


def text_name(name: str, config: config_lib.DecoderConfig) -> str | None:
    """The name that a tensor of a checkpoint has where there is text only; None: it belongs to vision."""
    if config.family != "gemma3":
        return name
    if _VISION.match(name):
        return None
    for prefix, plain in _TEXT_PREFIXES:
        if name.startswith(prefix):
            return plain + name.removeprefix(prefix)
    return name


def to_hf_tensors(params: Params, config: config_lib.DecoderConfig) -> Iterator[tuple[str, np.ndarray]]:
    """Tensors of a checkpoint one after the other, on the host, in the parameters' number format."""
    for row in _rows(config):
        arrays = [_at(params, path) for path in row.paths]
        of_layer: list[np.ndarray] = []
        for name, index in row.tensors():
            if not any(index[1:]):  # the first, or the only, tensor of a layer: this goes to the host at once
                of_layer = [np.asarray(array[index[0]] if index else array) for array in arrays]
            yield name, row.to_tensor([array[index[1:]] for array in of_layer])


def _at(params: Params, path: Path) -> Array:
    """The parameter at a path."""
    branch: Any = params
    for key in path:
        branch = branch[key]
    return branch


def from_hf_tensors(
    get: Callable[[str], np.ndarray],
    config: config_lib.DecoderConfig,
    place: Callable[[Path, np.ndarray], Array] = lambda path, array: jax.device_put(array),
) -> Params:
    """Parameters in the scanned layout and in `param_dtype`, from tensors fetched by name.

    Args:
        get: returns a tensor by its Hugging Face name; called once for each name.
        place: puts a finished host array, of the parameter at `path`, onto devices; by default the first.

    Raises:
        WrongUse: a tensor has another shape than the config says.
    """
    params: Params = {}
    for row in _rows(config):
        for path, array in zip(row.paths, _read(get, row, config.param_dtype), strict=True):
            branch: Any = params
            for key in path[:-1]:
                branch = branch.setdefault(key, {})
            branch[path[-1]] = place(path, array)
    return params


def _read(get: Callable[[str], np.ndarray], row: _Row, dtype: str) -> list[np.ndarray]:
    """Host arrays of one row's parameters."""
    arrays = [np.empty(row.shape, jax.numpy.dtype(dtype)) for _ in row.paths]
    for name, index in row.tensors():
        tensor = get(name)
        if tensor.shape != row.tensor_shape:
            raise errors.WrongUse(
                f"Tensor '{name}' has shape {tensor.shape}, but the model's config asks for "
                f"{row.tensor_shape}; the weights and the config do not belong together."
            )
        for array, part in zip(arrays, row.from_tensor(tensor), strict=True):
            array[index or ...] = part
    return arrays
