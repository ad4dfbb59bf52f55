"""The report's sample browser: rows of every kind in the workdir, a bounded number of them in the page.

Of each file some rows are taken evenly spread, and further ones of those that failed: attempts that are wrong
and the like. They lie in closed groups, which any browser opens; the script of the page (`report.js`) makes
one list of them to search, filter and turn the pages of. `templates/cards.html` has a card for each kind.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import AttemptRecord, Candidate, CompletionSample, Problem
from promptcot_jax.report import page, samples_page, workdir_files
from promptcot_jax.verify import problem_accuracy

NUM_ROWS = 120  # of a kind, evenly spread
NUM_FAILED = 80  # more of them, of the rows that failed
MAX_BYTES = 900_000  # of all cards
_NUM_CONCEPTS = 12  # of a card

Fields = Mapping[str, Any]  # of a card; one that is not there is ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of rows: where they lie, which have failed, and their card.

    Attributes:
        path: in the workdir.
        card: the macro of `cards.html`.
        label: of several.
        failed: what the rows are that `has_failed`; empty where none is told apart.
        record_type: of rows that are checked; None: they are shown as they are.
        tallied: fields whose values are counted, for the sections on data.
    """

    path: str
    card: str
    label: str
    failed: str = ""
    has_failed: Callable[[workdir_files.Row], bool] = lambda row: False
    record_type: type | None = None
    tallied: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What was read of a kind: a sample with a card of each row, or what is wrong with the file."""

    kind: Kind
    sample: workdir_files.Sample | None = None
    cards: tuple[str, ...] = ()  # as the macro wrote them
    error: str = ""


def _kinds(workdir: epath.Path) -> list[Kind]:
    """All kinds, in the order of the flow; of the rationales those of the last EM round."""
    candidates = workdir_files.candidate_files(workdir)
    kinds = [
        Kind(
            path="triples.jsonl",
            card="triple",
            label="training triples",
            tallied=("domain", "level", "family", "source"),
        )
    ]
    if candidates:
        last = max(candidates)
        kinds.append(
            Kind(
                path=f"em/{candidates[last].parent.name}/candidates.jsonl",
                card="candidate",
                label=f"rationales of EM round {last}",
                failed="that could not win",
                has_failed=lambda row: row.get("valid") is False,
                record_type=Candidate,
            )
        )
    return [
        *kinds,
        Kind(
            path="problems.jsonl",
            card="problem",
            label="new problems",
            record_type=Problem,
            tallied=("domain", "level", "round_index"),
        ),
        Kind(path="synthesize/rejects.jsonl", card="draft", label="drafts left out"),
        Kind(
            path="verified_prompts.jsonl",
            card="verified",
            label="verified prompts",
            tallied=("domain", "level", "pool"),
        ),
        Kind(path="verify/rejects.jsonl", card="refused", label="problems that verify refused"),
        Kind(
            path="sft_traces.jsonl",
            card="trace",
            label="traces of a teacher",
            failed="whose answer is wrong",
            has_failed=lambda row: row.get("verified") == "no",
        ),
        Kind(
            path="self_play/samples.jsonl",
            card="completion",
            label="picked completions of self-play",
            failed="that are wrong",
            has_failed=lambda row: row.get("graded") is True and row.get("correct") is False,
            record_type=CompletionSample,
        ),
        Kind(
            path="evaluate/attempts.jsonl",
            card="attempt",
            label="attempts of the solver",
            failed="that are wrong",
            has_failed=lambda row: (
                row.get("correct") is False and row.get("status") not in problem_accuracy.NOT_GRADED
            ),
            record_type=AttemptRecord,
        ),
    ]


def read(workdir: epath.Path) -> dict[str, Found]:
    """Samples of every kind whose file is there, by path; each file is read once.

    A damaged file gives what is wrong with it, and the others their samples all the same.
    """
    kinds = [kind for kind in _kinds(workdir) if workdir_files.exists_or_is_damaged(workdir / kind.path)]
    return {kind.path: _found(workdir, kind, MAX_BYTES // len(kinds)) for kind in kinds}


def _found(workdir: epath.Path, kind: Kind, room: int) -> Found:
    try:
        sample = workdir_files.sample(
            workdir / kind.path,
            NUM_ROWS,
            is_of_note=kind.has_failed,
            num_of_note=NUM_FAILED,
            tally=kind.tallied,
        )
        cards = _cards(workdir, kind, sample.rows)
    except WrongUse as error:
        return Found(kind=kind, error=str(error))
    while cards and (size := sum(len(card.encode("utf-8", "replace")) for card in cards)) > room:
        cards = workdir_files.spread(cards, min(len(cards) - 1, len(cards) * room // size))
    return Found(kind=kind, sample=sample, cards=tuple(cards))


def _cards(workdir: epath.Path, kind: Kind, rows: Sequence[workdir_files.Placed]) -> list[str]:
    macro = getattr(page.macros("cards"), kind.card)
    if kind.record_type is None:
        return [macro(_fields(row)) for _, row in rows]
    records = [
        jsonl.record_from_row(kind.record_type, row, where=where, default_id=where) for where, row in rows
    ]
    if kind.record_type is CompletionSample:
        return [macro(samples_page.card(_shortened(record)), True) for record in records]
    if kind.record_type is AttemptRecord:
        return [macro(fields) for fields in _attempts(workdir, records)]
    return [macro(_fields(dataclasses.asdict(record))) for record in records]


def _fields(row: workdir_files.Row) -> Fields:
    """A row's fields, with its concepts and level as short labels."""
    fields = collections.defaultdict(str, {name: value for name, value in row.items() if value is not None})
    concepts, level = fields["concepts"], str(fields["level"])
    named = [str(one) for one in concepts] if isinstance(concepts, Sequence) else []
    named += [f"Level {level}" if level.isdigit() else level] if level else []
    fields["chips"] = named[:_NUM_CONCEPTS]
    return fields


def _attempts(workdir: epath.Path, records: Sequence[AttemptRecord]) -> list[Fields]:
    """Attempts with their problems, which `evaluate` keeps beside them."""
    wanted = {record.problem_id for record in records}
    problems = workdir_files.rows_by_id([workdir / "evaluate" / "problems.jsonl"], wanted)
    return [
        {
            **dataclasses.asdict(record),
            "is_graded": record.status not in problem_accuracy.NOT_GRADED,
            "asked": _fields(problems.get(record.problem_id, {})),
        }
        for record in records
    ]


def _shortened(record: CompletionSample) -> CompletionSample:
    return dataclasses.replace(
        record,
        **{name: page.clipped(getattr(record, name)) for name in ("completion", "problem", "answer")},
        prompt=page.clipped(record.prompt, page.MAX_CHARACTERS // 4),
    )


def section(workdir: epath.Path, *, found: Mapping[str, Found]) -> dict[str, Any]:
    """The browser, and what is in it of how much."""
    files, groups = [], []
    for path, one in found.items():
        kind, sample = one.kind, one.sample
        if sample is None:
            continue
        more = "" if sample.is_whole else " and more"
        files.append([kind.label, path, f"{sample.num_read:,}{more}", len(one.cards)])
        if one.cards:
            summary = f"{len(one.cards):,} of {sample.num_read:,} {kind.label}"
            if kind.failed and sample.num_of_note:
                summary += f" ({sample.num_of_note:,} {kind.failed})"
            groups.append((summary, one.cards))
    damaged = [f"{one.kind.label}: {one.error}" for one in found.values() if one.error]
    return {"files": files, "groups": groups, "damaged": damaged}
