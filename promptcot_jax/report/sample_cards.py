"""One row of each kind as a card of the report's sample browser: what it says, its verdict, where it is from.

Every text passes through `page.text`, and a long one is cut in its middle with the number of characters left
out: a completion may have hundreds of thousands.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from promptcot_jax.core.records import AttemptRecord, Candidate, CompletionSample, Problem
from promptcot_jax.report import page, samples_page
from promptcot_jax.verify import problem_accuracy

MAX_CHARACTERS = 4_000
_HEAD = 2_600


def clipped(value: str, limit: int = MAX_CHARACTERS) -> str:
    """A text without its middle, where it is long."""
    if len(value) <= limit:
        return value
    head, tail = value[: limit * _HEAD // MAX_CHARACTERS], value[limit * _HEAD // MAX_CHARACTERS - limit :]
    return f"{head}\n[\u2026 {len(value) - limit:,} characters are left out here \u2026]\n{tail}"


def article(
    heading: str, *parts: str, kind: str, verdict: str, bad: bool = False, domain: str = "", level: str = ""
) -> str:
    """A card with the fields that the browser filters by."""
    fields = {"kind": kind, "verdict": verdict, "domain": domain, "level": level}
    data = "".join(f' data-{name}="{page.text(value)}"' for name, value in fields.items() if value)
    tag = f'<span class="tag {"no" if bad else "win"}">{page.text(verdict)}</span>' if verdict else ""
    return (
        f'<article class="card"{data}><h3>{page.text(heading)} {tag}</h3>'
        f"{''.join(part for part in parts if part)}</article>"
    )


def _scores(*facts: str) -> str:
    return f'<div class="scores">{"".join(f"<span>{fact}</span>" for fact in facts if fact)}</div>'


def _fact(name: str, value: object) -> str:
    return f"{page.text(name)} <b>{page.text(value)}</b>"


def _text(row: Mapping[str, Any], field: str) -> str:
    value = row.get(field)
    return value if isinstance(value, str) else "" if value is None else str(value)


def _chips(row: Mapping[str, Any]) -> str:
    concepts = row.get("concepts")
    named = [str(concept) for concept in concepts] if isinstance(concepts, Sequence) else []
    level = _text(row, "level")
    named += [f"Level {level}" if level.isdigit() else level] if level else []
    return page.chips(named[:12]) if named else ""


def _folded(name: str, value: str) -> str:
    return page.folded(name, page.prose(clipped(value))) if value else ""


def triple(row: Mapping[str, Any]) -> str:
    """A row of the triples that were trained on."""
    facts = [_fact("answer", _text(row, "answer")) if row.get("answer") else ""]
    facts += [_fact(name, _text(row, name)) for name in ("annotator", "family", "source") if row.get(name)]
    return article(
        f"Triple {_text(row, 'id')}",
        _chips(row),
        page.prose(clipped(_text(row, "problem"))),
        _folded("Rationale", _text(row, "rationale")),
        _scores(*facts),
        kind="triple",
        verdict="",
        domain=_text(row, "domain"),
        level=_text(row, "level"),
    )


def candidate(record: Candidate) -> str:
    """A rationale of an E-step."""
    why = "cut off" if record.finish_reason == "length" else "does not parse"
    verdict = "chosen" if record.won else "not chosen" if record.valid else why
    return article(
        f"Rationale {record.sample} of {record.pair_id}",
        _scores(
            _fact("R", page.nats(record.log_p_z + record.log_p_x)),
            f"log p(z|c) {page.nats(record.log_p_z)}",
            f"log p(x|z,c) {page.nats(record.log_p_x)}",
            f"log q {page.nats(record.log_q)}",
            f"{record.length} tokens",
        ),
        page.prose(clipped(record.rationale)),
        kind="rationale",
        verdict=verdict,
        bad=not record.won,
    )


def problem(record: Problem) -> str:
    """A new problem with its concepts, rationale and lineage."""
    source = "cold start" if record.round_index < 0 else f"EM round {record.round_index}"
    return article(
        f"Problem {record.id}",
        _chips(dataclasses.asdict(record)),
        page.prose(clipped(record.problem)),
        _folded("Rationale", record.rationale),
        _scores(
            f"log p(z|c) {page.nats(record.log_p_z)}",
            f"log p(x|z,c) {page.nats(record.log_p_x)}",
            page.text(f"{source}, seed {record.seed}, sample {record.sample}"),
        ),
        kind="problem",
        verdict="kept",
        domain=record.domain,
        level=record.level,
    )


def draft(row: Mapping[str, Any]) -> str:
    """A draft that synthesis did not keep."""
    return article(
        f"Draft {_text(row, 'concept_set_id')}",
        page.prose(clipped(_text(row, "problem"))) if row.get("problem") else "",
        _scores(_fact("why", f"{_text(row, 'reason')} {_text(row, 'detail')}".strip())),
        kind="draft left out",
        verdict=page.words(_text(row, "reason")),
        bad=True,
        domain=_text(row, "domain"),
        level=_text(row, "level"),
    )


def verified(row: Mapping[str, Any]) -> str:
    """A verified prompt with its answer or tests."""
    tests = row.get("tests")
    facts = [
        _fact("answer", _text(row, "answer")) if row.get("answer") else "",
        _fact("tests", len(tests)) if isinstance(tests, list) else "",
    ]
    if row.get("num_solutions"):
        facts += [_fact("agreement", page.percent(row.get("agreement")))]
        facts += [_fact("solved", page.percent(row.get("pass_share"))), page.text(_text(row, "solver"))]
    return article(
        f"Prompt {_text(row, 'id')}",
        _chips(row),
        page.prose(clipped(_text(row, "problem"))),
        _scores(*facts),
        _folded("Rationale", _text(row, "rationale")),
        kind="verified prompt",
        verdict=_text(row, "pool") or "kept",
        domain=_text(row, "domain"),
        level=_text(row, "level"),
    )


def refused(row: Mapping[str, Any]) -> str:
    """A problem that verification did not keep."""
    reason = f"{_text(row, 'check')}: {page.words(_text(row, 'reason'))}"
    return article(
        f"Problem {_text(row, 'id')}",
        page.prose(clipped(_text(row, "problem"))) if row.get("problem") else "",
        _scores(_fact("why", _text(row, "message"))),
        kind="problem refused by verify",
        verdict=reason,
        bad=True,
        domain=_text(row, "domain"),
        level=_text(row, "level"),
    )


def trace(row: Mapping[str, Any]) -> str:
    """A teacher's trace."""
    is_verified = _text(row, "verified")
    verdict = {"yes": "right", "no": "wrong"}.get(is_verified, "")
    return article(
        f"Trace {_text(row, 'id')}",
        page.prose(clipped(_text(row, "prompt"))),
        _folded("What the teacher wrote", _text(row, "completion")),
        _scores(
            _fact("teacher", _text(row, "teacher")) if row.get("teacher") else "",
            f"{row['completion_tokens']} tokens" if isinstance(row.get("completion_tokens"), int) else "",
        ),
        kind="trace",
        verdict=verdict,
        bad=is_verified == "no",
        domain=_text(row, "domain"),
        level=_text(row, "level"),
    )


def completion(record: CompletionSample) -> str:
    """A completion that self-play picked, as its own page shows it."""
    short = dataclasses.replace(
        record,
        **{name: clipped(getattr(record, name)) for name in ("completion", "problem", "answer")},
        prompt=clipped(record.prompt, MAX_CHARACTERS // 4),
    )
    fields = {"kind": "completion", "verdict": samples_page.verdict(record), "domain": record.domain}
    return samples_page.card(short, fields, f"iteration {record.iteration}, ")


def attempt(record: AttemptRecord, of_problem: Mapping[str, Any] | None) -> str:
    """An attempt of the solver at a problem."""
    is_graded = record.status not in problem_accuracy.NOT_GRADED
    facts = [f"verdict <b>{page.text(record.status)}</b>"]
    if record.reference:  # a mathematics problem's
        facts = [_fact("answer", record.answer or "none"), _fact("reference", record.reference)]
    cut = '<span class="tag no">cut off</span>' if record.finish_reason == "length" else ""
    return article(
        f"Attempt {record.sample} at {record.problem_id}",
        _scores(cut, *facts, f"{record.num_tokens} tokens"),
        page.prose(clipped(_text(of_problem, "problem"))) if of_problem else "",
        _folded("What the solver wrote", record.completion),
        kind="attempt",
        verdict="not graded" if not is_graded else "right" if record.correct else "wrong",
        bad=is_graded and not record.correct,
        domain=_text(of_problem, "domain") if of_problem else "",
        level=_text(of_problem, "level") if of_problem else "",
    )
