"""Hugging Face model directories: users' Qwen and Llama weights in, trained models out.

`model.safetensors`, or shards with `model.safetensors.index.json`; `config.json`; the tokenizer's files; on a
local disk or in a bucket. Tensors are read and written one at a time (`models.hf_mapping`), so the host needs
memory for the largest, not for the model; of several hosts each reads the rows that its devices hold.
"""

import contextlib
import itertools
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from promptcot_jax.checkpoints import mxfp4, safetensors_file
from promptcot_jax.checkpoints.safetensors_file import StoredTensor
from promptcot_jax.core import jsonl, progress
from promptcot_jax.core.arrays import Params
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.models import hf_config, hf_mapping, lora
from promptcot_jax.models.causal_lm import CausalLM
from promptcot_jax.models.config import DecoderConfig
from promptcot_jax.models.language_model import LanguageModel
from promptcot_jax.parallel import hosts

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"^model(-\d{5}-of-\d{5})?\.safetensors$")
_DTYPES = ("F32", "F16", "BF16")
_PACKED_DTYPES = ("U8",)
# What older exports carry beside the parameters: tables recomputed here, and the tied matrix a second time.
_DERIVED = re.compile(r"rotary_emb\.inv_freq$|\.attn\.(masked_)?bias$")
_TIED_COPY = "lm_head.weight"


def is_model_directory(directory: epath.Path) -> bool:
    """Whether the directory holds safetensors weights under Hugging Face's names."""
    return (directory / WEIGHTS).exists() or (directory / INDEX).exists()


def read_config(directory: epath.Path) -> DecoderConfig:
    """The decoder that `config.json` describes.

    Raises:
        WrongUse: the file is missing, or asks for an architecture or a feature that this decoder lacks.
    """
    path = directory / "config.json"
    config = jsonl.read_json(path)
    if not isinstance(config, dict):
        raise WrongUse(f"{os.fspath(path)}: expected a JSON object, got {type(config).__name__}.")
    return hf_config.from_hf(config, os.fspath(path))


@contextlib.contextmanager
def opened(
    directory: epath.Path, config: DecoderConfig
) -> Iterator[Callable[[str], hf_mapping.TensorSource]]:
    """A function that gives the directory's tensors by name, until the block ends.

    All names, shapes and number formats are checked first. A tensor is read by rows, in the file's number
    format; four-bit ones are bfloat16.

    Raises:
        WrongUse: a file is missing or damaged, or a tensor is missing, unknown, of another shape or number
            format.
    """
    with contextlib.ExitStack() as files:
        stored = _stored(directory, files)
        named = {hf_mapping.text_name(name, config): tensor for name, tensor in stored.items()}
        tensors = {name: tensor for name, tensor in named.items() if name is not None}
        _check(tensors, directory, config)

        def get(name: str) -> hf_mapping.TensorSource:
            if name in tensors:
                return tensors[name]
            return mxfp4.Packed(tensors[name + mxfp4.BLOCKS], tensors[name + mxfp4.SCALES])

        yield get


def _stored(directory: epath.Path, files: contextlib.ExitStack) -> dict[str, StoredTensor]:
    """Every tensor by the name it is stored under: of the one file, or as the index places them."""
    if (directory / WEIGHTS).exists():
        return files.enter_context(safetensors_file.opened(directory / WEIGHTS))
    file_of = _read_index(directory)
    opened_files = {
        file: files.enter_context(safetensors_file.opened(file)) for file in dict.fromkeys(file_of.values())
    }
    for name, file in file_of.items():
        if name not in opened_files[file]:
            raise WrongUse(f"{os.fspath(file)}: tensor '{name}' is missing, though {INDEX} places it there.")
    return {name: opened_files[file][name] for name, file in file_of.items()}


def _check(tensors: Mapping[str, StoredTensor], directory: epath.Path, config: DecoderConfig) -> None:
    """Refuses what is not just the tensors that the config asks for."""
    expected: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {}  # shape and number formats
    for name, shape in hf_mapping.expected_tensors(config).items():
        if name + mxfp4.BLOCKS in tensors:  # four-bit: two tensors hold it
            packed = mxfp4.packed_shapes(name, shape)
            expected |= {part: (of_part, _PACKED_DTYPES) for part, of_part in packed.items()}
        else:
            expected[name] = (shape, _DTYPES)
    for name, (shape, dtypes) in expected.items():
        if name not in tensors:
            raise WrongUse(
                f"{os.fspath(directory)}: tensor '{name}' is missing; config.json asks for it with shape "
                f"{list(shape)}. The checkpoint is incomplete or of another architecture."
            )
        tensor = tensors[name]
        where = f"{tensor.path}: tensor '{name}'"
        if tensor.shape != shape:
            raise WrongUse(f"{where} has shape {list(tensor.shape)}; config.json asks for {list(shape)}.")
        if tensor.dtype not in dtypes:
            raise WrongUse(
                f"{where} is stored as {tensor.dtype}; only {', '.join(dtypes)} are read. "
                "Convert it to bfloat16 first."
            )
    for name in tensors.keys() - expected.keys():
        if not (_DERIVED.search(name) or (name == _TIED_COPY and config.tie_embeddings)):
            raise WrongUse(
                f"{tensors[name].path}: tensor '{name}' has no place in a {config.family} "
                f"decoder of {config.num_layers} layers; config.json describes another model."
            )


def _read_index(directory: epath.Path) -> dict[str, epath.Path]:
    """File of every tensor, by the index."""
    index = directory / INDEX
    weight_map = jsonl.read_json(index)
    weight_map = weight_map.get("weight_map") if isinstance(weight_map, dict) else None
    if not isinstance(weight_map, dict):
        raise WrongUse(f"{os.fspath(index)}: field 'weight_map' must be an object from tensor to file.")
    for name, file in weight_map.items():
        if not isinstance(file, str) or os.path.basename(file) != file:
            raise WrongUse(
                f"{os.fspath(index)}: tensor '{name}' must be placed in a file beside it, got {file!r}."
            )
        if not (directory / file).exists():
            raise WrongUse(
                f"{os.fspath(directory / file)}: no such file, though {INDEX} places '{name}' in it."
            )
    return {name: directory / file for name, file in weight_map.items()}


def save_hf(
    directory: epath.PathLike,
    lm: LanguageModel,
    params: Params,
    tokenizer: Tokenizer,
    *,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes a model that `transformers` loads, in the parameters' own number format; an adapter is merged.

    Weights of an earlier export in `directory` are replaced. The index (or the only file) comes last, so an
    export that was interrupted does not load. Of several hosts all bring the tensors, and the first writes.

    Args:
        max_shard_bytes: weights beyond this size are spread over several files.

    Raises:
        WrongUse: the model is of a class that Hugging Face's libraries do not know, and has no `save_hf`.
    """
    if type(lm) is not CausalLM:
        return _save_as_it_says(directory, lm, params, tokenizer)
    directory = epath.Path(directory)
    if lora.is_adapted(params):
        params = jax.tree.map(lambda array: array, params)  # a tree to change; its arrays are the caller's
        lora.merge_in_place(params)
    hosts.wait_for_first(f"begin {directory.name}", lambda: _begin(directory, lm, tokenizer))
    shapes = hf_mapping.expected_tensors(lm.config)
    makers = hf_mapping.tensor_makers(params, lm.config)
    item_bytes = jnp.dtype(lm.config.param_dtype).itemsize
    sizes = {name: item_bytes * math.prod(shape) for name, shape in shapes.items()}
    shards = _plan_shards(sizes, max_shard_bytes)
    files = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    files = [WEIGHTS] if len(shards) == 1 else files
    numbers = itertools.count()
    with progress.Progress("writing weights", unit="tensor", start=0, total=len(shapes)) as shown:
        for file, names in zip(files, shards, strict=True):
            with _weights_file(directory / file, {name: shapes[name] for name in names}, lm) as write:
                for name in sorted(names):
                    shown.update(next(numbers))
                    write(makers[name]())

    def finish() -> None:
        weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        if len(shards) > 1:
            jsonl.write_json(directory / INDEX, index)

    hosts.wait_for_first(f"finish {directory.name}", finish)


def discard(directory: epath.Path) -> None:
    """Deletes the weights of an export; what makes them load goes first."""
    if not directory.exists():  # nor do directories in a bucket, while they are empty
        return
    for name in (INDEX, WEIGHTS):
        (directory / name).unlink(missing_ok=True)
    for old in directory.iterdir():
        if _SHARD.match(old.name):
            old.unlink()


def _begin(directory: epath.Path, lm: CausalLM, tokenizer: Tokenizer) -> None:
    """A directory with everything but weights."""
    directory.mkdir(parents=True, exist_ok=True)
    discard(directory)
    tokenizer.save(directory)
    config = hf_config.to_hf(lm.config, tokenizer.eos_id, tokenizer.bos_id, tokenizer.pad_id)
    jsonl.write_json(directory / "config.json", config)


def _weights_file(
    path: epath.Path, shapes: dict[str, tuple[int, ...]], lm: CausalLM
) -> contextlib.AbstractContextManager[Callable[[np.ndarray], None]]:
    """What takes the tensors of one file: the file on the first host, nothing on the others."""
    if hosts.is_first():
        return safetensors_file.writing(path, shapes, jnp.dtype(lm.config.param_dtype))
    return contextlib.nullcontext(lambda tensor: None)


def _save_as_it_says(
    directory: epath.PathLike, lm: LanguageModel, params: Params, tokenizer: Tokenizer
) -> None:
    """A user's own model, by its method `save_hf(directory, params, tokenizer)`."""
    save = getattr(lm, "save_hf", None)
    if save is None:
        raise WrongUse(
            f"{type(lm).__name__} has no form in Hugging Face's libraries; give it a method "
            "save_hf(directory, params, tokenizer) that writes one, or keep the checkpoint as it is."
        )
    save(directory, params, tokenizer)


def _plan_shards(sizes: dict[str, int], max_shard_bytes: int) -> list[list[str]]:
    """Names of the tensors of each file; a tensor larger than the limit has a file of its own."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards
