"""Facts of sets of problems as they are read: what rows say, and what is refused."""

import pytest

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import rows
from promptcot_jax.evaluation.analyses import problem_sets


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
    assert (first.id, first.level, first.answer, first.domain) == ("mixed.jsonl:1", "3", "7", "math")
    assert (second.id, second.domain, third.domain) == ("mine", "code", "code")
    by_domain = problem_sets.of_domain({"a": [first, second, third], "b": [first]}, "code")
    assert by_domain == {"a": [second, third]}


def test_the_sets_of_a_workdir_are_its_files(tmp_path):
    workdir = str(tmp_path)
    assert problem_sets.own_files(workdir) == problem_sets.attempted_files(workdir) == {}
    for name in ("problems", "triples", "triples_heldout", "mine"):
        jsonl.write_records(tmp_path / f"{name}.jsonl", [{"problem": name}])
    assert list(problem_sets.own_files(workdir)) == ["triples", "problems"]
    assert list(problem_sets.attempted_files(workdir)) == ["triples_heldout"]
    settings = {"evaluate.problems": ["{workdir}/mine.jsonl", "{workdir}/gone.jsonl"]}
    jsonl.write_json(tmp_path / "config" / "evaluate.settings.json", settings)
    assert problem_sets.attempted_files(workdir) == {"mine": f"{workdir}/mine.jsonl"}


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"text": "x"}, r"set.jsonl:1: field 'problem' is missing or empty.*it has 'text'"),
        ({"problem": " "}, "field 'problem' is missing or empty"),
        ({"problem": "x", "domain": "chess"}, "field 'domain' must be one of"),
        ({"problem": "x", "concepts": "a"}, "field 'concepts' must be a list"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_or_skipped(row, sentence, tmp_path):
    path = tmp_path / "set.jsonl"
    jsonl.write_records(path, [row, {"problem": "good"}])
    with pytest.raises(WrongUse, match=sentence):
        problem_sets.read({"a": str(path)})
    (left,) = problem_sets.read({"a": str(path)}, rows.BadRows(action="skip"))["a"]
    assert left.problem == "good"


def test_empty_sets_and_repeated_ids_are_refused(tmp_path):
    path = tmp_path / "set.jsonl"
    with pytest.raises(WrongUse, match="no such file"):
        problem_sets.read({"a": str(path)})
    path.write_text("\n")
    with pytest.raises(WrongUse, match="the set 'a' has no rows"):
        problem_sets.read({"a": str(path)})
    jsonl.write_records(path, [{"problem": "x", "id": "1"}, {"problem": "y", "id": "1"}])
    with pytest.raises(WrongUse, match="the id '1' occurs twice"):
        problem_sets.read({"a": str(path)})
