"""What texts are compared by: sets of word sequences with their MinHash signatures, and sentence vectors.

A sketch of many texts has, for each, the buckets in which similar ones are likely to meet
(`banded_table.BandedTable`), and features from which a similarity follows, or an estimate of it.
"""

import dataclasses
import functools
import hashlib
import re
import unicodedata
from collections.abc import Sequence

import datasketch
import numpy as np
from jaxtyping import Float, UInt

_WORD = re.compile(r"[^\W\d_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+|\d+|\S")
_WORDS_PER_SHINGLE = 3
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, with bits in all places


@dataclasses.dataclass(frozen=True)
class Sketches:
    """Of a batch of texts."""

    buckets: UInt[np.ndarray, "texts bands"]
    features: np.ndarray  # [texts, ...]


def comparable(text: str) -> str:
    """One spelling for texts that differ in case, spacing or Unicode form only."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def shingles(text: str) -> UInt[np.ndarray, " shingles"]:
    """Distinct hashes, ascending, of every three words in a row; of a shorter text, one of all its words.

    A word is a run of letters, a run of digits or one sign, so that "x - 1" is not "x + 1".
    """
    numbers = np.fromiter(map(_word_number, _WORD.findall(comparable(text))), np.uint64)
    size = min(_WORDS_PER_SHINGLE, len(numbers))
    hashes = np.zeros(len(numbers) - size + 1 if size else 0, np.uint64)
    for place in range(size):
        hashes = hashes * _MULTIPLIER + numbers[place : place + len(hashes)]
    return np.unique(hashes)


@functools.lru_cache(1 << 17)
def _word_number(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def jaccard(one: UInt[np.ndarray, " one"], other: UInt[np.ndarray, " other"]) -> float:
    """Size of the intersection of two sets, given as distinct values, by that of their union."""
    common = len(np.intersect1d(one, other, assume_unique=True))
    union = len(one) + len(other) - common
    return common / union if union else 1.0


def minhash_sketches(texts: Sequence[str], *, num_hashes: int, num_bands: int, seed: int) -> Sketches:
    """MinHash signatures of the texts' shingles; the features are their lowest bytes.

    The share of equal bytes estimates the Jaccard similarity.
    """
    # The values are hashes already.
    sketch = datasketch.MinHash(num_perm=num_hashes, seed=seed, hashfunc=int, scheme="affine32")
    signatures = np.empty((len(texts), num_hashes), np.uint32)
    for signature, text in zip(signatures, texts, strict=True):
        sketch.clear()
        sketch.update_batch((shingles(text) >> np.uint64(32)).tolist())
        signature[:] = sketch.hashvalues
    length = num_hashes // num_bands
    bands = signatures[:, : num_bands * length].reshape(-1, num_bands, length)
    return Sketches(_buckets(bands), signatures.astype(np.uint8))


def vector_sketches(
    vectors: Float[np.ndarray, "texts D"], *, num_bands: int, bits_per_band: int, seed: int
) -> Sketches:
    """On which sides of seeded random hyperplanes vectors lie; the features are the vectors themselves."""
    draw = np.random.default_rng(seed)
    planes = draw.standard_normal((vectors.shape[1], num_bands * bits_per_band), np.float32)
    sides = (vectors @ planes > 0).reshape(-1, num_bands, bits_per_band)
    return Sketches(_buckets(np.packbits(sides, axis=-1)), vectors.astype(np.float16))


def _buckets(values: UInt[np.ndarray, "texts bands length"]) -> UInt[np.ndarray, "texts bands"]:
    """One hash for each band's values and number."""
    hashes = np.broadcast_to(np.arange(values.shape[1], dtype=np.uint64), values.shape[:2])
    for place in range(values.shape[2]):
        hashes = (hashes ^ (hashes >> np.uint64(29))) * _MULTIPLIER + values[:, :, place]
    return hashes
