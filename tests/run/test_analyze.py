"""`promptcot analyze` as its user meets it: all there are records for, one by one, and what is refused."""

import csv
import html
import json
import pathlib
import re
import shutil
from xml.etree import ElementTree

import pytest

from promptcot_jax.analyses import index
from promptcot_jax.analyses.figures import AnalysisResult
from promptcot_jax.core import jsonl, manifest
from promptcot_jax.core.records import AttemptedProblem, AttemptRecord
from promptcot_jax.evaluation import benchmarks
from promptcot_jax.run import cli
from tests.report import workdirs
from tests.run import exported_workdir


def command(workdir, *arguments: str, only: str = "") -> int:
    named = [f"--gin.ANALYSES=('{only}',)"] if only else []
    return cli.main(["analyze", "--gin_file=stages/analyze.gin", f"--workdir={workdir}", *named, *arguments])


def refused(capsys: pytest.CaptureFixture, workdir, *arguments: str, only: str = "") -> str:
    """The sentence with which a command is refused."""
    assert command(workdir, *arguments, only=only) == 2
    return capsys.readouterr().err.splitlines()[-1]


def listed(workdir: pathlib.Path) -> dict:
    return json.loads((workdir / "analyses" / "index.json").read_text())


def contents(directory: pathlib.Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A workdir as a short run leaves it, analyzed."""
    workdir = tmp_path_factory.mktemp("runs") / "first"
    workdir.mkdir()
    workdirs.write(workdir)
    assert command(workdir) == 0
    return workdir


def test_all_that_there_are_records_for_is_made_and_the_rest_is_named(written: pathlib.Path):
    made = {
        name: [one["name"] for one in entry["made"]] for name, entry in listed(written)["analyses"].items()
    }
    assert made == {
        "em_study": ["em_study_nll_x_given_q", "em_study_nll_bound", "em_study_rounds"],
        "difficulty": ["difficulty", "difficulty_levels", "difficulty_concepts"],
        "distribution": ["distribution_math", "distribution_math_overlap"],
        "accounting": ["accounting"],
        "case_studies": ["case_studies"],
    }
    left_out = listed(written)["left_out"]
    assert list(left_out) == ["well_posed", "scaling", "ablations", "subsets"]
    assert "not of the project's own seed corpus" in left_out["well_posed"]
    assert "RUNS is empty" in left_out["scaling"]
    entry = manifest.read(written)["analyze"]
    assert (entry.status, entry.counts) == ("complete", {"analyses": 5, "figures": 10, "left_out": 4})


@pytest.mark.parametrize(("place", "named"), [("q.jsonl", "q.jsonl"), ("q/test.jsonl", "q")])
def test_sets_that_evaluate_took_are_those_that_analyze_takes(place: str, named: str, tmp_path: pathlib.Path):
    """Bare numbers as ids, a question as the problem; by a file and by a directory."""
    rows = [{"id": i, "question": f"How many are {i}?", "answer": "One more.\n#### 2"} for i in range(3)]
    jsonl.write_records(tmp_path / place, rows)
    attempts = [
        AttemptRecord(
            problem_id=problem.id,
            sample=0,
            completion="",
            answer="2",
            reference="2",
            correct=True,
            status="match",
            finish_reason="stop",
            num_tokens=9,
        )
        for problem in benchmarks.read_set(tmp_path / named).problems
    ]
    jsonl.write_records(tmp_path / "evaluate" / "attempts.jsonl", attempts)
    sets = f"--gin.SETS={{'mine': '{tmp_path / named}'}}"
    assert command(tmp_path, sets, only="difficulty") == 0
    with (tmp_path / "analyses" / "difficulty.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["set"], row["problems"], row["accuracy"]) == ("mine", "3", "1.0")


def test_records_of_the_workdir_that_cannot_be_read_leave_out_their_analysis_alone(
    written: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
):
    workdir = tmp_path / "w"
    shutil.copytree(written, workdir, ignore=shutil.ignore_patterns("analyses"))

    def reason() -> str:
        assert command(workdir) == 0
        assert list(listed(workdir)["analyses"]) == ["distribution", "accounting", "case_studies"]
        return listed(workdir)["left_out"]["difficulty"]

    (workdir / "em" / "nll.jsonl").write_text('{"round": 0}\n')  # of no variant
    (workdir / "evaluate" / "attempts.jsonl").write_text("")  # only programs, and no sandbox
    assert "{workdir}/evaluate/attempts.jsonl: there are no attempts in it" in reason()
    assert "nll.jsonl:1: field 'variant' is missing" in listed(workdir)["left_out"]["em_study"]
    (workdir / "evaluate" / "problems.jsonl").write_text("{}\n")
    assert "{workdir}/evaluate/problems.jsonl:1: field 'id' of AttemptedProblem is missing" in reason()
    (workdir / "evaluate" / "problems.jsonl").unlink()
    assert "evaluate/problems.jsonl is not there: 'promptcot evaluate' has not run here" in reason()
    assert "left out" in (workdir / "analyses" / "index.html").read_text().lower()
    gone = "--gin.SETS={'a': 'gone.jsonl'}"  # a setting, and no record of the workdir
    assert "gone.jsonl: no such file" in refused(capsys, workdir, gone)


def test_attempts_that_are_none_are_named_where_they_are_asked_for(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
):
    exported_workdir.write(tmp_path)
    (tmp_path / "evaluate").mkdir()
    (tmp_path / "evaluate" / "attempts.jsonl").write_text("")
    asked = AttemptedProblem(id="x", set="held_out", domain="math", problem="x")
    jsonl.write_records(tmp_path / "evaluate" / "problems.jsonl", [asked])
    assert "evaluate/attempts.jsonl: there are no attempts in it" in refused(
        capsys, tmp_path, only="difficulty"
    )


def test_skipped_rows_stand_in_the_counts_the_captions_and_the_command(tmp_path: pathlib.Path):
    lines = [json.dumps({"id": f"p{i}", "problem": f"Add {i}.", "answer": "1"}) for i in range(9)]
    path = tmp_path / "verified_prompts.jsonl"
    path.write_text("\n".join([*lines, '{"id": "p9"}', '{"problem"', ""]))
    skip, sizes = "--gin.BAD_ROWS='skip'", "--gin.SUBSET_SIZES=(4,)"
    assert command(tmp_path, skip, sizes, "--gin.ANALYSES=('accounting', 'case_studies', 'subsets')") == 0
    note = "Rows that could not be read are left out: verified_prompts.jsonl"
    for name, count in (("accounting", 2), ("case_studies", 2), ("subsets", 1)):
        entry = listed(tmp_path)["analyses"][name]
        assert f"{note} {count}." in entry["made"][0]["caption"]
        assert "--gin.BAD_ROWS=\"'skip'\"" in entry["command"]
    counts = manifest.read(tmp_path)["analyze"].counts
    assert counts == {"analyses": 3, "figures": 3, "left_out": 0, "bad_field": 1, "bad_json": 1}
    assert command(tmp_path, only="accounting") == 2


def test_rows_of_a_file_of_runs_may_lie_in_the_workdir(tmp_path: pathlib.Path):
    for size in (4, 8):
        jsonl.write_json(tmp_path / f"run_{size}" / "results.json", {"results": {"a": {"accuracy": 0.5}}})
    run = {"curve": "ours", "results": "{workdir}/run_{size}/results.json"}
    jsonl.write_records(tmp_path / "runs.jsonl", [run])
    assert command(tmp_path, "--gin.RUNS='{workdir}/runs.jsonl'", only="scaling") == 0
    with (tmp_path / "analyses" / "scaling.csv").open() as file:
        assert [row["size"] for row in csv.DictReader(file)] == ["4", "8"]


def test_the_page_formats_numbers_and_no_names_that_look_like_them(tmp_path: pathlib.Path):
    rows = [
        {"id": "0012", "set": "20240105", "group": "1_2", "value": 1234567, "share": 0.123456},
        {"id": "nan", "set": "1e5", "group": "7", "value": None, "share": 1.0},
    ]
    made = {"accounting": [AnalysisResult(name="accounting", title="A", caption="", rows=rows)]}
    index.write(tmp_path, made, {}, {"accounting": "promptcot analyze"})
    rendered = (tmp_path / "index.html").read_text()
    cells = re.findall(r"<t[dh][^>]*>([^<]*)</t[dh]>", rendered.partition("<tbody>")[2])
    assert cells == ["0012", "20240105", "1_2", "1,234,567", "0.1235", "nan", "1e5", "7", "\u2013", "1"]


def test_every_figure_has_its_drawing_and_numbers(written: pathlib.Path):
    place = written / "analyses"
    for entry in listed(written)["analyses"].values():
        for one in entry["made"]:
            assert [name.partition(".")[0] for name in one["files"]] == [one["name"]] * len(one["files"])
            with (place / f"{one['name']}.csv").open() as file:
                assert len(list(csv.DictReader(file))) > 0
            if one["name"] != "case_studies":
                assert ElementTree.parse(place / f"{one['name']}.svg").getroot().tag.endswith("svg")
                assert (place / f"{one['name']}.png").read_bytes().startswith(b"\x89PNG")
    assert not list(place.glob("*.part"))


def test_the_page_shows_all_figures_and_asks_for_nothing(written: pathlib.Path):
    rendered = html.unescape((written / "analyses" / "index.html").read_text())
    assert rendered.count("<img ") == rendered.count('src="data:image/svg+xml;base64,') == 9
    assert "img-src data:" in rendered
    assert "<script" not in rendered
    links = [link for link in re.findall(r'href="([^"]+)"', rendered) if not link.startswith("#")]
    assert all((written / "analyses" / link).exists() for link in links)
    assert (
        "promptcot analyze --gin_file=stages/analyze.gin --gin.ANALYSES=\"('em_study',)\" --workdir=WORKDIR"
        in rendered
    )
    assert "RUNS is empty" in rendered
    assert str(written) not in rendered


def test_another_workdir_of_the_same_records_gives_the_same_bytes(
    written: pathlib.Path, tmp_path: pathlib.Path
):
    shutil.copytree(written, tmp_path / "again", ignore=shutil.ignore_patterns("analyses"))
    assert command(tmp_path / "again", "--gin.ANALYSES=('distribution', 'accounting', 'case_studies')") == 0
    again, first = contents(tmp_path / "again" / "analyses"), contents(written / "analyses")
    figures = {name for name in again if not name.startswith("index")}
    assert len(figures) == 11
    assert {name: again[name] for name in figures} == {name: first[name] for name in figures}


def test_one_command_makes_one_analysis_and_keeps_the_others(written: pathlib.Path, tmp_path: pathlib.Path):
    workdir = tmp_path / "w"
    shutil.copytree(written, workdir)
    sets = f"{{'held': '{workdir}/triples_heldout.jsonl'}}"
    assert command(workdir, f"--gin.SETS={sets}", only="difficulty") == 0
    entries = listed(workdir)["analyses"]
    assert list(entries) == ["em_study", "difficulty", "distribution", "accounting", "case_studies"]
    assert entries["difficulty"]["command"] == (
        "promptcot analyze --gin_file=stages/analyze.gin --gin.ANALYSES=\"('difficulty',)\" "
        f'--gin.SETS="{sets}" --workdir=WORKDIR'
    )
    asked = workdir / "evaluate" / "problems.jsonl"
    jsonl.write_records(asked, [row | {"level": ""} for _, _, row in jsonl.iter_rows(asked)])
    assert command(workdir, only="difficulty") == 0
    assert not list((workdir / "analyses").glob("difficulty_levels*"))  # of the records as they were
    assert "difficulty_levels" not in (workdir / "analyses" / "index.html").read_text()


def test_scaling_ablations_and_subsets_by_command(tmp_path: pathlib.Path):
    rows = [{"problem": f"Add {i}.", "answer": str(i)} for i in range(12)]
    jsonl.write_records(tmp_path / "verified_prompts.jsonl", rows)
    for size in (4, 8):
        for seed in (0, 1):
            results = {"results": {"a": {"accuracy": 0.1 * seed + 0.05 * size}}}
            jsonl.write_json(tmp_path / f"run_{size}_{seed}" / "results.json", results)
    assert command(tmp_path, "--gin.SUBSET_SIZES=(4, 8)", "--gin.SUBSET_SEEDS=(0, 1)", only="subsets") == 0
    assert len(list((tmp_path / "analyses" / "subsets").iterdir())) == 4
    runs = "({'curve': 'ours', 'results': '{workdir}/run_{size}_{seed}/results.json'},)"
    assert command(tmp_path, f"--gin.RUNS={runs}", only="scaling") == 0
    arms = "{'8': '{workdir}/run_8_{seed}', '4': ('{workdir}/run_4_0', '{workdir}/run_4_1')}"
    assert command(tmp_path, f"--gin.ARMS={arms}", only="ablations") == 0
    assert list(listed(tmp_path)["analyses"]) == ["scaling", "ablations", "subsets"]
    with (tmp_path / "analyses" / "ablations.csv").open() as file:
        *_, last = csv.DictReader(file)
    assert float(last["difference"]) == pytest.approx(-0.2)


def test_repeats_of_verified_prompts(tmp_path: pathlib.Path):
    exported_workdir.write(tmp_path)
    named = "--gin.ANALYSES=('accounting',)"
    benchmark = tmp_path / "bench.jsonl"
    _, _, first = next(iter(jsonl.iter_rows(tmp_path / "verified_prompts.jsonl")))
    jsonl.write_records(benchmark, [{"id": "b", "problem": first["problem"]}])
    assert command(tmp_path, named, f"--gin.SET_BENCHMARKS={{'bench': '{benchmark}'}}") == 0
    with (tmp_path / "analyses" / "accounting.csv").open() as file:
        found = {(row["what"], row["group"]): row["value"] for row in csv.DictReader(file)}
    assert int(found["repeated or contaminated", "overlap with bench"]) >= 1


@pytest.mark.parametrize(
    ("only", "arguments", "sentence"),
    [
        ("", [], "there are no records for any analysis"),
        (
            "",
            ["--gin.ANALYSES=('dificulty',)"],
            "ANALYSES names 'dificulty', which is none",
        ),
        ("em_study", [], "neither em/nll.jsonl nor seed_N/em/nll.jsonl; run 'promptcot em'"),
        ("difficulty", [], "evaluate/problems.jsonl is not there"),
        ("distribution", [], "fewer than two sets"),
        ("accounting", [], "no set of problems"),
        ("accounting", ["--gin.SETS={'a': 'gone.jsonl'}"], "gone.jsonl: no such file"),
        ("scaling", [], "RUNS is empty; name finished runs"),
        ("scaling", ["--gin.RUNS='gone.jsonl'"], "gone.jsonl: no such file"),
        ("ablations", ["--gin.ARMS={'a': 'gone'}"], "gone: no such file"),
        ("case_studies", ["--gin.CASES='gone.jsonl'"], "gone.jsonl: no such file"),
        ("case_studies", ["--gin.NUM_CASES=0"], "number must be at least 1, got 0"),
        ("subsets", [], "SUBSET_SIZES is empty"),
        ("distribution", ["--gin.PROBLEMS_PER_SET=1"], "problems_per_set must be at least 2"),
    ],
)
def test_what_cannot_be_made_is_refused_and_nothing_is_written(
    only: str, arguments: list[str], sentence: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
):
    assert sentence in refused(capsys, tmp_path, *arguments, only=only)
    assert not (tmp_path / "analyses").exists()


def test_an_unknown_encoder_and_a_foreign_index_are_refused(
    written: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
):
    encoder = "--gin.ENCODER='minilmm'"
    assert "ENCODER is 'minilmm'" in refused(capsys, written, encoder, only="distribution")
    shutil.copytree(written, tmp_path / "w")
    (tmp_path / "w" / "analyses" / "index.json").write_text("[]")
    assert "not an index that" in refused(capsys, tmp_path / "w", only="accounting")


def test_settings_stand_in_commands_as_a_shell_takes_them():
    assert index.command("scaling", {"RUNS": "a.jsonl"}) == (
        "promptcot analyze --gin_file=stages/analyze.gin --gin.ANALYSES=\"('scaling',)\" "
        "--gin.RUNS=\"'a.jsonl'\" --workdir=WORKDIR"
    )
    assert "'--gin.SETS={'\"'\"'$a'\"'\"': 1}'" in index.command("accounting", {"SETS": {"$a": 1}})
