"""The tokenizer inside a GGUF file, from its metadata alone: no weight is read.

The file stores vocabulary and merges but only names its splitting rule (`smollm`, `qwen2`); the rules for the
names we know are below, taken from the tokenizers they stand for. `checkpoints.gguf_reader` reads the weights
of the same file and takes the tokenizer from here.
"""

import os
from typing import Any

import gguf
import tokenizers
from etils import epath
from tokenizers import decoders, models, normalizers, pre_tokenizers

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data.tokenizer import Tokenizer

_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_SPLIT = _LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
# Token types: matched whole in a text, the first kind also hidden when decoding.
_CONTROL, _USER_DEFINED = 3, 4
_REQUIRED = object()


class Metadata:
    """The metadata fields of one GGUF file; `path` starts every message about them."""

    def __init__(self, path: epath.PathLike):
        """Opens the file; its tensors stay on disk.

        Raises:
            WrongUse: the file is missing, truncated, or not a GGUF file.
        """
        self.path = os.fspath(path)
        if not os.path.isfile(self.path):
            raise WrongUse(f"{self.path}: no such file (a GGUF file is read from a local disk).")
        try:
            self.reader = gguf.GGUFReader(self.path)
        except (ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
            raise WrongUse(f"{self.path}: truncated, or not a GGUF file ({error}); fetch it again.") from None

    def field(self, key: str, default: Any = _REQUIRED) -> Any:
        """The value of one field.

        Raises:
            WrongUse: the file has no such field, and there is no default.
        """
        if key in self.reader.fields:
            return self.reader.fields[key].contents()
        if default is _REQUIRED:
            raise WrongUse(f"{self.path}: metadata field '{key}' is missing.")
        return default


def read_tokenizer(path: epath.PathLike) -> Tokenizer:
    """The tokenizer and chat template of a GGUF file of whatever architecture.

    Raises:
        WrongUse: no readable GGUF file is there, or its tokenizer is of a kind that is not known here.
    """
    return from_metadata(Metadata(path))


def from_metadata(metadata: Metadata) -> Tokenizer:
    """The tokenizer and chat template from the metadata.

    Raises:
        WrongUse: a kind of tokenizer, or a splitting rule, that is not known here.
    """
    path, field = metadata.path, metadata.field
    kind = field("tokenizer.ggml.model")
    if kind != "gpt2":
        raise WrongUse(
            f"{path}: tokenizer.ggml.model '{kind}' is not supported, only 'gpt2' "
            "(byte-level BPE) is; use the model's Hugging Face directory."
        )
    rule = field("tokenizer.ggml.pre")
    tokens: list[str] = field("tokenizer.ggml.tokens")

    def special(name: str) -> str | None:
        token_id = field(f"tokenizer.ggml.{name}_token_id", None)
        if token_id is not None and not 0 <= token_id < len(tokens):
            raise WrongUse(f"{path}: tokenizer.ggml.{name}_token_id {token_id} is not a token.")
        return None if token_id is None else tokens[token_id]

    backend = _backend(metadata, rule, tokens)
    eos_token = special("eos")
    if eos_token is None:
        raise WrongUse(f"{path}: tokenizer.ggml.eos_token_id is missing; generation could never stop.")
    turn_ends = (field(f"tokenizer.ggml.{name}_token_id", None) for name in ("eot", "eom"))
    return Tokenizer.from_backend(
        backend,
        eos_token=eos_token,
        pad_token=special("padding"),
        bos_token=special("bos"),
        adds_bos=bool(field("tokenizer.ggml.add_bos_token", rule == "llama-bpe")),
        stop_ids=tuple(token_id for token_id in turn_ends if token_id is not None),
        chat_template=field("tokenizer.chat_template", None),
        where=path,
    )


def _backend(metadata: Metadata, rule: str, tokens: list[str]) -> tokenizers.Tokenizer:
    """Byte-level BPE with the file's vocabulary, merges and special tokens."""
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab={token: i for i, token in enumerate(tokens)},
            merges=[tuple(merge.split(" ")) for merge in metadata.field("tokenizer.ggml.merges")],
            ignore_merges=rule == "llama-bpe",
        )
    )
    if backend.get_vocab_size() != len(tokens):
        raise WrongUse(f"{metadata.path}: tokenizer.ggml.tokens holds a token twice.")
    backend.normalizer, backend.pre_tokenizer = _splitting(rule, metadata.path)
    backend.decoder = decoders.ByteLevel()
    for token, token_type in zip(tokens, metadata.field("tokenizer.ggml.token_type"), strict=True):
        if token_type in (_CONTROL, _USER_DEFINED):
            is_control = token_type == _CONTROL
            backend.add_tokens([tokenizers.AddedToken(token, normalized=False, special=is_control)])
    return backend


def _splitting(rule: str, path: str) -> tuple[normalizers.Normalizer | None, pre_tokenizers.PreTokenizer]:
    """Normaliser and splitter that a name of llama.cpp stands for."""
    bytes_of_pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)

    def split_by(pattern: str) -> pre_tokenizers.PreTokenizer:
        pieces = pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated")
        return pre_tokenizers.Sequence([pieces, bytes_of_pieces])

    match rule:
        case "gpt-2":
            return None, gpt2
        case "smollm":
            return None, pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
        case "llama-bpe":
            return None, split_by(_LLAMA3_SPLIT)
        case "qwen2":
            return normalizers.NFC(), split_by(_QWEN2_SPLIT)
    raise WrongUse(
        f"{path}: tokenizer.ggml.pre '{rule}' is not a splitting rule known here (gpt-2, smollm, "
        "llama-bpe, qwen2); use the model's Hugging Face directory."
    )
