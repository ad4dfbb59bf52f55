"""Writing problems: (z, x) ~ p_theta(. | c) for each concept set, and what is kept of them.

Draws are numbered, a draw's noise is keyed by its number, and samples are kept as they come, so that a killed
run goes on with the missing ones and ends in the same bytes. Dropping is exact and counted by
reason; a sample that was dropped stays readable among the raw samples. Filters that judge a problem
(solvable, hard, new against benchmarks) belong to curation, not here.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Literal

from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.core.records import ConceptSet, Problem
from promptcot_jax.data import templates
from promptcot_jax.parallel import hosts
from promptcot_jax.sampling.rollouts import Draw, draws_of
from promptcot_jax.synthesis import text_sketches

DROP_REASONS = ("unfinished", "unparseable", "empty", "duplicate", "duplicate_of_seed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draft:
    """What p_theta wrote for one request, before anything is dropped."""

    request: int
    concept_set_id: str
    sample: int
    text: str  # without the end token
    finish_reason: Literal["stop", "length"]
    num_tokens: int  # the end token included
    log_p_z: (
        float  # log p_theta(z | c) of the sampled ids up to the end of the z block (all of them without one)
    )
    log_p_x: float  # log p_theta(x | z, c) of the rest, the end token included
    retokenized: bool  # its text would tokenize otherwise; the scores are those of the sampled ids


@dataclasses.dataclass(frozen=True, kw_only=True)
class Author:
    """Which model wrote the problems, for their lineage."""

    model_digest: str
    round_index: int  # -1: the cold start, or a model of no EM round
    seed: int


WriteDrafts = Callable[[epath.PathLike, Sequence[Draw[ConceptSet]]], list[Draft]]


def write_problems(
    concept_sets: Sequence[ConceptSet],
    *,
    write_drafts: WriteDrafts,
    samples_per_set: int,
    author: Author,
    seed_problems: Sequence[str],
    drafts_path: epath.PathLike,
    problems_path: epath.PathLike,
) -> dict[str, int]:
    """Samples, parses, drops, and writes drafts and problems; returns the counts for the manifest.

    Args:
        write_drafts: samples all draws into a file, see `prompt_model.draft_writer`.
        seed_problems: texts that a new problem must not repeat.
    """
    drafts = write_drafts(drafts_path, draws_of(concept_sets, samples_per_set))
    problems, counts = select_problems(drafts, concept_sets, author=author, seed_problems=seed_problems)
    hosts.wait_for_first("write problems", lambda: jsonl.write_records(problems_path, problems))
    return counts


def select_problems(
    drafts: Sequence[Draft],
    concept_sets: Sequence[ConceptSet],
    *,
    author: Author,
    seed_problems: Sequence[str],
) -> tuple[list[Problem], dict[str, int]]:
    """The problems worth keeping, in order, and the counts: in, out, dropped by reason, kept but retokenized.

    Of several drafts with one problem text the first is kept.
    """
    by_id = {concept_set.id: concept_set for concept_set in concept_sets}
    of_seeds = {text_sketches.comparable(text) for text in seed_problems}
    written: set[str] = set()
    problems = []
    counts = {"concept_sets": len(concept_sets), "in": len(drafts), "out": 0}
    counts |= {f"dropped_{reason}": 0 for reason in DROP_REASONS} | {"retokenized": 0}
    for draft in drafts:
        parsed = templates.parse_problem(draft.text) if draft.finish_reason == "stop" else None
        if parsed is None:
            counts[f"dropped_{_why_not_parsed(draft)}"] += 1
            continue
        rationale, problem = parsed
        text = text_sketches.comparable(problem)
        if text in of_seeds or text in written:
            counts["dropped_duplicate_of_seed" if text in of_seeds else "dropped_duplicate"] += 1
            continue
        written.add(text)
        counts["out"] += 1
        counts["retokenized"] += draft.retokenized
        concept_set = by_id[draft.concept_set_id]
        problems.append(
            Problem(
                id=f"{concept_set.id}-r{author.round_index}-s{author.seed}-{draft.sample}",
                domain=concept_set.domain,
                concepts=concept_set.concepts,
                level=concept_set.level,
                rationale=rationale,
                problem=problem,
                log_p_z=draft.log_p_z,
                log_p_x=draft.log_p_x,
                model_digest=author.model_digest,
                round_index=author.round_index,
                seed=author.seed,
                sample=draft.sample,
            )
        )
    return problems, counts


_EMPTY_BLOCK = re.compile(
    "|".join(
        rf"{re.escape(begin)}\s*{re.escape(end)}"
        for begin, end in (
            (templates.BEGIN_RATIONALE, templates.END_RATIONALE),
            (templates.BEGIN_PROBLEM, templates.END_PROBLEM),
        )
    )
)


def _why_not_parsed(draft: Draft) -> str:
    """The reason under which a draft that gave no (z, x) is counted."""
    if draft.finish_reason == "length":
        return "unfinished"
    return "empty" if not draft.text.strip() or _EMPTY_BLOCK.search(draft.text) else "unparseable"
