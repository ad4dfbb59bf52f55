"""Sections of the report on rows: what was trained on, annotated, written, verified and distilled."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from promptcot_jax.core import manifest
from promptcot_jax.report import workdir_files
from promptcot_jax.report.page import at, label, percent
from promptcot_jax.report.samples import Found
from promptcot_jax.report.workdir_files import Missing

Data = dict[str, Any]  # what a template shows

_ROW_FILES = (  # in the order of the flow
    *("triples.jsonl", "triples_heldout.jsonl", "triples_novel.jsonl", "concept_sets.jsonl"),
    *("problems.jsonl", "problems_clean.jsonl", "verified_prompts.jsonl"),
    *("sft_traces.jsonl", "sft_traces_heldout.jsonl"),
)
_NUM_VALUES = 12  # of a tally


def has_data(workdir: epath.Path) -> bool:
    """Whether there are rows of any kind."""
    return any(workdir_files.exists(workdir / name) for name in _ROW_FILES)


def data(workdir: epath.Path, *, found: Mapping[str, Found]) -> Data:
    """The files of rows with how many they have, and how the training triples are made up."""
    files = [name for name in _ROW_FILES if workdir_files.exists(workdir / name)]
    return {
        "files": [[name, workdir_files.count_rows(workdir / name)] for name in files],
        "tallies": tallies(found.get("triples.jsonl")),
    }


def tallies(found: Found | None) -> list[tuple[str, list[list[Any]]]]:
    """How often each value of the tallied fields is there, where there is more than one: a table by field."""
    if found is None or found.sample is None:
        return []
    tables, total = [], found.sample.num_read
    for field, tally in found.sample.tallies.items():
        if len(tally) < 2:
            continue
        ranked = sorted(tally.items(), key=lambda item: (-item[1], item[0]))
        rows = [[value or "(none)", count, percent(count / total)] for value, count in ranked[:_NUM_VALUES]]
        if rest := sum(count for _, count in ranked[_NUM_VALUES:]):
            rows.append([f"{len(ranked) - _NUM_VALUES:,} others", rest, percent(rest / total)])
        tables.append((label(field), rows))
    return tables


def annotate(workdir: epath.Path) -> Data:
    """What the teachers' annotations came to."""
    return {"report": workdir_files.document(workdir / "annotate" / "report.json")}


def problems(workdir: epath.Path, *, found: Mapping[str, Found]) -> Data:
    """How many problems were written, by domain, level and round, and what was dropped."""
    own = found.get("problems.jsonl")
    if own is None:
        raise Missing("problems.jsonl is not there: synthesize has not finished its first shard.")
    if own.error:
        raise Missing(own.error)
    if own.sample is not None and not own.sample.num_read:
        raise Missing("problems.jsonl is empty: every draft was dropped, see the counts of synthesize above.")
    entry = manifest.read(workdir).get("synthesize")
    counts = entry.counts if entry is not None else {}
    return {
        "counts": {k: v for k, v in counts.items() if k.startswith("dropped_") or k in ("in", "out")},
        "tallies": tallies(own),
    }


def verify(workdir: epath.Path, *, found: Mapping[str, Found]) -> Data:
    """What was kept with an answer or tests, and why the rest was not."""
    report = workdir_files.document(workdir / "verify" / "report.json")
    votes, tests, judge = at(report, "votes"), at(report, "tests"), at(report, "judge")
    agreement = at(judge, "agreement", "well_posed")
    replies = {name: own for name, own in at(report, "replies").items() if isinstance(own, dict)}
    fields = list(dict.fromkeys(field for own in replies.values() for field in own))
    counted = {"tied votes": votes.get("tied"), "mean agreement": votes.get("mean_agreement")}
    test_counts = ("tests_of_a_problem", "mutants", "killed", "lost_runs")
    return {
        "report": report,
        "agreeing": {
            f"{float(share):.0%} or more": count
            for share, count in at(votes, "agreeing").items()
            if votes.get("problems")
        },
        "votes": {**counted, **at(votes, "solutions")} if votes.get("problems") else {},
        "tests": {name: tests.get(name) for name in test_counts} if tests.get("problems") else {},
        "judge": {
            "verdicts 'well posed', share": judge.get("well_posed_share"),
            "pairs of verdicts that are equal, share": agreement.get("equal_share"),
            "kappa": agreement.get("kappa"),
        },
        "reply_fields": fields,
        "replies": [[label(name), *map(own.get, fields)] for name, own in replies.items() if fields],
        "tallies": tallies(found.get("verified_prompts.jsonl")),
    }


def distill(workdir: epath.Path) -> Data:
    """A teacher's traces: how many, how long, and what was left out."""
    report = workdir_files.document(workdir / "distill" / "report.json")
    traces = {name: value for name, value in at(report, "traces").items() if name != "verified"}
    return {"report": report, "traces": traces}
