"""The Hugging Face tokenizer as a seqio vocabulary.

The methods for graphs call the tokenizer through `tf.numpy_function`, so eager, graph and batched calls give
the same ids; the graph runs only in the process that built it, which is where seqio pipelines run. Encode
batches where speed counts: one call costs the same for a text and for a thousand, and the texts of a batch
are tokenized on all cores.

Departures from seqio's own vocabularies: id 0 is a token like any other, there is no unknown token, and
nothing is added behind the caller's back. A prompt of a model that was trained with a BOS must bring it (a
rendered chat does; `Tokenizer.prompt_ids` puts it in front of other text).
"""

import itertools
import os
from collections.abc import Iterable, Sequence
from typing import Any, SupportsInt

import numpy as np
import seqio
import tensorflow as tf
from etils import epath

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import gguf_tokenizer
from promptcot_jax.data.tokenizer import Tokenizer

_RaggedTensor: Any = tf.RaggedTensor  # its constructors are missing from the type stubs


class TokenizerVocabulary(seqio.Vocabulary):
    """A `Tokenizer` for seqio.

    Decoding ends at the first end token and passes over padding at the end. That a text may hold these is one
    exception to `decode(encode(text)) == text` for a byte-level tokenizer; normalisation (NFC in Qwen2) and
    bytes that its vocabulary lacks are the others.
    """

    def __init__(self, tokenizer: Tokenizer):
        super().__init__(extra_ids=0)
        self.tokenizer = tokenizer

    @classmethod
    def from_path(cls, path: epath.PathLike) -> "TokenizerVocabulary":
        """The vocabulary of a Hugging Face directory or a `.gguf` file, for gin to name.

        Raises:
            WrongUse: there is no tokenizer that can be read; the message names the file.
        """
        if os.fspath(path).endswith(".gguf"):
            return cls(gguf_tokenizer.read_tokenizer(path))
        return cls(Tokenizer.from_directory(path))

    @property
    def bos_id(self) -> int | None:
        """Begins prompts, in models that have it."""
        return self.tokenizer.bos_id

    @property
    def eos_id(self) -> int:
        """Ends a completion; decoding drops it and what follows."""
        return self.tokenizer.eos_id

    @property
    def pad_id(self) -> int:
        """Fills rows up; may equal `eos_id`."""
        return self.tokenizer.pad_id

    @property
    def unk_id(self) -> None:
        """There is none: a byte for which the vocabulary has no token (SmolLM2 lacks some) is left out."""
        return None

    @property
    def _base_vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    def _encode(self, s: str) -> Sequence[int]:
        return self.tokenizer.encode(s)

    def encode_tf(self, s: tf.Tensor | tf.RaggedTensor) -> tf.Tensor | tf.RaggedTensor:
        """Ids of a text, [T]; of texts of any other shape, dense or ragged, with one ragged axis more.

        A text that is not UTF-8 fails the graph with an error that quotes the `WrongUse`.
        """
        if isinstance(s, tf.RaggedTensor):
            return s.with_flat_values(self.encode_tf(s.flat_values))
        if s.shape.rank is None:
            raise ValueError("encode_tf needs a tensor of known rank: tf.ensure_shape(texts, [None]).")
        if s.shape.rank > 1:
            return self.encode_tf(_RaggedTensor.from_tensor(s, ragged_rank=s.shape.rank - 1))
        if s.shape.rank == 0:
            return self._encode_one(s)
        return _RaggedTensor.from_row_lengths(*self._encode_flat(s), validate=False)

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor | tf.RaggedTensor:
        return self.encode_tf(s)

    def _encode_one(self, text: tf.Tensor) -> tf.Tensor:
        """The ids of one text: `_encode_flat` would take twice as long for it."""

        def encode(scalar: np.ndarray | bytes) -> np.ndarray:
            # An array in eager mode, bytes in a graph.
            return np.array(self.encode(_utf8(np.asarray(scalar, np.object_).item())), np.int32)

        ids = tf.numpy_function(encode, [text], tf.int32, stateful=False)
        ids.set_shape([None])
        return ids

    def _encode_flat(self, texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The ids of [N] texts one after another, and how many each has."""

        def encode(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            rows = self.tokenizer.encode_many([_utf8(text) for text in array])
            lengths = np.array([len(row) for row in rows], np.int64)
            return np.fromiter(itertools.chain.from_iterable(rows), np.int32, lengths.sum()), lengths

        ids, lengths = tf.numpy_function(encode, [texts], (tf.int32, tf.int64), stateful=False)
        ids.set_shape([None])
        lengths.set_shape(texts.shape)
        return ids, lengths

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        """The text of ids, in a list, an array or a tensor, up to the first end token."""
        return self._decode([int(i) for i in np.asarray(ids)])

    def _decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(self._content(ids))

    def decode_tf(self, ids: tf.Tensor | tf.RaggedTensor) -> tf.Tensor | tf.RaggedTensor:
        """Texts of [..., T] ids, dense or ragged, with the shape [...]; each up to its first end token."""
        if not isinstance(ids, tf.RaggedTensor):
            width = tf.shape(ids)[-1]
            rows = tf.math.reduce_prod(tf.shape(ids)[:-1])
            texts = self._decode_flat(tf.reshape(ids, [-1]), tf.range(rows + 1) * width)
            return tf.ensure_shape(tf.reshape(texts, tf.shape(ids)[:-1]), ids.shape[:-1])
        if isinstance(ids.values, tf.RaggedTensor) or ids.values.shape.rank > 1:
            return ids.with_values(self.decode_tf(ids.values))
        return self._decode_flat(ids.values, ids.row_splits)

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor | tf.RaggedTensor:
        return self.decode_tf(ids)

    def _decode_flat(self, ids: tf.Tensor, row_splits: tf.Tensor) -> tf.Tensor:
        """The texts, [N], of rows that lie one after another in `ids`."""

        def decode(flat: np.ndarray, splits: np.ndarray) -> np.ndarray:
            all_ids = flat.tolist()
            rows = [self._content(all_ids[a:b]) for a, b in itertools.pairwise(splits.tolist())]
            return _text_array(self.tokenizer.decode_many(rows), (len(rows),))

        texts = tf.numpy_function(decode, [ids, row_splits], tf.string, stateful=False)
        texts.set_shape([None])
        return texts

    def _content(self, ids: Sequence[int]) -> Sequence[int]:
        """The ids before the first end token, without padding at their end."""
        end = ids.index(self.eos_id) if self.eos_id in ids else len(ids)
        while end and ids[end - 1] == self.pad_id:
            end -= 1
        return ids[:end]

    def __deepcopy__(self, memo: dict[int, Any]) -> "TokenizerVocabulary":
        """Itself, which never changes; gin copies the arguments of what it calls."""
        return self

    def __eq__(self, other: Any) -> bool:
        """Equal when both give equal ids for every text (seqio asks this of the tasks of a mixture)."""
        return isinstance(other, TokenizerVocabulary) and other.tokenizer.digest == self.tokenizer.digest

    def __hash__(self) -> int:
        return hash(self.tokenizer.digest)


def _utf8(text: bytes) -> str:
    """The text of bytes out of TensorFlow."""
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise WrongUse(
            f"The text {text[:40]!r}... is not UTF-8 (byte {error.start}: {error.reason}); convert the file."
        ) from None


def _text_array(texts: Sequence[str], shape: tuple[int, ...]) -> np.ndarray:
    """UTF-8 bytes as TensorFlow takes them; an array of objects keeps zero bytes at the end."""
    array = np.empty(len(texts), np.object_)
    array[:] = [text.encode("utf-8") for text in texts]
    return array.reshape(shape)
