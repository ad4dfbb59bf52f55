"""Released data sets as records, by the names of their columns.

| kind | columns | record |
| --- | --- | --- |
| concepts | a list of concepts, or a prompt of the generator that lists them | `ConceptSet` |
| traces | a prompt and its completion, or a conversation of one question and one answer | `SftTrace` |
| prompts | a problem and its answer or its tests | `MathPrompt`, `ProgramPrompt` |

An answer in the form of GSM8K, a solution whose last line is `#### 72`, is 72 to prompts; to traces, where
`kind` is set to them and there is no completion, it is the completion with 72 in a box.

`COLUMNS` has the names that are known; a setting names others. A row's domain is its column `domain`, or else
follows from what it has: tests or the heading of programming concepts mean code, an answer or a box math; a
trace without a box is code if it has a fenced program; concepts under no heading are of mathematics. What is
framed as a chat is taken out of the frame where it is one turn of the user; any other conversation, and
whatever does not have its field's form, is a bad row.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any, Literal

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import (
    ConceptSet,
    Domain,
    MathPrompt,
    ProgramPrompt,
    Prompt,
    SftTrace,
)
from promptcot_jax.core.settings import settings
from promptcot_jax.data import columns, rows, templates
from promptcot_jax.data.columns import COLUMNS

SetKind = Literal["concepts", "traces", "prompts"]
# Those of COLUMNS that are looked for.
FIELDS = (
    *("id", "domain", "level", "concepts", "problem", "messages", "completion"),
    *("answer", "tests", "inputs", "outputs"),
)
Imported = ConceptSet | SftTrace | Prompt


@settings
class ImportConfig:
    """What the rows are taken for; without `kind` and `domain` the columns tell."""

    kind: SetKind | None = None
    domain: Domain | None = None
    # One of FIELDS -> the column in the rows.
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if unknown := set(self.columns) - set(FIELDS):
            raise ValueError(f"columns has no {sorted(unknown)[0]!r}; it may have {', '.join(FIELDS)}.")


def kind_of(row: rows.Row, config: ImportConfig) -> SetKind:
    """What a data set of such rows is.

    Raises:
        WrongUse: its columns are those of no kind, or of two.
    """
    if config.kind is not None:
        return config.kind
    kinds = _kinds_that_fit(row, config, without=columns.COMMON - {*config.columns.values()})
    kinds = kinds or _kinds_that_fit(row, config, without=frozenset())
    if len(kinds) != 1:
        said = " and ".join(kinds) or "no kind of data set that is known"
        known = "; ".join(f"{name}: {', '.join(COLUMNS[name])}" for name in FIELDS)
        raise WrongUse(
            f"{row.where}: the columns {', '.join(row.fields) or '(none)'} are those of {said}. Sets of "
            "concepts need concepts; of traces problem and completion, or messages; of prompts problem and "
            f"answer, tests, or inputs and outputs. The names known are {known}. Set kind, or columns such "
            "as {'answer': 'NAME'}."
        )
    return kinds[0]


def _kinds_that_fit(row: rows.Row, config: ImportConfig, without: frozenset[str]) -> list[SetKind]:
    has = {name for name in FIELDS if columns.find(row, name, config.columns, without) is not None}
    fits: dict[SetKind, bool] = {
        "concepts": "problem" not in has and "concepts" in has or _lists_concepts(row, config),
        "traces": {"problem", "completion"} <= has or "messages" in has,
        "prompts": "problem" in has and bool(has & {"answer", "tests", "inputs"}),
    }
    return [kind for kind in fits if fits[kind]]


def maker_of(kind: SetKind, config: ImportConfig) -> Callable[[rows.Row], Imported]:
    """What makes a row of this kind a record; it raises `WrongUse` for one that does not have the form."""
    make = {"concepts": _concept_set, "traces": _trace, "prompts": _prompt}[kind]
    return lambda row: make(row, config)


def _needed(row: rows.Row, name: str, config: ImportConfig) -> Any:
    value = columns.find(row, name, config.columns)
    if value is None:
        raise _missing(row, name, config)
    return value


def _shared(row: rows.Row, config: ImportConfig) -> dict[str, str]:
    """The fields that are simple texts: id and level."""
    place = os.path.basename(row.where)
    identity = columns.find(row, "id", config.columns)
    level = columns.find(row, "level", config.columns)
    return {
        "id": place if identity is None else columns.text(identity, f"{row.where}: the id"),
        "level": "" if level is None else columns.text(level, f"{row.where}: the level"),
    }


def _domain(row: rows.Row, config: ImportConfig) -> Domain | None:
    """The domain that the settings or the row say."""
    said = config.domain or columns.find(row, "domain", config.columns)
    if said not in (None, "math", "code"):
        raise WrongUse(f"{row.where}: the domain must be 'math' or 'code', got {said!r}.")
    return said


def _lists_concepts(row: rows.Row, config: ImportConfig) -> bool:
    prompt = columns.find(row, "problem", config.columns)
    return isinstance(prompt, str) and any(
        heading in prompt for heading in templates.CONCEPT_HEADINGS.values()
    )


def _concept_set(row: rows.Row, config: ImportConfig) -> ConceptSet:
    shared, domain = _shared(row, config), _domain(row, config)
    found = columns.find(row, "concepts", config.columns)
    if found is None and _lists_concepts(row, config):
        prompt = columns.user_text(columns.find(row, "problem", config.columns), row.where)
        listed = columns.listed_concepts(prompt, row.where)
        shared["level"] = shared["level"] or listed.level
        return ConceptSet(domain=domain or listed.domain, concepts=listed.concepts, **shared)
    concepts = columns.concepts(_needed(row, "concepts", config), row.where, may_be_one=row.is_flat)
    is_code = "foundational_programming_concepts" in row.fields
    return ConceptSet(domain=domain or ("code" if is_code else "math"), concepts=concepts, **shared)


def _trace(row: rows.Row, config: ImportConfig) -> SftTrace:
    messages = columns.find(row, "messages", config.columns)
    if messages is not None:
        prompt, completion = columns.question_and_answer(messages, row.where)
    else:
        prompt = _needed(row, "problem", config)
        completion = columns.text(_completion(row, config), f"{row.where}: the completion")
        prompt, completion = columns.unframed(prompt, completion, row.where)
    domain = _domain(row, config) or columns.domain_of_completion(completion)
    if domain is None:
        raise WrongUse(
            f"{row.where}: the completion has neither a box nor a fenced program, which would tell its "
            "domain; set domain."
        )
    return SftTrace(id=_shared(row, config)["id"], domain=domain, prompt=prompt, completion=completion)


def _completion(row: rows.Row, config: ImportConfig) -> Any:
    """The completion; where there is none, a worked answer with what it comes to in a box."""
    worked = columns.worked_answer(columns.find(row, "answer", config.columns))
    if worked is None or columns.find(row, "completion", config.columns) is not None:
        return _needed(row, "completion", config)
    solution, answer = worked
    return f"{solution}\n\\boxed{{{answer}}}".lstrip()


def _prompt(row: rows.Row, config: ImportConfig) -> Prompt:
    problem = columns.user_text(_needed(row, "problem", config), row.where)
    answer, tests = columns.find(row, "answer", config.columns), columns.find(row, "tests", config.columns)
    if tests is None and columns.find(row, "inputs", config.columns) is not None:
        tests = {name: _needed(row, name, config) for name in ("inputs", "outputs")}
    if tests is None and columns.holds_tests(answer):
        tests, answer = answer, None
    domain = _domain(row, config)
    if domain is None and answer is not None and tests is not None:
        raise WrongUse(f"{row.where}: the row has both an answer and tests; set domain, or columns.")
    concepts = columns.find(row, "concepts", config.columns)
    shared: dict[str, Any] = _shared(row, config)
    if concepts is not None:
        shared["concepts"] = columns.concepts(concepts, row.where, may_be_one=row.is_flat)
    if domain == "code" or (domain is None and tests is not None):
        if tests is None:
            raise _missing(row, "tests", config)
        return ProgramPrompt(problem=problem, tests=columns.tests(tests, row.where), **shared)
    if answer is None:
        raise _missing(row, "answer", config)
    if worked := columns.worked_answer(answer):
        _, answer = worked
    text = columns.text(answer, f"{row.where}: the answer")
    return MathPrompt(problem=problem, answer=text, **shared)


def _missing(row: rows.Row, name: str, config: ImportConfig) -> WrongUse:
    names = ", ".join(columns.names_of(name, config.columns))
    return WrongUse(f"{row.where}: the row has no {name} (none of the columns {names}).")
