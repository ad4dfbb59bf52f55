"""Stages and the workdir: what is done again, what is refused, who holds the lock."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from promptcot_jax.core import manifest
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.workdir import InputPath, OutputPath, as_given
from promptcot_jax.run import configuration, gin_files, lock, stage, stages
from promptcot_jax.sources.model_source import ModelSource, Pretrained
from tests.core import test_manifest
from tests.run import toy_stage

COUNT_GIN = """
from __gin__ import dynamic_registration
from promptcot_jax.run import run
from tests.run import toy_stage

LIMIT = 3
STEP = 0.5
WORDS = None
SECONDS = 0.0
SEED = 7

toy_stage.count:
  config = @toy_stage.CountConfig()
  words = %WORDS
  seconds = %SECONDS
toy_stage.CountConfig:
  limit = %LIMIT
  step = %STEP
  seed = %SEED

run.run.stages = ['count', 'report']
"""


@pytest.fixture
def count_gin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A gin file for the toy stage, which is added to the table for the test."""
    monkeypatch.setattr(stages, "STAGES", dict(stages.STAGES))
    monkeypatch.setattr(stages, "stage_function", stages.stage_function)
    toy_stage.install()
    path = tmp_path / "count.gin"
    path.write_text(COUNT_GIN)
    return str(path)


def when(path: Path) -> int:
    """When a file was last written."""
    return path.stat().st_mtime_ns


def test_a_complete_stage_is_not_done_again(count_gin: str, tmp_path: Path):
    stage.run_stage("count", (count_gin,), workdir=str(tmp_path / "w"))
    counted = tmp_path / "w" / "counted.jsonl"
    written, entry = when(counted), manifest.read(tmp_path / "w")["count"]
    assert (entry.status, entry.seed, entry.counts) == ("complete", 7, {"out": 3})
    stage.run_stage("count", (count_gin,), workdir=str(tmp_path / "w"))
    assert when(counted) == written
    assert manifest.read(tmp_path / "w")["count"] == entry


def test_other_settings_are_refused_by_name_until_the_outputs_are_removed(count_gin: str, tmp_path: Path):
    workdir = tmp_path / "w"
    stage.run_stage("count", (count_gin,), workdir=str(workdir))
    message = "'count' done with other settings.*count.config.step was 0.5, now 2.0.*rm -r .*counted.jsonl"
    with pytest.raises(WrongUse, match=message):
        stage.run_stage("count", (count_gin,), ("STEP=2.0",), workdir=str(workdir))
    (workdir / "counted.jsonl").unlink()
    stage.run_stage("count", (count_gin,), ("STEP=2.0",), workdir=str(workdir))
    assert (workdir / "counted.jsonl").read_text().splitlines()[1] == '{"value": 2.0}'


def test_a_half_done_stage_goes_on_with_its_own_settings_only(count_gin: str, tmp_path: Path):
    workdir = tmp_path / "w"
    failing = ("toy_stage.count.failure='disk'",)
    stage.run_stage("count", (count_gin,), workdir=str(workdir))
    entry = manifest.read(workdir)["count"]
    manifest.record(workdir, manifest.StageEntry(**{**entry.__dict__, "status": "running", "counts": {}}))
    with pytest.raises(WrongUse, match="'count' begun with other settings.*count.failure was '', now 'disk'"):
        stage.run_stage("count", (count_gin,), failing, workdir=str(workdir))
    stage.run_stage("count", (count_gin,), workdir=str(workdir))
    finished = manifest.read(workdir)["count"]
    assert finished.status == "complete"
    assert finished.wall_seconds >= entry.wall_seconds  # of all attempts together


def test_every_attempt_is_counted_with_its_time_and_devices(count_gin: str, tmp_path: Path):
    jax.devices()
    workdir, failing = tmp_path / "w", ("toy_stage.count.failure='disk'",)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="disk"):
            stage.run_stage("count", (count_gin,), (*failing, "SECONDS=0.2"), workdir=str(workdir))
        (workdir / "counted.jsonl").touch()  # so that it goes on, and does not start anew
    entry = manifest.read(workdir)["count"]
    assert (entry.status, entry.attempts, entry.timed_attempts) == ("running", 2, 2)
    (use,) = entry.devices
    assert (use.unit, use.wall_seconds) == ("processor", pytest.approx(entry.wall_seconds, abs=0.01))
    assert use.wall_seconds >= 0.4


def test_an_attempt_that_was_killed_outright_is_known_to_lack_its_time(count_gin: str, tmp_path: Path):
    workdir = tmp_path / "w"
    stage.run_stage("count", (count_gin,), workdir=str(workdir))
    entry = manifest.read(workdir)["count"]
    killed = dataclasses.replace(entry, status="running", counts={}, timed_attempts=0)
    manifest.record(workdir, killed)
    stage.run_stage("count", (count_gin,), workdir=str(workdir))
    done = manifest.read(workdir)["count"]
    assert (done.attempts, done.timed_attempts, done.status) == (2, 1, "complete")


def test_a_stage_without_work_for_devices_holds_none(tmp_path: Path):
    jax.devices()  # of a stage before it in the same process, say
    stage.run_stage("report", workdir=str(tmp_path))
    assert manifest.read(tmp_path)["report"].devices == ()


def test_settings_that_only_say_how_may_change_between_attempts(
    count_gin: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    workdir, smaller = tmp_path / "w", ("toy_stage.CountConfig.batch=2",)
    stage.run_stage("count", (count_gin,), workdir=str(workdir))
    written = when(workdir / "counted.jsonl")
    stage.run_stage("count", (count_gin,), smaller, workdir=str(workdir))
    assert when(workdir / "counted.jsonl") == written  # complete, whatever the batch
    entry = manifest.read(workdir)["count"]
    manifest.record(workdir, manifest.StageEntry(**{**entry.__dict__, "status": "running", "counts": {}}))
    stage.run_stage("count", (count_gin,), smaller, workdir=str(workdir))
    assert manifest.read(workdir)["count"].status == "complete"
    assert "count.config.batch was 1, now 2" in caplog.text


def test_a_changed_input_is_noticed(count_gin: str, tmp_path: Path):
    words = tmp_path / "w" / "words.jsonl"
    words.parent.mkdir()
    words.write_text('{"word": "one"}\n')
    bindings = ("WORDS='{workdir}/words.jsonl'",)
    stage.run_stage("count", (count_gin,), bindings, workdir=str(tmp_path / "w"))
    entry = manifest.read(tmp_path / "w")["count"]
    assert entry.inputs == {"{workdir}/words.jsonl": manifest.file_digest(words)}
    words.write_text('{"word": "two"}\n')
    with pytest.raises(WrongUse, match=r"the content of \{workdir\}/words.jsonl has changed"):
        stage.run_stage("count", (count_gin,), bindings, workdir=str(tmp_path / "w"))


def test_run_does_the_listed_stages_and_skips_what_is_complete(count_gin: str, tmp_path: Path):
    workdir = tmp_path / "w"
    stage.run_stage("run", (count_gin,), workdir=str(workdir))
    assert {name: entry.status for name, entry in manifest.read(workdir).items()} == {
        "count": "complete",
        "report": "complete",
    }
    written, reported = when(workdir / "counted.jsonl"), when(workdir / "report.html")
    stage.run_stage("run", (count_gin,), workdir=str(workdir))
    assert when(workdir / "counted.jsonl") == written
    assert when(workdir / "report.html") > reported  # what it shows may have changed


def test_run_looks_at_all_settings_before_it_starts(count_gin: str, tmp_path: Path):
    with pytest.raises(WrongUse, match="run.stages names 'analyse'"):
        stage.run_stage(
            "run", (count_gin,), ("run.run.stages=['count','analyse']",), workdir=str(tmp_path / "w")
        )
    with pytest.raises(WrongUse, match="sft.sft.seed is not set"):
        stage.run_stage("run", (count_gin,), ("run.run.stages=['count','sft']",), workdir=str(tmp_path / "w"))
    assert not (tmp_path / "w").exists()


def test_model_directories_count_by_their_parameters_digest(tmp_path: Path):
    def checkpoint(name: str, params: str, digest: str) -> str:
        place = tmp_path / name
        (place / "params").mkdir(parents=True)
        (place / "config.json").write_text("{}")
        (place / "params" / f"data-{name}").write_text(params)
        (place / "COMPLETE").write_text(name)
        (place / "provenance.json").write_text(json.dumps({"params_digest": digest}))
        return stage._directory_digest(stage.epath.Path(place))

    first = checkpoint("a", "bytes", "123")
    assert checkpoint("b", "the same parameters in another file", "123") == first
    assert checkpoint("c", "bytes", "456") != first


def test_a_second_run_is_refused_and_told_who_holds_the_workdir(tmp_path: Path):
    workdir = str(tmp_path / "w")
    with lock.hold(workdir, "em") as run_id:
        with pytest.raises(WrongUse, match="another run of this process"), lock.hold(workdir, "sft"):
            pass
        code = f"from promptcot_jax.run import lock\nwith lock.hold({workdir!r}, 'sft'): pass"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert f"in use by run {run_id} ('promptcot em', process {os.getpid()} on " in done.stderr
    with lock.hold(workdir, "sft"):  # given back
        pass


@pytest.mark.slow
def test_two_commands_on_one_workdir_and_a_killed_holder(count_gin: str, tmp_path: Path):
    workdir = tmp_path / "w"
    command = [
        sys.executable,
        "-m",
        "tests.run.toy_stage",
        "count",
        f"--gin_file={count_gin}",
        f"--workdir={workdir}",
    ]
    first = subprocess.Popen([*command, "--gin.SECONDS=60.0"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while "count" not in manifest.read(workdir) and time.monotonic() < deadline:
        time.sleep(0.05)
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert f"process {first.pid}" in second.stderr
    assert second.stderr.count("\n") == 1
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert manifest.read(workdir)["count"].status == "running"
    third = subprocess.run(command, capture_output=True, text=True, check=False)  # nothing stale blocks it
    assert third.returncode == 0, third.stderr
    assert manifest.read(workdir)["count"].status == "complete"


@pytest.mark.parametrize("name", ["count", "report", "run"])
@pytest.mark.parametrize("status", ["running", "complete"])
def test_a_workdir_of_another_version_is_refused_by_every_stage_and_left_alone(
    name: str, status: str, count_gin: str, tmp_path: Path
):
    (entry,) = test_manifest.OF_VERSION_1["stages"].values()
    document = json.dumps({"stages": {"count": entry | {"stage": "count", "status": status}}})
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "manifest.json").write_text(document)
    with pytest.raises(
        WrongUse, match="w/manifest.json was written by promptcot_jax 0.1.0 .*: use a new --workdir"
    ):
        stage.run_stage(name, (count_gin,), workdir=str(tmp_path / "w"))
    assert (tmp_path / "w" / "manifest.json").read_text() == document
    assert not (tmp_path / "w" / "counted.jsonl").exists()
    assert not (tmp_path / "w" / "report.html").exists()


def test_packaged_configs_are_found_beside_the_package():
    assert (Path(gin_files.packaged_configs()) / "stages" / "corpus.gin").exists()


def test_files_of_unknown_settings_are_refused_and_named(count_gin: str, tmp_path: Path):
    workdir = tmp_path / "w"
    workdir.mkdir()
    for name in ("counted.jsonl", "counted-00000-of-00002.jsonl"):
        (workdir / name).write_text('{"value": 9}\n')
        with pytest.raises(WrongUse, match=rf"'count' writes \({name}\).*rm -r .*{name}"):
            stage.run_stage("count", (count_gin,), workdir=str(workdir))
        assert (workdir / name).read_text() == '{"value": 9}\n'
        (workdir / name).unlink()
    (workdir / "triples.jsonl").write_text('{"problem": "of the user"}\n')  # another stage's name
    stage.run_stage("count", (count_gin,), workdir=str(workdir))


@pytest.mark.parametrize("left", ["attempts-00000-of-00004.jsonl", "attempts.jsonl"])
def test_attempts_of_a_killed_evaluate_are_no_attempts_at_other_settings(left: str, tmp_path: Path):
    (tmp_path / "evaluate").mkdir()
    (tmp_path / "evaluate" / left).write_text("")
    entry = {"status": "running", "config_digest": stage._digest({"temperature": 0.0}), "seed": 0}
    empty = {"inputs": {}, "counts": {}, "versions": {}, "wall_seconds": 1.0}
    manifest.record(tmp_path, manifest.StageEntry(stage="evaluate", **entry, **empty))
    same, other = {"temperature": 0.0}, {"temperature": 1.0}
    assert stage._entry_to_continue("evaluate", str(tmp_path), same, same, {}) is not None
    with pytest.raises(WrongUse, match="'evaluate' begun with other settings.*rm -r .*evaluate"):
        stage._entry_to_continue("evaluate", str(tmp_path), other, other, {})


def test_a_run_over_seeds_holds_the_workdir_of_each(count_gin: str, tmp_path: Path):
    bindings = (
        "run.run.stages=['count']",
        "run.run.seeds=[1, 2]",
    )
    with lock.hold(str(tmp_path / "w" / "seed_2"), "count"):
        with pytest.raises(WrongUse, match="seed_2 is in use"):
            stage.run_stage("run", (count_gin,), bindings, workdir=str(tmp_path / "w"))
        assert not (tmp_path / "w" / "seed_1" / "counted.jsonl").exists()
    stage.run_stage("run", (count_gin,), bindings, workdir=str(tmp_path / "w"))
    assert manifest.read(tmp_path / "w" / "seed_2")["count"].seed == 2


def test_a_file_is_no_workdir(count_gin: str, tmp_path: Path):
    for workdir in (count_gin, f"{count_gin}/below"):
        with pytest.raises(WrongUse, match="give a directory as --workdir"):
            stage.run_stage("count", (count_gin,), workdir=workdir)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="a place where nobody may write is needed")
def test_a_workdir_that_cannot_be_made_is_named(count_gin: str):
    with pytest.raises(WrongUse, match="/proc/nowhere/run cannot be made"):
        stage.run_stage("count", (count_gin,), workdir="/proc/nowhere/run")


def test_a_stage_gets_its_paths_filled_in_and_records_keep_them_as_given(tmp_path: Path):
    given = "{workdir}/words.jsonl"
    config = Pretrained(path="{workdir}/policy")

    def work(*, workdir: str, words: InputPath, model: ModelSource, name: str, out: OutputPath) -> None:
        pass

    arguments = {"words": given, "model": config, "name": given, "out": "{workdir}/out"}
    filled = configuration.filled_in(work, arguments, str(tmp_path))
    assert filled["words"] == f"{tmp_path}/words.jsonl"
    assert filled["model"].path == f"{tmp_path}/policy"
    assert filled["out"] == f"{tmp_path}/out"
    assert filled["name"] == given  # no path
    assert as_given(filled["words"]) == given
    assert configuration.input_paths(work, arguments) == [given, "{workdir}/policy"]
    assert configuration.settings_of("work", arguments)["work.model.path"] == "{workdir}/policy"
