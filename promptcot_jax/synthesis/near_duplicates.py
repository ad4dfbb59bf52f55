"""Texts that repeat an earlier one: to the letter, in most of their word sequences, or in meaning.

Three rules, tried in this order; of a group the first text is kept, and only kept texts are compared with:

* `exact`: equal but for case, spacing and Unicode form.
* `minhash`: the Jaccard similarity of the sets of three-word sequences reaches a threshold. datasketch's
  MinHash signatures, cut into the bands that its LSH chooses, propose pairs; the sets themselves decide.
* `embedding`: the cosine of two sentence vectors reaches a threshold, where the caller gives an encoder. The
  sides of random hyperplanes propose pairs; the vectors themselves decide.

Under `minhash` a pair just at 0.8 is proposed with a chance of 0.74, one at 0.85 with 0.93, one at 0.9 with
0.99. What comes out depends on the texts, their order and the seed, and not on how they were cut into calls.
"""

import abc
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Literal

import datasketch
import numpy as np
from jaxtyping import Float, Int

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.settings import PositiveShare, Range, settings
from promptcot_jax.synthesis import text_sketches
from promptcot_jax.synthesis.text_sketches import BandedTable, BatchWorkers, Sketches

Rule = Literal["exact", "minhash", "embedding"]
Encode = Callable[[Sequence[str]], Float[np.ndarray, "texts D"]]  # unit vectors
_Batch = tuple[Sequence[str], Float[np.ndarray, "texts D"] | None]  # with its vectors where these are known

# Below the threshold: where the signatures alone rule a pair out. 3.4 standard deviations of the estimate.
_SIGNATURE_SLACK = 0.12
_FALSE_PROPOSALS_AND_MISSES = (0.2, 0.8)  # what bands are chosen by: a proposal costs time, a miss is final
_TEXTS_PER_BATCH = 16384


@settings
class DuplicateConfig:
    """What counts as a repetition; a threshold of None switches its rule off."""

    exact: bool = True
    minhash_threshold: PositiveShare | None = 0.8  # Jaccard similarity of two texts' word sequences
    embedding_threshold: PositiveShare | None = 0.95  # cosine of two texts' vectors
    # Of a signature; more find more of the pairs near the threshold.
    num_hashes: Annotated[int, Range(at_least=16, at_most=4096)] = 128
    # Of hyperplanes, for the embedding rule: vectors at a cosine of 0.95 share one of 64 bands of 24 planes
    # with a chance of 0.99, at 0.5 with one of 0.004.
    num_bands: Annotated[int, Range(at_least=1, at_most=4096)] = 64
    bits_per_band: Annotated[int, Range(at_least=1, at_most=63)] = 24
    seed: Annotated[int, Range(at_least=0, at_most=2**32 - 1)] = 0


@dataclasses.dataclass(frozen=True)
class Repeat:
    """What a text repeats: the number of the earlier one, by which rule, and how alike they are."""

    earlier: int
    rule: Rule
    similarity: float


def find(
    texts: Sequence[str],
    config: DuplicateConfig | None = None,
    *,
    encode: Encode | None = None,
    num_processes: int = 1,
) -> list[Repeat | None]:
    """For each text the first kept one that it repeats, or None: it is kept itself.

    Args:
        encode: vectors of texts; without it there is no embedding rule.
        num_processes: that make signatures.

    Raises:
        WrongUse: one text stands where a list should.
    """
    if isinstance(texts, str):
        raise WrongUse("texts must be a list of texts, got one text; put it in a list.")
    with BatchWorkers(num_processes) as workers:
        return Index(config or DuplicateConfig(), encode=encode, workers=workers).add(texts)


class Index:
    """Kept texts, and whether a new one repeats one of them."""

    def __init__(
        self,
        config: DuplicateConfig,
        *,
        encode: Encode | None = None,
        workers: BatchWorkers | None = None,
    ):
        self._is_exact, self._workers = config.exact, workers or BatchWorkers()
        self._num_texts = 0  # kept or not
        self._digests: dict[bytes, int] = {}  # of kept texts -> number
        self._measures: list[_Measure] = []
        if config.minhash_threshold is not None:
            self._measures.append(_MinHashes(config.minhash_threshold, config))
        if config.embedding_threshold is not None and encode is not None:
            self._measures.append(_Embeddings(config.embedding_threshold, config, encode))

    def add(
        self, texts: Sequence[str], *, vectors: Float[np.ndarray, "texts D"] | None = None
    ) -> list[Repeat | None]:
        """For each text what it repeats (numbers go through all texts ever added), or None: it is kept.

        Args:
            vectors: what the encoder gives for the texts, where it is known already.
        """
        batches = [
            (texts[i : i + _TEXTS_PER_BATCH], None if vectors is None else vectors[i : i + _TEXTS_PER_BATCH])
            for i in range(0, len(texts), _TEXTS_PER_BATCH)
        ]
        sketches = [measure.sketches(batches, self._workers) for measure in self._measures]
        repeats: list[Repeat | None] = []
        for (of_batch, _), *own in zip(batches, *sketches, strict=True):
            repeats += self._add_batch(of_batch, own)
        return repeats

    def _add_batch(self, texts: Sequence[str], sketches: Sequence[Sketches]) -> list[Repeat | None]:
        for measure, own in zip(self._measures, sketches, strict=True):
            measure.table.begin(own)
        repeats = []
        for i, text in enumerate(texts):
            digest = self._digest(text)
            earlier = self._digests.get(digest)
            repeat = None if earlier is None else Repeat(earlier, "exact", 1.0)
            for measure, own in zip(self._measures, sketches, strict=True):
                repeat = repeat or measure.first_repeat(text, own.features[i], measure.table.candidates(i))
            repeats.append(repeat)
            if repeat is None:
                if digest:
                    self._digests[digest] = self._num_texts + i
                for measure in self._measures:
                    measure.table.keep(i, self._num_texts + i)
                    measure.texts.append(text)
        for measure in self._measures:
            measure.table.end()
        self._num_texts += len(texts)
        return repeats

    def _digest(self, text: str) -> bytes:
        if not self._is_exact:
            return b""
        return hashlib.blake2b(text_sketches.comparable(text).encode(), digest_size=16).digest()


class _Measure(abc.ABC):
    """A rule that compares texts, and those that were kept."""

    rule: Rule

    def __init__(self, threshold: float):
        self.threshold, self.table = threshold, BandedTable()
        self.texts: list[str] = []  # by slot

    @abc.abstractmethod
    def sketches(self, batches: Sequence[_Batch], workers: BatchWorkers) -> Iterator[Sketches]:
        """Of each batch of texts."""

    @abc.abstractmethod
    def similarities(
        self, text: str, features: np.ndarray, slots: Int[np.ndarray, " slots"]
    ) -> Iterator[tuple[int, float]]:
        """A text's similarity with those in the slots that may be near it."""

    def first_repeat(
        self, text: str, features: np.ndarray, candidates: Int[np.ndarray, " slots"]
    ) -> Repeat | None:
        """The first of the candidates that the text repeats."""
        for slot, similarity in self.similarities(text, features, candidates) if len(candidates) else ():
            if similarity >= self.threshold:
                return Repeat(self.table.numbers[slot], self.rule, similarity)
        return None


class _MinHashes(_Measure):
    rule = "minhash"

    def __init__(self, threshold: float, config: DuplicateConfig):
        super().__init__(threshold)
        lsh = datasketch.MinHashLSH(
            threshold=threshold, num_perm=config.num_hashes, weights=_FALSE_PROPOSALS_AND_MISSES
        )
        self._sketch = functools.partial(
            text_sketches.minhash_sketches, num_hashes=config.num_hashes, num_bands=lsh.b, seed=config.seed
        )

    def sketches(self, batches: Sequence[_Batch], workers: BatchWorkers) -> Iterator[Sketches]:
        return workers.map(self._sketch, (texts for texts, _ in batches))

    def similarities(
        self, text: str, features: np.ndarray, slots: Int[np.ndarray, " slots"]
    ) -> Iterator[tuple[int, float]]:
        agreement = (self.table.features[slots] == features).mean(axis=1)
        own = text_sketches.shingles(text)
        for slot in slots[agreement >= self.threshold - _SIGNATURE_SLACK].tolist():
            yield slot, text_sketches.jaccard(own, text_sketches.shingles(self.texts[slot]))


class _Embeddings(_Measure):
    rule = "embedding"

    def __init__(self, threshold: float, config: DuplicateConfig, encode: Encode):
        super().__init__(threshold)
        self._encode = encode
        self._sketch = functools.partial(
            text_sketches.vector_sketches,
            num_bands=config.num_bands,
            bits_per_band=config.bits_per_band,
            seed=config.seed,
        )

    def sketches(self, batches: Sequence[_Batch], workers: BatchWorkers) -> Iterator[Sketches]:
        del workers  # matrix products take all cores
        for texts, vectors in batches:
            yield self._sketch(np.asarray(self._encode(texts) if vectors is None else vectors, np.float32))

    def similarities(
        self, text: str, features: np.ndarray, slots: Int[np.ndarray, " slots"]
    ) -> Iterator[tuple[int, float]]:
        cosines = self.table.features[slots].astype(np.float64) @ features.astype(np.float64)
        yield from zip(slots.tolist(), cosines.tolist(), strict=True)
