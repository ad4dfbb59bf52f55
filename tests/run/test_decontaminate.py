"""`promptcot decontaminate`: what is written, counted and refused, and what a kill leaves behind."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from promptcot_jax.core import manifest
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.run import cli, stage
from tests.run import killing

TEST_PROBLEM = "A train leaves the station at noon and goes north at 60 miles per hour; how far by 3 pm?"
CODE_PROBLEM = (
    "Write a function to find the minimum cost path to reach (m, n) from (0, 0) for the given cost matrix "
    "cost[][]."
)
PHRASE = "a train leaves the station at noon and goes north at 60 miles"
ROWS = [
    {"problem": "What is 1 + 1?", "id": "r0", "answer": 2, "tags": ["é", None, {"b": 1.0, "a": []}]},
    {"id": "r1", "problem": f"Tom says: {TEST_PROBLEM.upper()} Tell him."},
    {"answer": "x", "problem": "A train leaves the station at noon. How far does it go?"},
    {"problem": "$" + CODE_PROBLEM.replace("(m, n)", "( m,n )") + "$", "tests": ["assert f() == 1"]},
    {"id": "r4", "problem": "Write a function to find the minimum."},
]


def write_rows(path: Path, *rows: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    )
    return str(path)


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """Rows, two benchmarks, and a workdir that is not there yet."""
    return {
        "INPUT": write_rows(tmp_path / "rows.jsonl", *ROWS),
        "BENCHMARKS": (
            write_rows(tmp_path / "gsm.jsonl", {"id": "g0", "problem": TEST_PROBLEM}),
            write_rows(tmp_path / "mbpp.jsonl", {"problem": "Sort it."}, {"problem": CODE_PROBLEM}),
        ),
    }


def run(tmp_path: Path, settings: dict[str, Any], **changes: Any) -> dict[str, int]:
    """Does the stage; the counts in its manifest."""
    bindings = tuple(f"{name}={value!r}" for name, value in (settings | changes).items())
    workdir = tmp_path / "w"
    stage.run_stage("decontaminate", ("stages/decontaminate.gin",), bindings, str(workdir))
    entry = manifest.read(workdir)["decontaminate"]
    assert entry.status == "complete"
    assert not list(workdir.glob("*.part"))
    return dict(entry.counts)


def refused(tmp_path: Path, settings: dict[str, Any], **changes: Any) -> str:
    """The refusal of the stage, which leaves no output."""
    with pytest.raises(WrongUse) as failure:
        run(tmp_path, settings, **changes)
    assert not list((tmp_path / "w").glob("*clean*"))
    assert not list((tmp_path / "w").glob("decontamination*"))
    return str(failure.value)


def test_clean_rows_stay_as_they_are_and_the_others_are_reported(tmp_path: Path, settings):
    counts = run(tmp_path, settings)
    assert counts == {
        "in": 5,
        "out": 3,
        "dropped_contaminated": 2,
        "dropped_contaminated_by_gsm": 1,
        "dropped_contaminated_by_mbpp": 1,
    }
    lines = (tmp_path / "rows.jsonl").read_text().splitlines(keepends=True)
    assert (tmp_path / "w" / "problems_clean.jsonl").read_text() == lines[0] + lines[2] + lines[4]
    assert read_rows(tmp_path / "w" / "decontamination.jsonl") == [
        {
            "row": "r1",
            "where": f"{settings['INPUT']}:2",
            "benchmark": "gsm",
            "benchmark_row": "g0",
            "benchmark_rows": 1,
            "ngram": PHRASE,
            "rule": "ngram",
        },
        {
            "row": "rows.jsonl:4",
            "where": f"{settings['INPUT']}:4",
            "benchmark": "mbpp",
            "benchmark_row": "mbpp.jsonl:2",
            "benchmark_rows": 1,
            "ngram": "write a function to find the minimum cost path to reach m n",
            "rule": "ngram",
        },
    ]


def test_each_benchmark_is_named_and_counted_with_the_first_of_its_rows(tmp_path: Path, settings):
    write_rows(tmp_path / "other.jsonl", *({"id": i, "problem": f"{i}: {TEST_PROBLEM}"} for i in (0, 8, 9)))
    named = {"one": settings["BENCHMARKS"][0], "two": str(tmp_path / "other.jsonl")}
    counts = run(tmp_path, settings, BENCHMARKS=named)
    assert counts["dropped_contaminated"] == 1
    assert (counts["dropped_contaminated_by_one"], counts["dropped_contaminated_by_two"]) == (1, 1)
    one, two = read_rows(tmp_path / "w" / "decontamination.jsonl")
    assert (one["benchmark"], one["benchmark_row"], one["benchmark_rows"]) == ("one", "g0", 1)
    assert (two["benchmark"], two["benchmark_row"], two["benchmark_rows"]) == ("two", "0", 3)
    inputs = manifest.read(tmp_path / "w")["decontaminate"].inputs
    assert {*named.values(), settings["INPUT"]} == set(inputs)
    assert "none" not in inputs.values()


def test_ngram_and_rule_are_settings(tmp_path: Path, settings):
    assert run(tmp_path / "eight", settings, NGRAM=8)["dropped_contaminated"] == 2
    assert run(tmp_path / "seven", settings, NGRAM=7)["dropped_contaminated"] == 4
    write_rows(tmp_path / "rows.jsonl", *ROWS, {"problem": f" {TEST_PROBLEM}\n"})
    assert run(tmp_path / "exact", settings, RULE="exact")["dropped_contaminated"] == 1
    [line] = read_rows(tmp_path / "exact" / "w" / "decontamination.jsonl")
    assert (line["rule"], line["ngram"]) == ("exact", TEST_PROBLEM)


def test_any_of_the_text_fields_may_overlap_but_not_one_across_two(tmp_path: Path, settings):
    half, rest = TEST_PROBLEM[:40], TEST_PROBLEM[40:]
    write_rows(tmp_path / "rows.jsonl", {"q": half, "a": rest}, {"q": "x", "a": TEST_PROBLEM})
    counts = run(tmp_path, settings, TEXT_FIELDS=("q", "a"))
    assert (counts["out"], counts["dropped_contaminated"]) == (1, 1)


def test_nothing_in_and_nothing_found_leave_whole_files(tmp_path: Path, settings):
    write_rows(tmp_path / "rows.jsonl")
    assert run(tmp_path, settings)["in"] == 0
    assert (tmp_path / "w" / "problems_clean.jsonl").read_bytes() == b""
    assert (tmp_path / "w" / "decontamination.jsonl").read_bytes() == b""


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "the benchmark 'bad' has no rows"),
        ([{"problem": "x"}, {"question": "y"}], "bad.jsonl:2: field 'problem' is missing"),
        ([{"problem": ["x"]}], "bad.jsonl:1: field 'problem' must be a text, got list"),
        (["{broken\n"], "bad.jsonl:1: not a JSON object"),
        (
            [{"problem": "x"}, {"problem": "$ $"}],
            "benchmark row bad:bad.jsonl:2: the text '$ $' has no words",
        ),
    ],
)
def test_a_benchmark_that_cannot_be_used_is_refused_whatever_becomes_of_bad_rows(
    tmp_path: Path, settings, rows, says: str
):
    path = write_rows(tmp_path / "bad.jsonl", *rows)
    message = refused(tmp_path, settings, BENCHMARKS=(settings["BENCHMARKS"][0], path), BAD_ROWS="skip")
    assert says in message


def test_missing_files_and_settings_that_compare_nothing_are_named(tmp_path: Path, settings):
    assert "nowhere.jsonl: no such file" in refused(
        tmp_path, settings, BENCHMARKS=(str(tmp_path / "nowhere.jsonl"),)
    )
    assert "absent.jsonl: no such file" in refused(tmp_path, settings, INPUT=str(tmp_path / "absent.jsonl"))
    assert "name files with BENCHMARKS" in refused(tmp_path, settings, BENCHMARKS=())
    assert "name fields with TEXT_FIELDS" in refused(tmp_path, settings, TEXT_FIELDS=())
    assert "no benchmark text" in refused(tmp_path, settings, BENCHMARK_FIELDS=())


def test_two_benchmarks_of_one_name_are_refused(tmp_path: Path, settings):
    other = write_rows(tmp_path / "more" / "gsm.jsonl", {"problem": "x"})
    message = refused(tmp_path, settings, BENCHMARKS=(settings["BENCHMARKS"][0], other))
    assert "would both be called 'gsm'; give names" in message


BAD_LINES = [
    ('{"question": "x"}\n', "field 'problem' is missing; .* with TEXT_FIELDS .it has 'question'"),
    ('{"problem": 7}\n', "field 'problem' must be a text, got int"),
    ('{"problem": "x", "score": NaN}\n', "NaN is no number in JSON"),
    ("{broken\n", "not a JSON object"),
]


@pytest.mark.parametrize(("line", "says"), BAD_LINES)
def test_a_bad_row_is_named(tmp_path: Path, settings, line: str, says: str):
    write_rows(tmp_path / "rows.jsonl", ROWS[0], line)
    message = refused(tmp_path, settings)
    assert "rows.jsonl:2: " in message
    with pytest.raises(WrongUse, match=says):
        raise WrongUse(message)


def test_bad_rows_may_be_skipped_and_are_counted(tmp_path: Path, settings):
    write_rows(tmp_path / "rows.jsonl", ROWS[0], *(line for line, _ in BAD_LINES), *ROWS[1:])
    counts = run(tmp_path, settings, BAD_ROWS="skip")
    assert (counts["in"], counts["out"], counts["dropped_contaminated"]) == (9, 3, 2)
    assert (counts["dropped_bad_field"], counts["dropped_bad_json"]) == (2, 2)
    assert [row.get("id") for row in read_rows(tmp_path / "w" / "problems_clean.jsonl")] == ["r0", None, "r4"]


def test_other_formats_are_read_and_what_json_cannot_hold_is_named(tmp_path: Path, settings):
    path = tmp_path / "rows.parquet"
    rows = [{"problem": "x", "score": 0.5}, {"problem": TEST_PROBLEM, "score": math.nan}]
    parquet.write_table(pyarrow.Table.from_pylist(rows[:1] + rows[:1]), path)
    counts = run(tmp_path / "good", settings, INPUT=str(path))
    assert (counts["in"], counts["out"]) == (2, 2)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    message = refused(tmp_path, settings, INPUT=str(path))
    assert "rows.parquet#2: cannot be written as a JSON line" in message


@pytest.mark.parametrize("name", ["", "sub/clean", "../clean", "decontamination", ".jsonl"])
def test_the_output_is_a_name_in_the_workdir(tmp_path: Path, settings, name: str):
    assert "OUTPUT must be a name" in refused(tmp_path, settings, OUTPUT=name)


def test_another_files_place_is_not_taken(tmp_path: Path, settings):
    rows = Path(write_rows(tmp_path / "w" / "problems.jsonl", *ROWS))
    before = rows.read_bytes()
    message = refused(tmp_path, settings, INPUT="{workdir}/problems.jsonl", OUTPUT="problems")
    assert "problems.jsonl exists already; set another OUTPUT" in message
    assert rows.read_bytes() == before
    shard = write_rows(tmp_path / "w" / "mine-00000-of-00001.jsonl", *ROWS)
    assert f"{shard} exists already" in refused(tmp_path, settings, OUTPUT="mine")


def test_a_failure_half_way_leaves_nothing_and_the_next_attempt_does_all(tmp_path: Path, settings):
    write_rows(tmp_path / "rows.jsonl", *ROWS[:2], "{broken\n")
    assert "rows.jsonl:3" in refused(tmp_path, settings)
    write_rows(tmp_path / "rows.jsonl", *ROWS)
    assert run(tmp_path, settings)["out"] == 3


def test_what_a_kill_leaves_is_gone_over(tmp_path: Path, settings):
    counts = run(tmp_path, settings)
    workdir = tmp_path / "w"
    whole = killing.record_bytes(workdir)
    # Killed before the second file was renamed: the report is there, the clean rows are not.
    entry = manifest.read(workdir)["decontaminate"]
    manifest.record(workdir, manifest.StageEntry(**{**entry.__dict__, "status": "running", "counts": {}}))
    (workdir / "problems_clean.jsonl").rename(workdir / "problems_clean.jsonl.part")
    assert run(tmp_path, settings) == counts
    assert killing.record_bytes(workdir) == whole
    # Killed before the manifest said that all was done.
    manifest.record(workdir, manifest.StageEntry(**{**entry.__dict__, "status": "running", "counts": {}}))
    assert run(tmp_path, settings) == counts
    assert killing.record_bytes(workdir) == whole


def test_the_command_refuses_in_one_sentence(tmp_path: Path, settings, capsys: pytest.CaptureFixture):
    command = ["decontaminate", "--gin_file=stages/decontaminate.gin", f"--workdir={tmp_path / 'w'}"]
    assert cli.main(command) == 2
    assert "not set, though required: BENCHMARKS" in capsys.readouterr().err
    command += [f"--gin.{name}={value!r}" for name, value in settings.items()]
    assert cli.main([*command, "--gin.NGRAM=0"]) == 2
    assert "must be at least 1, got 0" in capsys.readouterr().err
    assert cli.main([*command, "--gin.RULE='fuzzy'"]) == 2
    assert "RULE" in capsys.readouterr().err
    assert cli.main(command) == 0
    assert "in 5, out 3, dropped_contaminated 2" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_in_the_same_bytes(tmp_path: Path, settings):
    write_rows(tmp_path / "rows.jsonl", *(row | {"n": i} for i in range(20_000) for row in ROWS))
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    command = ["decontaminate", "--gin_file=stages/decontaminate.gin"]
    command += [f"--gin.{name}={value!r}" for name, value in settings.items()]
    for pattern in ("problems_clean.jsonl.part", "decontamination.jsonl"):
        killing.kill_when([*command, f"--workdir={killed}"], killed, pattern)
    killing.kill_at_random([*command, f"--workdir={killed}"], longest_seconds=10.0, seed=3)
    killing.run_to_end([*command, f"--workdir={killed}"])
    killing.run_to_end([*command, f"--workdir={undisturbed}"])
    killing.assert_same_outcome(killed, undisturbed)
    assert not list(killed.glob("*.part"))
