"""Triples of a user's problems: a teacher names the concepts, then retraces the design (paper section 3.2).

Each problem has one of several annotators, drawn by seed, who does both parts; the paper used four models.
An answer that cannot be used is asked for once more, with what was wrong with it; what is then still unusable
is rejected with its reason. The paper does not say how it dealt with such answers, nor that it looked for
copied problems.
"""

import collections
import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from etils import epath

from promptcot_jax.core import prng
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import AnnotatedTriple, Domain, SeedProblem
from promptcot_jax.core.settings import PositiveInt, ShareBelowOne, settings
from promptcot_jax.data import decontamination
from promptcot_jax.sampling.text_model import Reply, TextModel, TextRequest, reasons, user_turn
from promptcot_jax.synthesis import (
    annotation_requests,
    near_duplicates,
    outcomes,
    pair_checks,
    teacher_replies,
)
from promptcot_jax.synthesis.outcomes import Reject, counted, spread
from promptcot_jax.synthesis.teacher_replies import Unusable

Value = TypeVar("Value")

PAPER_TRIPLES = 15_586  # section 3.2: 9,221 Codeforces + 6,365 AoPS
FAILED_TRIPLES = 4_000  # of a public reproduction that did not work
_COMMON_CONCEPTS = 20
_REPLIES = {"concepts": "concepts", "rationale": "rationales"}  # the files of each part
_FINAL = ("filtered", "too_long", "malformed")  # reasons for which asking again is in vain


@settings
class AnnotateConfig:
    """What is asked for, and what a triple must be."""

    num_concepts: PositiveInt = 5  # of a problem; the paper shows five
    domain: Domain = "math"  # of rows that have none
    level: str = ""  # of rows that have none; empty: the domain's default in prompts
    # Which problems repeat an earlier one and are left out.
    duplicates: near_duplicates.DuplicateConfig = near_duplicates.DuplicateConfig(embedding_threshold=None)
    pairs: pair_checks.PairConfig = pair_checks.PairConfig()  # which rationales give their problem away
    heldout_share: ShareBelowOne = 0.05  # of the triples, which go to `triples_heldout.jsonl`
    seed: int = 0  # of the choice of annotators, and of the held-out rows


@dataclasses.dataclass(frozen=True)
class Annotated:
    """What came of one annotator's problems.

    Attributes:
        tally: replies by question and reason (`concepts_stop`, `rationales_again_length`), and tokens.
    """

    triples: list[AnnotatedTriple]
    rejects: list[Reject]
    tally: collections.Counter[str]


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
        rejects.append(_reject(seed, "problem", reason, message))
    return kept, rejects


def by_annotator(seeds: Sequence[SeedProblem], count: int, seed: int) -> list[list[SeedProblem]]:
    """The problems of each of `count` annotators."""
    shares: list[list[SeedProblem]] = [[] for _ in range(count)]
    for problem in seeds:
        shares[int(prng.row_draw("annotator", problem.id, seed) * count)].append(problem)
    return shares


def is_held_out(row_id: str, config: AnnotateConfig) -> bool:
    """Whether a triple goes to the held-out file."""
    return prng.row_draw("heldout_triples", row_id, config.seed) < config.heldout_share


def foreseen(seeds: Sequence[SeedProblem], config: AnnotateConfig) -> list[TextRequest]:
    """What will be asked about these problems if nothing has to be asked twice; concepts are guessed."""
    guess = ("a foundational concept of mathematics",) * config.num_concepts
    concepts = [_concepts_request(seed, config) for seed in seeds]
    return concepts + [_rationale_request(seed, guess) for seed in seeds]


def annotate(
    seeds: Sequence[SeedProblem], model: TextModel, directory: epath.PathLike, config: AnnotateConfig
) -> Annotated:
    """What one annotator makes of its problems; its replies stay in `directory`.

    Raises:
        WrongUse: as the model.
    """
    teacher = _RetryingTeacher(model, epath.Path(directory))
    concepts = teacher.ask(
        "concepts",
        {seed: _concepts_request(seed, config) for seed in seeds},
        lambda seed, text: annotation_requests.read_concepts(text, config.num_concepts),
    )
    triples = teacher.ask(
        "rationale",
        {seed: _rationale_request(seed, own) for seed, own in concepts.items()},
        lambda seed, text: _triple(seed, concepts[seed], text, model.name, config),
    )
    return Annotated(
        [
            dataclasses.replace(triple, repaired=seed.id in teacher.repaired)
            for seed, triple in triples.items()
        ],
        teacher.rejects,
        teacher.tally,
    )


def _reject(
    seed: SeedProblem, part: str, reason: str, message: str, annotator: str = "", text: str = ""
) -> Reject:
    """A seed problem that gave no triple: at which part, by whom if it was asked, and the last answer."""
    evidence = {"message": message, "annotator": annotator, "text": text}
    return Reject({"id": seed.id, "part": part}, reason, evidence)


def _concepts_request(seed: SeedProblem, config: AnnotateConfig) -> TextRequest:
    text = annotation_requests.concepts_request(seed.problem, seed.domain, config.num_concepts)
    return TextRequest(id=seed.id, messages=user_turn(text))


def _rationale_request(seed: SeedProblem, concepts: Sequence[str]) -> TextRequest:
    text = annotation_requests.rationale_request(concepts, seed.level, seed.problem, seed.domain)
    return TextRequest(id=seed.id, messages=user_turn(text))


class _RetryingTeacher:
    """An annotator that is asked a second time where its first answer is unusable, and what came of it."""

    def __init__(self, model: TextModel, directory: epath.Path):
        self._model, self._directory = model, directory
        self.rejects: list[Reject] = []
        self.repaired: set[str] = set()  # ids of problems with a second answer that can be used
        self.tally: collections.Counter[str] = collections.Counter()

    def ask(
        self,
        part: str,
        requests: Mapping[SeedProblem, TextRequest],
        read: Callable[[SeedProblem, str], Value],
    ) -> dict[SeedProblem, Value]:
        """What `read` makes of the answers; a problem is rejected where it can make nothing of two."""
        name = _REPLIES[part]
        replies = self._complete(name, requests)
        found = {seed: _read(seed, reply, read) for seed, reply in replies.items()}
        again = self._complete(
            f"{name}_again",
            {
                seed: _second_request(requests[seed], replies[seed].text, value)
                for seed, value in found.items()
                if isinstance(value, Unusable) and value.reason not in _FINAL
            },
        )
        found |= {seed: _read(seed, reply, read) for seed, reply in again.items()}
        usable: dict[SeedProblem, Value] = {}
        for seed, value in found.items():
            if isinstance(value, Unusable):
                text = (replies | again)[seed].text
                self.rejects.append(_reject(seed, part, value.reason, str(value), self._model.name, text))
            else:
                usable[seed] = value
        self.repaired |= {seed.id for seed in usable.keys() & again.keys()}
        return usable

    def _complete(self, name: str, requests: Mapping[SeedProblem, TextRequest]) -> dict[SeedProblem, Reply]:
        path = self._directory / f"{name}.jsonl"
        replies = self._model.complete(list(requests.values()), path) if requests else []
        self.tally.update({f"{name}_{reason}": count for reason, count in reasons(replies).items()})
        self.tally["prompt_tokens"] += sum(reply.prompt_tokens for reply in replies)
        self.tally["completion_tokens"] += sum(reply.completion_tokens for reply in replies)
        return dict(zip(requests, replies, strict=True))


def _read(seed: SeedProblem, reply: Reply, read: Callable[[SeedProblem, str], Value]) -> Value | Unusable:
    return teacher_replies.read(reply, lambda text: read(seed, text))


def _second_request(request: TextRequest, text: str, fault: Unusable) -> TextRequest:
    """The question, the answer, and what was wrong with it; an answer that was cut off is left out."""
    if fault.reason == "length":
        question = f"{request.messages[0]['content']}\n\n{annotation_requests.BREVITY}"
        return dataclasses.replace(request, messages=user_turn(question))
    answered = {"role": "assistant", "content": text}
    follow_up = user_turn(annotation_requests.repair_request(str(fault)))
    return dataclasses.replace(request, messages=(*request.messages, answered, *follow_up))


def _triple(
    seed: SeedProblem, concepts: tuple[str, ...], text: str, annotator: str, config: AnnotateConfig
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
        repaired=False,
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


def report(
    *,
    num_seeds: int,
    triples: Sequence[AnnotatedTriple],
    rejects: Sequence[Reject],
    rows_of_annotators: Mapping[str, int],
    replies: Mapping[str, int],
    left_out: Mapping[str, int] = types.MappingProxyType({}),
) -> dict[str, Any]:
    """How usable the triples are for the cold start: how many, how long, how varied, what was lost.

    Args:
        num_seeds: problems that were read.
        rows_of_annotators: how many problems each was asked about.
        replies: see `Annotated.tally`.
        left_out: bad rows by reason.
    """
    concepts = collections.Counter(concept.casefold() for triple in triples for concept in triple.concepts)
    by_annotator = collections.Counter(triple.annotator for triple in triples)
    return {
        "rows": {
            "in": num_seeds + sum(left_out.values()),
            "left_out": sum(left_out.values()),
            "triples": len(triples),
            "rejected": len(rejects),
            "share_rejected": round(len(rejects) / max(num_seeds, 1), 4),
            "repaired": sum(triple.repaired for triple in triples),
        },
        "left_out_by_reason": dict(sorted(left_out.items())),
        "rejected_by_reason": outcomes.by_reason(rejects, "part"),
        "annotators": {
            name: {"rows": count, "triples": by_annotator[name]} for name, count in rows_of_annotators.items()
        },
        "replies": dict(sorted(replies.items())),
        "domains": counted(triple.domain for triple in triples),
        "levels": counted(triple.level for triple in triples),
        "words": {
            "problem": spread([len(decontamination.words(triple.problem)) for triple in triples]),
            "rationale": spread([len(decontamination.words(triple.rationale)) for triple in triples]),
        },
        "concepts": {
            "distinct": len(concepts),
            "used_once": sum(count == 1 for count in concepts.values()),
            "most_common": dict(
                sorted(concepts.items(), key=lambda item: (-item[1], item[0]))[:_COMMON_CONCEPTS]
            ),
            "coverage": spread([triple.concept_coverage for triple in triples]),
        },
        "copying": {
            "share": spread([triple.copied_share for triple in triples]),
            "longest_run": spread([triple.longest_copy for triple in triples]),
        },
        "answer_stated": counted(triple.answer_stated for triple in triples),
        "warning": warning(len(triples)),
    }


def warning(num_triples: int) -> str:
    """What is known of sets of this size; empty from the paper's size on."""
    if num_triples >= PAPER_TRIPLES:
        return ""
    text = f"{num_triples:,} triples; the paper's cold start had {PAPER_TRIPLES:,}"
    if num_triples <= FAILED_TRIPLES:
        text += (
            f". A public reproduction with up to about {FAILED_TRIPLES:,} failed: ill-posed problems, "
            "ignored concepts, rewards nearly tied. Expect to see the mechanism, not good problems"
        )
    return f"{text}."


def lines(figures: Mapping[str, Any]) -> list[str]:
    """The report in a few lines for the log."""
    rows, words, concepts = figures["rows"], figures["words"], figures["concepts"]
    left_out, of = (
        (f" ({rows['left_out']:,} bad rows left out)", " of the others") if rows["left_out"] else ("", "")
    )
    text = [
        f"{rows['triples']:,} triples of {rows['in']:,} problems{left_out}, {rows['share_rejected']:.1%}{of} "
        f"rejected, {rows['repaired']:,} after a second request"
    ]
    for fate in ("left out", "rejected"):
        if by_reason := figures[f"{fate.replace(' ', '_')}_by_reason"]:
            text.append(f"{fate}: {outcomes.listed(by_reason)}")
    if rows["triples"]:
        text += [
            f"words (medians): problem {words['problem']['median']:.0f}, rationale "
            f"{words['rationale']['median']:.0f}",
            f"concepts: {concepts['distinct']:,} distinct, {concepts['used_once']:,} used once; coverage "
            f"{concepts['coverage']['mean']:.2f} (mean)",
            f"rationales: {figures['copying']['share']['mean']:.2f} of the problem copied (mean); "
            f"{figures['answer_stated'].get('yes', 0):,} state the answer",
        ]
    return text
