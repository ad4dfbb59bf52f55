"""Evaluation sets in the layouts they are released in, as problems with an answer or with tests.

A row's layout is told by its columns: those of `code_layouts`, or a mathematics problem and its answer under
one of the names of `columns.COLUMNS`. An answer may be a number, a worked solution that ends in
`#### 42` (GSM8K), or missing where the solution has it in a box. What a set has of level and subject is kept.

A problem's id is its row's own; one that is a bare number, or missing, gets the set's name before it, so that
problems of two sets stay apart and an id does not depend on how many rows are read.
"""

import collections
import dataclasses
import datetime
import itertools
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import MathPrompt, ProgramPrompt, Prompt
from promptcot_jax.core.settings import NonNegativeInt, PositiveInt, settings
from promptcot_jax.core.workdir import InputPath
from promptcot_jax.data import columns, rows
from promptcot_jax.evaluation import benchmark_sets, code_layouts, codeforces, contest_files
from promptcot_jax.evaluation.benchmark_sets import SetFiles, Window
from promptcot_jax.evaluation.codeforces import RatingConfig
from promptcot_jax.verify import math_answers

log = logging.getLogger(__name__)

LAYOUTS = (
    "mathematics: a problem (problem, question or prompt) and its answer (answer, final_answer, "
    "expected_answer, ground_truth, or a solution with a box); programs: LiveCodeBench (question_content, "
    "public_test_cases, private_test_cases), HumanEval (prompt, entry_point, test), MBPP (text or prompt, "
    "test_list), or a problem with tests, input_output, or inputs and outputs"
)
# A problem of LiveCodeBench with its tests may have a hundred megabytes.
BAD_ROWS = rows.BadRows(max_row_bytes=1 << 30)


@settings
class EvaluateConfig:
    """What is attempted, how often, and what is made of it."""

    # files, directories or short names of sets, see `benchmark_sets`
    problems: tuple[InputPath, ...] = ("{workdir}/triples_heldout.jsonl", "{workdir}/triples_novel.jsonl")
    attempts: PositiveInt = 1  # at each problem; the k of avg@k
    max_problems: NonNegativeInt = 0  # of each set, from its beginning; 0: all
    benchmarks_dir: InputPath | None = None  # where sets are that `problems` name for short
    # contest dates by the set's name, see `read_set`
    windows: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    # directory of saved standings, see `contest_files`; sets of contests' problems get a Codeforces rating
    standings: InputPath | None = None
    rating: RatingConfig = codeforces.DEFAULT
    bad_rows: rows.BadRows = BAD_ROWS


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """A set under its name in `results.json`, and what else its rows say."""

    name: str
    problems: Sequence[Prompt]
    families: Mapping[str, str]  # by the problem's id, where rows say it (the project's own corpus does)
    slots: Mapping[str, contest_files.Slot]  # by the problem's id, where rows are of contests


def read_sets(config: EvaluateConfig) -> list[EvaluationSet]:
    """All sets, see `read_set`.

    Raises:
        WrongUse: as `read_set`; two sets would have one name, two problems one id, or a window is of no set.
    """
    named: dict[str, str] = {}
    for path in config.problems:
        name = benchmark_sets.name_of(path)
        if name in named:
            raise WrongUse(
                f"{named[name]} and {path} would both be '{name}' in results.json; rename one of the files."
            )
        named[name] = path
    if unknown := config.windows.keys() - named.keys():
        raise WrongUse(
            f"WINDOWS names {sorted(unknown)}, which PROBLEMS does not; there are {sorted(named)}."
        )
    sets = [
        read_set(
            path,
            benchmarks_dir=config.benchmarks_dir,
            window=config.windows.get(name),
            limit=config.max_problems,
            bad_rows=config.bad_rows,
            of_contests=config.standings is not None,
        )
        for name, path in named.items()
    ]
    counts = collections.Counter(problem.id for one in sets for problem in one.problems)
    if repeated := [name for name, count in counts.items() if count > 1]:
        raise WrongUse(
            f"{len(repeated)} problem ids occur twice, e.g. {repeated[0]!r}; give each its own id."
        )
    return sets


def read_set(
    path: epath.PathLike,
    *,
    benchmarks_dir: epath.PathLike | None = None,
    window: Window | None = None,
    limit: int = 0,
    bad_rows: rows.BadRows = BAD_ROWS,
    of_contests: bool = False,
) -> EvaluationSet:
    """An evaluation set, its problems in the order of its rows.

    Args:
        path: a file, shards, a pattern or `tfds:NAME` as `data.rows` reads them; a directory that `datasets`
            or the Hub left (`benchmark_sets`); or a short name of `benchmark_sets.KNOWN`.
        benchmarks_dir: where short names are looked for.
        window: ISO dates between which a problem's contest was: from the start of the first day to the
            midnight with which the second begins, as LiveCodeBench's own `--start_date` and `--end_date` do.
            None: the set's own window where it is known by name and has one, else all.
        limit: at most so many, the first; 0 takes all.
        bad_rows: what becomes of rows in no layout.
        of_contests: takes up which contest a problem is of.

    Raises:
        WrongUse: there is no such set, or one known by name is empty; a row is in no layout or lacks a field;
            two problems share an id; or the window is no window, leaves nothing, or is given for problems
            without dates.
    """
    files = benchmark_sets.find(path, benchmarks_dir)
    given = window or (files.known.window if files.known else None)
    bounds = _bounds(given) if given else None
    problems: list[Prompt] = []
    families: dict[str, str] = {}
    slots: list[tuple[str, str, contest_files.Slot | None]] = []
    num_outside = 0
    for row, problem, slot in _problems(files, bounds, bad_rows, of_contests):
        if problem is None:
            num_outside += 1
            continue
        problems.append(problem)
        if isinstance(family := row.fields.get("family"), str) and family:
            families[problem.id] = family
        if of_contests:
            slots.append((problem.id, row.where, slot))
        if len(problems) == limit:
            break
    if given and num_outside and not problems:
        raise WrongUse(
            f"{os.fspath(path)}: none of its {num_outside} problems is of a contest between {given[0]} and "
            f"{given[1]}; set another window, or download a release that has such."
        )
    if files.known and not problems:
        raise WrongUse(f"{', '.join(files.paths)}: there are no problems in it; download '{path}' again.")
    rows.check_ids((problem.id for problem in problems), os.fspath(path))
    if files.known and not limit and not window and len(problems) != files.known.num_problems:
        log.warning("%s has %d problems, papers count %d", path, len(problems), files.known.num_problems)
    name = benchmark_sets.name_of(path)
    return EvaluationSet(
        name=name, problems=problems, families=families, slots=contest_files.slots_by_id(slots)
    )


def _problems(
    files: SetFiles,
    bounds: tuple[datetime.datetime, datetime.datetime] | None,
    bad_rows: rows.BadRows,
    of_contests: bool,
) -> Iterator[tuple[rows.Row, Prompt | None, contest_files.Slot | None]]:
    """Each row with its problem, None for one outside of the window, and with its place in a contest."""
    numbers = itertools.count(1)  # over all files of the set, whatever the window leaves
    where_of: dict[contest_files.Slot, str] = {}

    def make(row: rows.Row) -> tuple[rows.Row, Prompt | None, contest_files.Slot | None]:
        number = next(numbers)
        if bounds is not None and not bounds[0] <= _contest_time(row) <= bounds[1]:
            return row, None, None
        problem = _problem_of(row, files.name, number)
        slot = contest_files.slot_of(row) if of_contests else None
        if slot is not None and (first := where_of.setdefault(slot, row.where)) != row.where:
            raise WrongUse(f"{row.where}: problem {slot[0]}{slot[1]} is there twice, first at {first}.")
        return row, problem, slot

    for path in files.paths:
        yield from rows.map_rows(path, make, bad_rows=bad_rows)


def _bounds(window: Window) -> tuple[datetime.datetime, datetime.datetime]:
    """A window as moments, both included."""
    try:
        first, last = (datetime.datetime.fromisoformat(day).replace(tzinfo=None) for day in window)
        if first <= last:
            return first, last
    except (TypeError, ValueError):
        pass
    raise WrongUse(
        f"A window is two ISO dates, the earlier first, such as ('2024-08-01', '2025-02-01'); got {window!r}."
    )


def _contest_time(row: rows.Row) -> datetime.datetime:
    value = row.fields.get("contest_date")
    if value in (None, ""):
        raise WrongUse(
            f"{row.where}: there is no contest_date to hold against the window; leave the window out."
        )
    try:
        time = value if isinstance(value, datetime.datetime) else datetime.datetime.fromisoformat(str(value))
    except ValueError:
        raise WrongUse(f"{row.where}: field 'contest_date' is no ISO date: {value!r}.") from None
    return time.replace(tzinfo=None)


def _problem_of(row: rows.Row, name: str, number: int) -> Prompt:
    """The problem of a row in any layout."""
    shared: dict[str, Any] = {"id": id_of(row, name, number), "level": _level_of(row)}
    if code_layouts.is_livecodebench(row):
        fields = code_layouts.livecodebench(row)
    elif code_layouts.is_human_eval(row):
        fields = code_layouts.human_eval(row)
    elif code_layouts.has_tests(row) and row.fields.get("domain") != "math":
        if stated_answer(row) is not None and row.fields.get("domain") != "code":
            raise WrongUse(f"{row.where}: the row has both an answer and tests; a column 'domain' may tell.")
        fields = code_layouts.stated(row, _statement_of(row))
        shared["concepts"] = _concepts_of(row, "concepts")
    else:
        shared["concepts"] = _concepts_of(row, "concepts", "subject")
        return MathPrompt(problem=_statement_of(row), answer=_answer_of(row), **shared)
    return ProgramPrompt(**shared, **fields)


def _no_layout(row: rows.Row) -> WrongUse:
    columns = ", ".join(row.fields) or "none"
    return WrongUse(f"{row.where}: its columns ({columns}) are those of no layout that is read. {LAYOUTS}.")


def _statement_of(row: rows.Row) -> str:
    if (value := columns.find(row, "problem")) is None:
        raise _no_layout(row)
    return columns.user_text(value, row.where)


def _answer_of(row: rows.Row) -> str:
    """The answer as text, also where it stands at the end of a worked solution or in a solution's box."""
    value = stated_answer(row)
    if isinstance(value, float) and not math.isfinite(value):
        raise WrongUse(f"{row.where}: the answer is {value}; correct the row.")
    if value is None and isinstance(solution := columns.find(row, "solution"), str):
        value = math_answers.extract_answer(solution)
    if value is None:
        raise _no_layout(row)
    if worked := columns.worked_answer(value):
        return worked[1].strip()
    return columns.text(value, f"{row.where}: the answer")


def stated_answer(row: rows.Row) -> Any:
    """What a row has of an answer; the short one where there are two."""
    short = columns.find(row, "short_answer")
    return columns.find(row, "answer") if short is None else short


def id_of(row: rows.Row, name: str, number: int) -> str:
    """The id of a row's problem, by the set's name and the row's number in it, from 1."""
    value = columns.find(row, "id")
    text = "" if value is None else columns.text(value, f"{row.where}: the id").strip()
    return text if text and not text.isdecimal() else f"{name}-{text or number}"


def _level_of(row: rows.Row) -> str:
    value = columns.find(row, "level")
    return "" if value is None else columns.text(value, f"{row.where}: the level")


def _concepts_of(row: rows.Row, *names: str) -> tuple[str, ...]:
    value = next((value for name in names if (value := columns.find(row, name)) is not None), None)
    return () if value is None else columns.concepts(value, row.where, may_be_one=True)
