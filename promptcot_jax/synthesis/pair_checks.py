"""What an annotated pair (c, z) of a problem x is worth: does z copy x, state its answer, speak of c?

A z that repeats the statement, or holds the answer, makes x likely without any thought of design, and a
summed log-likelihood rewards just that. Words are those of decontamination: runs of letters or of digits.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from promptcot_jax.data import decontamination
from promptcot_jax.synthesis import filters
from promptcot_jax.synthesis.annotation_requests import Unusable


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairConfig:
    """From where on a pair is of no use.

    Attributes:
        copy_ngram: words in a row that count as copied.
        max_copied_share: of the problem's runs of so many words, in the rationale.
        max_copied_run: words of the problem in a row, in the rationale.
        min_concept_coverage: share of the concepts of which problem or rationale speak.
    """

    copy_ngram: int = 8
    max_copied_share: float = 0.5
    max_copied_run: int = 25
    min_concept_coverage: float = 0.0

    def __post_init__(self):
        if self.copy_ngram < 1 or self.max_copied_run < 1:
            raise ValueError(
                f"copy_ngram and max_copied_run must be at least 1, got {self.copy_ngram} and "
                f"{self.max_copied_run}."
            )
        for name in ("max_copied_share", "min_concept_coverage"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}.")


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
    """Share of the concepts of which one of the texts speaks, see `filters.concepts_in_words`."""
    found = filters.concepts_in_words(tuple(concepts), "\n".join(texts))
    return sum(found) / max(len(found), 1)


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
