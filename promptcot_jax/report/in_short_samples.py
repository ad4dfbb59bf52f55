"""Five problems for the report's first screen and one that was refused, the same ones for the same files.

Verified prompts where there are any, else new problems; those that are read back as well-posed first, and of
these the first of each family. A label is shown as it was voted, with what the exact solver says of it: none
is left out for being wrong. Beside verified prompts stands the first new problem without an answer, an
ill-posed one before others.
"""

import dataclasses
import itertools
from collections.abc import Hashable, Iterable, Sequence

from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.corpus import oracle
from promptcot_jax.corpus.oracle import Reading
from promptcot_jax.report import page, workdir_files
from promptcot_jax.report.workdir_files import Row
from promptcot_jax.verify import math_answers

NUM_SAMPLES = 5
MAX_CHARACTERS = 700  # of a text
_NUM_ROWS_READ = 2_000  # from the beginning of the file
_NUM_CONCEPTS = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """A problem as the page shows it; texts are empty where the row has none.

    Attributes:
        answer: as verified; of a program how many tests it has.
        verdict: of the exact reader and solver, on a run on the seed corpus; `is_good` is what it comes to.
    """

    id: str
    concepts: tuple[str, ...]
    rationale: str
    problem: str
    answer: str
    verdict: str
    is_good: bool


def choose(workdir: epath.Path, is_own_corpus: bool) -> list[Sample]:
    """At most five problems of different families, and one without a verified answer.

    Args:
        is_own_corpus: whether statements are of the seed corpus, and can be read back.
    """
    verified, written = (
        [(row, oracle.read(str(row["problem"])) if is_own_corpus else None) for row in _rows(workdir / name)]
        for name in ("verified_prompts.jsonl", "problems.jsonl")
    )
    chosen = _chosen(verified or written)
    if verified:
        answered = {row.get("id") for row, _ in verified}
        refused = [(row, reading) for row, reading in written if row.get("id") not in answered]
        chosen += sorted(refused, key=lambda one: one[1] is not None)[:1]
    return [_sample(row, reading, is_own_corpus) for row, reading in chosen]


def _rows(path: epath.Path) -> list[Row]:
    if not workdir_files.exists(path):
        return []
    rows = (row for _, _, row in itertools.islice(jsonl.iter_rows(path), _NUM_ROWS_READ))
    return [row for row in rows if row.get("problem")]


def _chosen(found: Sequence[tuple[Row, Reading | None]]) -> list[tuple[Row, Reading | None]]:
    """Well-posed rows before others, and in both the first of each kind before more of it."""
    chosen: list[tuple[Row, Reading | None]] = []
    for is_sound in (True, False):
        seen: set[Hashable] = set()
        first, more = [], []
        for row, reading in found:
            if (reading is not None) == is_sound:
                kind = reading.family if reading is not None else _concepts(row)
                (more if kind in seen else first).append((row, reading))
                seen.add(kind)
        chosen += first + more
    return chosen[:NUM_SAMPLES]


def _concepts(row: Row) -> tuple[str, ...]:
    concepts = row.get("concepts")
    return tuple(map(str, concepts)) if isinstance(concepts, Iterable) else ()


def _sample(row: Row, reading: Reading | None, is_own_corpus: bool) -> Sample:
    answer, tests = row.get("answer"), row.get("tests")
    shown = "" if answer is None else str(answer)
    verdict, is_good = ("", True) if not is_own_corpus else _verdict(reading, shown)
    if not shown and isinstance(tests, list) and tests:
        shown = f"a program that passes {len(tests)} tests"
    return Sample(
        id=str(row.get("id", "")),
        concepts=_concepts(row)[:_NUM_CONCEPTS],
        rationale=page.clipped(row.get("rationale") or "", MAX_CHARACTERS),
        problem=page.clipped(row["problem"], MAX_CHARACTERS),
        answer=page.clipped(shown, MAX_CHARACTERS),
        verdict=verdict,
        is_good=is_good,
    )


def _verdict(reading: Reading | None, label: str) -> tuple[str, bool]:
    """What the exact solver says of a problem and its label, and whether that is good."""
    if reading is None:
        return "not well-posed", False
    if not label or reading.answer is None:
        return "well-posed", True
    if math_answers.grade_math(reading.answer, label):
        return "well-posed, answer right", True
    return f"well-posed, answer wrong: it is {reading.answer}", False
