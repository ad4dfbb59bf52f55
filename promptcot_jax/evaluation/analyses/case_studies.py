"""Problems to read, as the paper prints its cases: concepts, steps of the rationale, problem, solution.

One page without script or request. Steps are those that a rationale numbers itself, else its paragraphs.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.manifest import InputPath
from promptcot_jax.evaluation import mathml, page, workdir_files
from promptcot_jax.evaluation.analyses.made import Made, NoRecords, counted
from promptcot_jax.evaluation.analyses.problem_sets import ProblemSets, SetRow

_STEP = re.compile(
    r"^[ \t]*(?:\*\*)?(?:Step\s+\d+\s*[:.)]|\(?\d{1,2}[.)])(?:\*\*)?[ \t]*", re.MULTILINE | re.IGNORECASE
)
_PARAGRAPH = re.compile(r"\n\s*\n|(?<=[.!?])\n(?=\S)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaseConfig:
    """Which problems are shown.

    Attributes:
        rows: their file; None: of all sets, in turn.
        ids: of the rows; none: `number` of them, evenly spaced.
    """

    rows: InputPath | None = None
    ids: tuple[str, ...] = ()
    number: int = 6

    def __post_init__(self):
        if self.number < 1:
            raise ValueError(f"number must be at least 1, got {self.number}.")


def pages_of(sets: ProblemSets, config: CaseConfig) -> list[Made]:
    """The page of case studies.

    Raises:
        NoRecords: there are no rows.
        WrongUse: an id is in no set.
    """
    if not sets:
        raise NoRecords(
            "no problems to show; the workdir has no verified_prompts.jsonl, problems.jsonl or "
            "triples.jsonl: name a file with CASES."
        )
    cases = chosen([row for rows in sets.values() for row in rows], config)
    rows = [_account(row) for row in cases]
    unread = sum(row["unread_formulas"] for row in rows)
    caption = (
        f"{counted(len(cases), 'problem')} of {', '.join(sets)}: concepts, rationale, problem, solution."
    )
    if unread:
        caption += f" {counted(unread, 'formula', 'formulas')} could not be read and stand as text."
    html = page.document(
        "Case studies",
        "".join(map(_case, cases)),
        header=f'<h1>Case studies</h1><p class="lead">{page.text(caption)}</p>',
        styles=("mathml.css", "case_studies.css"),
    )
    return [
        Made(
            name="case_studies",
            title="Case studies",
            caption=caption,
            rows=rows,
            html=html,
        )
    ]


def chosen(rows: Sequence[SetRow], config: CaseConfig) -> list[SetRow]:
    """The rows of the ids, in their order; else evenly spaced ones, of those with a rationale if any has one.

    Raises:
        WrongUse: an id is of no row.
    """
    by_id = {row.id: row for row in rows}
    if unknown := [one for one in config.ids if one not in by_id]:
        raise WrongUse(
            f"CASE_IDS: no problem has the id {unknown[0]!r}; the first ids are {', '.join(list(by_id)[:3])}."
        )
    if config.ids:
        return [by_id[one] for one in config.ids]
    return workdir_files.spread([row for row in rows if row.rationale] or rows, config.number)


def steps(rationale: str) -> tuple[str, list[str]]:
    """What a rationale says before its first numbered step, and the steps; else its paragraphs as steps."""
    starts = list(_STEP.finditer(rationale))
    if len(starts) > 1:
        ends = [match.start() for match in starts[1:]] + [len(rationale)]
        found = [rationale[match.end() : end].strip() for match, end in zip(starts, ends, strict=True)]
        return rationale[: starts[0].start()].strip(), [step for step in found if step]
    return "", [part.strip() for part in _PARAGRAPH.split(rationale.strip()) if part.strip()]


def _account(row: SetRow) -> dict[str, Any]:
    texts = (row.rationale, row.problem, row.answer and f"${row.answer}$", _solution(row))
    formulas, unread = map(sum, zip(*map(mathml.count_formulas, texts), strict=True))
    return {
        "id": row.id,
        "domain": row.domain,
        "level": row.level,
        "concepts": "; ".join(row.concepts),
        "steps": len(steps(row.rationale)[1]),
        "formulas": formulas,
        "unread_formulas": unread,
    }


def _case(row: SetRow) -> str:
    label = ", ".join(part for part in (row.domain, row.level and f"level {row.level}", row.source) if part)
    before, numbered = steps(row.rationale)
    parts = [
        f'<h2>{page.text(row.id)}</h2><p class="note">{page.text(label)}</p>',
        "<h3>Concepts</h3>",
        page.chips(row.concepts) if row.concepts else page.missing("The row names none."),
        "<h3>Rationale</h3>",
        f'<div class="prose">{mathml.typeset(before)}</div>' if before else "",
        f"<ol>{''.join(f'<li>{mathml.typeset(step)}</li>' for step in numbered)}</ol>"
        if numbered
        else page.missing("The row has none."),
        f'<h3>Problem</h3><div class="prose problem">{mathml.typeset(row.problem)}</div>',
    ]
    if solution := _solution(row):
        parts.append(f'<h3>Solution</h3><div class="prose">{mathml.typeset(solution)}</div>')
    if row.answer:
        parts.append(f'<h3>Answer</h3><div class="prose">{_answer(row.answer)}</div>')
    return f'<article class="card case">{"".join(parts)}</article>'


def _solution(row: SetRow) -> str:
    """The solution; a bare program is put into a fence."""
    if row.domain == "code" and row.solution and "```" not in row.solution:
        return f"```\n{row.solution.rstrip()}\n```\n"
    return row.solution


def _answer(answer: str) -> str:
    return mathml.typeset(answer if "$" in answer else f"${answer}$")
