"""One rule between our parameter tree and Hugging Face tensor names, used by import and export alike.

Beyond names three things differ: Hugging Face keeps one tensor a layer (in Qwen3-MoE, an expert of a layer)
where we stack [L, ...]; its matrices are [out, in] where our kernels are [in, out]; and gpt-oss keeps the
columns of gate and up interleaved in one tensor. So each slice of a parameter comes from one tensor
(`_TensorSpec`).

Both ways stream. Import holds one tensor as it is stored, or the rows of it that this host needs, and this
host's part of one layer of the parameters it belongs to; each layer is written into the sharded stack where
that lies. Export brings one tensor at a time to the host.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from promptcot_jax.core import errors
from promptcot_jax.core.arrays import Array, Params
from promptcot_jax.models import causal_lm
from promptcot_jax.models import config as config_lib
from promptcot_jax.parallel import placing

Path = tuple[str, ...]


@runtime_checkable
class TensorSource(Protocol):
    """A tensor of a checkpoint: an array, or what reads rows of its first axis when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> np.ndarray: ...


# A parameter's name is its path, but for the last word and these parts of it; of one layer, an expert of one.
_LAST_WORDS = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
_PARTS = {
    "qwen3_moe": (
        ("layers.{layer}.mlp.router.", "layers.{layer}.mlp.gate."),
        (".experts.", ".experts.{expert}."),
    )
}
# And what gpt-oss has in tensors of its own form, by name in a layer.
_GPT_OSS: dict[str, tuple[Path, ...]] = {
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

# Checkpoints of models that also see keep the decoder under one of these, beside the parts that see.
_TEXT_PREFIXES = (("language_model.model.", "model."), ("model.language_model.", "model."))
_TEXT_PREFIXES += (("language_model.lm_head.", "lm_head."),)
_VISION = re.compile(r"^(model\.)?(vision_tower|multi_modal_projector)\.")


@dataclasses.dataclass(frozen=True)
class _TensorSpec:
    """One kind of tensor: its name, and the parameters whose slices it holds.

    `stacked` are the sizes of what the name counts: nothing, layers, or layers and experts. Two parameters
    have their columns interleaved in one tensor.
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
            yield self.tensor_name(index), index

    def tensor_name(self, index: tuple[int, ...]) -> str:
        """Name of the tensor of a layer, or of an expert of one."""
        return self.name.format(**dict(zip(("layer", "expert"), index, strict=False)))

    def in_tensor(self, part: tuple[slice, ...], which: int) -> tuple[slice, ...]:
        """Where a part of a slice of parameter number `which` lies in its tensor."""
        *rest, columns = part
        step = len(self.paths)
        columns = slice(columns.start * step + which, (columns.stop - 1) * step + which + 1, step)
        return (columns, *rest[::-1]) if self.is_transposed else (*rest, columns)

    def to_tensor(self, slices: list[np.ndarray]) -> np.ndarray:
        """The tensor that holds a slice of each parameter."""
        joined = slices[0] if len(slices) == 1 else np.stack(slices, axis=-1).reshape(self.tensor_shape)
        return np.ascontiguousarray(joined.T if self.is_transposed else joined)


@functools.cache
def _specs(config: config_lib.DecoderConfig) -> tuple[_TensorSpec, ...]:
    """Every parameter of `config`."""
    shapes = jax.eval_shape(causal_lm.CausalLM(config).init, jax.random.key(0))
    by_path = {
        tuple(entry.key for entry in path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
    }
    table: dict[str, tuple[Path, ...]] = {}
    for name, paths in (_GPT_OSS if config.family == "gpt_oss" else {}).items():
        table["model.layers.{layer}." + name] = tuple(("layers", *path) for path in paths)
    in_table = {path for paths in table.values() for path in paths}
    table |= {_name_of(path, config): (path,) for path in by_path if path not in in_table}
    specs = []
    for name, paths in table.items():
        counts = ("{layer}" in name) + ("{expert}" in name)
        shape = by_path[paths[0]]
        specs.append(_TensorSpec(name, paths, shape, shape[:counts]))
    return tuple(specs)


def _name_of(path: Path, config: config_lib.DecoderConfig) -> str:
    """Hugging Face's name of a parameter that has a tensor of its own."""
    name = ".".join([*path[:-1], _LAST_WORDS.get(path[-1], path[-1])])
    name = name.replace("layers.", "layers.{layer}.", 1)
    for ours, theirs in _PARTS.get(config.family, ()):
        name = name.replace(ours, theirs)
    return name if path[0] == "lm_head" else f"model.{name}"


def expected_tensors(config: config_lib.DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a Hugging Face checkpoint, layer by layer.

    A tied output matrix is not among them.
    """
    return {name: spec.tensor_shape for name, (spec, _) in _tensors(config).items()}


def _tensors(config: config_lib.DecoderConfig) -> dict[str, tuple[_TensorSpec, tuple[int, ...]]]:
    """Spec and leading indices of every tensor: the embedding, layer after layer, what follows them."""

    def layer(entry: tuple[str, tuple[_TensorSpec, tuple[int, ...]]]) -> int:
        name, (_, index) = entry
        return index[0] if index else -1 if "embed_tokens" in name else config.num_layers

    found = [(name, (spec, index)) for spec in _specs(config) for name, index in spec.tensors()]
    return dict(sorted(found, key=layer))


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
    for name, make in tensor_makers(params, config).items():
        yield name, make()


def tensor_makers(params: Params, config: config_lib.DecoderConfig) -> dict[str, Callable[[], np.ndarray]]:
    """What brings each tensor of a checkpoint to the host, in the order of `expected_tensors`.

    With several hosts all must call the same ones in the same order.
    """

    def make(spec: _TensorSpec, index: tuple[int, ...]) -> np.ndarray:
        return spec.to_tensor([placing.to_host(_at(params, path), index) for path in spec.paths])

    return {name: functools.partial(make, *which) for name, which in _tensors(config).items()}


def _at(tree: Any, path: Path) -> Any:
    """What a tree of parameters, or of shardings, has at a path."""
    for key in path:
        tree = tree[key]
    return tree


def from_hf_tensors(
    get: Callable[[str], TensorSource], config: config_lib.DecoderConfig, shardings: Params | None = None
) -> Params:
    """Parameters in the scanned layout and in `param_dtype`, from tensors fetched by name.

    Args:
        get: returns a tensor by its Hugging Face name; called once for each name.
        shardings: where each parameter lies (`language_model.param_shardings`); None: on the first device.

    Raises:
        WrongUse: a tensor has another shape than the config says.
    """
    params: Params = {}
    for spec in _specs(config):
        spec_shardings = [None if shardings is None else _at(shardings, path) for path in spec.paths]
        for path, array in zip(spec.paths, _read(get, spec, config.param_dtype, spec_shardings), strict=True):
            branch: Any = params
            for key in path[:-1]:
                branch = branch.setdefault(key, {})
            branch[path[-1]] = array
    return params


def _read(
    get: Callable[[str], TensorSource], spec: _TensorSpec, dtype: str, shardings: list[Any]
) -> list[Array]:
    """The parameters of one spec."""
    if not spec.stacked:
        return _read_layer(get, spec, (), dtype, shardings)
    stacks = [placing.empty_stack(spec.shape, dtype, sharding) for sharding in shardings]
    of_layer = [placing.layer_sharding(sharding) for sharding in shardings]
    for i in range(spec.stacked[0]):
        layers = _read_layer(get, spec, (i,), dtype, of_layer)
        stacks = [placing.set_layer(*pair, i) for pair in zip(stacks, layers, strict=True)]
    return stacks


def _read_layer(
    get: Callable[[str], TensorSource],
    spec: _TensorSpec,
    layer: tuple[int, ...],
    dtype: str,
    shardings: list[Any],
) -> list[Array]:
    """One layer of a kind's parameters (or all there is of them), where it belongs."""
    shape = spec.shape[len(layer) :]
    parts = [placing.local_parts(shape, dtype, sharding) for sharding in shardings]
    for expert in itertools.product(*map(range, spec.stacked[len(layer) :])):  # () where there are none
        _fill(parts, get, spec, layer, expert)
    return [placing.from_parts(shape, *pair) for pair in zip(shardings, parts, strict=True)]


def _fill(
    parts: list[list[placing.Part]],
    get: Callable[[str], TensorSource],
    spec: _TensorSpec,
    layer: tuple[int, ...],
    expert: tuple[int, ...],
) -> None:
    """Copies what one tensor holds into the parts of each parameter; reads none but the rows they need."""
    wanted = []
    for which, part in [(which, part) for which, of_one in enumerate(parts) for part in of_one]:
        counted, rest = part.index[: len(expert)], part.index[len(expert) :]
        if all(of.start <= i < of.stop for i, of in zip(expert, counted, strict=True)):
            here = tuple(i - of.start for i, of in zip(expert, counted, strict=True))
            wanted.append((spec.in_tensor(rest, which), part.values[here or ...]))
    if not wanted:
        return  # experts of other hosts
    name = spec.tensor_name(layer + expert)
    tensor = get(name)
    if tuple(tensor.shape) != spec.tensor_shape:
        raise errors.WrongUse(
            f"Tensor '{name}' has shape {tensor.shape}, but the model's config asks for "
            f"{spec.tensor_shape}; the weights and the config do not belong together."
        )
    read: tuple[int, int] | None = None
    block = np.empty(0)
    for (rows, *columns), target in sorted(wanted, key=lambda item: (item[0][0].start, item[0][0].stop)):
        if read != (rows.start, rows.stop):
            block, read = tensor[rows.start : rows.stop], (rows.start, rows.stop)
        taken = block[(slice(None, None, rows.step), *columns)]
        target[...] = taken.T if spec.is_transposed else taken
