"""From drafts to problems worth keeping: parsed, filtered, compared with seeds, benchmarks and each other.

A rejected draft is kept aside under the first rule that it breaks, with the figure that broke it. The order
of the rules: form, the text's own (`filters.RULES`), concepts, seeds, benchmarks, and repetitions last, so
that nothing is dropped as a repetition of a text that was not kept. Drafts may come in any number of calls;
what is kept depends on their order alone.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from promptcot_jax.core.records import ConceptSet, Problem
from promptcot_jax.data import decontamination
from promptcot_jax.synthesis import drafts as drafts_lib
from promptcot_jax.synthesis import filters, near_duplicates, statements
from promptcot_jax.synthesis.batch_workers import BatchWorkers
from promptcot_jax.synthesis.drafts import Author, Draft
from promptcot_jax.synthesis.filters import Fault, FilterConfig, Written

Encode = Callable[[Sequence[str]], Float[np.ndarray, "texts D"]]

_FIGURE_RULES = ("ignored_concepts", "near_seed")
_REPEATS = tuple(
    f"{rule}_duplicate{of}" for of in ("_of_seed", "") for rule in ("exact", "minhash", "embedding")
)
REASONS = (*drafts_lib.OUT_OF_FORM, *filters.REASONS, *_FIGURE_RULES, "contaminated", *_REPEATS)
_ROWS_AT_ONCE = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reject:
    """A draft that was not kept."""

    request: int
    concept_set_id: str
    sample: int
    reason: str  # one of REASONS
    figure: float  # what the rule measured
    detail: str  # the words in question, or what it repeats
    problem: str  # "" where none could be read


@dataclasses.dataclass(frozen=True)
class Figures:
    """What is measured of a problem and kept on its row."""

    concepts_in_words: float
    concepts_in_meaning: float
    concepts_used: float  # one way or the other
    seed_similarity: float


@dataclasses.dataclass
class _Row:
    """A draft on its way through the rules."""

    draft: Draft
    written: Written | None = None  # None: it could not be read, and `fault` says so
    vector: Float[np.ndarray, " D"] | None = None
    figures: Figures | None = None
    fault: Fault | None = None

    @property
    def read(self) -> Written:
        assert self.written is not None
        return self.written


class Selection:
    """The rules, and the problems kept so far to compare new ones with."""

    def __init__(
        self,
        config: FilterConfig,
        duplicates: near_duplicates.DuplicateConfig,
        *,
        encode: Encode,
        seed_problems: Sequence[str],
        benchmarks: decontamination.Index | None = None,
        workers: BatchWorkers | None = None,
    ):
        """Takes in the seeds.

        Args:
            encode: unit vectors of texts.
            benchmarks: evaluation sets; problems that overlap with them are rejected.
        """
        self._config, self._encode, self._benchmarks = config, encode, benchmarks
        self._workers = workers or BatchWorkers()
        self._index = near_duplicates.Index(duplicates, encode=encode, workers=self._workers)
        self._num_seeds = len(seed_problems)
        self._seed_vectors = encode(seed_problems)
        self._index.add(seed_problems, vectors=self._seed_vectors)
        self._ids: list[str] = []  # of what the index saw after the seeds
        self._passed = tuple(_rules_on(config, duplicates, has_benchmarks=benchmarks is not None))

    def select(
        self, drafts: Sequence[Draft], concept_sets: Mapping[str, ConceptSet], author: Author
    ) -> tuple[list[Problem], list[Reject]]:
        """The problems kept of some drafts, and the rejected drafts, both in order."""
        rows = [_Row(draft) for draft in drafts]
        for row in rows:
            read = drafts_lib.read_draft(row.draft, concept_sets[row.draft.concept_set_id])
            if isinstance(read, Fault):
                row.fault = read
            else:
                row.written = read
        self._apply(rows, self._text_faults)
        self._measure([row for row in rows if row.fault is None])
        self._apply(rows, self._figure_faults)
        self._apply(rows, self._overlaps)
        self._apply(rows, functools.partial(self._repeats, author=author))
        problems = [
            self._problem(row, concept_sets[row.draft.concept_set_id], author)
            for row in rows
            if not row.fault
        ]
        return problems, [_reject(row) for row in rows if row.fault]

    def _apply(self, rows: Sequence[_Row], rule: Callable[[list[_Row]], Sequence[Fault | None]]) -> None:
        """Sets the faults of the rows that had none."""
        going = [row for row in rows if row.fault is None]
        for row, fault in zip(going, rule(going), strict=True):
            row.fault = fault

    def _text_faults(self, rows: list[_Row]) -> list[Fault | None]:
        written = [row.read for row in rows]
        batches = [written[i : i + _ROWS_AT_ONCE] for i in range(0, len(rows), _ROWS_AT_ONCE)]
        work = functools.partial(_first_faults, config=self._config)
        return [fault for found in self._workers.map(work, batches) for fault in found]

    def _measure(self, rows: Sequence[_Row]) -> None:
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            batch = rows[start : start + _ROWS_AT_ONCE]
            written = [row.read for row in batch]
            vectors = self._encode([own.problem for own in written])
            nearest = self._seed_similarities(vectors)
            in_meaning = self._concepts_in_meaning(written)
            for i, (row, own, meaning) in enumerate(zip(batch, written, in_meaning, strict=True)):
                words = filters.concepts_in_words(own.concepts, f"{own.problem}\n{own.rationale}")
                row.vector = vectors[i]
                row.figures = Figures(
                    concepts_in_words=_share(words),
                    concepts_in_meaning=_share(meaning),
                    concepts_used=_share([a or b for a, b in zip(words, meaning, strict=True)]),
                    seed_similarity=nearest[i],
                )

    def _seed_similarities(self, vectors: Float[np.ndarray, "texts D"]) -> list[float]:
        """Cosine of each problem with the seed nearest to it; 0 without seeds."""
        nearest, cosines = np.zeros(len(vectors), np.int64), np.full(len(vectors), -1.0, np.float32)
        for start in range(0, self._num_seeds, _ROWS_AT_ONCE):
            with_these = vectors @ self._seed_vectors[start : start + _ROWS_AT_ONCE].T
            nearer = with_these.max(axis=1) > cosines
            nearest[nearer] = start + with_these[nearer].argmax(axis=1)
            cosines = np.maximum(cosines, with_these.max(axis=1))
        if not self._num_seeds:
            return [0.0] * len(vectors)
        # Once more, since a product of matrices rounds otherwise by the number of its rows.
        exact = np.einsum("ij,ij->i", vectors, self._seed_vectors[nearest], dtype=np.float64)
        return [round(float(value), 4) for value in exact]

    def _concepts_in_meaning(self, written: Sequence[Written]) -> list[list[bool]]:
        """For each concept of each problem whether a sentence of x or z is near to it."""
        if self._config.concept_cosine is None:
            return [[False] * len(own.concepts) for own in written]
        sentences = [
            statements.sentences(statements.words_only(f"{own.problem}\n\n{own.rationale}"))
            for own in written
        ]
        concepts = list(dict.fromkeys(concept for own in written for concept in own.concepts))
        places = {concept: place for place, concept in enumerate(concepts)}
        # In float64 products round alike whatever the number of rows.
        concept_vectors = self._encode(concepts).astype(np.float64)
        vectors = self._encode([sentence for own in sentences for sentence in own]).astype(np.float64)
        ends = np.cumsum([len(own) for own in sentences])
        found = []
        for own, end, of_text in zip(written, ends, sentences, strict=True):
            near = vectors[end - len(of_text) : end] @ concept_vectors[[places[c] for c in own.concepts]].T
            found.append((near.max(axis=0, initial=-1.0) >= self._config.concept_cosine).tolist())
        return found

    def _figure_faults(self, rows: list[_Row]) -> list[Fault | None]:
        return [_figure_fault(row.figures, self._config) for row in rows if row.figures is not None]

    def _overlaps(self, rows: list[_Row]) -> list[Fault | None]:
        if self._benchmarks is None:
            return [None] * len(rows)
        matched = decontamination.with_overlaps(rows, self._benchmarks, lambda row: (row.read.problem,))
        return [
            Fault("contaminated", float(len(found)), f"{found[0].source}: {found[0].ngram}")
            if found
            else None
            for _, found in matched
        ]

    def _repeats(self, rows: list[_Row], *, author: Author) -> list[Fault | None]:
        if not rows:
            return []
        vectors = np.stack([row.vector for row in rows if row.vector is not None])
        found = self._index.add([row.read.problem for row in rows], vectors=vectors)
        self._ids += [problem_id(row.draft, author) for row in rows]
        return [repeat and self._fault_of(repeat) for repeat in found]

    def _fault_of(self, repeat: near_duplicates.Repeat) -> Fault:
        of_seed = repeat.earlier < self._num_seeds
        earlier = f"seed {repeat.earlier}" if of_seed else self._ids[repeat.earlier - self._num_seeds]
        reason = f"{repeat.rule}_duplicate{'_of_seed' if of_seed else ''}"
        return Fault(reason, round(repeat.similarity, 4), earlier)

    def _problem(self, row: _Row, concept_set: ConceptSet, author: Author) -> Problem:
        assert row.figures is not None
        return Problem(
            id=problem_id(row.draft, author),
            domain=concept_set.domain,
            concepts=concept_set.concepts,
            level=concept_set.level,
            rationale=row.read.rationale,
            problem=row.read.problem,
            log_p_z=row.draft.log_p_z,
            log_p_x=row.draft.log_p_x,
            model_digest=author.model_digest,
            round_index=author.round_index,
            seed=author.seed,
            sample=row.draft.sample,
            filters=self._passed,
            concepts_in_words=row.figures.concepts_in_words,
            concepts_in_meaning=row.figures.concepts_in_meaning,
            seed_similarity=row.figures.seed_similarity,
        )


def problem_id(draft: Draft, author: Author) -> str:
    """Of the problem that a draft becomes."""
    return f"{draft.concept_set_id}-r{author.round_index}-s{author.seed}-{draft.sample}"


def _first_faults(written: Sequence[Written], *, config: FilterConfig) -> list[Fault | None]:
    return [filters.first_fault(own, config) for own in written]


def _figure_fault(figures: Figures, config: FilterConfig) -> Fault | None:
    if config.min_concept_share is not None and figures.concepts_used < config.min_concept_share:
        return Fault("ignored_concepts", figures.concepts_used)
    if config.max_seed_similarity is not None and figures.seed_similarity > config.max_seed_similarity:
        return Fault("near_seed", figures.seed_similarity)
    return None


def _share(found: Sequence[bool]) -> float:
    return round(sum(found) / max(len(found), 1), 4)


def _reject(row: _Row) -> Reject:
    assert row.fault is not None
    return Reject(
        request=row.draft.request,
        concept_set_id=row.draft.concept_set_id,
        sample=row.draft.sample,
        reason=row.fault.reason,
        figure=row.fault.figure,
        detail=row.fault.detail,
        problem=row.written.problem if row.written else "",
    )


def _rules_on(
    config: FilterConfig, duplicates: near_duplicates.DuplicateConfig, *, has_benchmarks: bool
) -> list[str]:
    """Names of the rules that a kept problem has passed."""
    is_on = {
        **filters.switched_on(config),
        "ignored_concepts": config.min_concept_share is not None,
        "near_seed": config.max_seed_similarity is not None,
        "contaminated": has_benchmarks,
        "exact_duplicate": duplicates.exact,
        "minhash_duplicate": duplicates.minhash_threshold is not None,
        "embedding_duplicate": duplicates.embedding_threshold is not None,
    }
    return [name for name, on in is_on.items() if on]
