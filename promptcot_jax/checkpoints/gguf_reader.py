"""GGUF files, the format of llama.cpp: weights (made floats again), tokenizer and chat template in one file.

The file is read into what a Hugging Face directory holds (its config fields, its tensors by its names), so
that everything behind it is shared with `huggingface.py`. One thing is not mere renaming: llama.cpp rotates
neighbouring pairs of a head in the `llama` architecture where Hugging Face rotates halves, and its converter
permutes the rows of q and k accordingly; that is undone here. The tokenizer is `data.gguf_tokenizer`'s part.
"""

import gguf
import numpy as np
from etils import epath

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import gguf_tokenizer
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.models import hf_config, hf_mapping
from promptcot_jax.models.config import DecoderConfig
from promptcot_jax.models.families import FAMILIES, Family

_FAMILIES: tuple[Family, ...] = ("llama", "qwen2", "qwen3")
_QUANTISATIONS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")


def gguf_names(architecture: str, config: DecoderConfig) -> dict[str, str]:
    """llama.cpp's name of each tensor, by Hugging Face's."""
    known = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(known, config.num_layers)
    expected = hf_mapping.expected_tensors(config)
    return {name: names.get_name(name, try_suffixes=(".weight", ".bias")) or name for name in expected}


class GgufFile:
    """One GGUF file: `config`, `tokenizer()`, and `get(name)` of a tensor under its Hugging Face name."""

    def __init__(self, path: epath.PathLike):
        """Reads the metadata and checks every tensor's name, shape and quantisation; data stay on disk.

        Raises:
            WrongUse: the file is missing, truncated, or of an architecture or quantisation that is not read.
        """
        self._metadata = gguf_tokenizer.Metadata(path)
        self._path, self._field = self._metadata.path, self._metadata.field
        self._tensors = {tensor.name: tensor for tensor in self._metadata.reader.tensors}
        self._architecture = self._field("general.architecture")
        if self._architecture not in _FAMILIES:
            raise WrongUse(
                f"{self._path}: general.architecture '{self._architecture}' is not supported; "
                f"only {', '.join(_FAMILIES)} are."
            )
        self.config = self._read_config()
        self._names = gguf_names(self._architecture, self.config)
        self._check_tensors()

    def get(self, name: str) -> np.ndarray:
        """A tensor in float32, by its Hugging Face name."""
        tensor = self._tensors[self._names[name]]
        array = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if self._architecture == "llama" and name.endswith("q_proj.weight"):
            return _unpermute(array, self.config.num_heads)
        if self._architecture == "llama" and name.endswith("k_proj.weight"):
            return _unpermute(array, self.config.num_kv_heads)
        return array

    def tokenizer(self) -> Tokenizer:
        """The tokenizer and chat template from the metadata.

        Raises:
            WrongUse: a kind of tokenizer, or a splitting rule, that is not known here.
        """
        return gguf_tokenizer.from_metadata(self._metadata)

    def _read_config(self) -> DecoderConfig:
        """The decoder's shape, through the fields of a Hugging Face `config.json`."""
        name = self._architecture
        embedding = self._tensors.get("token_embd.weight")
        if embedding is None:
            raise WrongUse(f"{self._path}: tensor 'token_embd.weight' is missing.")
        embed_dim, vocab_size = (int(size) for size in embedding.shape)
        num_heads = self._field(f"{name}.attention.head_count")
        head_dim = self._field(
            f"{name}.attention.key_length", self._field(f"{name}.embedding_length") // num_heads
        )
        required = {
            f"{name}.rope.scaling.type": "none",
            f"{name}.rope.dimension_count": head_dim,
            f"{name}.attention.value_length": head_dim,
            f"{name}.embedding_length": embed_dim,
            f"{name}.attention.sliding_window": 0,
            f"{name}.expert_count": 0,
        }
        for key, value in required.items():
            if self._field(key, value) != value:
                raise WrongUse(
                    f"{self._path}: {key} = {self._field(key)!r} is not supported; expected {value!r}."
                )
        fields = {
            "architectures": [FAMILIES[name].architecture],
            "vocab_size": vocab_size,
            "hidden_size": embed_dim,
            "intermediate_size": self._field(f"{name}.feed_forward_length"),
            "num_hidden_layers": self._field(f"{name}.block_count"),
            "num_attention_heads": num_heads,
            "num_key_value_heads": self._field(f"{name}.attention.head_count_kv", num_heads),
            "head_dim": head_dim,
            "rms_norm_eps": _shortest(self._field(f"{name}.attention.layer_norm_rms_epsilon")),
            "rope_theta": _shortest(self._field(f"{name}.rope.freq_base", 10000.0)),
            "max_position_embeddings": self._field(f"{name}.context_length"),
            "tie_word_embeddings": "output.weight" not in self._tensors,
        }
        return hf_config.from_hf(fields, self._path)

    def _check_tensors(self) -> None:
        expected = {
            self._names[name]: shape for name, shape in hf_mapping.expected_tensors(self.config).items()
        }
        for name, shape in expected.items():
            if name not in self._tensors:
                raise WrongUse(
                    f"{self._path}: tensor '{name}' is missing; expected with shape {list(shape)}."
                )
            found = tuple(int(size) for size in reversed(self._tensors[name].shape))
            if found != shape:
                raise WrongUse(
                    f"{self._path}: tensor '{name}' has shape {list(found)}; "
                    f"its metadata ask for {list(shape)}."
                )
            quantisation = self._tensors[name].tensor_type.name
            if quantisation not in _QUANTISATIONS:
                raise WrongUse(
                    f"{self._path}: tensor '{name}' is stored as {quantisation}; "
                    f"only {', '.join(_QUANTISATIONS)} are read. Fetch or make the file in one of these."
                )
        for name in self._tensors.keys() - expected.keys():
            reason = (
                "scaled rotary embeddings are not supported"
                if name == "rope_freqs.weight"
                else "it has no place"
            )
            raise WrongUse(
                f"{self._path}: tensor '{name}': {reason} in a {self._architecture} decoder read here."
            )


def _unpermute(array: np.ndarray, num_heads: int) -> np.ndarray:
    """Rows of each head from llama.cpp's neighbouring pairs back to Hugging Face's halves."""
    pairs = array.reshape(num_heads, -1, 2, array.shape[-1])  # [heads, H / 2, 2, D]
    return pairs.swapaxes(1, 2).reshape(array.shape)


def _shortest(value: float) -> float:
    """The decimal that a float32 of the metadata was written from (1e-05, not 9.99999974e-06)."""
    return float(str(np.float32(value)))
