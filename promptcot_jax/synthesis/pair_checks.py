"""How concepts c and a rationale z go with a problem x: does z copy x, state its answer, speak of c?

A z that repeats the statement, or holds the answer, makes x likely without any thought of design, and a
summed log-likelihood rewards just that. Words are those of decontamination: runs of letters or of digits.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import Literal

from promptcot_jax.core.settings import PositiveInt, Share, settings
from promptcot_jax.data import decontamination
from promptcot_jax.synthesis.teacher_replies import Unusable

_SMALL = frozenset("a an and by for from in into its of on or over the their to under via with".split())
_PREFIX_LETTERS = 5  # "congruences" is used where "congruent" stands; "sums" where "sum" does, by its ending


@settings
class PairConfig:
    """From where on a pair is of no use."""

    copy_ngram: PositiveInt = 8  # words in a row that count as copied
    max_copied_share: Share = 0.5  # of the problem's runs of so many words, in the rationale
    max_copied_run: PositiveInt = 25  # words of the problem in a row, in the rationale
    min_concept_coverage: Share = 0.0  # share of the concepts of which problem or rationale speak


@dataclasses.dataclass(frozen=True, kw_only=True)
class Copying:
    """How much of a problem stands word for word in its rationale."""

    share: float  # of the problem's n-grams
    longest_run: int  # words


def copying(problem: str, rationale: str, ngram: int) -> Copying:
    """Compares words. A problem of fewer than `ngram`, a bare formula mostly, has no n-grams: share 0."""
    source, written = decontamination.words(problem), decontamination.words(rationale)
    grams = _runs(source, ngram)
    share = len(grams & _runs(written, ngram)) / max(len(grams), 1)
    shortest, longest = 0, min(len(source), len(written))
    while shortest < longest:  # a common run of k words holds one of k - 1
        middle = (shortest + longest + 1) // 2
        if _runs(source, middle) & _runs(written, middle):
            shortest = middle
        else:
            longest = middle - 1
    return Copying(share=share, longest_run=shortest)


def _runs(words: Sequence[str], length: int) -> set[tuple[str, ...]]:
    """All runs of so many words."""
    return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}


def concept_coverage(concepts: Sequence[str], texts: Sequence[str]) -> float:
    """Share of the concepts of which one of the texts speaks, see `concepts_in_words`."""
    found = concepts_in_words(tuple(concepts), "\n".join(texts))
    return sum(found) / max(len(found), 1)


def concepts_in_words(concepts: tuple[str, ...], text: str) -> list[bool]:
    """For each concept whether at least half of its words, by their first letters, are in the text."""
    there = _prefixes(text)
    found = []
    for concept in concepts:
        own = _prefixes(concept)
        found.append(2 * len(own & there) >= max(len(own), 1))
    return found


@functools.lru_cache(1 << 12)
def _prefixes(text: str) -> frozenset[str]:
    words = re.findall(r"[^\W\d_]+", text.lower())
    return frozenset(word.removesuffix("s")[:_PREFIX_LETTERS] for word in words if word not in _SMALL)


def answer_stated(answer: str, problem: str, rationale: str) -> Literal["yes", "no", "unknown"]:
    """Whether the rationale holds the answer's words, in a row, and the problem does not.

    A number of the problem that happens to be its answer cannot be told from its statement: that is "no".
    """
    wanted = decontamination.words(answer)
    if not wanted:
        return "unknown"
    run = {tuple(wanted)}
    holds = [run <= _runs(decontamination.words(text), len(wanted)) for text in (rationale, problem)]
    return "yes" if holds == [True, False] else "no"


def check(copied: Copying, coverage: float, config: PairConfig) -> None:
    """Refuses a pair that is of no use.

    Raises:
        Unusable: says to the annotator what is wrong.
    """
    if copied.longest_run > config.max_copied_run or copied.share > config.max_copied_share:
        raise Unusable(
            "copies_problem",
            f"it repeats {copied.share:.0%} of the problem word for word, up to {copied.longest_run} words "
            "in a row; say how the problem came about in words of your own",
        )
    if coverage < config.min_concept_coverage:
        raise Unusable(
            "concepts_unused",
            f"it speaks of {coverage:.0%} of the concepts; show what each of them is for",
        )
