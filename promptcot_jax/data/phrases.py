"""Word sequences of several lengths, found in long streams of words in one pass of numpy.

What decontamination looks benchmark texts up in. Words are numbers here (1 and up; 0 is a word that no phrase
has). A phrase is found by a 64-bit rolling hash, a product and a sum per word, so that the hashes of length k
are on the way to those of length k + 1; and each hit is then compared word by word, so that a collision costs
time and is never a match.
"""

import dataclasses
from collections.abc import Collection, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Int, UInt

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, with bits in all places


@dataclasses.dataclass(frozen=True)
class Found:
    """A place in a stream where a phrase stands, and the numbers of the texts that have that phrase."""

    position: int
    length: int
    texts: Int[np.ndarray, " texts"]


@dataclasses.dataclass(frozen=True)
class _OneLength:
    """The distinct phrases of one length by ascending hash (equal hashes stand side by side)."""

    hashes: UInt[np.ndarray, " phrases"]
    flags: Bool[np.ndarray, " flags"]  # by a hash's first bits: whether a phrase's hash begins with them
    places: Int[np.ndarray, " phrases"]  # where in the stream of all texts the phrase stands first
    bounds: Int[np.ndarray, " phrases+1"]  # of its part of `texts`
    texts: Int[np.ndarray, " occurrences"]


class PhraseTable:
    """All runs of `length` words of some texts; of a shorter text the whole, if it is not too short."""

    def __init__(self, texts: Sequence[Sequence[int]], *, length: int, shortest: int):
        """Takes the words of each text as numbers from 1.

        Args:
            shortest: a text of fewer words than this is left out.
        """
        sizes = np.array([len(text) for text in texts], np.int64)
        self._stream = np.array([word for text in texts for word in text], np.int32)
        text_of = np.repeat(np.arange(len(texts)), sizes)
        words_to_go = np.repeat(np.cumsum(sizes), sizes) - np.arange(len(self._stream))
        phrase_lengths = np.minimum(sizes, length)
        wanted = {int(size) for size in phrase_lengths if size >= shortest}
        self._lengths = {
            size: self._one_length(
                size, hashes, (phrase_lengths[text_of] == size) & (words_to_go >= size), text_of
            )
            for size, hashes in _rolling_hashes(self._stream, wanted)
        }

    def _one_length(
        self,
        length: int,
        hashes: UInt[np.ndarray, " windows"],
        starts: Bool[np.ndarray, " words"],
        text_of: Int[np.ndarray, " words"],
    ) -> _OneLength:
        places = np.flatnonzero(starts)
        places = places[np.argsort(hashes[places], kind="stable")]
        hashes, windows = hashes[places], self._windows(length)
        is_new = np.ones(len(places), bool)
        is_new[1:] = hashes[1:] != hashes[:-1]
        # Where hashes collide, a phrase may come up twice here. That costs a comparison when it is found.
        is_new[1:] |= (windows[places[1:]] != windows[places[:-1]]).any(axis=1)
        first = np.flatnonzero(is_new)
        return _OneLength(
            hashes=hashes[first],
            flags=_flags_of(hashes[first]),
            places=places[first].astype(np.int32),
            bounds=np.append(first, len(places)).astype(np.int32),
            texts=text_of[places].astype(np.int32),
        )

    def _windows(self, length: int) -> Int[np.ndarray, "windows length"]:
        return np.lib.stride_tricks.sliding_window_view(self._stream, length)

    def find(self, words: Int[np.ndarray, " words"]) -> Iterator[Found]:
        """Every phrase in a stream of words, length by length, each in the order of the stream."""
        for length, hashes in _rolling_hashes(words, self._lengths):
            phrases = self._lengths[length]
            # Few windows get past the flags, and a binary search is what takes time here.
            positions = np.flatnonzero(phrases.flags[hashes >> _flag_shift(phrases.flags)])
            first = np.searchsorted(phrases.hashes, hashes[positions])
            counts = np.searchsorted(phrases.hashes, hashes[positions], side="right") - first
            positions = np.repeat(positions, counts)
            # Each position with every phrase of its hash: first, first + 1, ...
            candidates = np.arange(len(positions)) + np.repeat(first - np.cumsum(counts) + counts, counts)
            here = np.lib.stride_tricks.sliding_window_view(words, length)[positions]
            there = self._windows(length)[phrases.places[candidates]]
            is_same = (here == there).all(axis=1)
            for position, phrase in zip(positions[is_same], candidates[is_same], strict=True):
                texts = phrases.texts[phrases.bounds[phrase] : phrases.bounds[phrase + 1]]
                yield Found(int(position), length, texts)


def _flags_of(hashes: UInt[np.ndarray, " phrases"]) -> Bool[np.ndarray, " flags"]:
    """A table in which one of 16 entries is set, at most."""
    flags = np.zeros(1 << (16 * len(hashes)).bit_length(), bool)
    flags[hashes >> _flag_shift(flags)] = True
    return flags


def _flag_shift(flags: Bool[np.ndarray, " flags"]) -> np.uint64:
    return np.uint64(65 - len(flags).bit_length())


def _rolling_hashes(
    words: Int[np.ndarray, " words"], lengths: Collection[int]
) -> Iterator[tuple[int, UInt[np.ndarray, " windows"]]]:
    """For each of the lengths, ascending, the hash of every run of that many words."""
    hashes = np.zeros(len(words), np.uint64)
    for length in range(1, min(max(lengths, default=0), len(words)) + 1):
        hashes = _longer_by_one(hashes[: len(words) - length + 1], words[length - 1 :])
        if length in lengths:
            yield length, hashes


def _longer_by_one(
    hashes: UInt[np.ndarray, " windows"], next_words: Int[np.ndarray, " windows"]
) -> UInt[np.ndarray, " windows"]:
    return hashes * _MULTIPLIER + next_words.astype(np.uint64)
