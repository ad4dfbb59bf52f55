"""Triples of a user's problems: a teacher names the concepts, then retraces the design (paper section 3.2).

Each problem has one of several annotators, drawn by seed, who does both parts; the paper used four models.
An answer that cannot be used is asked for once more, with what was wrong with it; what is then still
unusable is rejected with its reason, and kept. The paper does not say how it dealt with such answers, nor
that it looked for copied problems.
"""

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Generic, Literal, TypeVar

from etils import epath

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import AnnotatedTriple, Domain, SeedProblem
from promptcot_jax.sampling.text_model import Reply, TextModel, TextRequest, reasons, user_turn
from promptcot_jax.synthesis import annotation_requests, near_duplicates, pair_checks, seed_problems
from promptcot_jax.synthesis.annotation_requests import Unusable

Value = TypeVar("Value")
Part = Literal["concepts", "rationale"]

_ANNOTATOR, _HELD_OUT = 0, 1  # purposes of a row's draws
_NOT_ENDED = {
    "length": "the answer was cut off",
    "filtered": "the server held the answer back",
    "too_long": "the request leaves no room for an answer",
    "malformed": "the server gave nothing that can be read",
}
_FINAL = frozenset(_NOT_ENDED) - {"length"}  # asking again is in vain


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnnotateConfig:
    """What is asked for, and what a triple must be.

    Attributes:
        num_concepts: of a problem; the paper shows five.
        domain, level: of rows that have none; an empty level is the domain's default in prompts.
        duplicates: which problems repeat an earlier one and are left out.
        pairs: which rationales give their problem away.
        heldout_share: of the triples, which go to `triples_heldout.jsonl`.
        seed: of the choice of annotators, and of the held-out rows.
    """

    num_concepts: int = 5
    domain: Domain = "math"
    level: str = ""
    duplicates: near_duplicates.DuplicateConfig = near_duplicates.DuplicateConfig(embedding_threshold=None)
    pairs: pair_checks.PairConfig = pair_checks.PairConfig()
    heldout_share: float = 0.05
    seed: int = 0

    def __post_init__(self):
        if self.num_concepts < 1:
            raise ValueError(f"num_concepts must be at least 1, got {self.num_concepts}.")
        if not 0.0 <= self.heldout_share < 1.0:
            raise ValueError(f"heldout_share must lie in [0, 1), got {self.heldout_share}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reject:
    """A seed problem that gave no triple, and why."""

    id: str
    part: Literal["problem", "concepts", "rationale"]
    reason: str
    message: str
    annotator: str = ""  # none: it was not asked
    text: str = ""  # of the last answer


@dataclasses.dataclass(frozen=True)
class Annotated:
    """What came of one annotator's problems.

    Attributes:
        tally: replies by question and reason (`concepts_stop`, `rationales_again_length`), and tokens.
    """

    triples: list[AnnotatedTriple]
    rejects: list[Reject]
    tally: collections.Counter[str]


@dataclasses.dataclass(frozen=True)
class _Read(Generic[Value]):
    """What could be made of the answers for one row."""

    value: Value | Unusable
    text: str
    repaired: bool


def without_repeats(
    seeds: Sequence[SeedProblem], config: AnnotateConfig, encode: near_duplicates.Encode | None = None
) -> tuple[list[SeedProblem], list[Reject]]:
    """The problems that repeat no earlier one, and the others.

    Args:
        encode: vectors of texts, for the embedding rule.

    Raises:
        ValueError: that rule is on, and there is no encoder.
    """
    if config.duplicates.embedding_threshold is not None and encode is None:
        raise ValueError("duplicates.embedding_threshold needs an encoder; pass one, or set it to None.")
    kept, rejects = [], []
    repeats = near_duplicates.find([seed.problem for seed in seeds], config.duplicates, encode=encode)
    for seed, repeat in zip(seeds, repeats, strict=True):
        if repeat is None:
            kept.append(seed)
            continue
        measure = "cosine" if repeat.rule == "embedding" else "similarity"
        message = f"repeats {seeds[repeat.earlier].id} ({measure} {repeat.similarity:.3f})"
        reason = "duplicate" if repeat.rule == "exact" else "near_duplicate"
        rejects.append(Reject(id=seed.id, part="problem", reason=reason, message=message))
    return kept, rejects


def by_annotator(seeds: Sequence[SeedProblem], count: int, seed: int) -> list[list[SeedProblem]]:
    """The problems of each of `count` annotators."""
    shares: list[list[SeedProblem]] = [[] for _ in range(count)]
    for problem in seeds:
        shares[int(seed_problems.drawn_number(problem.id, seed, _ANNOTATOR) * count)].append(problem)
    return shares


def is_held_out(row_id: str, config: AnnotateConfig) -> bool:
    """Whether a triple goes to the held-out file."""
    return seed_problems.drawn_number(row_id, config.seed, _HELD_OUT) < config.heldout_share


def foreseen(seeds: Sequence[SeedProblem], config: AnnotateConfig) -> list[TextRequest]:
    """What will be asked about these problems if nothing has to be asked twice; concepts are guessed."""
    guess = ("a foundational concept of mathematics",) * config.num_concepts
    concepts = [_concepts_request(seed, config) for seed in seeds]
    return concepts + [_rationale_request(seed, guess) for seed in seeds]


def annotate(
    seeds: Sequence[SeedProblem], teacher: TextModel, directory: epath.PathLike, config: AnnotateConfig
) -> Annotated:
    """What one annotator makes of its problems; its replies stay in `directory`.

    Raises:
        WrongUse: as the teacher.
    """
    lesson = _RetryingTeacher(teacher, epath.Path(directory))
    rejects: list[Reject] = []

    def reject(seed: SeedProblem, part: Part, read: _Read, fault: Unusable) -> None:
        rejects.append(
            Reject(
                id=seed.id,
                part=part,
                reason=fault.reason,
                message=str(fault),
                annotator=teacher.name,
                text=read.text,
            )
        )

    requests = [_concepts_request(seed, config) for seed in seeds]
    read_concepts = lesson.ask(
        "concepts", requests, lambda i, text: annotation_requests.read_concepts(text, config.num_concepts)
    )
    conceived: list[tuple[SeedProblem, tuple[str, ...], bool]] = []
    for seed, read in zip(seeds, read_concepts, strict=True):
        if isinstance(read.value, Unusable):
            reject(seed, "concepts", read, read.value)
        else:
            conceived.append((seed, read.value, read.repaired))
    requests = [_rationale_request(seed, concepts) for seed, concepts, _ in conceived]
    read_triples = lesson.ask(
        "rationales", requests, lambda i, text: _triple(*conceived[i], text, teacher.name, config)
    )
    triples = []
    for (seed, _, _), read in zip(conceived, read_triples, strict=True):
        if isinstance(read.value, Unusable):
            reject(seed, "rationale", read, read.value)
        else:
            triples.append(dataclasses.replace(read.value, repaired=read.value.repaired or read.repaired))
    return Annotated(triples, rejects, lesson.tally)


def _concepts_request(seed: SeedProblem, config: AnnotateConfig) -> TextRequest:
    text = annotation_requests.concepts_request(seed.problem, seed.domain, config.num_concepts)
    return TextRequest(id=seed.id, messages=user_turn(text))


def _rationale_request(seed: SeedProblem, concepts: Sequence[str]) -> TextRequest:
    text = annotation_requests.rationale_request(concepts, seed.level, seed.problem, seed.domain)
    return TextRequest(id=seed.id, messages=user_turn(text))


class _RetryingTeacher:
    """Questions to one annotator, each with one repetition; tallies the replies."""

    def __init__(self, teacher: TextModel, directory: epath.Path):
        self._teacher, self._directory = teacher, directory
        self.tally: collections.Counter[str] = collections.Counter()

    def ask(
        self, name: str, requests: Sequence[TextRequest], read: Callable[[int, str], Value]
    ) -> list[_Read[Value]]:
        """What `read` makes of the answer to each request, or of a second one where the first is unusable."""
        replies = self._complete(name, requests)
        results = [_read_one(i, reply, read, repaired=False) for i, reply in enumerate(replies)]
        again = {
            i: _second_request(requests[i], result.text, result.value)
            for i, result in enumerate(results)
            if isinstance(result.value, Unusable) and result.value.reason not in _FINAL
        }
        for i, reply in zip(again, self._complete(f"{name}_again", list(again.values())), strict=True):
            results[i] = _read_one(i, reply, read, repaired=True)
        return results

    def _complete(self, name: str, requests: Sequence[TextRequest]) -> list[Reply]:
        replies = self._teacher.complete(requests, self._directory / f"{name}.jsonl") if requests else []
        for reason, count in reasons(replies).items():
            self.tally[f"{name}_{reason}"] += count
        self.tally["prompt_tokens"] += sum(reply.prompt_tokens for reply in replies)
        self.tally["completion_tokens"] += sum(reply.completion_tokens for reply in replies)
        return replies


def _read_one(i: int, reply: Reply, read: Callable[[int, str], Value], *, repaired: bool) -> _Read[Value]:
    if reply.finish_reason != "stop":
        fault = Unusable(reply.finish_reason, _NOT_ENDED[reply.finish_reason])
        return _Read(fault, reply.text, repaired)
    try:
        return _Read(read(i, reply.text), reply.text, repaired)
    except Unusable as fault:
        return _Read(fault, reply.text, repaired)


def _second_request(request: TextRequest, text: str, fault: Unusable) -> TextRequest:
    """The question, the answer, and what was wrong with it; an answer that was cut off is left out."""
    if fault.reason == "length":
        question = f"{request.messages[0]['content']}\n\n{annotation_requests.BREVITY}"
        return dataclasses.replace(request, messages=user_turn(question))
    answered = {"role": "assistant", "content": text}
    said = user_turn(annotation_requests.repair_request(str(fault)))
    return dataclasses.replace(request, messages=(*request.messages, answered, *said))


def _triple(
    seed: SeedProblem,
    concepts: tuple[str, ...],
    repaired: bool,
    text: str,
    annotator: str,
    config: AnnotateConfig,
) -> AnnotatedTriple:
    """The triple that an answer completes.

    Raises:
        Unusable: the answer is no rationale, copies the problem, or the concepts are not those of the pair.
    """
    rationale = annotation_requests.read_rationale(text)
    copied = pair_checks.copying(seed.problem, rationale, config.pairs.copy_ngram)
    coverage = pair_checks.concept_coverage(concepts, (seed.problem, rationale))
    pair_checks.check(copied, coverage, config.pairs)
    return AnnotatedTriple(
        id=seed.id,
        domain=seed.domain,
        concepts=concepts,
        level=seed.level,
        rationale=rationale,
        problem=seed.problem,
        annotator=annotator,
        repaired=repaired,
        copied_share=round(copied.share, 4),
        longest_copy=copied.longest_run,
        concept_coverage=round(coverage, 4),
        answer_stated=pair_checks.answer_stated(seed.answer, seed.problem, rationale),
    )


def check_names(names: Sequence[str]) -> None:
    """Refuses annotators that cannot be told apart, and an empty list of them.

    Raises:
        WrongUse: says what to set.
    """
    if not names:
        raise WrongUse("There are no annotators; name one or more with ANNOTATORS.")
    for name in names:
        if names.count(name) > 1:
            raise WrongUse(f"ANNOTATORS names '{name}' twice; the rows could not tell who made them.")
