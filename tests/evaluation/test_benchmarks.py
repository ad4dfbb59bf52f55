"""Facts of evaluation sets: each layout reads as the problems it holds, and what does not is named."""

import json
import logging

import pyarrow
import pyarrow.parquet
import pytest

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import CallTest, MathPrompt, ProgramPrompt, Prompt, StdioTest
from promptcot_jax.data import rows
from promptcot_jax.evaluation import benchmark_sets, benchmarks
from tests import toys
from tests.evaluation import benchmark_rows
from tests.evaluation.benchmark_rows import stdin_problem, write

LAYOUTS = {
    "capitals": (
        {"ID": "2024-I-9", "Problem": "Find 1 + 1.", "Solution": "It is 2.", "Answer": 2},
        ("2024-I-9", "2", "", ()),
    ),
    "numbered": ({"problem_idx": 3, "problem": "Find 1 + 1.", "answer": "2"}, ("set-3", "2", "", ())),
    "subjects in a list": (
        {
            "problem_idx": 4,
            "problem": "Find 1 + 1.",
            "answer": "$2$",
            "problem_type": ["Algebra", "Number Theory"],
        },
        ("set-4", "$2$", "", ("Algebra", "Number Theory")),
    ),
    "subject and level": (
        {
            "problem": "Find 1 + 1.",
            "solution": "so \\boxed{2}",
            "answer": "2",
            "subject": "Algebra",
            "level": 5,
            "unique_id": "test/algebra/1.json",
        },
        ("test/algebra/1.json", "2", "5", ("Algebra",)),
    ),
    "worked answer": (
        {"question": "Find 1 + 1.", "answer": "One and <<1+1=2>>one.\n#### 1,002"},
        ("set-1", "1,002", "", ()),
    ),
    "answer in a box alone": (
        {"id": 60, "problem": "Find 1 + 1.", "solution": "first \\boxed{1}, then \\boxed{2}", "url": "u"},
        ("set-60", "2", "", ()),
    ),
    "another name of the answer": (
        {"question": "Find 1 + 1.", "final_answer": ["2"]},
        ("set-1", "2", "", ()),
    ),
    "short answer beside a worked one": (
        {"question": "Find 1 + 1.", "answer": "One and one are two.", "short_answer": "2"},
        ("set-1", "2", "", ()),
    ),
    "float": ({"prompt": "Find 1 + 1.", "expected_answer": 2.5}, ("set-1", "2.5", "", ())),
}


@pytest.mark.parametrize(("row", "expected"), LAYOUTS.values(), ids=LAYOUTS)
def test_a_mathematics_row_of_each_layout_is_a_problem(tmp_path, row, expected):
    (problem,) = benchmarks.read_set(write(tmp_path / "set.jsonl", row)).problems
    assert isinstance(problem, MathPrompt)
    assert problem.problem == "Find 1 + 1."
    assert (problem.id, problem.answer, problem.level, problem.concepts) == expected


def test_rows_of_this_package_read_as_they_did(tmp_path):
    written = [
        MathPrompt(id="a", concepts=("sums",), level="1", problem="1 + 1?", answer="2"),
        ProgramPrompt(id="b", level="2", problem="Add.", tests=(StdioTest("1 2", "3"),)),
        ProgramPrompt(
            id="c", problem="Add.", prelude="import math\n", tests=(CallTest("add", (1, (2,)), {3}),)
        ),
    ]
    jsonl.write_records(tmp_path / "own.jsonl", written)
    assert benchmarks.read_set(tmp_path / "own.jsonl").problems == written
    assert benchmarks.read_set(tmp_path / "own.jsonl", limit=1).problems == written[:1]
    read_before = list(rows.iter_records(tmp_path / "own.jsonl", Prompt))
    assert read_before == written


def test_ids_do_not_depend_on_how_many_rows_are_read_or_on_files(tmp_path):
    parts = [[{"question": f"{i}?", "answer": i} for i in part] for part in (range(2), range(2, 5))]
    for number, part in enumerate(parts):
        table = pyarrow.Table.from_pylist(part)
        (tmp_path / "sums" / "data").mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(table, tmp_path / f"sums/data/test-0000{number}-of-00002.parquet")
    every = benchmarks.read_set(tmp_path / "sums").problems
    assert [problem.id for problem in every] == [f"sums-{i}" for i in range(1, 6)]
    assert [problem.answer for problem in every] == list("01234")
    assert benchmarks.read_set(tmp_path / "sums", limit=3).problems == every[:3]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"id": "x", "solution": "none"}, "its columns (id, solution) are those of no layout that is read"),
        ({"problem": "Find 1."}, "(problem) are those of no layout that is read. mathematics: a problem"),
        ({"problem": "Find 1.", "answer": ""}, "no layout"),
        ({"problem": "Find 1.", "answer": True}, "the answer must be a text"),
        ({"problem": " ", "answer": "1"}, "the prompt must be a text that is not empty"),
        (
            {"problem": "Find 1.", "answer": "1", "tests": [{"input": "", "output": ""}]},
            "both an answer and tests",
        ),
        ({"problem": "Find 1.", "answer": "1", "concepts": [1]}, "the concepts must be a list of texts"),
        ("{", "not a JSON object"),
    ],
)
def test_a_row_that_is_no_problem_is_named_by_file_and_line(tmp_path, line, says):
    path = write(tmp_path / "set.jsonl", {"problem": "Find 1.", "answer": "1"}, line)
    with pytest.raises(WrongUse) as failure:
        benchmarks.read_set(path)
    assert f"{path}:2: " in str(failure.value)
    assert says in str(failure.value)


def test_two_problems_of_one_id_are_refused(tmp_path):
    row = {"id": "a", "problem": "Find 1.", "answer": "1"}
    with pytest.raises(WrongUse, match="set.jsonl: the id 'a' occurs twice"):
        benchmarks.read_set(write(tmp_path / "set.jsonl", row, row))


def test_a_window_has_both_of_its_ends(tmp_path):
    dates = ("2024-07-31T23:59:59", "2024-08-01T00:00:00", "2025-02-01T00:00:00", "2025-02-01T07:30:00")
    lines = [stdin_problem(question_id=str(i), contest_date=date) for i, date in enumerate(dates)]
    path = write(tmp_path / "lcb.jsonl", *lines)
    found = benchmarks.read_set(path, window=("2024-08-01", "2025-02-01")).problems
    assert [problem.id for problem in found] == ["lcb-1", "lcb-2"]
    assert [
        p.id for p in benchmarks.read_set(path, window=("2024-08-01", "2025-02-01"), limit=1).problems
    ] == ["lcb-1"]
    assert len(benchmarks.read_set(path).problems) == 4


def test_tests_outside_of_the_window_are_not_unpacked(tmp_path):
    lines = (stdin_problem(private_test_cases="damaged", contest_date="2020-01-01"), stdin_problem())
    path = write(tmp_path / "lcb.jsonl", *lines)
    assert len(benchmarks.read_set(path, window=("2024-08-01", "2025-02-01")).problems) == 1


@pytest.mark.parametrize(
    ("window", "changes", "says"),
    [
        (("2025-02-01", "2024-08-01"), {}, "the earlier first"),
        (("2024-08", "soon"), {}, "A window is two ISO dates"),
        (("2024-08-01",), {}, "A window is two ISO dates"),
        (("2021-01-01", "2021-02-01"), {}, "none of its 1 problems is of a contest between 2021-01-01"),
        (("2021-01-01", "2021-02-01"), {"contest_date": "May"}, ":1: field 'contest_date' is no ISO date"),
        (("2021-01-01", "2021-02-01"), {"contest_date": None}, ":1: there is no contest_date"),
    ],
)
def test_a_window_that_cannot_be_meant_is_refused(tmp_path, window, changes, says):
    path = write(tmp_path / "lcb.jsonl", stdin_problem(**changes))
    with pytest.raises(WrongUse) as failure:
        benchmarks.read_set(path, window=window)
    assert says in str(failure.value)


def test_a_known_set_is_found_by_any_of_its_names(tmp_path, caplog: pytest.LogCaptureFixture):
    row = {"ID": "2024-I-1", "Problem": "Find 1 + 1.", "Answer": 2}
    for name in (
        "aime24.jsonl",
        "AIME_2024/data/train.jsonl",
        "datasets--math-ai--aime24/snapshots/ab/test.jsonl",
    ):
        path = write(tmp_path / name.replace("/", "_") / name, row)
        directory = tmp_path / name.replace("/", "_")
        with caplog.at_level(logging.WARNING):
            (problem,) = benchmarks.read_set("aime24", benchmarks_dir=directory).problems
        assert (problem.id, problem.answer) == ("2024-I-1", "2")
        assert benchmark_sets.find("aime24", directory).paths == (str(path),)
        assert "aime24 has 1 problems, papers count 30" in caplog.text


def test_a_known_set_has_its_own_files_and_window(tmp_path):
    for i, date in enumerate(("2024-09-01", "2025-01-15", "2025-03-01")):
        line = stdin_problem(question_id=f"q{i}", contest_date=date)
        write(tmp_path / "livecodebench" / f"test{i + 4}.jsonl", line)
    write(
        tmp_path / "livecodebench" / "test.jsonl", stdin_problem(question_id="old", contest_date="2023-09-01")
    )
    for i in (2, 3):
        (tmp_path / "livecodebench" / f"test{i}.jsonl").touch()
    # January 2025 is in the last file of this release, which the fifth does not have.
    ids = {
        name: [p.id for p in benchmarks.read_set(name, benchmarks_dir=tmp_path).problems]
        for name in ("livecodebench_v5", "livecodebench_v6")
    }
    assert ids == {"livecodebench_v5": ["q0", "q1"], "livecodebench_v6": ["q2"]}
    (tmp_path / "livecodebench" / "test6.jsonl").unlink()
    with pytest.raises(WrongUse, match="between 2025-02-01 and 2025-05-01; set another window"):
        benchmarks.read_set("livecodebench_v6", benchmarks_dir=tmp_path)


@pytest.mark.parametrize("name", list(benchmark_sets.KNOWN))
def test_a_known_set_that_is_not_there_says_where_to_get_it(tmp_path, name):
    with pytest.raises(WrongUse) as failure:
        benchmarks.read_set(name, benchmarks_dir=tmp_path)
    for said in (name, str(tmp_path), *benchmark_sets.KNOWN[name].hub, "BENCHMARKS_DIR"):
        assert said in str(failure.value)
    with pytest.raises(WrongUse, match="BENCHMARKS_DIR is not set"):
        benchmarks.read_set(name)


def test_what_is_not_there_is_named(tmp_path):
    (tmp_path / "hmmt_feb25.jsonl").touch()
    with pytest.raises(
        WrongUse, match="hmmt_feb25.jsonl: there are no problems in it; download 'hmmt_feb25'"
    ):
        benchmarks.read_set("hmmt_feb25", benchmarks_dir=tmp_path)
    with pytest.raises(
        WrongUse, match="'aime2077' is no file and no set that is known by name; those are aime24"
    ):
        benchmarks.read_set("aime2077", benchmarks_dir=tmp_path)
    with pytest.raises(WrongUse, match="none.jsonl: no such file"):
        benchmarks.read_set(tmp_path / "none.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WrongUse, match="empty: there are no rows in this directory"):
        benchmarks.read_set(tmp_path / "empty")


def test_sets_are_named_after_their_files_and_directories():
    names = {
        "a/aime24.jsonl": "aime24",
        "a/AIME_2024/": "AIME_2024",
        "tfds:gsm8k:test": "gsm8k",
        "cache/datasets--x--AIME/snapshots/0a1b": "x_AIME",
    }
    assert {path: benchmark_sets.name_of(path) for path in names} == names


@pytest.mark.parametrize("name", ["aime24", "gsm8k", "math500"])
def test_the_shared_sets_read_whole(name):
    if not (toys.SHARED / "data" / "eval").exists():
        pytest.skip("the shared evaluation sets are not here")
    problems = benchmarks.read_set(name, benchmarks_dir=toys.SHARED / "data" / "eval").problems
    assert len(problems) == benchmark_sets.KNOWN[name].num_problems
    assert all(isinstance(problem, MathPrompt) and problem.answer for problem in problems)


def test_the_shared_programming_sets_read_whole():
    directory = toys.SHARED / "data" / "code"
    if not directory.exists():
        pytest.skip("the shared programming sets are not here")
    mbpp = benchmarks.read_set(directory / "mbpp_train.jsonl").problems
    sources = [json.loads(line) for line in (directory / "mbpp_train.jsonl").read_text().splitlines()]
    assert [[test.source for test in p.tests] for p in mbpp] == [row["tests"] for row in sources]
    contests = benchmarks.read_set(directory / "code_contests_dev.jsonl").problems
    assert (len(contests), type(contests[0].tests[0])) == (20, StdioTest)


def test_layouts_may_be_mixed_in_a_file(tmp_path):
    lines = (LAYOUTS["float"][0], benchmark_rows.MBPP, benchmark_rows.HUMAN_EVAL, stdin_problem())
    found = benchmarks.read_set(write(tmp_path / "set.jsonl", *lines)).problems
    assert [p.id for p in found] == ["set-1", "set-77", "HumanEval/900", "abc001_a"]
    assert [p.domain for p in found] == ["math", "code", "code", "code"]
