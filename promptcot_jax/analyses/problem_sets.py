"""Sets of problems as analyses read them: files of a stage or a user, under the names that figures show.

Ids, and the columns where a problem and its answer are looked for, are those by which `evaluate` reads the
same file (`evaluation.benchmarks`): so its attempts find their problems.
"""

import collections
import dataclasses
import itertools
import os
from collections.abc import Mapping, Sequence

from etils import epath

from promptcot_jax.core import file_sets, jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import AttemptedProblem, Domain
from promptcot_jax.data import columns
from promptcot_jax.data import rows as data_rows
from promptcot_jax.data.formats.source import Row
from promptcot_jax.evaluation import benchmark_sets, benchmarks, code_layouts

DOMAINS: tuple[Domain, ...] = ("math", "code")
PROBLEM_COLUMNS = (*columns.COLUMNS["problem"], "question_content")  # the last: of LiveCodeBench
_SIGNS_OF_CODE = ("tests", "test_setup", "inputs", "input_output")  # of rows that name no domain
# Files of a workdir that hold problems, and the names of their sets.
_OWN = ("triples", "problems", "verified_prompts")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SetRow:
    """A problem, and what its row says beside it; empty where it says nothing."""

    id: str = ""
    domain: Domain = "math"
    level: str = ""
    source: str = ""
    concepts: tuple[str, ...] = ()
    rationale: str = ""
    problem: str
    answer: str = ""
    solution: str = ""


ProblemSets = Mapping[str, Sequence[SetRow]]


def own_files(workdir: str) -> dict[str, str]:
    """The sets that a workdir holds, by name."""
    paths = {name: os.path.join(workdir, f"{name}.jsonl") for name in _OWN}
    return {name: path for name, path in paths.items() if file_sets.files_named(path)}


def attempted(workdir: str) -> dict[str, list[SetRow]]:
    """The problems that the workdir's `evaluate` asked, by the name of their set in `results.json`.

    Raises:
        WrongUse: the file that it keeps them in cannot be read.
    """
    path = epath.Path(workdir) / "evaluate" / "problems.jsonl"
    sets: dict[str, list[SetRow]] = collections.defaultdict(list)
    for one in jsonl.read_records(path, AttemptedProblem) if path.exists() else ():
        fields = dataclasses.asdict(one)
        sets[fields.pop("set")].append(SetRow(**fields))
    return dict(sets)


def read(
    paths: Mapping[str, str],
    bad_rows: data_rows.BadRows = data_rows.FATAL,
    *,
    counts: dict[str, collections.Counter[str]] | None = None,
) -> dict[str, list[SetRow]]:
    """The sets' rows by name.

    Args:
        paths: files or directories, as `evaluate` takes them.
        counts: gets, by path, how many rows were read and left out, as `data.rows` counts them.

    Raises:
        WrongUse: a file is missing, has no rows, a row has no problem, or two rows share an id.
    """
    # Rows that are too large get no number; which they are must be as in `evaluate`.
    largest = max(bad_rows.max_row_bytes, benchmarks.BAD_ROWS.max_row_bytes)
    bad_rows = dataclasses.replace(bad_rows, max_row_bytes=largest)
    sets = {}
    for name, path in paths.items():
        own: collections.Counter[str] = collections.Counter()
        sets[name] = _read_set(benchmark_sets.find(path), bad_rows, own)
        if counts is not None:
            counts[path] = own
        if not sets[name]:
            raise WrongUse(
                f"{path}: the set '{name}' has no rows; write them first, or leave it out of SETS."
            )
        data_rows.check_ids((row.id for row in sets[name]), path)
    return sets


def _read_set(
    files: benchmark_sets.SetFiles, bad_rows: data_rows.BadRows, counts: collections.Counter[str]
) -> list[SetRow]:
    numbers = itertools.count(1)  # over all files of the set, as `evaluate` counts

    def make(row: Row) -> SetRow:
        return _row(row, files.name, next(numbers))

    return [
        found
        for path in files.paths
        for found in data_rows.map_rows(path, make, bad_rows=bad_rows, counts=counts)
    ]


def _row(row: Row, name: str, number: int) -> SetRow:
    fields = {column: value for column, value in row.fields.items() if value is not None}
    fields |= {"id": benchmarks.id_of(row, name, number), "problem": _statement_of(row)}
    for field in ("level", "answer", "solution"):
        value = benchmarks.stated_answer(row) if field == "answer" else columns.find(row, field)
        if isinstance(value, str | int) and not isinstance(value, bool):
            fields[field] = value
    if worked := columns.worked_answer(fields.get("answer")):
        fields["solution"], fields["answer"] = fields.get("solution") or worked[0], worked[1].strip()
    fields.setdefault("domain", "code" if _is_code(row) else "math")
    return data_rows.record_of(dataclasses.replace(row, fields=fields), SetRow)


def _is_code(row: Row) -> bool:
    return (
        any(row.fields.get(name) for name in _SIGNS_OF_CODE)
        or code_layouts.is_livecodebench(row)
        or code_layouts.is_human_eval(row)
        or code_layouts.has_tests(row)
    )


def _statement_of(row: Row) -> str:
    value = columns.find(row, "problem") or row.fields.get("question_content")
    if value is None or (isinstance(value, str) and not value.strip()):
        raise WrongUse(
            f"{row.where}: no problem in a column {', '.join(PROBLEM_COLUMNS[:-1])} or "
            f"{PROBLEM_COLUMNS[-1]}; analyses compare problems, so each row needs its text (it has "
            f"{', '.join(map(repr, row.fields)) or 'no field'})."
        )
    return columns.user_text(value, row.where)


def of_domain(sets: ProblemSets, domain: Domain) -> dict[str, list[SetRow]]:
    """The rows of one domain of each set that has any."""
    own = {name: [row for row in rows if row.domain == domain] for name, rows in sets.items()}
    return {name: rows for name, rows in own.items() if rows}
