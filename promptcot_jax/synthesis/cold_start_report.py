"""How usable annotated triples are for the cold start: how many, how long, how varied, what was lost."""

import collections
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from promptcot_jax.core.records import AnnotatedTriple
from promptcot_jax.data import decontamination
from promptcot_jax.synthesis.annotating import Reject

PAPER_TRIPLES = 15_586  # section 3.2: 9,221 Codeforces + 6,365 AoPS
FAILED_TRIPLES = 4_000  # of a public reproduction that did not work
_COMMON_CONCEPTS = 20


def report(
    *,
    num_seeds: int,
    triples: Sequence[AnnotatedTriple],
    rejects: Sequence[Reject],
    rows_of_annotators: Mapping[str, int],
    replies: Mapping[str, int],
    left_out: Mapping[str, int] = types.MappingProxyType({}),
) -> dict[str, Any]:
    """The figures, as JSON has them.

    Args:
        num_seeds: problems that were read.
        rows_of_annotators: how many problems each was asked about.
        replies: see `annotating.Annotated.tally`.
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
        "rejected_by_reason": dict(
            sorted(collections.Counter(f"{reject.part}_{reject.reason}" for reject in rejects).items())
        ),
        "annotators": {
            name: {"rows": count, "triples": by_annotator[name]} for name, count in rows_of_annotators.items()
        },
        "replies": dict(sorted(replies.items())),
        "domains": _counted(triple.domain for triple in triples),
        "levels": _counted(triple.level for triple in triples),
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
        "answer_stated": _counted(triple.answer_stated for triple in triples),
        "warning": warning(len(triples)),
    }


def _counted(values: Any) -> dict[str, int]:
    return dict(sorted(collections.Counter(values).items()))


def spread(values: Sequence[int] | Sequence[float]) -> dict[str, float]:
    """Least, quartiles, 95th percentile, most and mean; nothing of no values."""
    if not values:
        return {}
    names = ("min", "q1", "median", "q3", "p95", "max")
    found = np.quantile(values, (0.0, 0.25, 0.5, 0.75, 0.95, 1.0))
    figures = {name: round(float(value), 4) for name, value in zip(names, found, strict=True)}
    return figures | {"mean": round(float(np.mean(values)), 4)}


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
        if reasons := figures[f"{fate.replace(' ', '_')}_by_reason"]:
            text.append(f"{fate}: " + ", ".join(f"{reason} {count:,}" for reason, count in reasons.items()))
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
