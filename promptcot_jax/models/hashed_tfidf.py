"""Sentence vectors without a model: words and word pairs hashed into a few hundred signed dimensions, by
rarity.

The default encoder of synthesis: it needs no weights and takes some 50 us a text on one core. It knows words,
not meanings; `checkpoints/sentence_encoder.py` is for those. The cosine of two vectors is that of their
TF-IDF vectors, up to an error of about 1 / sqrt(dimension) (feature hashing, arXiv 0902.2206).
"""

import functools
import hashlib
import itertools
import re
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

NAME = "hashed_tfidf"
_WORD = re.compile(r"[^\W\d_]+|\d+")
_NUM_RARITIES = 1 << 20  # of the table of rarities; terms that share an entry count as one


class HashedTfidf:
    """An encoder whose word rarities come from some texts, so that a vector depends on these and its own."""

    def __init__(self, texts: Iterable[str], *, dimension: int = 512):
        """Counts in how many of the texts each term stands."""
        self.name = f"{NAME}-{dimension}"
        self._dimension = dimension
        counts, num_texts = np.zeros(_NUM_RARITIES, np.float32), 0
        for text in texts:
            counts[np.unique(_terms(text) % _NUM_RARITIES)] += 1
            num_texts += 1
        self._rarities = np.log((1 + num_texts) / (1 + counts)) + 1

    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "texts D"]:
        """Unit vectors; that of a text without words is zero."""
        size = self._dimension
        terms = [_terms(text) for text in texts]
        rows = np.repeat(np.arange(len(texts)), [len(own) for own in terms])
        flat = np.concatenate(terms) if terms else np.zeros(0, np.int64)
        signs = 1.0 - 2.0 * ((flat >> 40) & 1)
        columns = rows * size + (flat >> 41) % size
        weights = signs * self._rarities[flat % _NUM_RARITIES]
        sums = np.bincount(columns, weights, len(texts) * size).reshape(len(texts), size)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        return (sums / np.maximum(norms, 1e-9)).astype(np.float32)


def _terms(text: str) -> np.ndarray:
    """Hashes of the words of a text and of the pairs that stand side by side, each as often as it does."""
    words = _WORD.findall(text.lower())
    pairs = (f"{one} {other}" for one, other in itertools.pairwise(words))
    numbers = [*map(_hash, words), *map(_hash, pairs)]
    return np.array(numbers, np.int64)


@functools.lru_cache(1 << 18)
def _hash(term: str) -> int:
    return int.from_bytes(hashlib.blake2b(term.encode(), digest_size=8).digest(), "little") >> 1
