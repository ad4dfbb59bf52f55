"""Problems and concept lists of a file are read as they are, with all that a row says of its origin."""

import collections
import dataclasses
import json
import typing
from pathlib import Path
from typing import Any

import pytest

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import (
    ConceptSet,
    Problem,
    StdioTest,
    VerifiedMathPrompt,
    VerifiedProgramPrompt,
)
from promptcot_jax.data import exported_sets, rows
from promptcot_jax.synthesis import exporting, problem_files

HINTS = jsonl.type_hints(Problem)
FOUND = {
    VerifiedMathPrompt: {"answer": "2", "agreement": 0.75},
    VerifiedProgramPrompt: {"tests": (StdioTest("1", "2"),), "agreement": 0.75},
}


def distinct(name: str, hint: Any) -> Any:
    """A value of a field that is not its default, and no other field's."""
    if typing.get_origin(hint) is tuple:
        return (distinct(f"{name} 1", typing.get_args(hint)[0]), "another")
    number = 1 + list(HINTS).index(name) if name in HINTS else 0
    return {str: f"some {name}", int: number, float: number / 64}[hint]


@pytest.mark.parametrize(
    "record_type",
    [
        *FOUND,
        *(t for kind in ("problems", "verified_prompts") for t in exported_sets.RECORD_TYPES[kind].values()),
    ],
)
def test_every_field_of_a_problem_is_one_of_the_types_that_it_becomes(record_type: type):
    theirs = jsonl.type_hints(record_type)
    assert {name: theirs.get(name) for name in HINTS if name != "domain"} == {
        name: hint for name, hint in HINTS.items() if name != "domain"
    }


@pytest.mark.parametrize("record_type", FOUND)
def test_lineage_goes_from_the_problems_file_to_the_exported_row(record_type: type, tmp_path: Path):
    values = {name: distinct(name, hint) for name, hint in HINTS.items() if name != "domain"}
    problem = Problem(domain=record_type.domain, **values)
    assert all(getattr(problem, field.name) != field.default for field in dataclasses.fields(Problem))
    jsonl.write_records(tmp_path / "problems.jsonl", [problem])
    given: dict[str, Any] = {"bad_rows": rows.FATAL, "counts": collections.Counter()}
    (entry,) = problem_files.read_open(tmp_path / "problems.jsonl", domain="math", **given)
    prompt = entry.prompt(record_type, FOUND[record_type])
    path = tmp_path / "verified_prompts.jsonl"
    jsonl.write_records(path, [entry.row_of(prompt)])
    (row,) = exporting.read(path, "verified_prompts", source="", origins=exporting.Origins(), **given)
    for stage in (prompt, row):
        assert {name: getattr(stage, name) for name in HINTS} == vars(problem)


def test_a_row_without_lineage_has_the_defaults_and_one_of_another_type_is_refused(tmp_path: Path):
    given: dict[str, Any] = {"domain": "math", "bad_rows": rows.FATAL, "counts": collections.Counter()}
    jsonl.write_records(tmp_path / "own.jsonl", [{"id": "a", "problem": "1 + 1?"}])
    (entry,) = problem_files.read_open(tmp_path / "own.jsonl", **given)
    assert not entry.lineage
    prompt = entry.prompt(VerifiedMathPrompt, FOUND[VerifiedMathPrompt])
    assert prompt == VerifiedMathPrompt(id="a", problem="1 + 1?", answer="2", agreement=0.75)
    for name in set(HINTS) - {"id", "domain", "problem"}:
        jsonl.write_records(tmp_path / "wrong.jsonl", [{"problem": "1 + 1?", name: {"a": 1}}])
        with pytest.raises(WrongUse, match=f"field '{name}'"):
            problem_files.read_open(tmp_path / "wrong.jsonl", **given)


def test_a_file_of_sets_is_read_and_unusable_rows_are_named(tmp_path):
    path = tmp_path / "sets.jsonl"
    path.write_text(json.dumps({"concepts": ["primes"], "level": 3}) + "\n")
    assert problem_files.read_concept_sets(path) == [
        ConceptSet(id="sets.jsonl:1", concepts=("primes",), level="3")
    ]
    path.write_text('{"id": "a", "concepts": [" "]}\n')
    with pytest.raises(WrongUse, match="'a' names no concept"):
        problem_files.read_concept_sets(path)
    path.write_text('{"id": "a", "concepts": ["p"]}\n{"id": "a", "concepts": ["q"]}\n')
    with pytest.raises(WrongUse, match="the id 'a' occurs twice"):
        problem_files.read_concept_sets(path)
    path.write_text("\n")
    with pytest.raises(WrongUse, match="no concept sets"):
        problem_files.read_concept_sets(path)
