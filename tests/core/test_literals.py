"""Facts of tests in rows: what was written is what is read, and what cannot be written is refused."""

import json
import math

import pytest

from promptcot_jax.core import jsonl, literals, records
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import exported_sets

VALUES = [
    None,
    True,
    0,
    -(1 << 80),
    -0.0,
    "é\n",
    [1, [2.5, None]],
    {"a": [1], "b": {}},
    (1, 2),
    [(1, 2)],  # JSON would make a list of it
    {1, 2},
    set(),
    b"\x00\xff",
    1 + 2j,
    {1: "one", (2, 3): [4]},
    {"python": "1"},  # would read as the number
    {"python": 1},
]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_a_value_comes_back_through_json_with_its_types(value):
    read = literals.decode(json.loads(json.dumps(literals.encode(value), allow_nan=False)), "here")
    assert (read, repr(read)) == (value, repr(value))


def test_what_json_has_is_written_as_it_is():
    assert literals.encode([1, {"a": "b"}]) == [1, {"a": "b"}]


@pytest.mark.parametrize("value", [math.inf, [math.nan], object(), int], ids=["inf", "nan", "object", "type"])
def test_a_value_without_a_form_is_refused(value):
    with pytest.raises(ValueError, match="has no form in a row"):
        literals.encode(value)


@pytest.mark.parametrize("text", ["__import__('os')", "1 +", 3, "f()"])
def test_a_text_that_is_no_literal_is_named_and_never_run(text):
    with pytest.raises(WrongUse, match="here: .* is not the text of a Python literal"):
        literals.decode({"python": text}, "here")


def test_tests_of_all_kinds_come_back_from_a_file(tmp_path):
    prompt = records.ProgramPrompt(
        id="p",
        problem="Add.",
        prelude="import math\n",
        tests=(
            records.StdioTest("1 2\n", "3\n"),
            records.CallTest("add", (1, (2, 3), {4}), {"python": b"x"}),
            records.CallTest("Box.get", (), None),
            records.AssertTest("assert add(1, 2) == 3"),
        ),
    )
    jsonl.write_records(tmp_path / "p.jsonl", [prompt])
    assert jsonl.read_records(tmp_path / "p.jsonl", records.ProgramPrompt) == [prompt]


@pytest.mark.parametrize(
    ("test", "says"),
    [
        ({"function": "f", "args": [1]}, "field 'expected' of CallTest is missing"),
        ({"function": "f", "args": 1, "expected": 1}, "field 'args' must be a list, got int"),
        ({"function": "f", "args": [{"python": "("}], "expected": 1}, "is not the text of a Python literal"),
        ({"input": "1"}, "field 'output' of StdioTest is missing"),
        ({"source": None}, "field 'tests'[0]: field 'source' must be str, got NoneType"),
        ("assert True", "field 'tests'[0] must be an object, got str"),
    ],
)
def test_a_test_that_cannot_be_read_is_named(tmp_path, test, says):
    (tmp_path / "p.jsonl").write_text(json.dumps({"problem": "Add.", "tests": [test]}) + "\n")
    with pytest.raises(WrongUse) as failure:
        jsonl.read_records(tmp_path / "p.jsonl", records.ProgramPrompt)
    assert "p.jsonl:1: " in str(failure.value)
    assert says in str(failure.value)


def test_what_holds_fixed_columns_takes_tests_of_input_and_output_only(tmp_path):
    row = {"problem": "Add.", "tests": [{"source": "assert add(1, 2) == 3"}]}
    (tmp_path / "p.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(WrongUse, match="p.jsonl:1: field 'tests'.*'input' of StdioTest is missing"):
        jsonl.read_records(tmp_path / "p.jsonl", exported_sets.FixedProgramPrompt)
