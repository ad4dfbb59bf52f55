"""What is counted of the rows of an exported set, for its data card."""

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from promptcot_jax.data import decontamination
from promptcot_jax.data.exported_sets import Exported, ExportedMathPrompt, ExportedProgramPrompt
from promptcot_jax.synthesis.cold_start_report import spread

VerifiedRow = ExportedMathPrompt | ExportedProgramPrompt
Spreads = Mapping[str, Mapping[str, float]]

_SHARES: Mapping[str, Callable[[VerifiedRow], float]] = {
    "agreement": lambda row: row.agreement,
    "share solved": lambda row: row.pass_share,
}


def concepts(rows: Sequence[Exported]) -> collections.Counter[str]:
    """In how many rows each concept is, in whatever case."""
    return collections.Counter(concept.casefold() for row in rows for concept in row.concepts)


def levels(rows: Sequence[Exported]) -> collections.Counter[str]:
    return collections.Counter(row.level or "(none)" for row in rows)


def pools(rows: Sequence[VerifiedRow]) -> collections.Counter[str]:
    return collections.Counter(row.pool or "(none)" for row in rows)


def lengths(rows: Sequence[Exported]) -> Spreads:
    """Words of problems, and of the rationales that are there."""
    return _spreads(
        {
            "problem": [len(decontamination.words(row.problem)) for row in rows],
            "rationale": [len(decontamination.words(row.rationale)) for row in rows if row.rationale],
        }
    )


def writers(rows: Sequence[Exported]) -> collections.Counter[tuple[str, int]]:
    """Rows by digest and EM round of the model that wrote them; rows of no model are left out."""
    return collections.Counter(
        (digest, getattr(row, "round_index", -1))
        for row in rows
        if (digest := getattr(row, "model_digest", ""))
    )


def named(rows: Sequence[Exported], field: str) -> collections.Counter[str]:
    """Rows by the text in a field that not all types have; rows without are left out."""
    return collections.Counter(name for row in rows if (name := getattr(row, field, "")))


def verified(rows: Sequence[Exported]) -> list[VerifiedRow]:
    return [row for row in rows if isinstance(row, VerifiedRow)]


def solved(rows: Sequence[Exported]) -> list[VerifiedRow]:
    """Those whose answer or tests sampled solutions voted on; others came with them."""
    return [row for row in verified(rows) if row.num_solutions]


def eighths(rows: Sequence[VerifiedRow]) -> tuple[tuple[str, ...], list[tuple[int, ...]]]:
    """What is counted, and for each eighth k (of (0, 1], 1 to 8) that has rows: k, and how many by each."""
    bins = [collections.Counter(_eighth(of(row)) for row in rows) for of in _SHARES.values()]
    return tuple(_SHARES), [(k, *(of[k] for of in bins)) for k in sorted(set().union(*bins))]


def _eighth(share: float) -> int:
    """Which eighth of (0, 1] a share is in, 1 to 8; 0 counts to the first."""
    return max(1, -int(-share * 8 // 1))


def solving(rows: Sequence[VerifiedRow]) -> Spreads:
    """How sure the answers and tests of solved rows are, and how hard it was to get them."""
    programs = [row for row in rows if isinstance(row, ExportedProgramPrompt)]
    return _spreads(
        {name: [of(row) for row in rows] for name, of in _SHARES.items()}
        | {
            "mean tokens of a solution": [row.mean_tokens for row in rows],
            "tests of a program": [len(row.tests) for row in programs],
            "share of mutants that its tests refuse": [row.kill_rate for row in programs if row.num_mutants],
        }
    )


def _spreads(figures: Mapping[str, Sequence[Any]]) -> Spreads:
    return {name: spread(values) for name, values in figures.items() if values}
