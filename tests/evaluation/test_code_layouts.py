"""Facts of programming benchmarks: the tests that come out, what is shown, and pickles that do no harm."""

import base64
import json
import os
import pathlib
import pickle
import zlib

import pytest

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import AssertTest, CallTest, StdioTest
from promptcot_jax.data import examples, templates
from promptcot_jax.evaluation import benchmarks, code_layouts
from promptcot_jax.verify import programs
from tests import toys
from tests.evaluation import benchmark_rows
from tests.evaluation.benchmark_rows import call_problem, packed, stdin_problem, write


def read_one(tmp_path, row):
    (problem,) = benchmarks.read_set(write(tmp_path / "set.jsonl", row)).problems
    return problem


def test_livecodebench_reads_public_and_private_tests_in_either_form(tmp_path):
    hidden = [{"input": "20 22\n", "output": "42\n", "testtype": "stdin"}]
    for private in (packed(json.dumps(hidden)), json.dumps(hidden), hidden):
        problem = read_one(tmp_path, stdin_problem(private_test_cases=private))
        assert problem.tests == (StdioTest("1 2\n", "3\n"), StdioTest("20 22\n", "42\n"))
    assert (problem.id, problem.level) == ("abc001_a", "easy")
    assert problem.problem == "Read two numbers and print their sum."
    assert "reads from standard input" in templates.solver_prompt(problem.problem, "code", problem.tests)


def test_livecodebench_calls_have_one_json_value_a_line_and_show_the_starter_code(tmp_path):
    problem = read_one(tmp_path, call_problem())
    assert problem.tests == (CallTest("above", ([1, 5, 3], 2), [5, 3]), CallTest("above", ([], 0), []))
    assert problem.id == "set-4001"
    prompt = templates.solver_prompt(problem.problem, "code", problem.tests)
    assert "def above(self, nums: List[int], limit: int)" in prompt
    assert "`above`" in prompt.rpartition("```python\nclass Solution:")[2]
    assert "standard input" not in prompt
    assert "```python code fence" in prompt


def test_the_prompt_of_a_chat_model_is_chosen_by_the_tests_too(tmp_path):
    problem = read_one(tmp_path, call_problem())
    tests = examples.tests_of(problem)
    plain = examples.solver_prompt(toys.byte_tokenizer(), problem.problem, "code", tests)
    assert plain == templates.solver_prompt(problem.problem, "code", problem.tests)
    (message,) = templates.solver_messages(problem.problem, "code", tests)
    assert message["content"] == plain.rstrip("\n")


class Harmful:
    """Its pickle runs a command where it is loaded."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(tmp_path):
    trace = tmp_path / "harmed"
    harmful = packed(Harmful(trace))
    pickle.loads(zlib.decompress(base64.b64decode(harmful)))
    assert trace.exists()  # it is one
    trace.unlink()
    with pytest.raises(WrongUse) as failure:
        read_one(tmp_path, stdin_problem(private_test_cases=harmful))
    assert not trace.exists()
    for said in ("set.jsonl:1: field 'private_test_cases'", "operation", "nothing of it was run"):
        assert said in str(failure.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"private_test_cases": packed([1])}, "holds no pickled text (it has the operation EMPTY_LIST"),
        ({"private_test_cases": packed("[1")}, "field 'private_test_cases' is not JSON"),
        ({"private_test_cases": packed("[1]")}, "'private_test_cases'[0] must be an object with the texts"),
        ({"private_test_cases": "no base64!"}, "is neither JSON nor base64"),
        ({"private_test_cases": base64.b64encode(b"plain").decode()}, "is neither JSON nor base64"),
        ({"private_test_cases": packed("x" * 99)[:-24]}, "field 'private_test_cases'"),
        ({"private_test_cases": base64.b64encode(zlib.compress(b"words")).decode()}, "holds no pickled text"),
        ({"public_test_cases": "[{"}, "field 'public_test_cases' is not JSON"),
        ({"public_test_cases": "{}"}, "must be a list of tests, got dict"),
        ({"public_test_cases": "[]", "private_test_cases": "[]"}, "has no tests, public or private"),
        ({"private_test_cases": ""}, "field 'private_test_cases' is missing"),
        ({"private_test_cases": packed(json.dumps([])), "public_test_cases": "[" * 100_000}, "is not JSON"),
        ({"private_test_cases": packed("[" * 100_000)}, "field 'private_test_cases' is not JSON"),
        ({"public_test_cases": '[{"input": "1", "testtype": "stdin"}]'}, "'input', 'output' and 'testtype'"),
        (
            {"public_test_cases": '[{"input": "", "output": "", "testtype": "file"}]'},
            "must be 'stdin' or 'functional', got 'file'",
        ),
        (
            {"public_test_cases": '[{"input": "1\\nx", "output": "1", "testtype": "functional"}]'},
            "field 'metadata' names none as func_name",
        ),
        ({"metadata": "{"}, "field 'metadata' is not JSON"),
        ({"question_content": None}, "field 'question_content' must be a text"),
    ],
)
def test_a_damaged_problem_is_named_by_line_and_field(tmp_path, changes, says):
    path = write(tmp_path / "set.jsonl", stdin_problem(), stdin_problem(**changes))
    with pytest.raises(WrongUse) as failure:
        benchmarks.read_set(path)
    assert f"{path}:2: " in str(failure.value)
    assert says in str(failure.value)


def test_an_argument_that_is_no_json_is_named(tmp_path):
    test = {"input": "[1]\n2 3", "output": "1", "testtype": "functional"}
    with pytest.raises(WrongUse, match="field 'public_test_cases'.0.: line 2 of the input is not JSON"):
        read_one(tmp_path, call_problem(public_test_cases=json.dumps([test])))
    mixed = [test | {"input": "1"}, {"input": "1", "output": "1", "testtype": "stdin"}]
    with pytest.raises(WrongUse, match="no program passes both"):
        read_one(tmp_path, call_problem(public_test_cases=json.dumps(mixed)))


def test_a_pickle_that_asks_for_memory_gets_none(tmp_path):
    text = b"\x80\x04\x8c\x02[]r\xff\xff\xff\x7f."  # two letters, two thousand million places
    given = base64.b64encode(zlib.compress(text)).decode()
    assert read_one(tmp_path, stdin_problem(private_test_cases=given)).tests == (StdioTest("1 2\n", "3\n"),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_texts_of_every_protocol_are_read(protocol):
    for text in ("[]", "\u00e4\n" * 300):
        assert code_layouts._pickled_text(pickle.dumps(text, protocol)) == text


def test_tests_that_unpack_to_too_much_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(code_layouts, "_MAX_UNPACKED", 1000)
    with pytest.raises(WrongUse, match="unpacks to more than 1000 bytes"):
        read_one(tmp_path, stdin_problem(private_test_cases=packed("x" * 10_000)))


def test_human_eval_shows_its_stub_and_keeps_its_test(tmp_path):
    problem = read_one(tmp_path, benchmark_rows.HUMAN_EVAL)
    (test,) = problem.tests
    assert isinstance(test, AssertTest)
    assert problem.id == "HumanEval/900"
    assert benchmark_rows.HUMAN_EVAL["prompt"].strip() in problem.problem
    assert "check" not in templates.solver_prompt(problem.problem, "code", problem.tests)
    # Imports and helpers stand before the program and before the test; the stub itself before neither.
    for code in (problem.prelude, test.source):
        assert "from typing import List" in code
        assert "def shifted" in code
        assert "def unshifted" not in code
    assert test.source.endswith("check(unshifted)\n")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"test": "assert f(1)"}, "field 'test' has no function check"),
        ({"entry_point": "other"}, "field 'prompt' has no function 'other'"),
        ({"prompt": "def f(:"}, "field 'prompt' is not Python"),
        ({"entry_point": ""}, "field 'entry_point' must be a text"),
    ],
)
def test_a_damaged_row_of_human_eval_is_named(tmp_path, changes, says):
    with pytest.raises(WrongUse, match=says):
        read_one(tmp_path, benchmark_rows.HUMAN_EVAL | changes)


def test_mbpp_shows_its_assertions_in_every_form(tmp_path):
    problem = read_one(tmp_path, benchmark_rows.MBPP)
    assert problem.tests == tuple(AssertTest(source) for source in benchmark_rows.MBPP["test_list"])
    assert "assert double(2) == 4\nassert double(-1.5) == -3\n```" in problem.problem
    (test,) = read_one(tmp_path, benchmark_rows.SANITIZED_MBPP).tests
    assert test.source == "import math\nassert math.isclose(area(2), 4 * math.pi)"
    own = {"id": "mbpp-1", "problem": "Halve.", "test_setup": "k = 2", "tests": ["assert half(k) == 1"]}
    assert read_one(tmp_path, own | {"kind": "assert"}).tests == (AssertTest("k = 2\nassert half(k) == 1"),)


@pytest.mark.parametrize(
    "columns",
    [
        {"inputs": ["1", "2"], "outputs": ["1", "2"]},
        {"input_output": json.dumps({"inputs": ["1", "2"], "outputs": ["1", "2"]})},
        {"tests": {"inputs": ["1", "2"], "outputs": ["1", "2"]}},
        {"tests": json.dumps([{"input": "1", "output": "1"}, {"input": "2", "output": "2"}])},
        {"tests": [{"input": n, "output": n, "testtype": "stdin"} for n in "12"], "metadata": {}},
    ],
    ids=["columns", "apps", "object", "text", "testtype"],
)
def test_tests_of_input_and_output_read_in_the_forms_of_other_sets(tmp_path, columns):
    problem = read_one(tmp_path, {"question": "Echo.", "difficulty": "hard"} | columns)
    assert problem.tests == (StdioTest("1", "1"), StdioTest("2", "2"))
    assert problem.level == "hard"
    assert problem.prelude == (programs.JUDGE_PRELUDE if "metadata" in columns else "")


@pytest.mark.parametrize(
    ("tests", "says"),
    [
        ("[{", "field 'tests' is not JSON"),
        ([1], "field 'tests'[0] must be an object or, as all of them, the text of an assertion"),
        ([{"input": "1"}], "field 'output' of StdioTest is missing"),
        ([{"input": "1", "output": "1"}, "assert f()"], "field 'tests'[1] must be an object"),
        ({"inputs": ["1"], "outputs": []}, "the tests have 1 inputs and 0 outputs"),
        ({"inputs": [[1]], "outputs": [1], "fn_name": "f"}, "the tests call a function"),
        (3, "must be a list of tests that is not empty"),
        ("3", "a test asserts and calls nothing: '3'"),
        (["assert f(1) == 2", "def test():\n    assert f(1) == 5"], "asserts and calls nothing"),
    ],
)
def test_tests_in_no_form_are_named(tmp_path, tests, says):
    with pytest.raises(WrongUse) as failure:
        read_one(tmp_path, {"problem": "Echo.", "tests": tests})
    assert "set.jsonl:1: " in str(failure.value)
    assert says in str(failure.value)


def test_tests_may_be_texts_of_json_or_one_assertion(tmp_path):
    tests = [json.dumps({"input": n, "output": n}) for n in "12"]
    problem = read_one(tmp_path, {"problem": "Echo.", "tests": tests})
    assert problem.tests == (StdioTest("1", "1"), StdioTest("2", "2"))
    assert problem.problem == "Echo."  # hidden tests stay hidden
    problem = read_one(tmp_path, {"text": "Add one.", "test_list": "assert f(1) == 2"})
    assert problem.tests == (AssertTest("assert f(1) == 2"),)


def test_starter_code_and_prelude_count_in_every_layout(tmp_path):
    starter = "def above(xs: List[int], n: int):\n    pass"
    test = {
        "input": "[1, 3]\n2",
        "output": "[3]",
        "testtype": "functional",
        "metadata": {"func_name": "above"},
    }
    problem = read_one(tmp_path, {"problem": "Which?", "starter_code": starter, "tests": [test]})
    assert problem.tests == (CallTest("above", ([1, 3], 2), [3]),)
    assert starter in problem.problem
    assert problem.prelude == programs.JUDGE_PRELUDE
    columns = {"input_output": {"inputs": ["1"], "outputs": ["1"]}, "prelude": "import math\n"}
    problem = read_one(tmp_path, {"problem": "Echo.", "starter_code": "n = input()"} | columns)
    assert "n = input()" in problem.problem
    assert problem.prelude == "import math\n"
