import dataclasses
import logging

import jax
import pytest

from promptcot_jax.trainers import profile
from tests.trainers import toy_fit

CONFIG = dataclasses.replace(
    toy_fit.CONFIG, eval_every=0, profile_cpu=True, profile_first=3, profile_steps=2, log_every=100
)


def _fit(directory, batches=None, config=CONFIG):
    return toy_fit.fit(directory, batches, config=config, evaluate=None)


def _traces(directory):
    return sorted((directory / profile.DIRECTORY).rglob("*.xplane.pb"))


def _traced_steps(trace):
    """The numbers that the loop gave the steps of a trace."""
    data = jax.profiler.ProfileData.from_file(str(trace))
    events = [event for plane in data.planes for line in plane.lines for event in line.events]
    return sorted({dict(event.stats)["step_num"] for event in events if event.name == "train"})


@pytest.mark.slow
def test_the_window_is_traced_once_in_a_fits_life(tmp_path):
    def interrupt():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        _fit(tmp_path, toy_fit.FailingAt(toy_fit.toy_batches(), 10, interrupt))
    (trace,) = _traces(tmp_path)
    assert _traced_steps(trace)[:2] == [3, 4]
    assert max(_traced_steps(trace)) <= 6
    _fit(tmp_path)  # goes on from step 8
    assert _traces(tmp_path) == [trace]


@pytest.mark.slow
def test_a_fit_that_ends_inside_the_window_ends_the_trace(tmp_path):
    _fit(tmp_path, toy_fit.Fixed(toy_fit.toy_batches().batch(i) for i in range(4)))
    assert len(_traces(tmp_path)) == 1
    jax.profiler.start_trace(tmp_path / "free")  # none is running any more
    jax.profiler.stop_trace()


def test_a_cpu_is_not_traced_unless_asked_for(tmp_path):
    _fit(tmp_path, config=dataclasses.replace(CONFIG, profile_cpu=False))
    assert not (tmp_path / profile.DIRECTORY).exists()


@pytest.mark.parametrize("name", ["start_trace", "stop_trace"])
def test_a_profiler_that_fails_does_not_end_the_run(tmp_path, monkeypatch, caplog, name):
    started = []

    def fail(*_, **__):
        started.append(name)
        raise RuntimeError("no profiler here")

    monkeypatch.setattr(jax.profiler, "start_trace", lambda *_, **__: None)
    monkeypatch.setattr(jax.profiler, name, fail)
    with caplog.at_level(logging.WARNING, logger="promptcot_jax"):
        state = _fit(tmp_path)
    assert int(state.step) == 12
    assert started == [name]
    assert "no profile, the run goes on: RuntimeError: no profiler here" in caplog.text
