"""Problems and concept lists that stages start from, read from a user's files of any format.

`annotate` reads seed problems, `synthesize` lists of concepts, `verify` and `distill` open problems: what the
row of one states of an answer or of tests is a claim to check.
"""

import collections
import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from etils import epath

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import (
    ConceptSet,
    Domain,
    Problem,
    SeedProblem,
    StdioTest,
    VerifiedMathPrompt,
)
from promptcot_jax.data import rows, templates

Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenProblem:
    """A problem to solve.

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
    """An open problem with all that its row says.

    Attributes:
        lineage: those fields of `LINEAGE` that the row has.
        fields: of the row, as they came.
    """

    problem: OpenProblem
    lineage: Mapping[str, Any]
    fields: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Of the problem."""
        return self.problem.id

    def prompt(self, record_type: type, found: Mapping[str, Any]) -> Any:
        """A verified prompt: the problem, its lineage and what was found."""
        problem = {"id": self.id, "domain": self.problem.domain, "problem": self.problem.problem}
        return record_type(**problem, **self.lineage, **found)

    def row_of(self, prompt: Any) -> dict[str, Any]:
        """A row of verified prompts: all that the problem's row said, and over it what was found.

        The answer that the row stated becomes `given_answer`; tests that it stated are left out, since those
        that were right are among the prompt's.
        """
        carried = {name: value for name, value in self.fields.items() if name not in ("answer", "tests")}
        if self.problem.answer:
            carried["given_answer"] = self.problem.answer
        return carried | dataclasses.asdict(prompt)


def read_seeds(
    path: epath.PathLike,
    *,
    domain: Domain,
    level: str,
    bad_rows: rows.BadRows,
    counts: collections.Counter[str],
) -> list[SeedProblem]:
    """Seed problems.

    Args:
        domain: of rows that do not say; `level` likewise.
        counts: see `rows.iter_rows`.

    Raises:
        WrongUse: the file is missing or empty, two rows share an id, or a row is bad and not to be skipped:
            it lacks `problem`, or its problem is empty or holds a marker.
    """

    def make(row: rows.Row) -> SeedProblem:
        seed = rows.record_of(_with_defaults(row, domain=domain, level=level), SeedProblem)
        templates.problem_block(seed.problem, row.where)
        return seed

    return _read(path, make, "there are no problems in it", bad_rows=bad_rows, counts=counts)


def read_concept_sets(path: epath.PathLike) -> list[ConceptSet]:
    """Lists of concepts; `concept_pool` makes new ones.

    Raises:
        WrongUse: the file holds none, a list is empty, or two rows share an id.
    """
    make = functools.partial(rows.record_of, record_type=ConceptSet)
    concept_sets = _read(path, make, "no concept sets in it")
    for concept_set in concept_sets:
        if not any(concept.strip() for concept in concept_set.concepts):
            raise WrongUse(f"{os.fspath(path)}: concept set {concept_set.id!r} names no concept.")
    return concept_sets


def read_open(
    path: epath.PathLike, *, domain: Domain, bad_rows: rows.BadRows, counts: collections.Counter[str]
) -> list[Entry]:
    """Open problems.

    Args:
        domain: of rows that do not say.
        counts: see `rows.iter_rows`.

    Raises:
        WrongUse: the file is missing or empty, two rows share an id, or a row is bad and not to be skipped.
    """

    def make(row: rows.Row) -> Entry:
        stated = _with_defaults(row).fields
        problem = _problem_of(_with_defaults(row, domain=domain))
        if not problem.problem.strip():
            raise WrongUse(f"{row.where}: the problem is empty.")
        of_row = {name: stated[name] for name in LINEAGE if name in stated}
        fields = of_row | {"problem": "", "answer": "", "agreement": 1.0}
        typed = rows.record_of(dataclasses.replace(row, fields=fields), VerifiedMathPrompt)
        return Entry(problem, {name: getattr(typed, name) for name in of_row}, stated)

    return _read(path, make, "there are no problems in it", bad_rows=bad_rows, counts=counts)


def _read(
    path: epath.PathLike, make: Callable[[rows.Row], Value], nothing: str, **bad_rows: Any
) -> list[Value]:
    """What the rows of a file hold: something, each under its own id."""
    found: list[Any] = list(rows.map_rows(path, make, **bad_rows))
    if not found:
        raise WrongUse(f"{os.fspath(path)}: {nothing}.")
    rows.check_ids((record.id for record in found), os.fspath(path))
    return found


def _with_defaults(row: rows.Row, **defaults: Any) -> rows.Row:
    """A row without the fields that are null, and with defaults for those that it lacks."""
    stated = {name: value for name, value in row.fields.items() if value is not None}
    return dataclasses.replace(row, fields=defaults | stated)


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
