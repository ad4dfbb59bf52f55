import json
import math

from tensorboard.backend.event_processing import event_accumulator
from tensorboard.util import tensor_util

from promptcot_jax.trainers import metrics


def _write(directory, steps, *, resume_step, tensorboard=False):
    with metrics.MetricsLog(directory, resume_step=resume_step, tensorboard=tensorboard) as log:
        for step in steps:
            log.write(step, {"loss": step / 2, "seconds": float(step)})


def _steps(directory):
    return [json.loads(line)["step"] for line in (directory / metrics.FILE).read_text().splitlines()]


def test_rows_after_the_resumed_step_are_dropped_and_written_again(tmp_path):
    _write(tmp_path, [2, 4, 6], resume_step=0)
    _write(tmp_path, [6, 8], resume_step=4)
    assert _steps(tmp_path) == [2, 4, 6, 8]


def test_half_a_line_left_by_a_kill_is_dropped(tmp_path):
    _write(tmp_path, [2, 4], resume_step=0)
    with open(tmp_path / metrics.FILE, "ab") as file:
        file.write('{"step": 5, "name": "é'.encode()[:-1])  # in the middle of a character
    _write(tmp_path, [6], resume_step=4)
    assert _steps(tmp_path) == [2, 4, 6]


def test_until_the_first_new_row_a_further_attempt_still_finds_the_dropped_ones(tmp_path):
    _write(tmp_path, [2, 4, 6], resume_step=0)
    for _ in range(2):  # the first of these is killed before it has a row
        with metrics.MetricsLog(tmp_path, resume_step=4, tensorboard=False) as log:
            assert (log.kept["seconds"], log.newest["seconds"]) == (4.0, 6.0)
    _write(tmp_path, [6], resume_step=4)
    assert _steps(tmp_path) == [2, 4, 6]


def test_a_fit_without_rows_has_nothing_to_go_on_from(tmp_path):
    with metrics.MetricsLog(tmp_path, resume_step=0, tensorboard=False) as log:
        log.write(1, {"loss": 0.5})
        assert (log.kept, log.newest) == (None, None)


def test_a_row_is_on_disk_as_soon_as_it_is_written(tmp_path):
    with metrics.MetricsLog(tmp_path, resume_step=0, tensorboard=False) as log:
        log.write(1, {"loss": 0.5})
        assert _steps(tmp_path) == [1]


def test_what_json_cannot_hold_becomes_null(tmp_path):
    with metrics.MetricsLog(tmp_path, resume_step=0, tensorboard=False) as log:
        log.write(1, {"loss": math.nan, "gradient_norm": math.inf, "labels": 3})
    row = json.loads((tmp_path / metrics.FILE).read_text())
    assert row == {"step": 1, "loss": None, "gradient_norm": None, "labels": 3}


def test_tensorboard_gets_the_same_numbers(tmp_path):
    _write(tmp_path, [2, 4], resume_step=0, tensorboard=True)
    events = event_accumulator.EventAccumulator(
        str(tmp_path / "tensorboard"), size_guidance={event_accumulator.TENSORS: 0}
    )
    events.Reload()
    got = [
        (event.step, float(tensor_util.make_ndarray(event.tensor_proto))) for event in events.Tensors("loss")
    ]
    assert got == [(2, 1.0), (4, 2.0)]
