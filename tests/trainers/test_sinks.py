"""Copies of the metrics: Weights & Biases, played and really offline, and the table."""

import io
import math
import sys
import types

import pytest
from etils import epath
from rich import console

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.trainers import metrics
from promptcot_jax.trainers.watching import WatchConfig


class PlayedRun:
    """A run of W&B that refuses what the real one does: a step that is not later than the one before."""

    def __init__(self, **settings):
        self.settings, self.rows, self.exit_code = settings, {}, None

    def log(self, values, *, step, commit):
        assert commit
        assert all(step > earlier for earlier in self.rows)
        self.rows[step] = values

    def finish(self, *, exit_code):
        self.exit_code = exit_code


@pytest.fixture
def runs(monkeypatch):
    """The runs that are begun, in order."""
    begun = []

    def init(**settings):
        begun.append(PlayedRun(**settings))
        return begun[-1]

    played = types.SimpleNamespace(init=init, Settings=dict, Error=RuntimeError)
    monkeypatch.setitem(sys.modules, "wandb", played)
    return begun


def write(directory, steps, *, resume_step, project="mine", **changes):
    watch = WatchConfig(wandb_project=project)
    with metrics.MetricsLog(
        directory, resume_step=resume_step, tensorboard=False, watch=watch, **changes
    ) as log:
        for step in steps:
            log.write(step, {"loss": step / 2})


def test_a_resumed_run_is_the_same_one_and_no_step_is_sent_twice(tmp_path, runs):
    """The first attempt goes to step 6 and is gone on with from step 4, the third has nothing new."""
    directory = tmp_path / "first" / "sft"
    write(directory, [0, 2, 4, 6], resume_step=-1)
    write(directory, [6, 8], resume_step=4)
    write(directory, [8], resume_step=6)
    one, two, three = runs
    assert list(one.rows) == [0, 2, 4, 6]
    assert two.rows == {8: {"loss": 4.0}}
    assert three.rows == {}
    assert len({run.settings["id"] for run in runs}) == 1
    assert {run.settings["resume"] for run in runs} == {"allow"}
    assert {run.settings["name"] for run in runs} == {"first/sft"}
    assert one.exit_code == 0


def test_another_project_and_another_directory_have_runs_of_their_own(tmp_path, runs):
    write(tmp_path / "a", [1], resume_step=0)
    write(tmp_path / "b", [1], resume_step=0)
    write(tmp_path / "a", [2], resume_step=1, project="other")
    assert len({run.settings["id"] for run in runs}) == 3
    assert [run.settings["project"] for run in runs] == ["mine", "mine", "other"]


def test_a_failure_is_told(tmp_path, runs):
    with pytest.raises(ZeroDivisionError):
        with metrics.MetricsLog(
            tmp_path, resume_step=0, tensorboard=False, watch=WatchConfig(wandb_project="mine")
        ):
            1 / 0  # noqa: B018
    assert runs[0].exit_code == 1


def test_hosts_but_the_first_send_nothing(tmp_path, runs):
    write(tmp_path, [1], resume_step=0, writes=False)
    assert runs == []


def test_without_wandb_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(WrongUse, match=r"pip install 'promptcot_jax\[wandb\]'"):
        write(tmp_path, [], resume_step=0)


def test_what_wandb_refuses_is_said_in_one_sentence(tmp_path, runs, monkeypatch):
    def refuse(**settings):
        raise RuntimeError("No API key configured.")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    with pytest.raises(WrongUse, match="project 'mine': No API key configured. Log in with 'wandb login'"):
        write(tmp_path, [], resume_step=0)


@pytest.mark.slow
def test_the_real_one_works_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    write(tmp_path, [0, 2, 4], resume_step=-1)
    write(tmp_path, [4, 6], resume_step=2)
    stored = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(stored) == 2
    assert len({path.name for path in stored}) == 1  # of one id


def table(*, width=200, is_terminal=False, columns=("reward", "eval/avg_at_k", "updates")):
    text = io.StringIO()
    shown = console.Console(file=text, width=width, force_terminal=is_terminal, color_system=None)
    return metrics.Table(columns, shown), text


def test_the_table_has_aligned_lines_and_its_head_now_and_then():
    lines, text = table(width=20)  # a file is as wide as it takes
    for step in range(22):
        lines.write(step, {"reward": step / 3, "updates": 2, "loss": 1.0})
    lines.write(22, {"eval/avg_at_k": math.nan})
    printed = text.getvalue().splitlines()
    assert [line.split() for line in printed[:2]] == [
        ["step", "reward", "eval/avg_at_k", "updates"],
        ["0", "0", "-", "2"],
    ]
    assert printed[2].split() == ["1", "0.3333", "-", "2"]
    assert printed[-1].split() == ["22", "-", "nan", "-"]
    assert [i for i, line in enumerate(printed) if "reward" in line] == [0, 21]
    assert len({len(line) for line in printed}) == 1
    assert "\x1b" not in text.getvalue()


def test_on_a_terminal_columns_without_room_are_left_out():
    lines, text = table(width=36, is_terminal=True)
    lines.write(1, {"reward": 0.5})
    head, row = (
        line.split() for line in text.getvalue().replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()
    )
    assert head == ["step", "reward", "eval/avg_at_k"]
    assert row == ["1", "0.5", "-"]


def test_the_table_of_a_run_goes_to_standard_error(tmp_path, capsys):
    watch = WatchConfig(table=True, table_columns=("loss",))
    with metrics.MetricsLog(tmp_path, resume_step=0, tensorboard=False, watch=watch) as log:
        log.write(1, {"loss": 0.25, "other": 1.0})
    assert capsys.readouterr().err.split() == ["step", "loss", "1", "0.25"]


def test_names_of_runs_are_those_of_directories(tmp_path, runs):
    write(epath.Path(tmp_path) / "em" / "theta", [1], resume_step=0)
    assert runs[0].settings["name"] == "em/theta"
