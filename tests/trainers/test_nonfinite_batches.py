import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promptcot_jax.parallel import hosts
from promptcot_jax.trainers import metrics, nonfinite_batches, sft
from tests.trainers import toy_fit

CONFIG = dataclasses.replace(toy_fit.CONFIG, eval_every=0, max_skipped=1)
CONSTANT = dataclasses.replace(toy_fit.OPTIMIZER, schedule="constant")


def _batches(bad_steps=(), number=8):
    """Batches with a weight of 1 per label; those of `bad_steps` (from 1) have an infinite one."""
    batches = []
    for i in range(number):
        batch = toy_fit.toy_batches().batch(i)
        count = batch.loss_mask.astype(np.float32)
        weight = count.copy()
        if i + 1 in bad_steps:
            weight[tuple(np.argwhere(batch.loss_mask)[0])] = np.inf
        batches.append(dataclasses.replace(batch, values={"weight": weight, "count": count}))
    return batches


def _fit(directory, batches, **changes):
    settings = {"loss": sft.WeightedSftLoss(), "optimizer": CONSTANT, "config": CONFIG, "evaluate": None}
    return toy_fit.fit(directory, toy_fit.Fixed(batches), **(settings | changes))


def _names(directory):
    return [path.name for path in nonfinite_batches.saved_batches(directory)]


def _assert_equal(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


def test_the_batch_of_a_skipped_update_is_saved_and_the_rest_is_as_if_it_had_not_been(tmp_path):
    batches = _batches(bad_steps=[5])
    state = _fit(tmp_path / "with", batches)
    without = _fit(tmp_path / "without", batches[:4] + batches[5:])
    _assert_equal(state.params, without.params)
    _assert_equal(state.opt_state, without.opt_state)
    assert (int(state.num_skipped), int(state.step)) == (1, 8)
    (path,) = nonfinite_batches.saved_batches(tmp_path / "with")
    assert path.name == "nonfinite_batch_00000005.npz"
    loaded = nonfinite_batches.load_batch(path)
    _assert_equal(loaded, batches[4])
    assert loaded.loss_mask.dtype == np.bool_
    assert _names(tmp_path / "without") == []


@pytest.mark.parametrize("bad_steps", [(3, 5), (7, 8)])
def test_past_the_limit_the_fit_stops_with_the_batch_named(tmp_path, bad_steps):
    config = dataclasses.replace(CONFIG, log_every=100, checkpoint_every=100)
    batches = _batches(bad_steps=bad_steps)
    with pytest.raises(nonfinite_batches.TooManySkippedUpdates) as raised:
        _fit(tmp_path, batches, config=config)
    message = str(raised.value)
    assert f"By step {bad_steps[1]}, 2 updates" in message
    assert "max_skipped is 1" in message
    path = re.search(r"is in (\S+):", message)[1]
    _assert_equal(nonfinite_batches.load_batch(path), batches[bad_steps[1] - 1])
    assert _names(tmp_path) == [f"nonfinite_batch_{step:08d}.npz" for step in bad_steps]


@pytest.mark.slow
def test_a_resumed_fit_counts_on(tmp_path):
    batches = _batches(bad_steps=[2, 7])
    interrupted = toy_fit.Fixed(batches[:4])
    interrupted.num_steps = 8  # the fifth batch is an IndexError
    with pytest.raises(IndexError):
        toy_fit.fit(
            tmp_path,
            interrupted,
            loss=sft.WeightedSftLoss(),
            optimizer=CONSTANT,
            config=CONFIG,
            evaluate=None,
        )
    with pytest.raises(nonfinite_batches.TooManySkippedUpdates, match="By step 7, 2 updates"):
        _fit(tmp_path, batches)
    more = dataclasses.replace(CONFIG, max_skipped=2)
    assert int(_fit(tmp_path, batches, config=more).num_skipped) == 2


def test_a_run_with_a_high_limit_keeps_the_newest_batches(tmp_path):
    many = dataclasses.replace(CONFIG, max_skipped=8)
    _fit(tmp_path, _batches(bad_steps=range(2, 8)), config=many)
    assert _names(tmp_path) == [f"nonfinite_batch_{step:08d}.npz" for step in (5, 6, 7)]
    assert (tmp_path / metrics.FILE).read_text().count('"num_skipped": 6') == 1


class Count:
    """Stands for a number that is still being computed on the device."""

    def __init__(self, value):
        self.value, self.was_asked, self.ready = value, False, False

    def copy_to_host_async(self):
        pass

    def is_ready(self):
        return self.ready

    def __int__(self):
        self.was_asked = True
        return self.value


def test_the_step_just_dispatched_is_never_waited_for(tmp_path):
    steps = nonfinite_batches.StepsInFlight(tmp_path, num_skipped=0, max_skipped=0)
    assert steps.is_idle()
    batch = _batches(number=1)[0]
    counts = [Count(0) for _ in range(4)]
    for step, count in enumerate(counts, start=1):
        steps.add(step, batch, count)
    assert [count.was_asked for count in counts] == [True, True, False, False]
    assert not steps.is_idle()
    counts[3].ready = True
    assert steps.is_idle()
    steps.settle()
    assert counts[3].was_asked


def test_of_several_hosts_each_keeps_its_rows_in_a_directory_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(hosts, "count", lambda: 2)
    for index in (0, 1):
        monkeypatch.setattr(hosts, "index", lambda index=index: index)
        steps = nonfinite_batches.StepsInFlight(tmp_path, num_skipped=0, max_skipped=1)
        steps.add(3, toy_fit.toy_batches().batch(index), jnp.int32(1))
        steps.settle()
    for index in (0, 1):
        (path,) = nonfinite_batches.saved_batches(tmp_path / f"host_{index:03d}")
        _assert_equal(nonfinite_batches.load_batch(path), toy_fit.toy_batches().batch(index))
    assert not nonfinite_batches.saved_batches(tmp_path)
