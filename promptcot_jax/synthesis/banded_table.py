"""Kept texts by buckets: which of them a new text may be like, without looking at all of them.

Locality-sensitive hashing gives each text a bucket in each of several bands, such that similar texts are
likely to share one. Tables of Python objects, as datasketch's LSH keeps them, take gigabytes for a million
texts; here it is one sorted array of buckets and one of texts, and a batch's own buckets in a dict.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int, UInt


class BandedTable:
    """Kept texts, by the place each was given: what it is compared by, and a sorted table of the buckets."""

    def __init__(self):
        self.numbers: list[int] = []  # of the kept texts among all
        self._features = np.zeros((0,))  # by place; doubles when it is full
        self._buckets = np.zeros(0, np.uint64)  # ascending, of all bands
        self._places = np.zeros(0, np.int32)  # of the texts in them

    def features(self, places: Int[np.ndarray, " places"]) -> np.ndarray:
        """What was kept of texts to compare them by."""
        return self._features[places]

    def batch(self, buckets: UInt[np.ndarray, "texts bands"], features: np.ndarray) -> "Batch":
        """A search for the texts of a batch, which also takes in those of them that are kept."""
        return Batch(self, buckets, features)

    def append(self, number: int, features: np.ndarray) -> int:
        """Takes a text, but not yet its buckets; returns its place."""
        place = len(self.numbers)
        if place >= len(self._features):
            grown = np.empty((max(2 * place, 1024), *features.shape), features.dtype)
            if place:
                grown[:place] = self._features
            self._features = grown
        self._features[place] = features
        self.numbers.append(number)
        return place

    def enter(self, places: list[int], buckets: UInt[np.ndarray, "places bands"]) -> None:
        """Takes the buckets of appended texts."""
        order = np.argsort(buckets, axis=None, kind="stable")
        new = buckets.ravel()[order]
        where = np.searchsorted(self._buckets, new)
        new_places = np.repeat(np.array(places, np.int32), buckets.shape[1])[order]
        self._buckets = np.insert(self._buckets, where, new)
        self._places = np.insert(self._places, where, new_places)

    def sharing(self, buckets: UInt[np.ndarray, "texts bands"]) -> dict[int, Int[np.ndarray, " places"]]:
        """For each text that shares a bucket with kept ones their places."""
        # Looked up in ascending order, which is thirty times as fast in a table larger than the caches.
        order = np.argsort(buckets, axis=None)
        wanted = buckets.ravel()[order]
        first = np.searchsorted(self._buckets, wanted)
        inside = np.flatnonzero(first < len(self._buckets))
        hits = inside[self._buckets[first[inside]] == wanted[inside]]
        last = np.searchsorted(self._buckets, wanted[hits], side="right")
        found: dict[int, list[Int[np.ndarray, " places"]]] = {}
        for hit, end in zip(hits.tolist(), last.tolist(), strict=True):
            text = int(order[hit]) // buckets.shape[1]
            found.setdefault(text, []).append(self._places[first[hit] : end])
        return {text: np.concatenate(places) for text, places in found.items()}


class Batch:
    """Texts that are searched for in a table one after the other; a kept one is found by those after it."""

    def __init__(self, table: BandedTable, buckets: UInt[np.ndarray, "texts bands"], features: np.ndarray):
        self._table, self._buckets, self._features = table, buckets, features
        self._before = table.sharing(buckets)
        _, inverse, counts = np.unique(buckets, return_inverse=True, return_counts=True)
        self._is_shared = counts[inverse.reshape(buckets.shape)] > 1  # by two texts of this batch
        self._here: dict[int, list[int]] = {}  # shared bucket -> places of kept texts of this batch
        self._kept: dict[int, int] = {}  # number in the batch -> place

    def candidates(self, i: int) -> Int[np.ndarray, " places"]:
        """Places of the kept texts that share a bucket with text i of the batch, in their order."""
        found = [self._table_places(i), *(self._here[key] for key in self._shared(i) if key in self._here)]
        return np.unique(np.concatenate(found)).astype(np.int64)

    def _table_places(self, i: int) -> Int[np.ndarray, " places"]:
        return self._before.get(i, np.zeros(0, np.int32))

    def keep(self, i: int, number: int) -> None:
        """Text i is kept, under its number among all texts."""
        place = self._kept[i] = self._table.append(number, self._features[i])
        for key in self._shared(i):
            self._here.setdefault(key, []).append(place)

    def _shared(self, i: int) -> Iterator[int]:
        return iter(self._buckets[i][self._is_shared[i]].tolist())

    def close(self) -> None:
        """Enters what was kept into the table; comes last."""
        self._table.enter(list(self._kept.values()), self._buckets[list(self._kept)])
