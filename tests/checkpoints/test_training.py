"""Checkpoints of a run: whatever happens, a whole step comes back, bit-equal."""

import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from promptcot_jax.checkpoints import training
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.parallel import mesh as mesh_lib


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class State:
    step: Any
    params: Any
    opt_state: Any


OPTIMIZER = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.apply_if_finite(
        optax.adamw(optax.cosine_decay_schedule(1e-3, 100), mask={"a": True, "b": False}), 3
    ),
)


def make_state(seed: int, size: int = 8) -> State:
    """A state whose every number depends on the seed; its optimizer state nests named and empty tuples."""
    like = jax.eval_shape(_first_state, jax.ShapeDtypeStruct((size, size), jnp.float32))
    noise = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(noise.normal(size=leaf.shape) * 100, leaf.dtype), like)


def _first_state(kernel: jax.Array) -> State:
    params = {"a": kernel, "b": {"scale": kernel[0].astype(jnp.bfloat16)}}
    return State(jnp.int32(0), params, OPTIMIZER.init(params))


def assert_bit_equal(left: Any, right: Any) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.fixture
def checkpoints(tmp_path):
    checkpoints = training.TrainingCheckpoints(tmp_path / "run", keep=2)
    yield checkpoints
    checkpoints.close()


def damage(directory, how: str) -> None:
    """Breaks one step: its largest file cut or flipped, or its marker gone."""
    largest = max((p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = largest.read_bytes()
    if how == "no marker":
        (directory / "COMPLETE").unlink()
    elif how == "truncated":
        largest.write_bytes(content[: len(content) // 2])
    else:
        largest.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])


def test_nothing_saved_restores_nothing(checkpoints):
    assert checkpoints.restore_latest(make_state(0)) is None
    assert checkpoints.complete_steps() == []


def test_the_newest_state_comes_back_in_its_own_types(checkpoints):
    for step in (1, 2, 3):
        checkpoints.save(step, make_state(step))
    step, state = checkpoints.restore_latest(jax.eval_shape(_first_state, jnp.zeros((8, 8))))
    assert step == 3
    assert isinstance(state, State)
    assert_bit_equal(state, make_state(3))


def test_only_the_newest_complete_steps_stay(checkpoints, tmp_path):
    for step in (1, 2, 3, 4):
        checkpoints.save(step, make_state(step))
    checkpoints.wait()
    assert sorted(os.listdir(tmp_path / "run")) == ["step_00000003", "step_00000004"]
    assert checkpoints.complete_steps() == [3, 4]


def test_buffers_may_be_donated_while_the_save_is_under_way(checkpoints):
    grow = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
    state = {"x": jnp.zeros((1 << 20,)), "y": jnp.zeros((7,))}
    state = grow(state)
    for step in (1, 2):
        expected = float(state["y"][0])
        checkpoints.save(step, state)
        for _ in range(20):
            state = grow(state)
        _, restored = checkpoints.restore_latest(state)
        assert np.unique(restored["x"]) == np.unique(restored["y"]) == expected


def test_states_are_restored_into_the_shards_of_like(checkpoints):
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(fsdp=8))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    values = jnp.arange(32.0).reshape(16, 2)
    checkpoints.save(1, {"x": jax.device_put(values, sharding)})
    _, sharded = checkpoints.restore_latest(
        {"x": jax.ShapeDtypeStruct((16, 2), jnp.float32, sharding=sharding)}
    )
    assert sharded["x"].sharding == sharding
    _, whole = checkpoints.restore_latest({"x": values})
    assert np.array_equal(whole["x"], sharded["x"])
    assert np.array_equal(whole["x"], values)


@pytest.mark.parametrize("how", ["no marker", "truncated", "flipped"])
def test_a_damaged_newest_step_falls_back_to_the_one_before(checkpoints, tmp_path, how):
    for step in (1, 2):
        checkpoints.save(step, make_state(step))
    checkpoints.wait()
    damage(tmp_path / "run" / "step_00000002", how)
    again = training.TrainingCheckpoints(tmp_path / "run", keep=1)
    step, state = again.restore_latest(make_state(0))
    assert step == 1
    assert_bit_equal(state, make_state(1))
    # The run goes on and comes to step 2 once more; keep=1 may drop step 1 only after that.
    again.save(2, make_state(7))
    step, state = again.restore_latest(make_state(0))
    assert step == 2
    assert_bit_equal(state, make_state(7))
    assert again.complete_steps() == [2]
    again.close()


def test_one_of_several_hosts_never_falls_back_by_itself(checkpoints, tmp_path, monkeypatch):
    for step in (1, 2):
        checkpoints.save(step, make_state(step))
    checkpoints.wait()
    damage(tmp_path / "run" / "step_00000002", "flipped")
    again = training.TrainingCheckpoints(tmp_path / "run", keep=1)
    monkeypatch.setattr(training.hosts, "count", lambda: 2)
    monkeypatch.setattr(training.hosts, "decided_by_first", lambda _, decide: decide())
    with pytest.raises(RuntimeError, match=r"step_00000002: cannot be read on host 0: .* on all hosts"):
        again.restore_latest(make_state(0))
    monkeypatch.undo()
    again.close()


def test_an_unreadable_later_step_does_not_push_out_a_good_one(checkpoints, tmp_path):
    for step in (10, 20):
        checkpoints.save(step, make_state(step))
    checkpoints.wait()
    damage(tmp_path / "run" / "step_00000020", "flipped")
    again = training.TrainingCheckpoints(tmp_path / "run", keep=1)
    assert again.restore_latest(make_state(0))[0] == 10
    again.save(15, make_state(15))
    again.wait()
    third = training.TrainingCheckpoints(tmp_path / "run", keep=1)
    assert third.restore_latest(make_state(0))[0] == 15
    third.close()
    again.close()


def test_finished_steps_that_cannot_be_read_are_not_taken_for_a_fresh_start(checkpoints, tmp_path):
    checkpoints.save(1, make_state(1))
    checkpoints.wait()
    damage(tmp_path / "run" / "step_00000001", "flipped")
    again = training.TrainingCheckpoints(tmp_path / "run")
    with pytest.raises(WrongUse, match=r"none of the finished steps \[1\] can be read"):
        again.restore_latest(make_state(0))
    again.close()


def test_a_state_of_another_model_or_optimizer_is_refused_by_name(checkpoints):
    checkpoints.save(1, make_state(1))
    with pytest.raises(
        WrongUse, match=r"'params\.a' is float32\[8, 8\] there and float32\[9, 9\] in this run"
    ):
        checkpoints.restore_latest(dataclasses.replace(make_state(0), params=make_state(0, size=9).params))
    with pytest.raises(WrongUse, match=r"there and absent in this run"):
        checkpoints.restore_latest(dataclasses.replace(make_state(0), opt_state=()))


def test_a_step_of_a_run_that_was_not_resumed_is_not_overwritten(checkpoints, tmp_path):
    checkpoints.save(1, make_state(1))
    checkpoints.save(1, make_state(1))  # the same run may say it twice
    checkpoints.wait()
    stranger = training.TrainingCheckpoints(tmp_path / "run")
    with pytest.raises(WrongUse, match="step 1 was saved by a run that this one did not resume"):
        stranger.save(1, make_state(2))
    stranger.close()


def test_a_failed_write_is_raised_by_the_next_call(checkpoints, tmp_path, monkeypatch):
    def full_disk(directory):
        raise OSError("No space left on device")

    checkpoints.save(1, make_state(1))
    checkpoints.wait()
    monkeypatch.setattr(training.store, "mark_complete", full_disk)
    checkpoints.save(2, make_state(2))
    with pytest.raises(OSError, match="No space left"):
        checkpoints.wait()
    monkeypatch.undo()
    assert checkpoints.restore_latest(make_state(0))[0] == 1
    checkpoints.save(2, make_state(2))  # and the run may try that step again
    assert checkpoints.restore_latest(make_state(0))[0] == 2


def test_leftovers_of_a_kill_are_cleared_by_the_next_save(checkpoints, tmp_path):
    checkpoints.save(1, make_state(1))
    checkpoints.wait()
    shutil.copytree(tmp_path / "run" / "step_00000001", tmp_path / "run" / "step_00000005")
    (tmp_path / "run" / "step_00000005" / "COMPLETE").unlink()
    again = training.TrainingCheckpoints(tmp_path / "run")
    assert again.restore_latest(make_state(0))[0] == 1
    again.save(2, make_state(2))
    again.wait()
    assert sorted(os.listdir(tmp_path / "run")) == ["step_00000001", "step_00000002"]
    again.close()


def test_remove_leaves_nothing(checkpoints, tmp_path):
    checkpoints.save(1, make_state(1))
    checkpoints.close()
    checkpoints.remove()
    assert not (tmp_path / "run").exists()


def test_saving_takes_little_of_the_main_threads_time(checkpoints):
    state = make_state(1, size=300)  # 90,000 parameters and their two moments
    checkpoints.save(1, state)
    checkpoints.wait()
    times = []
    for step in range(2, 7):
        start = time.perf_counter()
        checkpoints.save(step, state)
        times.append(time.perf_counter() - start)
        checkpoints.wait()
    assert sorted(times)[2] < 0.3  # seconds; 0.02 on a quiet machine


_WRITER = """
import sys
import numpy as np
from promptcot_jax.checkpoints import training
checkpoints = training.TrainingCheckpoints(sys.argv[1], keep=2)
like = {"x": np.zeros((300, 100), np.float32), "step": np.zeros((), np.int32)}
latest = checkpoints.restore_latest(like)
step = latest[0] if latest else 0
while True:
    step += 1
    checkpoints.save(step, {"x": np.full((300, 100), step, np.float32), "step": np.int32(step)})
    print(step, flush=True)
"""


def kill_and_restore(directory: pathlib.Path, delays: list[float]) -> None:
    """Kills a writer that does nothing but save, at ever later moments; what is left restores, bit-equal."""
    like, known = {"x": jnp.zeros((300, 100)), "step": jnp.int32(0)}, 0
    root = pathlib.Path(training.__file__).parents[2]
    for delay in delays:
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(directory)], stdout=subprocess.PIPE, text=True, cwd=root
        ) as writer:
            announced = [writer.stdout.readline() for _ in range(3)]
            time.sleep(delay)
            writer.send_signal(signal.SIGKILL)
            newest = int([*announced, *writer.stdout.readlines()][-1])
        checkpoints = training.TrainingCheckpoints(directory, keep=2)
        step, state = checkpoints.restore_latest(like)
        assert int(state["step"]) == step
        assert np.unique(state["x"]) == step
        # `save(n)` returns only once step n - 1 is complete: the last step announced may be lost, or the one
        # after it be complete already, and nothing else.
        assert newest - 1 <= step <= newest + 1
        assert step > known
        known = step
        checkpoints.close()


def test_kill_leaves_a_whole_step(tmp_path):
    kill_and_restore(tmp_path / "run", [0.0, 0.04])


@pytest.mark.slow
def test_kill_at_any_moment_leaves_a_whole_step(tmp_path):
    kill_and_restore(tmp_path / "run", [0.011 * i for i in range(25)])
