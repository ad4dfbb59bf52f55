"""Runs that end early, at a goal or for a notice, and what the next start makes of them."""

import contextlib
import dataclasses
import logging
import os
import signal
import types

import jax
import numpy as np
import pytest

from promptcot_jax.core.errors import Interrupted, WrongUse
from promptcot_jax.trainers import driver, policy_updates, self_play, watching
from promptcot_jax.trainers.rollout_collector import RolloutCollector
from promptcot_jax.trainers.watching import PreemptionGuard, WatchConfig
from tests.trainers import toy_self_play
from tests.trainers.toy_self_play import CONFIG, Killed, files_of, kill_at, metrics_of

CONFIG = dataclasses.replace(CONFIG, num_iterations=4, units_per_update=16, checkpoint_every=3)
AT_ONCE = dataclasses.replace(CONFIG, stop_at="num_skipped <= 0")  # so says the row of the first iteration


class Sums(driver.Run[int]):
    """Adds up step numbers from a state on disk; a row at every second step and the last."""

    checkpoint_every = 4

    def __init__(self, events, restored=(0, 0), *, reasons=(), over_at=7):
        self.events, self.restored, self.reasons, self.over_at = events, restored, list(reasons), over_at
        self.num_steps = 7

    def restore(self):
        return self.restored

    def attempt(self, step):
        guard = types.SimpleNamespace(reason=lambda: self.reasons.pop(0) if self.reasons else "")
        return contextlib.nullcontext(guard)

    def step(self, step, state):
        return state + step

    def record(self, step, state):
        if step % 2 and step != self.over_at:
            return None
        self.events.append(f"row {step}")
        return step == self.over_at

    def save(self, step, state):
        self.events.append(f"save {step}: {state}")


def test_rows_come_before_checkpoints_and_the_last_step_has_both():
    events = []
    assert driver.drive(Sums(events)) == (7, 28)
    assert events == ["row 2", "row 4", "save 4: 10", "row 6", "row 7", "save 7: 28"]
    assert driver.drive(Sums(events := [], restored=(4, 10))) == (7, 28)
    assert events == ["row 6", "row 7", "save 7: 28"]
    assert driver.drive(Sums(events := [], restored=(7, 28))) == (7, 28)
    assert events == []


def test_a_run_leaves_only_at_a_row_with_a_checkpoint_and_not_where_it_is_over():
    events = []
    with pytest.raises(Interrupted, match="left after step 2 of 7 for SIGTERM, with a checkpoint"):
        driver.drive(Sums(events, reasons=["SIGTERM"]))
    assert events == ["row 2", "save 2: 3"]
    assert driver.drive(Sums([], reasons=["", "SIGTERM"], over_at=4)) == (4, 10)


def drawn_iterations(patch):
    """The iterations that are drawn from now on."""
    draw, seen = RolloutCollector.collect, []

    def watched(self, iteration, *args):
        seen.append(iteration)
        return draw(self, iteration, *args)

    patch.setattr(RolloutCollector, "collect", watched)
    return seen


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Directory and outcome of a run that nothing disturbs."""
    directory = tmp_path_factory.mktemp("whole")
    return directory, toy_self_play.run(directory, config=CONFIG)


def assert_same(whole, directory, outcome):
    jax.tree.map(np.testing.assert_array_equal, outcome.params, whole[1].params)
    assert metrics_of(directory) == metrics_of(whole[0])
    assert files_of(directory) == files_of(whole[0])


def test_a_run_ends_at_its_goal_and_a_resumed_one_does_not_go_on(tmp_path, monkeypatch, caplog):
    """Reached after the first iteration, between evaluations: the last policy is evaluated all the same."""
    held_out = toy_self_play.held_out(tmp_path, every=3, number=1)
    with caplog.at_level(logging.INFO, "promptcot_jax"):
        outcome = toy_self_play.run(tmp_path, config=AT_ONCE, held_out=held_out)
    assert "the goal num_skipped <= 0 is reached after iteration 1" in caplog.text
    assert (outcome.num_iterations, outcome.num_updates) == (1, 1)
    assert [row["step"] for row in metrics_of(tmp_path) if "eval/avg_at_k" in row] == [0, 1]
    before = metrics_of(tmp_path)
    seen = drawn_iterations(monkeypatch)
    again = toy_self_play.run(tmp_path, config=AT_ONCE, held_out=held_out)
    assert (seen, again.num_iterations) == ([], 1)
    jax.tree.map(np.testing.assert_array_equal, again.params, outcome.params)
    assert metrics_of(tmp_path) == before


def test_a_goal_of_no_iteration_is_told(tmp_path, caplog):
    config = dataclasses.replace(CONFIG, num_iterations=1, stop_at="rewrad >= 1")
    with caplog.at_level(logging.WARNING, "promptcot_jax"):
        assert toy_self_play.run(tmp_path, config=config).num_iterations == 1
    assert "iteration 1 has no 'rewrad', at which the run is to stop; it has reward, " in caplog.text


def test_a_run_killed_as_it_reaches_its_goal_ends_there(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        kill_at(patch, self_play.TrainingCheckpoints, "save", 1)
        with pytest.raises(Killed):
            toy_self_play.run(tmp_path, config=AT_ONCE)
    assert toy_self_play.run(tmp_path, config=AT_ONCE).num_iterations == 1


def test_a_policy_that_is_there_at_the_start_makes_no_iteration(tmp_path, monkeypatch):
    seen = drawn_iterations(monkeypatch)
    outcome = toy_self_play.run(
        tmp_path,
        config=dataclasses.replace(CONFIG, stop_at="eval/pass_at_k >= 1"),
        held_out=toy_self_play.held_out(tmp_path, verdict=lambda answer, text: True, number=1),
    )
    assert (seen, outcome.num_iterations) == ([], 0)


@pytest.mark.parametrize("stop_at", ["eval/avg_at_k >= 0.5", "eval/accuracy >= 0.5"])
def test_a_goal_that_nothing_measures_is_refused(tmp_path, stop_at):
    held_out = toy_self_play.held_out(tmp_path) if "accuracy" in stop_at else None
    with pytest.raises(WrongUse, match="would never reach"):
        toy_self_play.run(tmp_path, config=dataclasses.replace(CONFIG, stop_at=stop_at), held_out=held_out)


def test_sigterm_leaves_a_checkpoint_and_the_resumed_run_has_the_same_bits(whole, tmp_path, monkeypatch):
    """In the updates of the second iteration, off the usual checkpoints; nothing is done again."""
    update, before = policy_updates.PolicyUpdates.update, signal.getsignal(signal.SIGTERM)

    def told(self, iteration, *args, **settings):
        if iteration == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(self, iteration, *args, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(policy_updates.PolicyUpdates, "update", told)
        with pytest.raises(
            Interrupted, match="after iteration 2 of 4 for SIGTERM, with a checkpoint; the same"
        ):
            toy_self_play.run(tmp_path, config=CONFIG)
    assert signal.getsignal(signal.SIGTERM) == before
    seen = drawn_iterations(monkeypatch)
    assert_same(whole, tmp_path, toy_self_play.run(tmp_path, config=CONFIG))
    assert seen == [2, 3]


def test_a_deadline_that_the_next_iteration_would_miss_ends_the_attempt(whole, tmp_path, monkeypatch):
    """Iterations of a minute, 150 seconds, and 20 for the checkpoint: there is time for two."""
    clock = [0.0]
    draw = RolloutCollector.collect

    def slow(self, *args):
        clock[0] += 60
        return draw(self, *args)

    watch = WatchConfig(deadline_minutes=2.5, margin_seconds=20.0)
    config = dataclasses.replace(CONFIG, watch=watch)
    with monkeypatch.context() as patch:
        patch.setattr(watching, "_process_age", lambda: clock[0])
        patch.setattr(watching, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))
        patch.setattr(RolloutCollector, "collect", slow)
        with pytest.raises(Interrupted, match="after iteration 2 of 4 for the deadline in 0.5 minutes"):
            toy_self_play.run(tmp_path, config=config)
    seen = drawn_iterations(monkeypatch)
    assert_same(whole, tmp_path, toy_self_play.run(tmp_path, config=CONFIG))
    assert seen == [2, 3]


def test_a_notice_after_the_last_boundary_is_not_forgotten_and_a_second_one_ends_at_once():
    before = signal.getsignal(signal.SIGTERM)

    def end_of_a_run():
        with PreemptionGuard(WatchConfig(), unit="iteration") as told:
            assert signal.getsignal(signal.SIGTERM) not in (before, signal.SIG_DFL)
            assert told.reason() == ""
            os.kill(os.getpid(), signal.SIGTERM)
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

    with pytest.raises(Interrupted, match="SIGTERM"):
        end_of_a_run()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_deadline_is_a_time_with_its_zone_and_lies_ahead():
    for text in ("tomorrow", "2026-05-01T12:00"):
        with pytest.raises(ValueError, match="a time with its zone"):
            WatchConfig(deadline=text)
    with pytest.raises(WrongUse, match="has passed"):
        PreemptionGuard(WatchConfig(deadline="2020-05-01T12:00Z"), unit="iteration").__enter__()
    ahead = PreemptionGuard(WatchConfig(deadline="2999-01-01T00:00+00:00"), unit="iteration")
    assert ahead.reason() == ""


def test_minutes_count_from_the_process_start():
    """A process that has run for longer is told at once."""
    assert 0 < watching._process_age() < 86400 * 30
    assert (
        "deadline"
        in PreemptionGuard(WatchConfig(deadline_minutes=1e-9, margin_seconds=0.0), unit="iteration").reason()
    )
