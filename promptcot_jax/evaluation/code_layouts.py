"""Programming benchmarks as released: their statements, and their tests as those that the sandbox runs.

| layout | told by | tests |
| --- | --- | --- |
| LiveCodeBench | `question_content`, `public_test_cases`, `private_test_cases` | standard input, or calls |
| HumanEval | `prompt`, `entry_point`, `test` | one assertion, of lower trust |
| MBPP | `test_list`, or `tests` that are texts | assertions; a plain `f(1) == 2` is done as a call |
| APPS, TACO | `input_output` | standard input |
| any | `tests`, or another name of `data.columns` | as rows of this package have them |

Hidden tests never reach the statement. LiveCodeBench's own judge puts imports before every program, on which
its starter code (`List`) relies, and allows deep recursion: so does the `prelude` here. The private tests of
LiveCodeBench are a pickled text, which is read without carrying out the pickle.
"""

import ast
import base64
import binascii
import json
import pickletools
import zlib
from collections.abc import Mapping
from typing import Any

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import AssertTest, CallTest, ProgramTest, StdioTest
from promptcot_jax.data import columns, rows
from promptcot_jax.data.columns import COLUMNS
from promptcot_jax.verify import programs

_MAX_UNPACKED = 2 << 30  # bytes of one problem's private tests; more is a bomb
Fields = dict[str, Any]  # of a `ProgramPrompt`: problem, tests, and prelude where there is one


def is_livecodebench(row: rows.Row) -> bool:
    """Whether a row has LiveCodeBench's columns."""
    return {"question_content", "public_test_cases"} <= row.fields.keys()


def is_human_eval(row: rows.Row) -> bool:
    """Whether a row has HumanEval's columns."""
    return {"prompt", "entry_point", "test"} <= row.fields.keys()


def has_tests(row: rows.Row) -> bool:
    """Whether a row is of a programming problem in one of the other layouts."""
    return any(_has(row, name) for name in COLUMNS["tests"]) or (_has(row, "inputs") and _has(row, "outputs"))


def _has(row: rows.Row, name: str) -> bool:
    return row.fields.get(name) not in columns.NOTHING


def livecodebench(row: rows.Row) -> Fields:
    """A problem of LiveCodeBench; its starter code, where it has some, is part of the statement.

    Raises:
        WrongUse: a field is missing or has another form.
    """
    problem = _with_starter_code(row, _needed_text(row, "question_content").strip())
    function = _function_name(row)
    public = _json_field(row, "public_test_cases", row.fields["public_test_cases"])
    private = _private_tests(row)
    tests = [
        *_judged_tests(public, function, f"{row.where}: field 'public_test_cases'"),
        *_judged_tests(private, function, f"{row.where}: field 'private_test_cases'"),
    ]
    if not tests:
        raise WrongUse(f"{row.where}: the problem has no tests, public or private.")
    if len({type(test) for test in tests}) > 1:
        raise WrongUse(
            f"{row.where}: some tests read input and some call a function; no program passes both."
        )
    return {"problem": problem, "tests": tuple(tests), "prelude": programs.JUDGE_PRELUDE}


def _with_starter_code(row: rows.Row, problem: str) -> str:
    starter = row.fields.get("starter_code")
    if not isinstance(starter, str) or not starter.strip():
        return problem
    return _with_code(f"{problem}\n\nUse this starter code:", starter)


def human_eval(row: rows.Row) -> Fields:
    """A problem of HumanEval: the stub is shown, its imports and helpers stand before the solver's program.

    The helpers are before the assertion as well, which is judged apart from the program.

    Raises:
        WrongUse: a field is missing, the stub is no Python, or the test has no function `check`.
    """
    prompt, name, test = (_needed_text(row, field) for field in ("prompt", "entry_point", "test"))
    if "def check(" not in test:
        raise WrongUse(f"{row.where}: field 'test' has no function check(candidate).")
    prelude = _without_function(prompt, name, str(row.fields.get("canonical_solution") or ""), row.where)
    problem = _with_code(f"Write the function `{name}` in full, as its header and docstring say:", prompt)
    source = f"{prelude}\n{test.strip()}\n\ncheck({name})\n".lstrip()
    return {"problem": problem, "tests": (AssertTest(source),), "prelude": prelude}


def _without_function(prompt: str, name: str, body: str, where: str) -> str:
    """What a stub has beside its function: imports and helpers."""
    for text in (prompt, prompt + body):
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError):
            continue
        kept = [node for node in tree.body if not (isinstance(node, ast.FunctionDef) and node.name == name)]
        if len(kept) == len(tree.body):
            raise WrongUse(f"{where}: field 'prompt' has no function '{name}', which 'entry_point' names.")
        return "".join(f"{ast.unparse(node)}\n" for node in kept)
    raise WrongUse(f"{where}: field 'prompt' is not Python.")


def stated(row: rows.Row, problem: str) -> Fields:
    """A problem with its tests in one of the other layouts; MBPP's assertions are shown, as its authors do.

    Raises:
        WrongUse: a test has none of the forms that are known.
    """
    name = next(name for name in (*COLUMNS["tests"], "inputs") if _has(row, name))
    value = row.fields[name]
    if name == "inputs":
        value = {"inputs": value, "outputs": row.fields["outputs"]}
    where = f"{row.where}: field '{name}'"
    prelude = row.fields.get("prelude") or ""
    if not isinstance(prelude, str):
        raise WrongUse(f"{row.where}: field 'prelude' must be a text.")
    problem = _with_starter_code(row, problem)
    value = _test_values(row, name, value)
    if isinstance(value, dict):
        return {"problem": problem, "tests": columns.tests(value, where), "prelude": prelude}
    if not isinstance(value, list) or not value:
        raise WrongUse(f"{where} must be a list of tests that is not empty.")
    if all(isinstance(test, str) for test in value):
        before = _setup(row)
        tests = tuple(AssertTest(f"{before}{_assertion(test, where)}") for test in value)
        shown = _with_code(f"{problem}\n\nThese tests must pass:", "\n".join(value))
        return {"problem": shown, "tests": tests, "prelude": prelude}
    if any(isinstance(test, dict) and "testtype" in test for test in value):
        judged = tuple(_judged_tests(value, _function_name(row), where))
        return {"problem": problem, "tests": judged, "prelude": prelude or programs.JUDGE_PRELUDE}
    tests = tuple(_own_test(test, f"{where}[{i}]") for i, test in enumerate(value))
    return {"problem": problem, "tests": tests, "prelude": prelude}


def _test_values(row: rows.Row, name: str, value: Any) -> Any:
    """What a column of tests holds, unpacked from JSON as a whole or test by test; assertions stay texts."""
    if isinstance(value, str):
        if name in ("test_list", "tests") and not value.lstrip().startswith(("[", "{")):
            # One assertion, of a format that has no list of one.
            return [value]
        value = _json_field(row, name, value)
    if isinstance(value, list) and all(isinstance(test, str) and test.lstrip()[:1] == "{" for test in value):
        return [_json_field(row, f"{name}[{i}]", test) for i, test in enumerate(value)]
    return value


def _assertion(source: str, where: str) -> str:
    """A test that is Python, unless running it would do nothing, so that any program passed."""
    try:
        statements = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError):  # it fails for every program
        return source
    if all(map(_does_nothing, statements)):
        raise WrongUse(f"{where}: a test asserts and calls nothing: {source[:80]!r}; correct or drop it.")
    return source


def _does_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr):
        return not any(isinstance(node, ast.Call) for node in ast.walk(statement))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Pass)
    return isinstance(statement, kinds)


def _own_test(value: Any, where: str) -> ProgramTest:
    """A test as rows of this package have it."""
    if not isinstance(value, dict):
        raise WrongUse(f"{where} must be an object or, as all of them, the text of an assertion.")
    return jsonl.record_from_row(ProgramTest, value, where=where)


def _setup(row: rows.Row) -> str:
    """What MBPP puts before each assertion."""
    given = [row.fields.get(name) or [] for name in ("test_imports", "test_setup_code", "test_setup")]
    lines = [line for part in given for line in ([part] if isinstance(part, str) else part)]
    return "".join(f"{line.rstrip()}\n" for line in lines if isinstance(line, str) and line.strip())


def _with_code(text: str, code: str) -> str:
    return f"{text}\n\n```python\n{code.strip(chr(10)).rstrip()}\n```"


def _needed_text(row: rows.Row, field: str) -> str:
    value = row.fields.get(field)
    if not isinstance(value, str) or not value.strip():
        raise WrongUse(f"{row.where}: field '{field}' must be a text that is not empty.")
    return value


def _json_field(row: rows.Row, field: str, value: Any) -> Any:
    """A field that is JSON text, or what it says already."""
    if not isinstance(value, str | bytes):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise WrongUse(f"{row.where}: field '{field}' is not JSON ({error}).") from None


def _function_name(row: rows.Row) -> str:
    """The function that tests call; empty where the row names none."""
    metadata = _json_field(row, "metadata", row.fields.get("metadata") or {})
    name = metadata.get("func_name") if isinstance(metadata, Mapping) else None
    return name if isinstance(name, str) else ""


def _judged_tests(value: Any, function: str, where: str) -> list[ProgramTest]:
    """Tests with `input`, `output` and `testtype`."""
    if not isinstance(value, list):
        raise WrongUse(f"{where} must be a list of tests, got {type(value).__name__}.")
    return [_judged_test(test, function, f"{where}[{i}]") for i, test in enumerate(value)]


def _judged_test(test: Any, function: str, where: str) -> ProgramTest:
    given = test if isinstance(test, Mapping) else {}
    texts = [given.get(name) for name in ("input", "output", "testtype")]
    if not all(isinstance(text, str) for text in texts):
        raise WrongUse(f"{where} must be an object with the texts 'input', 'output' and 'testtype'.")
    asked, answer, kind = map(str, texts)
    if kind in ("stdin", "stdin_stdout"):
        return StdioTest(asked, answer)
    if kind != "functional":
        raise WrongUse(f"{where}: the testtype must be 'stdin' or 'functional', got {kind!r}.")
    own = given.get("metadata")
    function = function or (own.get("func_name") if isinstance(own, Mapping) else "") or ""
    if not function:
        raise WrongUse(f"{where} calls a function, but field 'metadata' names none as func_name.")
    args = tuple(
        _value(line, f"{where}: line {i} of the input") for i, line in enumerate(asked.split("\n"), 1)
    )
    return CallTest(function, args, _value(answer, f"{where}: the output"))


def _value(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WrongUse(f"{what} is not JSON ({error}).") from None


_TEXT_OPCODES = {  # all that a pickled text takes, by any protocol
    *("PROTO", "FRAME", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP"),
}


def _pickled_text(data: bytes) -> str:
    """The text that a pickle holds, read from its operations, none of which is carried out."""
    texts = []
    for operation, argument, _ in pickletools.genops(data):
        if operation.name not in _TEXT_OPCODES:
            raise ValueError(f"it has the operation {operation.name}, and only a text may be in it")
        if isinstance(argument, str):
            texts.append(argument)
    if len(texts) != 1:
        raise ValueError(f"it holds {len(texts)} texts, not one")
    return texts[0]


def _private_tests(row: rows.Row) -> Any:
    """The private tests: JSON, or base64 of the compressed pickle of its text."""
    value = row.fields.get("private_test_cases")
    if value is None or value == "":
        raise WrongUse(
            f"{row.where}: field 'private_test_cases' is missing; the public tests alone would pass too much."
        )
    if not isinstance(value, str) or value.lstrip().startswith("["):
        return _json_field(row, "private_test_cases", value)
    where = f"{row.where}: field 'private_test_cases'"
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(value, validate=True), _MAX_UNPACKED)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise WrongUse(f"{where} is neither JSON nor base64 of compressed tests ({error}).") from None
    if unpacker.unconsumed_tail or not unpacker.eof:
        raise WrongUse(f"{where} is cut off, or unpacks to more than {_MAX_UNPACKED} bytes.")
    try:
        text = _pickled_text(data)
    except Exception as error:  # a damaged pickle raises almost anything
        raise WrongUse(f"{where} holds no pickled text ({error}); nothing of it was run.") from None
    return _json_field(row, "private_test_cases", text)
