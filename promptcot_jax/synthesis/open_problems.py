"""Problems as they come to verification: what a row states of an answer or of tests is a claim to check."""

import collections
import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from etils import epath

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import Domain, Problem, StdioTest, VerifiedMathPrompt
from promptcot_jax.data import rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenProblem:
    """A problem to verify.

    Attributes:
        answer, tests: as the row has them; empty where it has none. The votes must confirm them.
    """

    id: str = ""
    domain: Domain = "math"
    problem: str
    answer: str = ""
    tests: tuple[StdioTest, ...] = ()


# Of a `Problem`, all but the problem itself: onto the verified prompt.
LINEAGE = tuple(
    field.name
    for field in dataclasses.fields(Problem)
    if field.name not in {own.name for own in dataclasses.fields(OpenProblem)}
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A problem with all that its row says.

    Attributes:
        lineage: those fields of `LINEAGE` that the row has.
        fields: of the row, as they came.
    """

    problem: OpenProblem
    lineage: Mapping[str, Any]
    fields: Mapping[str, Any]


def read(
    path: epath.PathLike, *, domain: Domain, bad_rows: rows.BadRows, counts: collections.Counter[str]
) -> list[Entry]:
    """The problems of a file of any format.

    Args:
        domain: of rows that do not say.
        counts: see `rows.iter_rows`.

    Raises:
        WrongUse: the file is missing or empty, two rows share an id, or a row is bad and not to be skipped.
    """

    def make(row: rows.Row) -> Entry:
        stated = {name: value for name, value in row.fields.items() if value is not None}
        problem = _problem_of(dataclasses.replace(row, fields={"domain": domain} | stated))
        if not problem.problem.strip():
            raise WrongUse(f"{row.where}: the problem is empty.")
        of_row = {name: stated[name] for name in LINEAGE if name in stated}
        fields = of_row | {"problem": "", "answer": "", "agreement": 1.0}
        typed = rows.record_of(dataclasses.replace(row, fields=fields), VerifiedMathPrompt)
        return Entry(problem, {name: getattr(typed, name) for name in of_row}, stated)

    entries = list(rows.map_rows(path, make, bad_rows=bad_rows, counts=counts))
    if not entries:
        raise WrongUse(f"{os.fspath(path)}: there are no problems in it.")
    rows.check_ids((entry.problem.id for entry in entries), os.fspath(path))
    return entries


def _problem_of(row: rows.Row) -> OpenProblem:
    try:
        return rows.record_of(row, OpenProblem)
    except WrongUse as error:
        if f"{row.where}: field 'tests'" not in str(error):
            raise
        raise WrongUse(
            f"{str(error).rstrip('.')}; programs are verified by tests of standard input and output, "
            '{"input": ..., "output": ...}: write assertions and calls as such, for a statement that says '
            "what is read and printed, or leave the field out and tests are made."
        ) from None


def line(entry: Entry, record: Any) -> dict[str, Any]:
    """A row of verified prompts: all that the problem's row said, and over it what was found.

    The answer that the row stated becomes `given_answer`, and tests that it stated go, where they were right.
    """
    carried = {name: value for name, value in entry.fields.items() if name not in ("answer", "tests")}
    if entry.problem.answer:
        carried["given_answer"] = entry.problem.answer
    return carried | dataclasses.asdict(record)


def typed(entry: Entry, record_type: type, found: Mapping[str, Any]) -> Any:
    """A verified prompt of a problem, its lineage and what was found."""
    problem = {"id": entry.problem.id, "domain": entry.problem.domain, "problem": entry.problem.problem}
    return record_type(**problem, **entry.lineage, **found)
