"""The report's sample browser: rows of every kind in the workdir, a bounded number of them in the page.

Of each file some rows are taken evenly spread, and further ones of those that failed: attempts that are wrong
and the like. They lie in closed groups, which any browser opens; the script of the page (`report.js`) makes
one list of them to search, filter and turn the pages of.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import AttemptRecord, Candidate, CompletionSample, Problem
from promptcot_jax.report import page, paging, sample_cards, workdir_files
from promptcot_jax.verify import problem_accuracy

NUM_ROWS = 120  # of a kind, evenly spread
NUM_FAILED = 80  # more of them, of the rows that failed
MAX_BYTES = 900_000  # of all cards

Rows = Sequence[workdir_files.Placed]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of rows: where they lie, which have failed, and their cards.

    Attributes:
        path: in the workdir.
        label: of several.
        failed: what the rows are that `has_failed`; empty where none is told apart.
        cards: a card of each row.
        tallied: fields whose values are counted, for the sections on data.
    """

    path: str
    label: str
    cards: Callable[[epath.Path, Rows], list[str]]
    failed: str = ""
    has_failed: Callable[[workdir_files.Row], bool] = lambda row: False
    tallied: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What was read of a kind: a sample with a card of each row, or what is wrong with the file."""

    kind: Kind
    sample: workdir_files.Sample | None = None
    cards: tuple[str, ...] = ()
    error: str = ""


def _of_rows(card: Callable[[workdir_files.Row], str]) -> Callable[[epath.Path, Rows], list[str]]:
    return lambda workdir, rows: [card(row) for _, row in rows]


def _of_records(record_type: type, card: Callable[[Any], str]) -> Callable[[epath.Path, Rows], list[str]]:
    return lambda workdir, rows: [card(record) for record in _records(record_type, rows)]


def _records(record_type: type, rows: Rows) -> list[Any]:
    return [jsonl.record_from_row(record_type, row, where=where, default_id=where) for where, row in rows]


def _attempts(workdir: epath.Path, rows: Rows) -> list[str]:
    """Attempts with their problems, which `evaluate` keeps beside them."""
    records = _records(AttemptRecord, rows)
    wanted = {record.problem_id for record in records}
    problems = workdir_files.rows_by_id([workdir / "evaluate" / "problems.jsonl"], wanted)
    return [sample_cards.attempt(record, problems.get(record.problem_id)) for record in records]


def _kinds(workdir: epath.Path) -> list[Kind]:
    """All kinds, in the order of the flow; of the rationales those of the last EM round."""
    em = workdir / "em"
    rounds = sorted(place.name for place in em.glob("round_*")) if em.exists() else []
    drawn = [name for name in rounds if _is_there(em / name / "candidates.jsonl")]
    kinds = [
        Kind(
            path="triples.jsonl",
            label="training triples",
            cards=_of_rows(sample_cards.triple),
            tallied=("domain", "level", "family", "source"),
        )
    ]
    if drawn:
        kinds.append(
            Kind(
                path=f"em/{drawn[-1]}/candidates.jsonl",
                label=f"rationales of EM round {int(drawn[-1].removeprefix('round_'))}",
                cards=_of_records(Candidate, sample_cards.candidate),
                failed="that could not win",
                has_failed=lambda row: row.get("valid") is False,
            )
        )
    return [
        *kinds,
        Kind(
            path="problems.jsonl",
            label="new problems",
            cards=_of_records(Problem, sample_cards.problem),
            tallied=("domain", "level", "round_index"),
        ),
        Kind(path="synthesize/rejects.jsonl", label="drafts left out", cards=_of_rows(sample_cards.draft)),
        Kind(
            path="verified_prompts.jsonl",
            label="verified prompts",
            cards=_of_rows(sample_cards.verified),
            tallied=("domain", "level", "pool"),
        ),
        Kind(
            path="verify/rejects.jsonl",
            label="problems that verify refused",
            cards=_of_rows(sample_cards.refused),
        ),
        Kind(
            path="sft_traces.jsonl",
            label="traces of a teacher",
            cards=_of_rows(sample_cards.trace),
            failed="whose answer is wrong",
            has_failed=lambda row: row.get("verified") == "no",
        ),
        Kind(
            path="self_play/samples.jsonl",
            label="picked completions of self-play",
            cards=_of_records(CompletionSample, sample_cards.completion),
            failed="that are wrong",
            has_failed=lambda row: row.get("graded") is True and row.get("correct") is False,
        ),
        Kind(
            path="evaluate/attempts.jsonl",
            label="attempts of the solver",
            cards=_attempts,
            failed="that are wrong",
            has_failed=lambda row: (
                row.get("correct") is False and row.get("status") not in problem_accuracy.NOT_GRADED
            ),
        ),
    ]


def read(workdir: epath.Path) -> dict[str, Found]:
    """Samples of every kind whose file is there, by path; each file is read once.

    A damaged file gives what is wrong with it, and the others their samples all the same.
    """
    there = []
    for kind in _kinds(workdir):
        if _is_there(workdir / kind.path):
            there.append(kind)
    room = MAX_BYTES // max(len(there), 1)
    return {kind.path: _found(workdir, kind, room) for kind in there}


def _is_there(path: epath.Path) -> bool:
    try:
        return workdir_files.exists(path)
    except WrongUse:  # shards of two writes, say: reading it will say so
        return True


def _found(workdir: epath.Path, kind: Kind, room: int) -> Found:
    try:
        sample = workdir_files.sample(
            workdir / kind.path,
            NUM_ROWS,
            is_of_note=kind.has_failed,
            num_of_note=NUM_FAILED,
            tally=kind.tallied,
        )
        return Found(kind=kind, sample=sample, cards=_within(kind.cards(workdir, sample.rows), room))
    except WrongUse as error:
        return Found(kind=kind, error=str(error))


def _within(cards: list[str], room: int) -> tuple[str, ...]:
    """So many of the cards, evenly spread, as have room."""
    while cards and (size := sum(len(card.encode("utf-8", "replace")) for card in cards)) > room:
        cards = workdir_files.spread(cards, min(len(cards) - 1, len(cards) * room // size))
    return tuple(cards)


def samples_section(workdir: epath.Path, *, found: Mapping[str, Found]) -> str:
    """The browser, and what is in it of how much."""
    lead = (
        "Rows of the workdir\u2019s files, evenly spread, and more of those that failed; long texts are cut "
        "in their middle. The files have everything. A new problem is unchecked until it is "
        "verified. Print leaves samples out."
    )
    rows = [
        [
            kind.label,
            kind.path,
            f"{sample.num_read:,}{'' if sample.is_whole else ' and more'}",
            len(one.cards),
        ]
        for one in found.values()
        if (sample := one.sample) is not None
        for kind in (one.kind,)
    ]
    header = ["rows", "file", "in the file", "in this page"]
    parts = [page.table(header, rows, caption="What can be read here", words=(1,))] if rows else []
    parts += [page.missing(f"{one.kind.label}: {one.error}") for one in found.values() if one.error]
    groups = "".join(_group(one) for one in found.values() if one.cards)
    parts.append(f'<div id="browser" class="screen" hidden>{_FORM}{paging.pager("top")}{_LIST}</div>')
    parts.append(f'<div id="groups">{groups}</div>')
    return page.section("samples", "Samples to read", lead, *parts)


def _group(found: Found) -> str:
    kind, sample = found.kind, found.sample
    assert sample is not None
    label = f"{len(found.cards):,} of {sample.num_read:,} {kind.label}"
    if kind.failed and sample.num_of_note:
        label += f" ({sample.num_of_note:,} {kind.failed})"
    return page.folded(label, *found.cards, kind="closed-in-print")


_FORM = (
    '<form id="filters" role="search" aria-label="Samples">'
    + paging.field(
        "Search: all words, in anything that a sample says",
        '<input type="search" name="words" autocomplete="off">',
        "wide",
    )
    + "".join(
        paging.choice(label, name)
        for label, name in (
            ("Kind", "kind"),
            ("Verdict", "verdict"),
            ("Domain", "domain"),
            ("Level", "level"),
        )
    )
    + '<label class="check"><button type="reset">Clear</button></label></form>'
)
_LIST = (
    f'<p id="state" class="missing" role="status" hidden></p><div id="rows"></div>{paging.pager("bottom")}'
)
