"""`promptcot decontaminate`: leaves out the rows that overlap with a benchmark, and says which and why.

Rows are read, compared and written one batch at a time, so memory does not grow with their number. Both files
are written aside and renamed when all is done. A killed run starts over: a million rows take under a minute,
and half a file would have to be read again anyway.
"""

import collections
import dataclasses
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

from promptcot_jax.core import file_sets, jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.progress import Progress
from promptcot_jax.core.workdir import InputPath
from promptcot_jax.data import decontamination, rows
from promptcot_jax.data.decontamination import Index, Overlap
from promptcot_jax.run import stage

REPORT = "decontamination.jsonl"
_ROWS_BETWEEN_LOOKS = 1000  # of the progress display

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Candidate:
    """A row that can be compared and written."""

    row: rows.Row
    texts: tuple[str, ...]
    line: bytes


def decontaminate(
    *,
    workdir: str,
    benchmarks: tuple[InputPath, ...] | dict[str, InputPath],
    bad_rows: rows.BadRows,
    input_rows: InputPath = "{workdir}/problems.jsonl",
    output: str = "problems_clean",
    ngram: int = 13,
    rule: decontamination.Rule = "ngram",
    text_fields: tuple[str, ...] = ("problem",),
    benchmark_fields: tuple[str, ...] = ("problem",),
) -> stage.StageResult:
    """Writes the clean rows of `input_rows` as they are to `OUTPUT.jsonl`, and `decontamination.jsonl`.

    The latter has a line for each dropped row and benchmark: which of the benchmark's rows comes first, how
    many there are, and the n-gram in common.

    Args:
        benchmarks: files, named after themselves, or a name for each.
        text_fields: of a row; it is dropped if any of them overlaps.
        benchmark_fields: of a benchmark's rows; each is looked for.

    Raises:
        WrongUse: a file is missing, a benchmark is empty or lacks a field, no field is to be compared, a row
            is bad and `bad_rows` does not skip it, or the output would go over another file.
    """
    target = _target(workdir, output)
    paths = _named(benchmarks)
    if not paths:
        raise WrongUse("There are no benchmarks to compare with; name files with BENCHMARKS.")
    if not text_fields:  # all rows would pass
        raise WrongUse("There is nothing of a row to compare; name fields with TEXT_FIELDS.")
    index = Index(decontamination.iter_texts(paths, benchmark_fields), n=ngram, rule=rule)
    counts: collections.Counter[str] = collections.Counter()
    candidates = _candidates(input_rows, text_fields, bad_rows, counts)
    by_benchmark = dict.fromkeys(paths, 0)
    out = dropped = 0
    # The report gets its place first: an output without one is somebody else's, see `_target`.
    with (
        jsonl.atomic_stream(target) as clean,
        jsonl.atomic_stream(os.path.join(workdir, REPORT)) as report,
        Progress("decontaminate", unit="row", start=0, total=None) as progress,
    ):
        matched = decontamination.with_overlaps(candidates, index, lambda candidate: candidate.texts)
        for candidate, overlaps in matched:
            if overlaps:
                dropped += 1
                for name in _report(candidate.row, overlaps, rule, report):
                    by_benchmark[name] += 1
            else:
                out += 1
                clean.write(candidate.line)
            if (out + dropped) % _ROWS_BETWEEN_LOOKS == 0:
                progress.update(out + dropped, f"{dropped} contaminated")
    bad = rows.bad(counts)
    if not out + dropped + sum(bad.values()):
        log.warning("%s has no rows", input_rows)
    return stage.StageResult(
        counts={"in": out + dropped + sum(bad.values()), "out": out, "dropped_contaminated": dropped}
        | {f"dropped_contaminated_by_{name}": count for name, count in by_benchmark.items()}
        | {f"dropped_{name}": count for name, count in bad.items()}
    )


def _target(workdir: str, output: str) -> str:
    """Path of the clean rows; a file that is there is overwritten only if an attempt of ours wrote it."""
    name = f"{output.removesuffix('.jsonl')}.jsonl"
    if os.path.basename(name) != name or name in (".jsonl", REPORT):
        raise WrongUse(
            f"OUTPUT must be a name for a file in the workdir, other than {REPORT}; got {output!r}."
        )
    path = os.path.join(workdir, name)
    there = file_sets.files_named(path)
    if there and not os.path.exists(os.path.join(workdir, REPORT)):
        raise WrongUse(f"{os.fspath(there[0])} exists already; set another OUTPUT, or remove the file.")
    return path


def _named(benchmarks: Sequence[str] | Mapping[str, str]) -> Mapping[str, str]:
    """Path of each benchmark by its name: the one given, or the file's without its ending."""
    if isinstance(benchmarks, Mapping):
        return benchmarks
    named: dict[str, str] = {}
    for path in benchmarks:
        name = os.path.splitext(os.path.basename(path))[0]
        if name in named:
            raise WrongUse(
                f"BENCHMARKS: {named[name]} and {path} would both be called '{name}'; give names: "
                "BENCHMARKS = {'one name': 'one path', 'another name': 'another path'}."
            )
        named[name] = path
    return named


def _candidates(
    path: str, fields: Sequence[str], bad_rows: rows.BadRows, counts: collections.Counter[str]
) -> Iterator[_Candidate]:
    """The rows that have their texts and can be written; others end the work, or are logged and counted."""

    def candidate(row: rows.Row) -> _Candidate:
        return _Candidate(row, decontamination.texts_of(row, fields, "TEXT_FIELDS"), rows.json_line(row))

    return rows.map_rows(path, candidate, bad_rows=bad_rows, counts=counts)


def _report(
    row: rows.Row, overlaps: Sequence[Overlap], rule: decontamination.Rule, report: IO[bytes]
) -> list[str]:
    """Writes a line for each benchmark that a row overlaps with, and returns their names.

    A stock phrase may be in hundreds of a benchmark's rows: a line for each pair could make the report much
    longer than the rows.
    """
    by_benchmark: dict[str, list[Overlap]] = {}
    for overlap in overlaps:
        by_benchmark.setdefault(overlap.source.benchmark, []).append(overlap)
    for name, of_benchmark in by_benchmark.items():
        line: dict[str, Any] = {
            "row": decontamination.row_id(row),
            "where": row.where,
            "benchmark": name,
            "benchmark_row": of_benchmark[0].source.row_id,
            "benchmark_rows": len(of_benchmark),
            "ngram": of_benchmark[0].ngram,
            "rule": rule,
        }
        report.write((jsonl.to_line(line) + "\n").encode())
    return list(by_benchmark)
