"""Figures and tables of a data card: what is counted of the rows of a set, and Markdown for it."""

import collections
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from promptcot_jax.data import decontamination
from promptcot_jax.data.exported_sets import Exported, ExportedMathPrompt, ExportedProgramPrompt
from promptcot_jax.synthesis.outcomes import spread

VerifiedRow = ExportedMathPrompt | ExportedProgramPrompt
Spreads = Mapping[str, Mapping[str, float]]

_NUM_SHOWN = 25  # of the things counted
_SHARES: Mapping[str, Callable[[VerifiedRow], float]] = {
    "agreement": lambda row: row.agreement,
    "share solved": lambda row: row.pass_share,
}


def concepts(rows: Sequence[Exported]) -> collections.Counter[str]:
    """In how many rows each concept is, in whatever case."""
    return collections.Counter(concept.casefold() for row in rows for concept in row.concepts)


def levels(rows: Sequence[Exported]) -> collections.Counter[str]:
    """How many rows have each level."""
    return collections.Counter(row.level or "(none)" for row in rows)


def pools(rows: Sequence[VerifiedRow]) -> collections.Counter[str]:
    """How many verified rows are in each pool."""
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
    """The rows that are verified prompts."""
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


def plain(text: str) -> str:
    """Any text in a line of Markdown, as itself."""
    return re.sub(r"([\\`|<\[])", r"\\\1", " ".join(text.split()))


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    """A table; nothing without rows."""
    if not rows:
        return
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(f'{c:,}' if isinstance(c, int) else plain(str(c)) for c in row)} |"


def counted(what: str, counts: Mapping[str, int]) -> Iterator[str]:
    """The most common first, those of one count by name."""
    order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    yield from table((what, "rows"), order[:_NUM_SHOWN])
    if len(order) > _NUM_SHOWN:
        yield ""
        yield f"and {len(order) - _NUM_SHOWN:,} more."


def spreads(figures: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """A row of each figure's spread, see `outcomes.spread`; nothing without figures."""
    if figures:
        names = next(iter(figures.values()))
        rows = [(name, *(f"{value:g}" for value in of.values())) for name, of in figures.items()]
        yield from table(("", *names), rows)
