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
from promptcot_jax.data import import_fields, rows, templates

Kind = Literal["concepts", "traces", "prompts"]
KINDS: tuple[Kind, ...] = ("concepts", "traces", "prompts")
Imported = ConceptSet | SftTrace | Prompt

# What is looked for, and the columns where it may be, the first that a row has; a dot goes into an object.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "id": ("id", "problem_id", "unique_id", "uuid"),
    "domain": ("domain",),
    "level": ("level", "difficulty_level", "difficulty"),
    "concepts": ("concepts", "foundational_concepts", "foundational_programming_concepts", "concept"),
    "problem": ("problem", "prompt", "question"),
    "messages": ("messages", "conversations"),
    "completion": ("completion", "response"),
    "answer": ("answer", "ground_truth", "reward_model.ground_truth"),
    "tests": ("tests", "test_cases", "unit_tests"),
    "inputs": ("inputs",),
    "outputs": ("outputs",),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """What the rows are taken for; without `kind` and `domain` the columns tell."""

    kind: Kind | None = None
    domain: Domain | None = None
    columns: Mapping[str, str] = dataclasses.field(
        default_factory=dict
    )  # of COLUMNS -> the column in the rows

    def __post_init__(self):
        if self.kind not in (None, *KINDS):
            raise ValueError(f"kind must be one of {list(KINDS)} or None, got {self.kind!r}.")
        if unknown := set(self.columns) - set(COLUMNS):
            raise ValueError(f"columns has no {sorted(unknown)[0]!r}; it may have {', '.join(COLUMNS)}.")


def kind_of(row: rows.Row, config: ImportConfig) -> Kind:
    """What a data set of such rows is.

    Raises:
        WrongUse: its columns are those of no kind, or of two.
    """
    if config.kind is not None:
        return config.kind
    has = {name for name in COLUMNS if _value(row, name, config) is not None}
    fits: dict[Kind, bool] = {
        "concepts": "problem" not in has and "concepts" in has or _lists_concepts(row, config),
        "traces": {"problem", "completion"} <= has or "messages" in has,
        "prompts": "problem" in has and bool(has & {"answer", "tests", "inputs"}),
    }
    kinds: list[Kind] = [kind for kind in KINDS if fits[kind]]
    if len(kinds) != 1:
        said = " and ".join(kinds) or "no kind of data set that is known"
        known = "; ".join(f"{name}: {', '.join(columns)}" for name, columns in COLUMNS.items())
        raise WrongUse(
            f"{row.where}: the columns {', '.join(row.fields) or '(none)'} are those of {said}. Sets of "
            "concepts need concepts; of traces problem and completion, or messages; of prompts problem and "
            f"answer, tests, or inputs and outputs. The names known are {known}. Set kind, or columns such "
            "as {'answer': 'NAME'}."
        )
    return kinds[0]


def maker_of(kind: Kind, config: ImportConfig) -> Callable[[rows.Row], Imported]:
    """What makes a row of this kind a record; it raises `WrongUse` for one that does not have the form."""
    make = {"concepts": _concept_set, "traces": _trace, "prompts": _prompt}[kind]
    return lambda row: make(row, config)


def _value(row: rows.Row, name: str, config: ImportConfig) -> Any:
    """What a row has under one of the names of COLUMNS, or None; an empty text or list is nothing."""
    columns = (config.columns[name],) if name in config.columns else COLUMNS[name]
    for column in columns:
        value: Any = row.fields
        for part in [column] if column in row.fields else column.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None and value != "" and value != []:
            return value
    return None


def _needed(row: rows.Row, name: str, config: ImportConfig) -> Any:
    value = _value(row, name, config)
    if value is None:
        columns = (config.columns[name],) if name in config.columns else COLUMNS[name]
        raise WrongUse(f"{row.where}: the row has no {name} (none of the columns {', '.join(columns)}).")
    return value


def _shared(row: rows.Row, config: ImportConfig) -> dict[str, str]:
    """The fields that are simple texts: id and level."""
    place = os.path.basename(row.where)
    identity = _value(row, "id", config)
    level = _value(row, "level", config)
    return {
        "id": place if identity is None else import_fields.text(identity, f"{row.where}: the id"),
        "level": "" if level is None else import_fields.text(level, f"{row.where}: the level"),
    }


def _domain(row: rows.Row, config: ImportConfig) -> Domain | None:
    """The domain that the settings or the row say."""
    said = config.domain or _value(row, "domain", config)
    if said not in (None, "math", "code"):
        raise WrongUse(f"{row.where}: the domain must be 'math' or 'code', got {said!r}.")
    return said


def _concepts(row: rows.Row, value: Any) -> tuple[str, ...]:
    is_one = row.is_flat and isinstance(value, str) and not value.lstrip().startswith(("[", "`"))
    return import_fields.texts([value] if is_one else value, f"{row.where}: the concepts")


def _lists_concepts(row: rows.Row, config: ImportConfig) -> bool:
    prompt = _value(row, "problem", config)
    return isinstance(prompt, str) and any(
        heading in prompt for heading in templates.CONCEPT_HEADINGS.values()
    )


def _concept_set(row: rows.Row, config: ImportConfig) -> ConceptSet:
    shared, domain = _shared(row, config), _domain(row, config)
    found = _value(row, "concepts", config)
    if found is None and _lists_concepts(row, config):
        prompt = import_fields.user_text(_value(row, "problem", config), row.where)
        listed = import_fields.listed_concepts(prompt, row.where)
        return ConceptSet(
            id=shared["id"],
            domain=domain or listed.domain,
            concepts=listed.concepts,
            level=shared["level"] or listed.level,
        )
    concepts = _concepts(row, _needed(row, "concepts", config))
    is_code = "foundational_programming_concepts" in row.fields
    return ConceptSet(domain=domain or ("code" if is_code else "math"), concepts=concepts, **shared)


def _trace(row: rows.Row, config: ImportConfig) -> SftTrace:
    messages = _value(row, "messages", config)
    if messages is not None:
        prompt, completion = import_fields.question_and_answer(messages, row.where)
    else:
        prompt = _needed(row, "problem", config)
        completion = import_fields.text(_completion(row, config), f"{row.where}: the completion")
        prompt, completion = import_fields.unframed(prompt, completion, row.where)
    domain = _domain(row, config) or import_fields.domain_of_completion(completion)
    if domain is None:
        raise WrongUse(
            f"{row.where}: the completion has neither a box nor a fenced program, which would tell its "
            "domain; set domain."
        )
    return SftTrace(id=_shared(row, config)["id"], domain=domain, prompt=prompt, completion=completion)


def _completion(row: rows.Row, config: ImportConfig) -> Any:
    """The completion; where there is none, a worked answer with what it comes to in a box."""
    worked = import_fields.worked_answer(_value(row, "answer", config))
    if worked is None or _value(row, "completion", config) is not None:
        return _needed(row, "completion", config)
    solution, answer = worked
    return f"{solution}\n\\boxed{{{answer}}}".lstrip()


def _prompt(row: rows.Row, config: ImportConfig) -> Prompt:
    problem = import_fields.user_text(_needed(row, "problem", config), row.where)
    answer, tests = _value(row, "answer", config), _value(row, "tests", config)
    if tests is None and _value(row, "inputs", config) is not None:
        tests = {name: _needed(row, name, config) for name in ("inputs", "outputs")}
    if tests is None and import_fields.holds_tests(answer):
        tests, answer = answer, None
    domain = _domain(row, config)
    if domain is None and answer is not None and tests is not None:
        raise WrongUse(f"{row.where}: the row has both an answer and tests; set domain, or columns.")
    concepts = _value(row, "concepts", config)
    shared: dict[str, Any] = _shared(row, config)
    if concepts is not None:
        shared["concepts"] = _concepts(row, concepts)
    if domain == "code" or (domain is None and tests is not None):
        if tests is None:
            raise WrongUse(f"{row.where}: the row has no tests (none of the columns {_names('tests')}).")
        return ProgramPrompt(problem=problem, tests=import_fields.tests(tests, row.where), **shared)
    if answer is None:
        raise WrongUse(f"{row.where}: the row has no answer (none of the columns {_names('answer')}).")
    if worked := import_fields.worked_answer(answer):
        _, answer = worked
    text = import_fields.text(answer, f"{row.where}: the answer")
    return MathPrompt(problem=problem, answer=text, **shared)


def _names(name: str) -> str:
    return ", ".join(COLUMNS[name])
