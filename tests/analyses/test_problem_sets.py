"""Facts of sets of problems as they are read: what rows say, and what is refused."""

import pytest

from promptcot_jax.analyses import problem_sets
from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import AttemptedProblem
from promptcot_jax.data import rows
from promptcot_jax.evaluation import benchmarks


def test_rows_of_any_stage_and_of_users_are_read(tmp_path):
    path = tmp_path / "mixed.jsonl"
    jsonl.write_records(
        path,
        [
            {"problem": "x", "level": 3, "answer": 7, "concepts": ["a"], "solution": None},
            {"problem": "y", "id": "mine", "tests": [{"input": "1", "output": "2"}]},
            {"problem": "z", "domain": "code"},
        ],
    )
    first, second, third = problem_sets.read({"a": str(path)})["a"]
    assert (first.id, first.level, first.answer, first.domain) == ("mixed-1", "3", "7", "math")
    assert (second.id, second.domain, third.domain) == ("mine", "code", "code")
    by_domain = problem_sets.of_domain({"a": [first, second, third], "b": [first]}, "code")
    assert by_domain == {"a": [second, third]}


def test_the_sets_of_a_workdir_are_its_files(tmp_path):
    workdir = str(tmp_path)
    assert problem_sets.own_files(workdir) == problem_sets.attempted(workdir) == {}
    for name in ("problems", "triples", "triples_heldout"):
        jsonl.write_records(tmp_path / f"{name}.jsonl", [{"problem": name}])
    assert list(problem_sets.own_files(workdir)) == ["triples", "problems"]


def test_what_evaluate_asked_is_read_from_what_it_keeps(tmp_path):
    asked = [
        AttemptedProblem(id="aime24-7", set="aime24", domain="math", problem="x", answer="3", level="2"),
        AttemptedProblem(id="c", set="mine", domain="code", problem="y", concepts=("loops",)),
    ]
    jsonl.write_records(tmp_path / "evaluate" / "problems.jsonl", asked)
    found = problem_sets.attempted(str(tmp_path))
    assert found == {
        "aime24": [problem_sets.SetRow(id="aime24-7", problem="x", answer="3", level="2")],
        "mine": [problem_sets.SetRow(id="c", domain="code", problem="y", concepts=("loops",))],
    }


def test_ids_are_those_of_evaluate(tmp_path):
    """Also where a row has none of its own, a bare number, or one in another column."""
    path = tmp_path / "mine.part.jsonl"
    given = [
        {"problem": "a", "id": "own"},
        {"problem": "b", "id": 12},
        {"question": "c", "unique_id": "test/3.json"},
        {"Problem": "d"},
    ]
    jsonl.write_records(path, [row | {"answer": "1"} for row in given])
    read = problem_sets.read({"a": str(path)})["a"]
    assert [row.id for row in read] == ["own", "mine-12", "test/3.json", "mine-4"]
    assert [row.id for row in read] == [problem.id for problem in benchmarks.read_set(path).problems]


def test_problems_are_read_from_the_columns_of_released_sets(tmp_path):
    path = tmp_path / "set.jsonl"
    jsonl.write_records(
        path,
        [
            {"question": "How many?", "answer": "She has <<1+1=2>>2.\n#### 2"},
            {"Problem": "Add.", "Solution": "Add up.", "Answer": "3"},
            {"question_content": "Print.", "public_test_cases": "[]", "difficulty": "hard"},
            {"prompt": "def f():", "entry_point": "f", "test": "def check(f): pass"},
        ],
    )
    worked, capitals, contest, stub = problem_sets.read({"a": str(path)})["a"]
    assert (worked.problem, worked.answer, worked.solution) == ("How many?", "2", "She has 2.")
    assert (capitals.problem, capitals.answer, capitals.solution) == ("Add.", "3", "Add up.")
    assert (contest.problem, contest.level, contest.domain) == ("Print.", "hard", "code")
    assert (stub.problem, stub.domain) == ("def f():", "code")


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            {"words": "x"},
            r"set.jsonl:1: no problem in a column problem, prompt, question, text or question_content; .*"
            r"\(it has 'words'\)",
        ),
        ({"problem": " "}, "no problem in a column"),
        ({"problem": "x", "domain": "chess"}, "field 'domain' must be one of"),
        ({"problem": "x", "concepts": "a"}, "field 'concepts' must be a list"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_or_skipped(row, sentence, tmp_path):
    path = tmp_path / "set.jsonl"
    jsonl.write_records(path, [row, {"problem": "good"}])
    with pytest.raises(WrongUse, match=sentence):
        problem_sets.read({"a": str(path)})
    counts = {}
    (left,) = problem_sets.read({"a": str(path)}, rows.BadRows(action="skip"), counts=counts)["a"]
    assert (left.id, left.problem) == ("set-2", "good")
    assert counts == {str(path): {"read": 1, "bad_field": 1}}


def test_empty_sets_and_repeated_ids_are_refused(tmp_path):
    path = tmp_path / "set.jsonl"
    with pytest.raises(WrongUse, match="no such file"):
        problem_sets.read({"a": str(path)})
    path.write_text("\n")
    with pytest.raises(WrongUse, match="the set 'a' has no rows"):
        problem_sets.read({"a": str(path)})
    jsonl.write_records(path, [{"problem": "x", "id": "1"}, {"problem": "y", "id": "1"}])
    with pytest.raises(WrongUse, match="the id 'set-1' occurs twice"):
        problem_sets.read({"a": str(path)})
