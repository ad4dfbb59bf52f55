"""What texts are compared by: sets of word sequences with their MinHash signatures, and sentence vectors.

A sketch of many texts has, for each, the buckets in which similar ones are likely to meet (`BandedTable`),
and features from which a similarity follows, or an estimate of it. Sketches are made on several processes
(`BatchWorkers`).
"""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import itertools
import multiprocessing
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import datasketch
import numpy as np
from jaxtyping import Float, Int, UInt

Work = TypeVar("Work")
Result = TypeVar("Result")

_WORD = re.compile(r"[^\W\d_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+|\d+|\S")
_WORDS_PER_SHINGLE = 3
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, with bits in all positions


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
    for position in range(size):
        hashes = hashes * _MULTIPLIER + numbers[position : position + len(hashes)]
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
    for position in range(values.shape[2]):
        hashes = (hashes ^ (hashes >> np.uint64(29))) * _MULTIPLIER + values[:, :, position]
    return hashes


class BandedTable:
    """Kept texts, each in a slot: what it is compared by, and a sorted table of the buckets.

    Texts come in batches. Between `begin` and `end` they are searched for one after the other, and one that
    is kept is found by those after it.
    """

    def __init__(self):
        self.numbers: list[int] = []  # of the kept texts among all
        self.features = np.zeros((0,))  # by slot; doubles when it is full
        self._buckets = np.zeros(0, np.uint64)  # ascending, of all bands
        self._slots = np.zeros(0, np.int32)  # of the texts in them

    def begin(self, batch: Sketches) -> None:
        """Looks a batch up."""
        self._batch = batch
        self._before = self._sharing(batch.buckets)
        _, inverse, counts = np.unique(batch.buckets, return_inverse=True, return_counts=True)
        self._is_shared = counts[inverse.reshape(batch.buckets.shape)] > 1  # by two texts of this batch
        self._here: dict[int, list[int]] = {}  # shared bucket -> slots of kept texts of this batch
        self._kept: dict[int, int] = {}  # number in the batch -> slot

    def _sharing(self, buckets: UInt[np.ndarray, "texts bands"]) -> dict[int, Int[np.ndarray, " slots"]]:
        """For each text that shares a bucket with those of earlier batches their slots."""
        # Looked up in ascending order, which is thirty times as fast in a table larger than the caches.
        order = np.argsort(buckets, axis=None)
        wanted = buckets.ravel()[order]
        first = np.searchsorted(self._buckets, wanted)
        inside = np.flatnonzero(first < len(self._buckets))
        hits = inside[self._buckets[first[inside]] == wanted[inside]]
        last = np.searchsorted(self._buckets, wanted[hits], side="right")
        found: dict[int, list[Int[np.ndarray, " slots"]]] = {}
        for hit, end in zip(hits.tolist(), last.tolist(), strict=True):
            text = int(order[hit]) // buckets.shape[1]
            found.setdefault(text, []).append(self._slots[first[hit] : end])
        return {text: np.concatenate(slots) for text, slots in found.items()}

    def _shared(self, i: int) -> list[int]:
        return self._batch.buckets[i][self._is_shared[i]].tolist()

    def candidates(self, i: int) -> Int[np.ndarray, " slots"]:
        """Slots of the kept texts that share a bucket with text i of the batch, in their order."""
        before = self._before.get(i, np.zeros(0, np.int32))
        found = [before, *(self._here[key] for key in self._shared(i) if key in self._here)]
        return np.unique(np.concatenate(found)).astype(np.int64)

    def keep(self, i: int, number: int) -> None:
        """Text i of the batch is kept, under its number among all texts."""
        slot, features = len(self.numbers), self._batch.features[i]
        if slot >= len(self.features):
            grown = np.empty((max(2 * slot, 1024), *features.shape), features.dtype)
            if slot:
                grown[:slot] = self.features
            self.features = grown
        self.features[slot] = features
        self.numbers.append(number)
        self._kept[i] = slot
        for key in self._shared(i):
            self._here.setdefault(key, []).append(slot)

    def end(self) -> None:
        """Enters the buckets of what was kept into the table."""
        buckets = self._batch.buckets[list(self._kept)]
        order = np.argsort(buckets, axis=None, kind="stable")
        new = buckets.ravel()[order]
        where = np.searchsorted(self._buckets, new)
        slots = np.repeat(np.array(list(self._kept.values()), np.int32), buckets.shape[1])[order]
        self._buckets = np.insert(self._buckets, where, new)
        self._slots = np.insert(self._slots, where, slots)


class BatchWorkers:
    """Work in batches on several processes, results in order; with one process just a loop.

    The processes start with the first batch and end with the block in which this is used.
    """

    def __init__(self, num_processes: int = 1):
        self._num_processes = num_processes
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None

    def __enter__(self) -> "BatchWorkers":
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def map(self, work: Callable[[Work], Result], batches: Iterable[Work]) -> Iterator[Result]:
        """The results of all batches; few are under way at a time, since each is a copy of its texts."""
        if self._num_processes == 1:
            yield from map(work, batches)
            return
        if self._pool is None:
            # Spawned, since JAX has threads.
            context = multiprocessing.get_context("spawn")
            self._pool = concurrent.futures.ProcessPoolExecutor(self._num_processes, mp_context=context)
        rest = iter(batches)
        first = itertools.islice(rest, self._num_processes + 1)
        under_way = collections.deque(self._pool.submit(work, batch) for batch in first)
        while under_way:
            yield under_way.popleft().result()
            under_way.extend(self._pool.submit(work, batch) for batch in itertools.islice(rest, 1))
