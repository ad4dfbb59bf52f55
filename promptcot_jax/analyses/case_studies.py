"""Problems to read, as the paper prints its cases: concepts, steps of the rationale, problem, solution.

One page without script or request. Steps are those that a rationale numbers itself, else its paragraphs.
"""

import collections
import re
from collections.abc import Mapping, Sequence
from typing import Any

from promptcot_jax.analyses import mathml
from promptcot_jax.analyses.figures import AnalysisResult, NoRecords, counted
from promptcot_jax.analyses.problem_sets import ProblemSets, SetRow
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.settings import PositiveInt, settings
from promptcot_jax.core.workdir import InputPath
from promptcot_jax.report import page, workdir_files

_STEP = re.compile(
    r"^[ \t]*(?:\*\*)?(?:Step\s+\d+\s*[:.)](?:\*\*)?|\(?\d{1,2}[.)](?:\*\*)?(?=\s|$))[ \t]*",
    re.MULTILINE | re.IGNORECASE,
)
_WORD, _LATEX = re.compile(r"[^\W\d_]{2,}"), re.compile(r"[\\^_{}]")
_PARAGRAPH = re.compile(r"\n\s*\n|(?<=[.!?])\n(?=\S)")


@settings
class CaseConfig:
    """Which problems are shown."""

    rows: InputPath | None = None  # their file; None: of all sets, in turn
    ids: tuple[str, ...] = ()  # of the rows; none: `number` of them, evenly spaced in each set
    number: PositiveInt = 6


def pages_of(sets: ProblemSets, config: CaseConfig) -> list[AnalysisResult]:
    """The page of case studies.

    Raises:
        NoRecords: there are no rows.
        WrongUse: an id is in no set, or in several.
    """
    if not sets:
        raise NoRecords(
            "no problems to show; the workdir has no verified_prompts.jsonl, problems.jsonl or "
            "triples.jsonl: name a file with CASES."
        )
    cases = chosen(sets, config)
    shown = [_case(*case) for case in cases]
    rows = [_account(*case, one) for case, one in zip(cases, shown, strict=True)]
    unread = sum(row["unread_formulas"] for row in rows)
    names = list(dict.fromkeys(name for name, _ in cases))
    of = f"the set{'s' if len(names) > 1 else ''} {', '.join(names)}"
    caption = f"{counted(len(cases), 'problem')} of {of}: concepts, rationale, problem, solution."
    if unread:
        caption += f" {counted(unread, 'formula', 'formulas')} could not be read and stand as text."
    html = page.render("case_studies.html", caption=caption, cases=shown)
    return [AnalysisResult(name="case_studies", title="Case studies", caption=caption, rows=rows, html=html)]


def chosen(sets: ProblemSets, config: CaseConfig) -> list[tuple[str, SetRow]]:
    """Problems with the names of their sets: those of the ids, in their order, else of each set in turn.

    A set's are evenly spaced, of those with a rationale if any has one.

    Raises:
        WrongUse: an id is of no row, or of rows in several sets.
    """
    if config.ids:
        return _with_ids(sets, config.ids)
    pools = {name: [row for row in rows if row.rationale] or rows for name, rows in sets.items()}
    counts = _counts({name: len(pool) for name, pool in pools.items()}, config.number)
    drawn = {name: workdir_files.spread(pool, counts[name]) for name, pool in pools.items()}
    return [
        (name, own[i])
        for i in range(max(counts.values(), default=0))
        for name, own in drawn.items()
        if i < len(own)
    ]


def _with_ids(sets: ProblemSets, ids: Sequence[str]) -> list[tuple[str, SetRow]]:
    by_id: dict[str, list[tuple[str, SetRow]]] = collections.defaultdict(list)
    for name, rows in sets.items():
        for row in rows:
            by_id[row.id].append((name, row))
    if unknown := [one for one in ids if one not in by_id]:
        raise WrongUse(
            f"CASE_IDS: no problem has the id {unknown[0]!r}; the first ids are {', '.join(list(by_id)[:3])}."
        )
    if shared := [one for one in ids if len(by_id[one]) > 1]:
        names = " and ".join(f"'{name}'" for name, _ in by_id[shared[0]])
        raise WrongUse(
            f"CASE_IDS: the sets {names} all have a problem with the id {shared[0]!r}; name the file of one "
            "with CASES, or leave the others out of SETS."
        )
    return [by_id[one][0] for one in ids]


def _counts(sizes: Mapping[str, int], number: int) -> dict[str, int]:
    """How many are drawn of each set: one of each in turn, until there are `number` or no more."""
    counts = dict.fromkeys(sizes, 0)
    while left := number - sum(counts.values()):
        unfinished = [name for name in sizes if counts[name] < sizes[name]]
        if not unfinished:
            break
        for name in unfinished[:left]:
            counts[name] += 1
    return counts


def steps(rationale: str) -> tuple[str, list[str]]:
    """What a rationale says before its first numbered step, and the steps; else its paragraphs as steps."""
    starts = list(_STEP.finditer(rationale))
    if len(starts) > 1:
        ends = [match.start() for match in starts[1:]] + [len(rationale)]
        found = [rationale[match.end() : end].strip() for match, end in zip(starts, ends, strict=True)]
        return rationale[: starts[0].start()].strip(), [step for step in found if step]
    return "", [part.strip() for part in _PARAGRAPH.split(rationale.strip()) if part.strip()]


def _account(set_name: str, row: SetRow, case: Mapping[str, Any]) -> dict[str, Any]:
    """The row of numbers of a case as `_case` gives it."""
    texts = (case["before"], *case["steps"], *case["texts"].values())
    kinds = collections.Counter(kind for pieces in texts for kind, _ in pieces)
    return {
        "set": set_name,
        "id": row.id,
        "domain": row.domain,
        "level": row.level,
        "concepts": "; ".join(row.concepts),
        "steps": len(case["steps"]),
        "formulas": kinds["formula"] + kinds["unread"],
        "unread_formulas": kinds["unread"],
    }


def _case(set_name: str, row: SetRow) -> dict[str, Any]:
    """What the template shows of a problem; texts as `mathml.pieces`."""
    label = (set_name, row.domain, row.level and f"level {row.level}", row.source)
    before, numbered = steps(row.rationale)
    texts = {"Problem": row.problem, "Solution": _solution(row), "Answer": _answer(row)}
    return {
        "id": row.id,
        "label": ", ".join(part for part in label if part),
        "concepts": row.concepts,
        "before": mathml.pieces(before) if before else [],
        "steps": list(map(mathml.pieces, numbered)),
        "texts": {heading: mathml.pieces(text) for heading, text in texts.items() if text},
    }


def _solution(row: SetRow) -> str:
    """The solution; a bare program is put into a fence."""
    if row.domain == "code" and row.solution and "```" not in row.solution:
        return f"```\n{row.solution.rstrip()}\n```\n"
    return row.solution


def _answer(row: SetRow) -> str:
    """The answer as text with formulas: without a dollar it is one, but for words, which are no product."""
    answer = row.answer.strip()
    is_words = _WORD.search(answer) and not _LATEX.search(answer)
    return answer if not answer or "$" in answer or is_words else f"${answer}$"
