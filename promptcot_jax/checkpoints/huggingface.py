"""Hugging Face model directories: users' Qwen and Llama weights in, trained models out.

`model.safetensors`, or shards with `model.safetensors.index.json`; `config.json`; the tokenizer's files.
Tensors are read one at a time and each finished parameter goes to its devices at once, so the host never
holds a second copy.
"""

import contextlib
import os
import re
from collections.abc import Iterator

import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.core.arrays import Params
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.models import hf_config, hf_mapping, mxfp4
from promptcot_jax.models.causal_lm import CausalLM
from promptcot_jax.models.config import DecoderConfig
from promptcot_jax.models.language_model import LanguageModel

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


class TensorReader:
    """The tensors of a directory by name; all names, shapes and number formats are checked first."""

    def __init__(self, directory: epath.Path, config: DecoderConfig):
        """Opens every file of the checkpoint; `close` (or a `with` block) closes them.

        Raises:
            WrongUse: a file is missing or damaged, or a tensor is missing, unknown, of another shape or
                number format.
        """
        self._files: dict[epath.Path, safetensors.safe_open] = {}
        self._stack = contextlib.ExitStack()
        try:
            file_of_stored = _read_index(directory)
            for file in dict.fromkeys(file_of_stored.values()):
                self._files[file] = self._stack.enter_context(_open(file))
            self._check_index(file_of_stored)
            self._stored_name = {hf_mapping.text_name(name, config): name for name in file_of_stored}
            self._file_of = {
                name: file_of_stored[stored] for name, stored in self._stored_name.items() if name is not None
            }
            self._check(directory, config)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> "TensorReader":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def get(self, name: str) -> np.ndarray:
        """One tensor, in the number format of the file (bfloat16 by `ml_dtypes`, and for four-bit ones)."""
        if name not in self._file_of:
            return mxfp4.unpack(self.get(name + mxfp4.BLOCKS), self.get(name + mxfp4.SCALES))
        return self._files[self._file_of[name]].get_tensor(self._stored_name[name])

    def _check_index(self, file_of_stored: dict[str, epath.Path]) -> None:
        stored = {file: set(handle.keys()) for file, handle in self._files.items()}
        for name, file in file_of_stored.items():
            if name not in stored[file]:
                raise WrongUse(
                    f"{os.fspath(file)}: tensor '{name}' is missing, though {INDEX} places it there."
                )

    def _expected(self, config: DecoderConfig) -> dict[str, tuple[tuple[int, ...], tuple[str, ...]]]:
        """Shape and number formats of every tensor, with four-bit ones as the two that hold them."""
        expected: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {}
        for name, shape in hf_mapping.expected_tensors(config).items():
            if name + mxfp4.BLOCKS in self._file_of:
                packed = mxfp4.packed_shapes(name, shape)
                expected |= {part: (of_part, _PACKED_DTYPES) for part, of_part in packed.items()}
            else:
                expected[name] = (shape, _DTYPES)
        return expected

    def _check(self, directory: epath.Path, config: DecoderConfig) -> None:
        expected = self._expected(config)
        for name, (shape, dtypes) in expected.items():
            if name not in self._file_of:
                raise WrongUse(
                    f"{os.fspath(directory)}: tensor '{name}' is missing; config.json asks for it with shape "
                    f"{list(shape)}. The checkpoint is incomplete or of another architecture."
                )
            view = self._files[self._file_of[name]].get_slice(self._stored_name[name])
            where = f"{os.fspath(self._file_of[name])}: tensor '{name}'"
            if tuple(view.get_shape()) != shape:
                raise WrongUse(f"{where} has shape {view.get_shape()}; config.json asks for {list(shape)}.")
            if view.get_dtype() not in dtypes:
                raise WrongUse(
                    f"{where} is stored as {view.get_dtype()}; only {', '.join(dtypes)} are read. "
                    "Convert it to bfloat16 first."
                )
        for name in self._file_of.keys() - expected.keys():
            if not (_DERIVED.search(name) or (name == _TIED_COPY and config.tie_embeddings)):
                raise WrongUse(
                    f"{os.fspath(self._file_of[name])}: tensor '{name}' has no place in a {config.family} "
                    f"decoder of {config.num_layers} layers; config.json describes another model."
                )


def _read_index(directory: epath.Path) -> dict[str, epath.Path]:
    """File of every tensor: by the index, or all in the one file."""
    single, index = directory / WEIGHTS, directory / INDEX
    if single.exists():
        with _open(single) as handle:
            return dict.fromkeys(handle.keys(), single)
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


@contextlib.contextmanager
def _open(file: epath.Path) -> Iterator[safetensors.safe_open]:
    """A safetensors file; it is checked to hold exactly the bytes that its header announces."""
    try:
        handle = safetensors.safe_open(os.fspath(file), framework="np")
    except safetensors.SafetensorError as error:
        raise WrongUse(f"{os.fspath(file)}: truncated, or not a safetensors file ({error}).") from None
    with handle as opened:
        yield opened


def save_hf(
    directory: epath.PathLike,
    lm: LanguageModel,
    params: Params,
    tokenizer: Tokenizer,
    *,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes a model that `transformers` loads, in the parameters' own number format.

    Weights of an earlier export in `directory` are replaced. The index (or the only file) comes last, so an
    export that was interrupted does not load.

    Args:
        max_shard_bytes: weights beyond this size are spread over several files.

    Raises:
        WrongUse: the model is of a class that Hugging Face's libraries do not know, and has no `save_hf`.
    """
    if type(lm) is not CausalLM:
        return _save_as_it_says(directory, lm, params, tokenizer)
    directory = epath.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.iterdir():
        if _SHARD.match(old.name) or old.name == INDEX:
            old.unlink()
    tokenizer.save(directory)
    config = hf_config.to_hf(lm.config, tokenizer.eos_id, tokenizer.bos_id, tokenizer.pad_id)
    jsonl.write_json(directory / "config.json", config)

    shards = _plan_shards(lm.config, max_shard_bytes)
    tensors = hf_mapping.to_hf_tensors(params, lm.config)
    weight_map: dict[str, str] = {}
    for i, names in enumerate(shards):
        file = WEIGHTS if len(shards) == 1 else f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        content = dict(next(tensors) for _ in names)
        weight_map |= dict.fromkeys(content, file)
        data = safetensors.numpy.save(content, metadata={"format": "pt"})
        jsonl.write_atomically(directory / file, data)
    if len(shards) > 1:
        total = sum(_tensor_bytes(lm.config).values())
        jsonl.write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


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


def _tensor_bytes(config: DecoderConfig) -> dict[str, int]:
    """Size of every exported tensor, in the order of `hf_mapping.to_hf_tensors`."""
    item_bytes = 2 if config.param_dtype == "bfloat16" else 4
    return {
        name: item_bytes * int(np.prod(shape, dtype=np.int64))
        for name, shape in hf_mapping.expected_tensors(config).items()
    }


def _plan_shards(config: DecoderConfig, max_shard_bytes: int) -> list[list[str]]:
    """Names of the tensors of each file; a tensor larger than the limit has a file of its own."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in _tensor_bytes(config).items():
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards
