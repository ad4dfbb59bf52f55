import json

import jax
import jax.numpy as jnp
import pytest

from promptcot_jax.trainers import goodput, metrics
from tests.trainers import toy_fit


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_every_second_is_counted_once():
    clock = Clock()
    counters = goodput.Goodput(clock)
    clock.now += 2.0  # start-up: nobody's
    counters.open_window()
    clock.now += 10.0
    counters.add("data", 3.0)
    with counters.spent_on("profile"):
        clock.now += 1.0
    assert counters.close_window() == 10.0  # steps and their waiting for data
    with counters.spent_on("evaluation"):
        clock.now += 4.0
        with counters.spent_on("checkpoint"):
            clock.now += 0.5
    row = counters.row()
    assert {name: value for name, value in row.items() if value} == {
        "seconds": 17.5,
        "step_seconds": 7.0,
        "lost_seconds/data": 3.0,
        "lost_seconds/profile": 1.0,
        "lost_seconds/evaluation": 4.0,
        "lost_seconds/checkpoint": 0.5,
        "goodput": 0.4,
    }
    assert sorted(row) == sorted(goodput.FIELDS)


def test_compiling_is_counted_once_though_jax_tells_of_inner_functions_too():
    clock = Clock()
    event = "/jax/core/compile/jaxpr_trace_duration"
    with goodput.Goodput(clock) as counters, counters.spent_on("evaluation"):
        clock.now += 1.0
        clock.now += 2.0
        jax.monitoring.record_event_duration_secs(event, 2.0)  # traced inside the next
        clock.now += 3.0
        jax.monitoring.record_event_duration_secs(event, 5.5)
        clock.now += 4.0
        jax.monitoring.record_event_duration_secs("/jax/core/compile/backend_compile_duration", 4.0)
        jax.monitoring.record_event_duration_secs("/jax/another_duration", 7.0)
    assert counters.lost["compile"] == pytest.approx(9.5)
    assert counters.lost["evaluation"] == pytest.approx(0.5)
    jax.monitoring.record_event_duration_secs(event, 1.0)  # not heard any more
    assert counters.lost["compile"] == pytest.approx(9.5)


def test_jax_tells_what_it_compiles():
    with goodput.Goodput() as counters:
        jax.jit(lambda x: jnp.sin(x) @ x + 12345)(jnp.ones((3, 3)))
    assert 0 < counters.lost["compile"] < counters.seconds


def test_steps_after_the_checkpoint_are_repeated_and_their_time_is_lost():
    kept = {"seconds": 10.0, "step_seconds": 6.0, "lost_seconds/compile": 3.0}
    newest = {"seconds": 15.0, "step_seconds": 8.0, "lost_seconds/compile": 3.5, "lost_seconds/repeated": 1.0}
    clock = Clock()
    counters = goodput.Goodput(clock)
    counters.go_on_from(kept, newest)
    counters.open_window()
    clock.now += 5.0
    counters.close_window()
    assert counters.row() == dict.fromkeys(goodput.FIELDS, 0.0) | {
        "seconds": 20.0,
        "step_seconds": 11.0,
        "lost_seconds/compile": 3.5,
        "lost_seconds/repeated": 3.0,
        "goodput": 0.55,
    }


def _rows(directory):
    return [json.loads(line) for line in (directory / metrics.FILE).read_text().splitlines()]


def test_a_resumed_fit_carries_the_counters_on(tmp_path):
    def interrupt():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        toy_fit.fit(tmp_path, toy_fit.FailingAt(toy_fit.toy_batches(), 11, interrupt))
    before = {row["step"]: row for row in _rows(tmp_path)}
    assert list(before) == [3, 4, 6, 8, 9]  # the checkpoint is of step 8
    toy_fit.fit(tmp_path)
    after = {row["step"]: row for row in _rows(tmp_path)}
    assert [after[step] for step in (3, 4, 6, 8)] == [before[step] for step in (3, 4, 6, 8)]
    in_vain = before[9]["step_seconds"] - before[8]["step_seconds"]
    assert in_vain > 0
    for step in (9, 12):
        assert after[step]["lost_seconds/repeated"] == pytest.approx(in_vain, abs=2e-3)
        assert after[step]["seconds"] > before[9]["seconds"]
        assert after[step]["lost_seconds/restore"] > before[9]["lost_seconds/restore"]
    for row in after.values():
        lost = sum(row[f"lost_seconds/{cause}"] for cause in goodput.CAUSES)
        assert row["step_seconds"] + lost <= row["seconds"] + 0.01
        rounding = 1e-3 / row["seconds"] + 1e-4  # both are rounded to milliseconds, and a toy fit takes few
        assert row["goodput"] == pytest.approx(row["step_seconds"] / row["seconds"], abs=rounding)
    assert after[12]["lost_seconds/evaluation"] > 0
    assert after[9]["lost_seconds/checkpoint"] > 0
