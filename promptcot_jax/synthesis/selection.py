"""From drafts to problems: parsed, filtered, compared with seeds, benchmarks and each other.

A draft is rejected under the first rule that it breaks, with the figure that broke it. The order of the
rules: form, the text's own (`filters`), concepts, seeds, benchmarks, and repetitions last, so that nothing is
dropped as a repetition of a text that was not kept. Drafts may come in any number of calls; what is kept
depends on their order alone.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from promptcot_jax.core.records import ConceptSet, Problem
from promptcot_jax.data import decontamination, statement_rules
from promptcot_jax.data.statement_rules import Fault
from promptcot_jax.synthesis import drafts as drafts_lib
from promptcot_jax.synthesis import filters, near_duplicates, pair_checks
from promptcot_jax.synthesis.drafts import Author, Draft
from promptcot_jax.synthesis.filters import FilterConfig, Written
from promptcot_jax.synthesis.near_duplicates import DuplicateConfig, Encode
from promptcot_jax.synthesis.outcomes import Reject
from promptcot_jax.synthesis.text_sketches import BatchWorkers

_FIGURE_RULES = ("ignored_concepts", "near_seed")
_REPEATS = tuple(
    f"{rule}_duplicate{of}" for of in ("_of_seed", "") for rule in ("exact", "minhash", "embedding")
)
REASONS = (*drafts_lib.OUT_OF_FORM, *filters.REASONS, *_FIGURE_RULES, "contaminated", *_REPEATS)
_BATCH = 4096


@dataclasses.dataclass(frozen=True)
class Figures:
    """What is measured of a problem and kept on its row."""

    concepts_in_words: float
    concepts_in_meaning: float
    concepts_used: float  # one way or the other
    seed_similarity: float


@dataclasses.dataclass
class _Candidate:
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
        duplicates: DuplicateConfig,
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
        candidates = [_Candidate(draft) for draft in drafts]
        for candidate in candidates:
            read = drafts_lib.read_draft(candidate.draft, concept_sets[candidate.draft.concept_set_id])
            if isinstance(read, Fault):
                candidate.fault = read
            else:
                candidate.written = read
        self._apply(candidates, self._text_faults)
        self._measure([candidate for candidate in candidates if candidate.fault is None])
        self._apply(candidates, self._figure_faults)
        self._apply(candidates, self._overlaps)
        self._apply(candidates, functools.partial(self._repeats, author=author))
        problems = [
            self._problem(candidate, concept_sets[candidate.draft.concept_set_id], author)
            for candidate in candidates
            if not candidate.fault
        ]
        return problems, [_reject(candidate) for candidate in candidates if candidate.fault]

    def _apply(
        self, candidates: Sequence[_Candidate], rule: Callable[[list[_Candidate]], Sequence[Fault | None]]
    ) -> None:
        """Sets the faults of the candidates that had none."""
        remaining = [candidate for candidate in candidates if candidate.fault is None]
        for candidate, fault in zip(remaining, rule(remaining), strict=True):
            candidate.fault = fault

    def _text_faults(self, candidates: list[_Candidate]) -> list[Fault | None]:
        written = [candidate.read for candidate in candidates]
        batches = [written[i : i + _BATCH] for i in range(0, len(candidates), _BATCH)]
        work = functools.partial(filters.first_faults, config=self._config)
        return [fault for found in self._workers.map(work, batches) for fault in found]

    def _measure(self, candidates: Sequence[_Candidate]) -> None:
        for start in range(0, len(candidates), _BATCH):
            batch = candidates[start : start + _BATCH]
            written = [candidate.read for candidate in batch]
            vectors = self._encode([own.problem for own in written])
            nearest = self._seed_similarities(vectors)
            in_meaning = self._concepts_in_meaning(written)
            for i, (candidate, own, meaning) in enumerate(zip(batch, written, in_meaning, strict=True)):
                words = pair_checks.concepts_in_words(own.concepts, f"{own.problem}\n{own.rationale}")
                candidate.vector = vectors[i]
                candidate.figures = Figures(
                    concepts_in_words=_share(words),
                    concepts_in_meaning=_share(meaning),
                    concepts_used=_share([a or b for a, b in zip(words, meaning, strict=True)]),
                    seed_similarity=nearest[i],
                )

    def _seed_similarities(self, vectors: Float[np.ndarray, "texts D"]) -> list[float]:
        """Cosine of each problem with the seed nearest to it; 0 without seeds."""
        nearest, cosines = np.zeros(len(vectors), np.int64), np.full(len(vectors), -1.0, np.float32)
        for start in range(0, self._num_seeds, _BATCH):
            with_these = vectors @ self._seed_vectors[start : start + _BATCH].T
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
            statement_rules.sentences(statement_rules.words_only(f"{own.problem}\n\n{own.rationale}"))
            for own in written
        ]
        concepts = list(dict.fromkeys(concept for own in written for concept in own.concepts))
        positions = {concept: position for position, concept in enumerate(concepts)}
        # In float64 products round alike whatever the number of rows.
        concept_vectors = self._encode(concepts).astype(np.float64)
        vectors = self._encode([sentence for own in sentences for sentence in own]).astype(np.float64)
        ends = np.cumsum([len(own) for own in sentences])
        found = []
        for own, end, of_text in zip(written, ends, sentences, strict=True):
            near = vectors[end - len(of_text) : end] @ concept_vectors[[positions[c] for c in own.concepts]].T
            found.append((near.max(axis=0, initial=-1.0) >= self._config.concept_cosine).tolist())
        return found

    def _figure_faults(self, candidates: list[_Candidate]) -> list[Fault | None]:
        return [
            _figure_fault(candidate.figures, self._config)
            for candidate in candidates
            if candidate.figures is not None
        ]

    def _overlaps(self, candidates: list[_Candidate]) -> list[Fault | None]:
        if self._benchmarks is None:
            return [None] * len(candidates)
        matched = decontamination.with_overlaps(
            candidates, self._benchmarks, lambda candidate: (candidate.read.problem,)
        )
        return [
            Fault("contaminated", f"{found[0].source}: {found[0].ngram}", float(len(found)))
            if found
            else None
            for _, found in matched
        ]

    def _repeats(self, candidates: list[_Candidate], *, author: Author) -> list[Fault | None]:
        if not candidates:
            return []
        vectors = np.stack([candidate.vector for candidate in candidates if candidate.vector is not None])
        found = self._index.add([candidate.read.problem for candidate in candidates], vectors=vectors)
        self._ids += [problem_id(candidate.draft, author) for candidate in candidates]
        return [repeat and self._fault_of(repeat) for repeat in found]

    def _fault_of(self, repeat: near_duplicates.Repeat) -> Fault:
        of_seed = repeat.earlier < self._num_seeds
        earlier = f"seed {repeat.earlier}" if of_seed else self._ids[repeat.earlier - self._num_seeds]
        reason = f"{repeat.rule}_duplicate{'_of_seed' if of_seed else ''}"
        return Fault(reason, earlier, round(repeat.similarity, 4))

    def _problem(self, candidate: _Candidate, concept_set: ConceptSet, author: Author) -> Problem:
        assert candidate.figures is not None
        return Problem(
            id=problem_id(candidate.draft, author),
            domain=concept_set.domain,
            concepts=concept_set.concepts,
            level=concept_set.level,
            rationale=candidate.read.rationale,
            problem=candidate.read.problem,
            log_p_z=candidate.draft.log_p_z,
            log_p_x=candidate.draft.log_p_x,
            model_digest=author.model_digest,
            round_index=author.round_index,
            seed=author.seed,
            sample=candidate.draft.sample,
            filters=self._passed,
            concepts_in_words=candidate.figures.concepts_in_words,
            concepts_in_meaning=candidate.figures.concepts_in_meaning,
            seed_similarity=candidate.figures.seed_similarity,
        )


def problem_id(draft: Draft, author: Author) -> str:
    """Of the problem that a draft becomes."""
    return f"{draft.concept_set_id}-r{author.round_index}-s{author.seed}-{draft.sample}"


def _figure_fault(figures: Figures, config: FilterConfig) -> Fault | None:
    if config.min_concept_share is not None and figures.concepts_used < config.min_concept_share:
        return Fault("ignored_concepts", figure=figures.concepts_used)
    if config.max_seed_similarity is not None and figures.seed_similarity > config.max_seed_similarity:
        return Fault("near_seed", figure=figures.seed_similarity)
    return None


def _share(found: Sequence[bool]) -> float:
    return round(sum(found) / max(len(found), 1), 4)


def _reject(candidate: _Candidate) -> Reject:
    assert candidate.fault is not None
    draft, fault = candidate.draft, candidate.fault
    return Reject(
        {"request": draft.request, "concept_set_id": draft.concept_set_id, "sample": draft.sample},
        fault.reason,
        {
            "figure": fault.figure,
            "detail": fault.detail,
            "problem": candidate.written.problem if candidate.written else "",
        },
    )


def _rules_on(config: FilterConfig, duplicates: DuplicateConfig, *, has_benchmarks: bool) -> list[str]:
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
