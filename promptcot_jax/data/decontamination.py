"""Texts that share word sequences with a benchmark, found and left out (the paper: 13-grams).

Between synthesis (or a user's own corpus) and training. A text and a benchmark are compared by their words:

* Unicode NFKC, lower case. A word is a run of letters or a run of digits ("2x" is two, "1,000" too); of
  Chinese and Japanese, which do not space their words, each character is one. Everything else separates and
  is gone, operators too: "x+1", "x + 1" and "$x+1$" agree. So does "x-1", which is meant: thirteen equal
  words around a changed sign are still the benchmark's problem.
* LaTeX's words for spacing, size and style (`\\quad`, `\\left`, `\\text`, ...) are no words, `\\dfrac` and
  `\\tfrac` are `\\frac`. Other commands are words: `\\pi` is "pi".

A text is contaminated if it shares n words in a row with a benchmark text. The paper does not say what holds
for a benchmark text of fewer than n words. Here the whole of it must be in the text, word after word; and one
of fewer than 5 words must be all of the text ("Solve for x" is in many). The released script drops only texts
that are a test problem, character for character but for white space around: `rule="exact"`.
"""

import collections
import dataclasses
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, TypeVar, get_args

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import rows

Record = TypeVar("Record")
Rule = Literal["ngram", "exact"]

MIN_CONTAINED_WORDS = 5  # a benchmark text of fewer is matched by an equal text only

_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # kana, ideographs
_WORD = re.compile(rf"[^\W\d_{_UNSPACED}]+|\d+|[{_UNSPACED}]")
_ASCII_WORD = re.compile(r"[a-z]+|[0-9]+")  # the same where there is no other letter, and twice as fast
_NO_WORD = re.compile(
    r"\\(?:(?:q?quad|(?:thin|med|thick|en)space|left|right|middle|bigg?[lrm]?"
    r"|(?:display|text)style|text(?:rm|bf|it)?|mbox|math(?:rm|bf|it))(?![a-z])"
    r"|[dt](?=frac(?![a-z])))"
)


def words(text: str) -> list[str]:
    """The words by which a text is compared; see the module's beginning."""
    is_ascii = text.isascii()
    text = text.lower() if is_ascii else unicodedata.normalize("NFKC", text).lower()
    if "\\" in text:
        text = _NO_WORD.sub(" ", text)
    return (_ASCII_WORD if is_ascii else _WORD).findall(text)


@dataclasses.dataclass(frozen=True)
class Source:
    """A row of a benchmark; "BENCHMARK:ROW" as text."""

    benchmark: str
    row_id: str

    def __str__(self) -> str:
        return f"{self.benchmark}:{self.row_id}" if self.benchmark else self.row_id


@dataclasses.dataclass(frozen=True)
class Overlap:
    """What a text shares with a benchmark row: the first common n-gram, or the row as a whole."""

    source: Source
    ngram: str  # words with single spaces between; the text itself under the rule "exact"


@dataclasses.dataclass(frozen=True)
class Match:
    """A contaminated text, by its number, and a benchmark row that it overlaps with."""

    index: int
    source: str  # "BENCHMARK:ROW", e.g. "gsm8k_test:17"; "17" where the benchmark has no name
    ngram: str


class Index:
    """Benchmark texts, prepared so that many texts can be compared with all of them."""

    def __init__(self, texts: Iterable[tuple[Source, str]], *, n: int = 13, rule: Rule = "ngram"):
        """Takes benchmark rows and their texts; a row may have several.

        Raises:
            WrongUse: n is below 1, there is no text, or one has nothing to compare.
        """
        if n < 1:
            raise WrongUse(f"n, the words in a row that make a match, must be at least 1, got {n}.")
        self._n, self._rule = n, rule
        self._least_contained = min(MIN_CONTAINED_WORDS, n)
        self._texts: list[tuple[Source, list[str]]] = []  # source and words of each benchmark text
        self._whole = collections.defaultdict[str, list[int]](list)  # comparable text -> numbers of texts
        # Hash of n words in a row -> number of a text that has them, and at which word; hash of the first
        # words of a text of fewer than n -> its number, and 0.
        self._ngrams = collections.defaultdict[int, list[tuple[int, int]]](list)
        self._beginnings = collections.defaultdict[int, list[tuple[int, int]]](list)
        for number, (source, text) in enumerate(texts):
            own = self._words(text)
            if not (own or (rule == "exact" and text.strip())):
                raise WrongUse(
                    f"benchmark row {source}: the text {text!r} has no words, so nothing can be compared "
                    "with it; correct the row or remove it."
                )
            self._texts.append((source, own))
            if len(own) < self._least_contained:
                self._whole[self._whole_key(text, own)].append(number)
            elif len(own) < n:
                self._beginnings[_run_hashes(own, self._least_contained)[0]].append((number, 0))
            for start, run in enumerate(_run_hashes(own, n)):
                known = self._ngrams[run]
                number_before, before = known[-1] if known else (-1, 0)
                if number != number_before or own[before : before + n] != own[start : start + n]:
                    known.append((number, start))  # a run that a text repeats counts once
        if not self._texts:
            raise WrongUse("There is no benchmark text to compare with; give at least one.")

    def _words(self, text: str) -> list[str]:
        return words(text) if self._rule == "ngram" else []

    def _whole_key(self, text: str, own_words: Sequence[str]) -> str:
        """What is equal for texts that match as wholes."""
        return text.strip() if self._rule == "exact" else " ".join(own_words)

    def overlaps(self, text: str) -> list[Overlap]:
        """The benchmark rows that a text overlaps with, in the benchmarks' order."""
        own = self._words(text)
        shared: dict[int, str] = {}  # number of a benchmark text -> what the text shares with it first
        if len(own) < self._least_contained:
            key = self._whole_key(text, own)
            shared |= dict.fromkeys(self._whole.get(key, ()), key)
        for found, length in ((self._ngrams, self._n), (self._beginnings, self._least_contained)):
            runs = _run_hashes(own, length)
            if found.keys().isdisjoint(runs):  # as for most texts: no loop in Python then
                continue
            for i, run in enumerate(runs):
                for number, start in found.get(run, ()):
                    if number in shared:
                        continue
                    phrase = self._texts[number][1][start : start + self._n]
                    if own[i : i + len(phrase)] == phrase:
                        shared[number] = " ".join(phrase)
        firsts: dict[Source, str] = {}
        for number in sorted(shared):
            firsts.setdefault(self._texts[number][0], shared[number])
        return [Overlap(source, ngram) for source, ngram in firsts.items()]


def _run_hashes(own_words: Sequence[str], length: int) -> list[int]:
    """A hash of each run of so many words, in order."""
    return [hash(run) for run in zip(*(own_words[k:] for k in range(length)), strict=False)]


def with_overlaps(
    records: Iterable[Record], index: Index, texts_of: Callable[[Record], Sequence[str]]
) -> Iterator[tuple[Record, list[Overlap]]]:
    """Each record, in order, with the overlaps of all its texts.

    Args:
        texts_of: a record's texts, each compared by itself: no n-gram goes from one into the next.
    """
    for record in records:
        firsts: dict[Source, Overlap] = {}
        for text in texts_of(record):
            for overlap in index.overlaps(text):
                firsts.setdefault(overlap.source, overlap)
        yield record, list(firsts.values())


def keep_clean(
    records: Iterable[Record],
    index: Index,
    text_of: Callable[[Record], str],
    counts: collections.Counter[str],
) -> Iterator[Record]:
    """The records whose text overlaps with no benchmark, in order; the others are counted.

    Args:
        counts: `dropped_contaminated` is added to.
    """
    for record, overlaps in with_overlaps(records, index, lambda record: (text_of(record),)):
        if overlaps:
            counts["dropped_contaminated"] += 1
        else:
            yield record


def decontaminate(
    texts: Sequence[str],
    against: Mapping[str, Sequence[str]] | Sequence[str],
    n: int = 13,
    *,
    rule: Rule = "ngram",
) -> list[Match]:
    """Every pair of a text and a benchmark text that overlap, by text, then in the benchmarks' order.

    Args:
        against: a benchmark's name -> its texts, or the texts of one without a name.
        n: words in a row that make an overlap.
        rule: "ngram" is the paper's; "exact" the released script's, equal but for white space around.

    Raises:
        WrongUse: n is below 1, the rule is not known, one text stands where a list should, or there is
            nothing to compare with.
    """
    if rule not in get_args(Rule):
        raise WrongUse(f"rule must be one of {get_args(Rule)}, got {rule!r}.")
    benchmarks = against if isinstance(against, Mapping) else {"": against}
    for name, given in {
        "texts": texts,
        **{f"against[{name!r}]": of for name, of in benchmarks.items()},
    }.items():
        if isinstance(given, str):
            raise WrongUse(f"{name} must be a list of texts, got one text; put it in a list.")
    if empty := [name for name, of in benchmarks.items() if not len(of)]:
        raise WrongUse(f"against: the benchmark {empty[0]!r} has no texts; give some, or leave it out.")
    index = Index(
        ((Source(name, str(row)), text) for name, of in benchmarks.items() for row, text in enumerate(of)),
        n=n,
        rule=rule,
    )
    matched = with_overlaps(texts, index, lambda text: (text,))
    return [
        Match(i, str(overlap.source), overlap.ngram)
        for i, (_, overlaps) in enumerate(matched)
        for overlap in overlaps
    ]


def read_index(paths: Mapping[str, str]) -> Index:
    """The problems of benchmark files, name -> path, under the paper's rule.

    Raises:
        WrongUse: a file is missing or empty, or a row has no problem.
    """
    return Index(iter_texts(paths, ("problem",)))


def iter_texts(paths: Mapping[str, str], fields: Sequence[str]) -> Iterator[tuple[Source, str]]:
    """The texts of benchmark files, name -> path, with their sources.

    Raises:
        WrongUse: a file is missing or empty, or a row lacks a field.
    """
    for name, path in paths.items():
        row = None
        for row in rows.iter_rows(path):
            texts = texts_of(row, fields, "BENCHMARK_FIELDS")
            yield from ((Source(name, row_id(row)), text) for text in texts)
        if row is None:
            raise WrongUse(f"{path}: the benchmark '{name}' has no rows; fetch it again, or leave it out.")


def texts_of(row: rows.Row, fields: Sequence[str], setting: str) -> tuple[str, ...]:
    """A row's texts of these fields.

    Raises:
        WrongUse: one is missing or no text; the message names the setting that says which fields.
    """
    for field in fields:
        value = row.fields.get(field)
        if not isinstance(value, str):
            what = f"must be a text, got {type(value).__name__}" if field in row.fields else "is missing"
            raise WrongUse(
                f"{row.where}: field '{field}' {what}; correct the row, or name other fields with {setting} "
                f"(it has {', '.join(map(repr, row.fields)) or 'none'})."
            )
    return tuple(row.fields[field] for field in fields)


def row_id(row: rows.Row) -> str:
    """A row's own id, or its place."""
    given = row.fields.get("id")
    return os.path.basename(row.where) if given in (None, "") else str(given)
