"""A run that is killed between two updates of an iteration goes on after the last one that was saved."""

import dataclasses

import jax
import numpy as np
import pytest
from etils import epath

from promptcot_jax.core.errors import Interrupted, WrongUse
from promptcot_jax.data.examples import TokenExample
from promptcot_jax.trainers import nonfinite_batches, self_play, update_checkpoints
from promptcot_jax.trainers.dpo import Dpo
from promptcot_jax.trainers.grpo import Grpo
from promptcot_jax.trainers.policy_updates import PolicyUpdates
from promptcot_jax.trainers.rollout_collector import RunAhead
from promptcot_jax.trainers.update_checkpoints import UpdateCheckpoints
from promptcot_jax.trainers.watching import PreemptionGuard
from tests.trainers import toy_self_play
from tests.trainers.toy_self_play import CONFIG, Killed, files_of, kill_at, metrics_of, samples_of

# One checkpoint at the end of the run: what is saved before is saved within iterations.
MANY = dataclasses.replace(
    CONFIG, num_iterations=2, units_per_update=2, updates_per_checkpoint=3, checkpoint_every=10
)


def updates_of(patch):
    """Filled with the policy's update number before each update."""
    found, run = [], nonfinite_batches.StepsInFlight.add

    def add(self, step, *rest):
        found.append(step)
        return run(self, step, *rest)

    patch.setattr(nonfinite_batches.StepsInFlight, "add", add)
    return found


@pytest.mark.parametrize(
    ("algorithm", "changes", "update", "expected_first"),
    [
        (Grpo(kl_beta=0.05), {}, 6, 4),
        (Grpo(kl_beta=0.05), {}, 3, 1),  # before the first checkpoint
        (Grpo(kl_beta=0.05), {}, 13, 12),  # in the second iteration, with no checkpoint between the two
        (Dpo(solved_below=1.0), {"units_per_update": 1, "updates_per_checkpoint": 1}, 4, 4),
        (Grpo(ratio="sequence"), {"passes_per_iteration": 2}, 10, 10),
        (Grpo(), {"max_staleness": 1}, 6, 4),
    ],
    ids=["grpo", "none yet", "second", "dpo", "two passes", "drawn ahead"],
)
def test_a_run_killed_within_an_iteration_ends_in_the_same_bits(
    tmp_path, monkeypatch, algorithm, changes, update, expected_first
):
    config = dataclasses.replace(MANY, **changes)
    settings = {"algorithm": algorithm, "config": config}
    whole = toy_self_play.run(tmp_path / "whole", **settings)
    with monkeypatch.context() as patch:
        kill_at(patch, nonfinite_batches.StepsInFlight, "add", update)
        with pytest.raises(Killed):
            toy_self_play.run(tmp_path / "killed", **settings)
    with monkeypatch.context() as patch:
        updates = updates_of(patch)
        if expected_first > 1:  # units are not scored again, by a policy that is gone
            scored, score = [], PolicyUpdates.units
            patch.setattr(PolicyUpdates, "units", lambda *args: scored.append(args[1]) or score(*args))
        again = toy_self_play.run(tmp_path / "killed", **settings)
    assert updates == list(range(expected_first, whole.num_updates + 1))
    if expected_first > 1:
        assert scored == ([] if update > 8 and "passes_per_iteration" not in changes else [1])
    jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)
    assert metrics_of(tmp_path / "killed") == metrics_of(tmp_path / "whole")
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")
    assert samples_of(tmp_path / "killed") == samples_of(tmp_path / "whole")
    for name in ("whole", "killed"):
        assert not (tmp_path / name / self_play.DIRECTORY / self_play.UPDATES).exists()


def test_a_run_that_has_to_leave_does_so_between_updates(tmp_path, monkeypatch):
    whole = toy_self_play.run(tmp_path / "whole", config=MANY)
    with monkeypatch.context() as patch:
        patch.setattr(PreemptionGuard, "reason", lambda self: "SIGTERM")
        patch.setattr(self_play.driver, "leave_for", lambda *args: None)  # between iterations
        with pytest.raises(Interrupted, match="left after update 3 of iteration 1 for SIGTERM"):
            toy_self_play.run(tmp_path / "left", config=MANY)
    with monkeypatch.context() as patch:
        updates = updates_of(patch)
        again = toy_self_play.run(tmp_path / "left", config=MANY)
    assert updates[0] == 4
    jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)
    assert metrics_of(tmp_path / "left") == metrics_of(tmp_path / "whole")


def test_an_iteration_that_is_done_is_not_gone_back_to(tmp_path, monkeypatch):
    """Killed in the second iteration before its first checkpoint, with one of the first iteration's end."""
    config = dataclasses.replace(MANY, checkpoint_every=1)
    whole = toy_self_play.run(tmp_path / "whole", config=config)
    first = int(metrics_of(tmp_path / "whole")[0]["updates"])
    with monkeypatch.context() as patch:
        kill_at(patch, nonfinite_batches.StepsInFlight, "add", first + 2)
        with pytest.raises(Killed):
            toy_self_play.run(tmp_path / "killed", config=config)
    with monkeypatch.context() as patch:
        updates = updates_of(patch)
        again = toy_self_play.run(tmp_path / "killed", config=config)
    assert updates[0] == first + 1
    jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)


def _killed(directory, monkeypatch, update, config=MANY):
    with monkeypatch.context() as patch:
        kill_at(patch, nonfinite_batches.StepsInFlight, "add", update)
        with pytest.raises(Killed):
            toy_self_play.run(directory, config=config)
    return directory / self_play.DIRECTORY / self_play.UPDATES


def _gone_on(directory, monkeypatch, config=MANY):
    """The update that it begins with, and the outcome."""
    with monkeypatch.context() as patch:
        updates = updates_of(patch)
        return updates, toy_self_play.run(directory, config=config)


def test_a_new_iteration_leaves_the_checkpoint_of_the_one_before(tmp_path, monkeypatch):
    """Killed at its second update, it goes on within the first iteration, not from the start of the run."""
    whole = toy_self_play.run(tmp_path / "whole", config=MANY)
    first = int(metrics_of(tmp_path / "whole")[0]["updates"])
    _killed(tmp_path / "killed", monkeypatch, first + 2)
    updates, again = _gone_on(tmp_path / "killed", monkeypatch)
    assert updates[0] == first - first % 3 + 1 > 1
    jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)
    assert metrics_of(tmp_path / "killed") == metrics_of(tmp_path / "whole")


@pytest.mark.parametrize("name", ["units.npz", "reported_00003.npz", "checkpoints/step_00000003/state"])
def test_a_damaged_checkpoint_costs_updates_and_no_more(tmp_path, monkeypatch, caplog, name):
    whole = toy_self_play.run(tmp_path / "whole", config=MANY)
    (iteration,) = _killed(tmp_path / "killed", monkeypatch, 6).iterdir()
    path = iteration / name
    if path.is_dir():
        path = max((file for file in path.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    updates, again = _gone_on(tmp_path / "killed", monkeypatch)
    assert updates[0] == 1
    assert "damaged; goes on from an earlier checkpoint" in caplog.text
    jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)


@pytest.mark.parametrize(("max_staleness", "lost"), [(0, 0), (1, 0), (1, 1)])
def test_rollouts_that_are_gone_are_not_drawn_by_a_policy_between_updates(
    tmp_path, monkeypatch, max_staleness, lost
):
    config = dataclasses.replace(MANY, max_staleness=max_staleness)
    _killed(tmp_path, monkeypatch, 6, config)
    (tmp_path / "rollouts" / f"iteration_{lost:05d}.jsonl").unlink()
    with pytest.raises(WrongUse, match=f"rollouts of iteration {lost} are missing"):
        toy_self_play.run(tmp_path, config=config)


def test_the_newer_of_both_kinds_of_checkpoints_is_gone_on_from(tmp_path, monkeypatch):
    config = dataclasses.replace(MANY, checkpoint_every=1)
    whole = toy_self_play.run(tmp_path / "whole", config=config)
    first = int(metrics_of(tmp_path / "whole")[0]["updates"])
    # After the end of the first iteration, before the second one has units.
    with monkeypatch.context() as patch:
        kill_at(patch, PolicyUpdates, "units", 2)
        with pytest.raises(Killed):
            toy_self_play.run(tmp_path / "between", config=config)
    updates, again = _gone_on(tmp_path / "between", monkeypatch, config)
    assert updates[0] == first + 1
    jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)
    # Within the second, whose first policy has a checkpoint as well.
    _killed(tmp_path / "within", monkeypatch, first + 5, config)
    updates, again = _gone_on(tmp_path / "within", monkeypatch, config)
    assert updates[0] == first + 4
    jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)


def test_the_first_policy_is_not_evaluated_again_within_the_first_iteration(tmp_path, monkeypatch):
    def settings(name):
        return {"config": MANY, "held_out": toy_self_play.held_out(tmp_path / name, every=1)}

    whole = toy_self_play.run(tmp_path / "whole", **settings("whole"))
    with monkeypatch.context() as patch:
        kill_at(patch, nonfinite_batches.StepsInFlight, "add", 6)
        with pytest.raises(Killed):
            toy_self_play.run(tmp_path / "killed", **settings("killed"))
    again = toy_self_play.run(tmp_path / "killed", **settings("killed"))
    jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)
    assert metrics_of(tmp_path / "killed") == metrics_of(tmp_path / "whole")
    assert len(metrics_of(tmp_path / "whole")) == 3


def test_rollouts_under_way_are_stored_before_a_checkpoint(tmp_path, monkeypatch):
    """A resumed run has no policy to draw the rest with."""
    calls = []
    for owner, name in ((RunAhead, "settle"), (UpdateCheckpoints, "save")):
        function = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, f=function, name=name: calls.append(name) or f(*args))
    toy_self_play.run(tmp_path, config=dataclasses.replace(MANY, max_staleness=1))
    assert "save" in calls
    assert all(calls[i - 1] == "settle" for i, name in enumerate(calls) if name == "save")


def test_units_come_back_as_they_were(tmp_path):
    rng = np.random.default_rng(0)

    def example(size):
        values = {name: rng.normal(size=size) for name in ("advantages", "old_log_probs")}
        return TokenExample(prompt_ids=rng.integers(0, 9, 3), completion_ids=range(size), token_values=values)

    units = [(example(2), example(5)), (example(1), example(3)), (example(4),)]
    directory = epath.Path(tmp_path) / "updates"
    kept = UpdateCheckpoints(directory, 7)
    kept.begin(units)
    kept.save({"a": np.float32(3)}, [[np.arange(2.0), np.float32(1)], [np.arange(2.0), np.float32(2)]])
    kept.close()
    found = UpdateCheckpoints.newest(directory)
    assert found is not None
    state, again, reported = found.restore({"a": jax.ShapeDtypeStruct((), np.float32)})
    assert found.iteration == 7
    assert float(state["a"]) == 3
    assert [float(leaves[1]) for leaves in reported] == [1.0, 2.0]
    assert [len(unit) for unit in again] == [2, 2, 1]
    for one, other in zip(sum(units, ()), sum(again, ()), strict=True):
        np.testing.assert_array_equal(one.prompt_ids, other.prompt_ids)
        np.testing.assert_array_equal(one.completion_ids, other.completion_ids)
        assert one.token_values.keys() == other.token_values.keys()
        for name, values in one.token_values.items():
            np.testing.assert_array_equal(values, other.token_values[name])
    found.close()
    later = UpdateCheckpoints(directory, 8)
    later.begin(units[:1])
    newest = UpdateCheckpoints.newest(directory)
    assert newest is not None
    assert newest.iteration == 7  # until the later one has a checkpoint
    later.close()
    update_checkpoints.remove(directory)
    assert not directory.exists()
