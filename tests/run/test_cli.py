"""The command line: instant help, one sentence for each kind of wrong use, exit codes."""

import importlib.metadata
import importlib.util
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from promptcot_jax.core import manifest
from promptcot_jax.run import cli, gin_files, renamed, stages
from tests.run import toy_stage

COUNT_GIN = """
from __gin__ import dynamic_registration
from tests.run import toy_stage

LIMIT = %gin.REQUIRED
STEP = 0.5

toy_stage.count:
  config = @toy_stage.CountConfig()
toy_stage.CountConfig:
  limit = %LIMIT
  step = %STEP
"""


@pytest.fixture
def count_gin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A gin file for the toy stage, which is added to the table for the test."""
    monkeypatch.setattr(stages, "STAGES", dict(stages.STAGES))
    monkeypatch.setattr(stages, "stage_function", stages.stage_function)
    toy_stage.install()
    path = tmp_path / "count.gin"
    path.write_text(COUNT_GIN)
    return path


def refused(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """The one sentence with which a command is refused."""
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    *log, sentence = error.splitlines()
    assert sentence.startswith("promptcot: ")
    assert not [line for line in log if line.startswith("promptcot: ")]
    assert "Traceback" not in error
    return sentence


@pytest.mark.parametrize("stage", ["", *stages.STAGES])
def test_help_answers_at_once_and_imports_nothing_heavy(stage: str):
    code = (
        "import sys; from promptcot_jax.run import cli; "
        f"code = cli.main({[stage] if stage else []!r} + ['--help']); "
        "heavy = {'jax', 'gin', 'tensorflow', 'flax', 'seqio', 'numpy'} & set(sys.modules); "
        "sys.exit(code or (f'imported {heavy}' if heavy else 0))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    # Of processor time, as other tests share the cores.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
    assert "--gin_file" in done.stdout
    assert "--tfds_data_dir" in done.stdout
    if stage:
        assert cli._file_of(stage).summary in done.stdout
    for name in stages.STAGES if not stage else ():
        assert f"  {name} " in done.stdout


def test_the_help_of_a_stage_is_about_the_stage(capsys: pytest.CaptureFixture):
    assert cli.main(["self_play", "--help"]) == 0
    text = capsys.readouterr().out
    assert "required settings (gin macros; set one with --gin.NAME=VALUE):\n  MODEL  " in text
    assert "  GROUP_SIZE = 8  " in text
    assert "settings: promptcot self_play --list-macros" in text
    assert len([line for line in text.splitlines() if "--workdir" in line]) == 2  # the example, and the flags


def test_list_macros_of_a_stage_takes_gin_files_of_the_user(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "mine.gin").write_text("SEED = 3  # the third\nMINE = 'a#b'  # of my own\n")
    command = ["em", "--list-macros", "--gin_file=mine.gin", f"--gin_search_paths={tmp_path}"]
    assert cli.main(command) == 0
    text = capsys.readouterr().out
    assert text.index("stages/em.gin:") < text.index("stages/shared.gin:") < text.index("mine.gin, with")
    assert "  SEED = 3      the third\n  MINE = 'a#b'  of my own" in text


def test_version(capsys: pytest.CaptureFixture):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"promptcot_jax {importlib.metadata.version('promptcot_jax')}\n"


def test_wrong_commands_are_refused(capsys: pytest.CaptureFixture, tmp_path: Path):
    assert "'colt_start' is no stage (did you mean 'cold_start'?)" in refused(capsys, "colt_start")
    assert "--workdir=DIR is missing" in refused(capsys, "corpus", "--gin_file=x.gin")
    assert "unrecognized arguments: --work=1" in refused(capsys, "corpus", "--work=1", "--workdir=w")
    workdir = f"--workdir={tmp_path / 'w'}"
    assert "--gin_file=nowhere.gin: no such file" in refused(
        capsys, "corpus", "--gin_file=nowhere.gin", workdir
    )
    assert "--gin_file=stages/copus.gin: no such file (did you mean 'stages/corpus.gin'?)" in refused(
        capsys, "corpus", "--gin_file=stages/copus.gin", workdir
    )
    assert "MODEL. Name the file of a model: --gin_file=models/pretrained.gin, for one." in refused(
        capsys, "sft", "--gin_file=stages/sft.gin", workdir
    )
    assert "no gin file defines a macro LORA" in refused(  # the shared macros are those that a stage reads
        capsys, "corpus", "--gin_file=stages/corpus.gin", "--gin.LORA=None", workdir
    )
    assert "expected --gin.NAME=VALUE" in refused(capsys, "corpus", "--gin.SEED", workdir)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "not set, though required: LIMIT. Set it in a gin file or with --gin.LIMIT=VALUE."),
        (
            ["--gin.LIMIT=word"],
            """a string needs quotes that the shell leaves in place: --gin.LIMIT="'word'".""",
        ),
        (["--gin.LIMIT='3'"], "setting toy_stage.CountConfig.limit (%LIMIT) must be int, got '3'."),
        (["--gin.LIMIT=0"], "limit must be at least 1, got 0."),
        (["--gin.LIMIT=3", "--gin.STEPS=1"], "no gin file defines a macro STEPS (did you mean 'STEP'?)."),
        (["--gin.LIMIT=3", "--gin.toy_stage.CountConfig.setp=1"], "doesn't have a parameter named 'setp'"),
        (
            ["--gin.LIMIT=3", "--gin.toy_stage.CountConfg.step=1"],
            "No configurable matching 'toy_stage.CountConfg'",
        ),
        (["--gin.LIMIT=3", "--gin.toy_stage.count.words='no.jsonl'", "--gin.STEP=@nothing()"], "@nothing()"),
        (
            ["--gin.LIMIT=3", "--gin.toy_stage.count.failure='WrongUse'"],
            "words.jsonl:3: field 'word' is missing.",
        ),
    ],
)
def test_a_wrong_setting_is_refused_in_one_sentence(
    arguments: list[str], sentence: str, count_gin: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    command = ["count", f"--gin_file={count_gin}", f"--workdir={tmp_path / 'w'}", *arguments]
    assert sentence in refused(capsys, *command)
    assert not (tmp_path / "w" / "counted.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            ("limit = %LIMIT", "limt = %LIMIT"),
            "line 11 limt = %LIMIT (did you mean 'limit'?).",
        ),
        (("toy_stage.CountConfig:", "toy_stage.CountConfik:"), "(did you mean 'CountConfig'?)"),
        (("from tests.run import toy_stage", "from tests.run import toy_stag"), "toy_stag"),
        (("STEP = 0.5", "STEP = 0.5\nSTEPP = 1"), "the macro STEPP is set but nothing refers to it"),
        (("STEP = 0.5", "STEP = half"), "line 6 of"),
        (("STEP = 0.5", "include 'missing.gin'\nSTEP = 0.5"), "missing.gin"),
        (
            ("limit = %LIMIT", "limit = %LIMITT"),
            "%LIMITT is referred to, but no macro of that name is set (did you mean 'LIMIT'?)",
        ),
    ],
)
def test_a_wrong_gin_file_is_refused_in_one_sentence(
    change: tuple[str, str], sentence: str, count_gin: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    count_gin.write_text(count_gin.read_text().replace(*change))
    workdir = f"--workdir={tmp_path / 'w'}"
    assert sentence in refused(capsys, "count", f"--gin_file={count_gin}", "--gin.LIMIT=3", workdir)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--gin.NUM_CANDIDATES=4"],
            "no gin file defines a macro NUM_CANDIDATES (NUM_CANDIDATES is now EM_GROUP",
        ),
        (
            ["--gin_file=old.gin"],
            "the macro NUM_CANDIDATES is set but nothing refers to it (NUM_CANDIDATES is now",
        ),
        (["--gin.settings.EStepConfig.num_samples=4"], "a parameter named 'num_samples'"),
        (["--gin.settings.EStepConfig.num_samples=4"], "(num_samples is now group_size)."),
        (
            ["--gin_file=old_module.gin"],
            "promptcot_jax.run.model_source is now promptcot_jax.sources.",
        ),
        (["--gin_file=old_class.gin"], "(GrpoConfig is now Grpo)"),
        (["--gin.WITHOUT_E_STEP_TOO=True"], "WITHOUT_E_STEP_TOO is now EM_ARMS"),
        (["--gin_file=meshes/v5e_8.gin"], "meshes/v5e_8.gin is gone: use meshes/fsdp.gin."),
        (["--gin_file=configs/meshes/v5p_64.gin"], "meshes/v5p_64.gin is gone: use meshes/fsdp_tensor.gin."),
        (
            ["--gin_file=analyses/scaling.gin"],
            """use stages/analyze.gin with --gin.ANALYSES="('scaling',)".""",
        ),
    ],
)
def test_names_of_an_earlier_version_are_refused_with_those_of_today(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    monkeypatch.chdir(tmp_path)
    Path("old.gin").write_text("NUM_CANDIDATES = 4\n")
    imports = "from __gin__ import dynamic_registration\n"
    Path("old_module.gin").write_text(f"{imports}from promptcot_jax.run import model_source\n")
    Path("old_class.gin").write_text(
        f"{imports}from promptcot_jax.trainers import grpo\ngrpo.GrpoConfig.kl_beta = 0.1\n"
    )
    assert sentence in refused(capsys, "em", "--gin_file=stages/em.gin", *arguments, "--workdir=w")


def test_what_replaces_a_renamed_name_exists():
    macros = {
        macro.name for file in gin_files.packaged() for macro in gin_files.read(gin_files.find(file)).macros
    }
    assert not renamed.NAMES.keys() & macros
    assert {new.split(",")[0] for old, new in renamed.NAMES.items() if old.isupper()} <= macros
    for old, new in renamed.NAMES.items():
        if "." in old:
            assert importlib.util.find_spec(new) is not None
    assert not renamed.FILES.keys() & set(gin_files.packaged())
    assert {re.match(r"[\w/]+\.gin", new)[0] for new in renamed.FILES.values()} <= set(gin_files.packaged())


def test_later_files_and_the_command_line_win(count_gin: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "second.gin").write_text("LIMIT = 4\nSTEP = 2.0\n")
    workdir = tmp_path / "w"
    command = [
        "count",
        f"--gin_file={count_gin}",
        "--gin_file=second.gin",
        f"--gin_search_paths={tmp_path},{tmp_path / 'more'}",
        "--gin.LIMIT=2",
        f"--workdir={workdir}",
    ]
    assert cli.main(command) == 0
    assert (workdir / "counted.jsonl").read_text() == '{"value": 0.0}\n{"value": 2.0}\n'
    entry = json.loads((workdir / "manifest.json").read_text())["stages"]["count"]
    assert (entry["status"], entry["counts"], entry["seed"]) == ("complete", {"out": 2}, 0)
    assert "step = %STEP" in (workdir / "config" / "count.gin").read_text()
    operative = (workdir / "config" / "count.operative.gin").read_text()
    assert "failure = ''" in operative  # a default that was used
    assert "LIMIT = 2" in operative
    # the stored configuration is a gin file that does the same again
    again = ["count", f"--gin_file={workdir / 'config' / 'count.gin'}", f"--workdir={tmp_path / 'again'}"]
    assert cli.main(again) == 0
    assert (tmp_path / "again" / "counted.jsonl").read_bytes() == (workdir / "counted.jsonl").read_bytes()


def test_a_failure_at_work_is_one_line_and_a_traceback_in_the_log(
    count_gin: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    command = ["count", f"--gin_file={count_gin}", "--gin.LIMIT=3", f"--workdir={tmp_path / 'w'}"]
    assert cli.main([*command, "--gin.toy_stage.count.failure='the disk is full'"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    log = tmp_path / "w" / "logs" / "count.log"
    assert error == f"promptcot: 'count' failed: RuntimeError: the disk is full (traceback: {log})"
    assert "Traceback" in log.read_text()
    assert cli.main(command) == 0  # nothing was written, so other settings may be taken


def test_a_run_that_left_in_time_has_an_exit_code_of_its_own_and_no_traceback(
    count_gin: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    command = ["count", f"--gin_file={count_gin}", "--gin.LIMIT=3", f"--workdir={tmp_path / 'w'}"]
    assert cli.main([*command, "--gin.toy_stage.count.failure='Interrupted'"]) == 75
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "promptcot: 'count' left after iteration 2 of 4 for SIGTERM"
    assert "Traceback" not in (tmp_path / "w" / "logs" / "count.log").read_text()
    assert manifest.read(tmp_path / "w")["count"].status == "running"


def test_python_m_is_the_same_command():
    done = subprocess.run(
        [sys.executable, "-m", "promptcot_jax", "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("usage: promptcot STAGE")
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, "-m", "promptcot_jax", "nonsense"], capture_output=True, env=environment, check=False
    )
    assert done.returncode == 2


def test_a_reader_of_the_help_may_leave_early():
    command = [sys.executable, "-m", "promptcot_jax", "em", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()  # before the command has written anything
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 0
