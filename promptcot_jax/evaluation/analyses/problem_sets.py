"""Sets of problems as analyses read them: files of a stage or a user, under the names that figures show."""

import collections
import dataclasses
import os
from collections.abc import Mapping, Sequence

from promptcot_jax.core import file_sets, jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import Domain
from promptcot_jax.data import rows as data_rows
from promptcot_jax.data.formats.source import Row

DOMAINS: tuple[Domain, ...] = ("math", "code")
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
    pool: str = ""
    pass_share: float = 0.0
    mean_tokens: float = 0.0
    num_solutions: int = 0


ProblemSets = Mapping[str, Sequence[SetRow]]


def own_files(workdir: str) -> dict[str, str]:
    """The sets that a workdir holds, by name."""
    paths = {name: os.path.join(workdir, f"{name}.jsonl") for name in _OWN}
    return {name: path for name, path in paths.items() if file_sets.files_named(path)}


def attempted_files(workdir: str) -> dict[str, str]:
    """The files whose problems the workdir's `evaluate` attempted, by their names in `results.json`."""
    settings = os.path.join(workdir, "config", "evaluate.settings.json")
    named = jsonl.read_json(settings).get("evaluate.problems", []) if os.path.exists(settings) else []
    paths = named or [
        os.path.join(workdir, name) for name in ("triples_heldout.jsonl", "triples_novel.jsonl")
    ]
    paths = [
        workdir + path.removeprefix("{workdir}") if path.startswith("{workdir}") else path for path in paths
    ]
    return {os.path.basename(path).partition(".")[0]: path for path in paths if file_sets.files_named(path)}


def read(paths: Mapping[str, str], bad_rows: data_rows.BadRows = data_rows.FATAL) -> dict[str, list[SetRow]]:
    """The sets' rows by name.

    Raises:
        WrongUse: a file is missing, has no rows, a row has no problem, or two rows share an id.
    """
    sets = {}
    for name, path in paths.items():
        counts: collections.Counter[str] = collections.Counter()
        sets[name] = list(data_rows.map_rows(path, _row, bad_rows=bad_rows, counts=counts))
        if not sets[name]:
            raise WrongUse(
                f"{path}: the set '{name}' has no rows; write them first, or leave it out of SETS."
            )
        data_rows.check_ids((row.id for row in sets[name]), path)
    return sets


def _row(row: Row) -> SetRow:
    fields = {name: value for name, value in row.fields.items() if value is not None}
    if not isinstance(fields.get("problem"), str) or not fields["problem"].strip():
        raise WrongUse(
            f"{row.where}: field 'problem' is missing or empty; analyses compare problems, so each row needs "
            f"its text (it has {', '.join(map(repr, row.fields)) or 'no field'})."
        )
    is_code = any(fields.get(name) for name in _SIGNS_OF_CODE)
    fields.setdefault("domain", "code" if is_code else "math")
    return data_rows.record_of(dataclasses.replace(row, fields=fields), SetRow)


def of_domain(sets: ProblemSets, domain: Domain) -> dict[str, list[SetRow]]:
    """The rows of one domain of each set that has any."""
    own = {name: [row for row in rows if row.domain == domain] for name, rows in sets.items()}
    return {name: rows for name, rows in own.items() if rows}
