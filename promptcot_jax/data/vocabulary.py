"""The Hugging Face tokenizer as a seqio vocabulary.

The graph-mode methods call the tokenizer through `tf.numpy_function`, so eager and graph mode give the same
ids; the graph runs only in the process that built it, which is where seqio pipelines run.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from promptcot_jax.data.tokenizer import Tokenizer


class TokenizerVocabulary(seqio.Vocabulary):
    """A `Tokenizer` for seqio; unlike seqio's own vocabularies, id 0 is a token like any other."""

    def __init__(self, tokenizer: Tokenizer):
        super().__init__(extra_ids=0)
        self._tokenizer = tokenizer

    @property
    def tokenizer(self) -> Tokenizer:
        """What this vocabulary wraps."""
        return self._tokenizer

    @property
    def bos_id(self) -> int | None:
        """Begins prompts, in models that have it."""
        return self._tokenizer.bos_id

    @property
    def eos_id(self) -> int:
        """Ends a completion; seqio's `decode` drops what follows it."""
        return self._tokenizer.eos_id

    @property
    def pad_id(self) -> int:
        """Fills rows up; may equal `eos_id`."""
        return self._tokenizer.pad_id

    @property
    def unk_id(self) -> None:
        """There is none: byte-level tokenizers know every text."""
        return None

    @property
    def _base_vocab_size(self) -> int:
        return self._tokenizer.vocab_size

    def _encode(self, s: str) -> Sequence[int]:
        return self._tokenizer.encode(s)

    def _decode(self, ids: Sequence[int]) -> str:
        silent = (self.eos_id, self.pad_id)
        return self._tokenizer.decode(i for i in ids if i not in silent)  # the markers stay

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        def encode(text: bytes) -> np.ndarray:
            return np.array(self._encode(text.decode("utf-8")), np.int32)

        ids = tf.numpy_function(encode, [s], tf.int32, stateful=False)
        ids.set_shape([None])
        return ids

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        def decode(array: np.ndarray) -> np.ndarray:
            rows = array.reshape(-1, array.shape[-1]).tolist()
            texts = np.array([self._decode(row).encode("utf-8") for row in rows], np.object_)
            return texts.reshape(array.shape[:-1])

        text = tf.numpy_function(decode, [ids], tf.string, stateful=False)
        text.set_shape(ids.shape[:-1])
        return text

    def __eq__(self, other: Any) -> bool:
        """Equal when both give equal ids for every text (seqio asks this of the tasks of a mixture)."""
        return isinstance(other, TokenizerVocabulary) and other.tokenizer.digest == self._tokenizer.digest

    def __hash__(self) -> int:
        return hash(self._tokenizer.digest)
