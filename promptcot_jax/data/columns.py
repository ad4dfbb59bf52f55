"""Columns of released data sets: the names under which a field may be, and the forms of its values.

Every function raises `WrongUse` for a value that has none of its forms; `where` or `what` begins the message.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from promptcot_jax.core import thinking
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import ConceptSet, Domain, StdioTest
from promptcot_jax.data import rows, templates

# The columns where a field is looked for, in capitals or not: the first that a row has. A dot goes into an
# object.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "id": ("id", "problem_id", "unique_id", "uuid", "task_id", "question_id", "problem_idx"),
    "domain": ("domain",),
    "level": ("level", "difficulty_level", "difficulty"),
    "concepts": ("concepts", "foundational_concepts", "foundational_programming_concepts", "concept"),
    "subject": ("subject", "problem_type", "type"),
    "problem": ("problem", "prompt", "question", "text"),
    "messages": ("messages", "conversations"),
    "completion": ("completion", "response"),
    "short_answer": ("final_answer", "short_answer"),  # where `answer` may be a worked solution
    "answer": ("answer", "expected_answer", "ground_truth", "reward_model.ground_truth"),
    "solution": ("solution",),
    "tests": ("tests", "test_cases", "unit_tests", "test_list", "input_output"),
    "inputs": ("inputs",),
    "outputs": ("outputs",),
}
# Names that sets of other kinds have too: what a set is follows from the others, if they tell.
COMMON = frozenset({"text", "expected_answer", "test_list", "input_output"})
NOTHING = (None, "", [])  # a column of these values counts as missing

_TURN, _END = "<|im_start|>", "<|im_end|>"
_USER_TURN = re.compile(
    rf"\s*{re.escape(_TURN)}user\n(?P<text>.*?)\s*{re.escape(_END)}\s*"
    rf"(?:{re.escape(_TURN)}assistant\s*(?P<opened><think>\s*)?)?",
    re.DOTALL,
)
_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}
_WORKED_ANSWER = re.compile(r"(?P<solution>(?:.*\n)?)####[ \t]*(?P<answer>[^#\s][^\n]*)", re.DOTALL)
_CALCULATION = re.compile(r"<<[^<>\n]*>>")
_LISTED_LINE = re.compile(r"^\W*Knowledge Point\W*\d*\W*[:.]\W*(\S.*?)[\s*_]*$", re.MULTILINE)
_PROGRAM = re.compile(r"^[ \t]*```[ \t]*[\w+#]", re.MULTILINE)


def find(
    row: rows.Row, name: str, given: Mapping[str, str] | None = None, without: frozenset[str] = frozenset()
) -> Any:
    """What a row has under one of the names of COLUMNS, or None; an empty text or list is nothing.

    Args:
        given: of COLUMNS -> the column that a user says it is.
        without: columns that are passed over.
    """
    for column in names_of(name, given):
        if column not in without and (value := _value(row.fields, column)) not in NOTHING:
            return value
    return None


def names_of(name: str, given: Mapping[str, str] | None = None) -> Sequence[str]:
    """The columns where a field is looked for."""
    return (given[name],) if given and name in given else COLUMNS[name]


def _value(fields: Mapping[str, Any], column: str) -> Any:
    if column in fields:
        return fields[column]
    value: Any = fields
    for part in column.split("."):
        if not isinstance(value, Mapping):
            return None
        value = next((value[own] for own in value if own == part or own.lower() == part), None)
    return value


def text(value: Any, what: str) -> str:
    """A text that is not empty; a number is written out, a list of one is its element."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise WrongUse(f"{what} must be a text that is not empty, got {_shown(value)}.")
    return value


def texts(value: Any, what: str) -> tuple[str, ...]:
    """A list of texts; as such, or written as a Python or JSON list, with or without a code fence."""
    parsed = parse_concepts(value) if isinstance(value, str) else value
    if (
        not isinstance(parsed, list)
        or not parsed
        or not all(isinstance(item, str) and item.strip() for item in parsed)
    ):
        raise WrongUse(f"{what} must be a list of texts that are not empty, got {_shown(value)}.")
    return tuple(item.strip() for item in parsed)


def parse_concepts(written: str) -> list[Any] | None:
    """The list in the last code fence that holds one, or the text as a list, or `Knowledge Point:` lines.

    What the list holds is the caller's to check. None: there is no list.
    """
    found = templates.last_fenced_list(written)
    if found is None:
        found = templates.literal_list(written.strip())
    return found if found is not None else _LISTED_LINE.findall(written) or None


def concepts(value: Any, where: str, *, may_be_one: bool) -> tuple[str, ...]:
    """A list of concepts; where a list of one may be its text, that too."""
    is_one = may_be_one and isinstance(value, str) and not value.lstrip().startswith(("[", "`"))
    return texts([value] if is_one else value, f"{where}: the concepts")


def user_text(value: Any, where: str) -> str:
    """The user's text: a plain text, one user turn framed as ChatML, or a conversation of one user turn."""
    return _user_turn(value, where)[0]


def unframed(prompt: Any, completion: str, where: str) -> tuple[str, str]:
    """Prompt and completion without ChatML; a reasoning block opened in the prompt goes to the completion."""
    asked, opened = _user_turn(prompt, where)
    if completion.rstrip().endswith(_END):
        completion = completion.rstrip().removesuffix(_END).rstrip()
    if _TURN in completion or _END in completion:
        raise WrongUse(f"{where}: the completion goes on as a conversation; only one answer is understood.")
    if not completion.strip():
        raise WrongUse(f"{where}: the completion is empty.")
    return asked, f"{opened}{completion}"


def _user_turn(value: Any, where: str) -> tuple[str, str]:
    """The user's text, and what the frame opened of the answer."""
    value = _from_json(value) if isinstance(value, str) and value.startswith('[{"') else value
    if isinstance(value, list):
        turns = _turns(value, where)
        if [role for role, _ in turns] != ["user"]:
            raise WrongUse(f"{where}: the prompt is a conversation; only one turn of the user is understood.")
        value = turns[0][1]
    value = text(value, f"{where}: the prompt")
    if _TURN not in value and _END not in value:
        return value, ""
    frame = _USER_TURN.fullmatch(value)
    if not frame or _TURN in frame["text"] or _END in frame["text"]:
        raise WrongUse(f"{where}: the prompt is framed as a chat of other than one turn of the user.")
    return text(frame["text"], f"{where}: the prompt"), "<think>\n" if frame["opened"] else ""


def question_and_answer(messages: Any, where: str) -> tuple[str, str]:
    """A conversation of one turn of the user and one of the assistant."""
    messages = _from_json(messages) if isinstance(messages, str) else messages
    turns = _turns(messages, where)
    if [role for role, _ in turns] != ["user", "assistant"]:
        said = ", ".join(role for role, _ in turns) or "nothing"
        raise WrongUse(
            f"{where}: only one user turn and its answer are understood, this conversation is {said}."
        )
    return unframed(turns[0][1], turns[1][1], where)


def _turns(messages: Any, where: str) -> list[tuple[str, str]]:
    """Role and text of each turn: `role` and `content`, or `from` and `value`; no empty system turn."""
    if not isinstance(messages, list):
        raise WrongUse(f"{where}: the conversation must be a list of turns, got {_shown(messages)}.")
    turns = []
    for message in messages:
        if not isinstance(message, dict):
            raise WrongUse(f"{where}: a turn must be an object, got {_shown(message)}.")
        role, content = (message.get(a, message.get(b)) for a, b in (("role", "from"), ("content", "value")))
        if role not in _ROLES or not isinstance(content, str):
            raise WrongUse(f"{where}: a turn must have a role and a text, got {_shown(message)}.")
        if _ROLES[role] != "system" or content.strip():
            turns.append((_ROLES[role], content))
    return turns


def tests(value: Any, where: str) -> tuple[StdioTest, ...]:
    """Tests that read and print: objects of `input` and `output`, or lists of `inputs` and `outputs`."""
    value = _from_json(value) if isinstance(value, str) else value
    if isinstance(value, dict):
        if value.get("fn_name"):
            raise WrongUse(
                f"{where}: the tests call a function; only those that read and print are understood."
            )
        columns = [value.get(f"{name}s", value.get(name)) for name in ("input", "output")]
        inputs, outputs = (column if isinstance(column, list) else [column] for column in columns)
        if len(inputs) != len(outputs):
            raise WrongUse(f"{where}: the tests have {len(inputs)} inputs and {len(outputs)} outputs.")
        value = [{"input": a, "output": b} for a, b in zip(inputs, outputs, strict=True)]
    if not isinstance(value, list) or not value:
        raise WrongUse(f"{where}: the tests must be a list that is not empty, got {_shown(value)}.")
    return tuple(_test(item, where) for item in value)


def _test(value: Any, where: str) -> StdioTest:
    value = _from_json(value) if isinstance(value, str) else value
    given, expected = (value.get("input"), value.get("output")) if isinstance(value, dict) else (None, None)
    if not isinstance(given, str) or not isinstance(expected, str):
        raise WrongUse(f"{where}: a test must have the texts 'input' and 'output', got {_shown(value)}.")
    return StdioTest(input=given, output=expected)


def holds_tests(answer: Any) -> bool:
    """Whether an answer is tests: sets for both domains have one column for what is checked."""
    value = _from_json(answer) if isinstance(answer, str) and answer[:1] in ("{", "[") else answer
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, dict) and bool({"input", "inputs"} & first.keys())


def worked_answer(value: Any) -> tuple[str, str] | None:
    """Solution and answer of a text in the form of GSM8K, or None for another.

    Its last line is `#### ANSWER`; in the solution the calculator's marks, `<<48/2=24>>`, are left out.
    """
    form = _WORKED_ANSWER.fullmatch(value.rstrip()) if isinstance(value, str) else None
    return (_CALCULATION.sub("", form["solution"]).rstrip(), form["answer"]) if form else None


def listed_concepts(prompt: str, where: str) -> ConceptSet:
    """The concepts that a prompt of the generator numbers under its heading, and its level."""
    if (found := templates.parse_conditions(prompt)) is None:
        raise WrongUse(f"{where}: the prompt numbers no concepts under a heading of concepts.")
    return found


def domain_of_completion(completion: str) -> Domain | None:
    """Math if the answer's part has a box, code if it has a fenced program of a named language."""
    answer = thinking.answer_part(completion)
    if "\\boxed" in answer:
        return "math"
    return "code" if _PROGRAM.search(answer) else None


def _from_json(written: str) -> Any:
    """What a JSON text says; the text where it is none."""
    try:
        return json.loads(written)
    except (ValueError, RecursionError):
        return written


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) < 80 else f"{shown[:77]}..."
