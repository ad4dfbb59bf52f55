"""Rollouts one iteration ahead: which policy draws, what ratios refer to, no trace of kills and threads."""

import dataclasses
import threading
import time
import traceback

import jax
import numpy as np
import pytest
from etils import epath

from promptcot_jax.checkpoints import store
from promptcot_jax.core import shards
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data.prompt_stream import PromptStream
from promptcot_jax.models import causal_lm, lora
from promptcot_jax.parallel import hosts, rules
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.sampling import engine, journal, rollouts, scoring
from promptcot_jax.trainers import nonfinite_batches, policy_updates, self_play
from promptcot_jax.trainers.dpo import Dpo
from promptcot_jax.trainers.grpo import Grpo
from promptcot_jax.trainers.rejection import RejectionSampling
from promptcot_jax.trainers.rollout_collector import Position, RolloutBatch, RolloutCollector, RunAhead
from tests.cases import some_fast
from tests.trainers import toy_self_play
from tests.trainers.toy_self_play import (
    CONFIG,
    SAMPLING,
    Killed,
    files_of,
    kill_at,
    metrics_of,
    rollouts_of,
)

AHEAD = dataclasses.replace(CONFIG, max_staleness=1)
_SAMPLES = CONFIG.prompts_per_iteration * SAMPLING.group_size  # of an iteration of one try


def play(directory, **changes):
    return toy_self_play.run(directory, **({"config": AHEAD} | changes))


def no_thread_is_left():
    return not [thread.name for thread in threading.enumerate() if thread.name.startswith("run_ahead")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Directory and outcome of a run that nothing disturbs, and the digests of its policies."""
    directory, digests = tmp_path_factory.mktemp("ahead"), []
    update = policy_updates.PolicyUpdates.update

    def watched(self, iteration, units, state, frozen, **settings):
        digests.append(store.params_digest(lora.join(state.params, frozen)))
        return update(self, iteration, units, state, frozen, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy_updates.PolicyUpdates, "update", watched)
        outcome = play(directory)
    return directory, outcome, digests


def test_a_iteration_is_drawn_by_the_policy_from_before_the_updates_of_the_last_one(whole):
    directory, outcome, digests = whole
    drew = {rollout.iteration: rollout.policy_digest for rollout in rollouts_of(directory)}
    assert len({*digests}) == CONFIG.num_iterations
    assert drew == {0: digests[0], 1: digests[0], 2: digests[1], 3: digests[2], 4: digests[3]}
    assert [row["staleness"] for row in metrics_of(directory)] == [0, 1, 1, 1, 1]
    found = rollouts_of(directory)
    assert [r.index for r in found] == list(range(outcome.num_prompts * SAMPLING.group_size))
    assert no_thread_is_left()


def test_without_staleness_each_iteration_is_drawn_by_the_policy_that_it_improves(tmp_path):
    toy_self_play.run(tmp_path, config=dataclasses.replace(CONFIG, num_iterations=2))
    assert [row["staleness"] for row in metrics_of(tmp_path)] == [0, 0]
    assert all("seconds/waiting" not in row for row in metrics_of(tmp_path, with_times=True))


def test_the_seconds_of_a_iteration_add_up(whole):
    for row in metrics_of(whole[0], with_times=True):
        parts = [row[f"seconds/{name}"] for name in ("waiting", "scoring", "training", "other")]
        np.testing.assert_allclose(sum(parts), row["seconds"], atol=1e-3)
        assert min(parts) >= 0
        assert row["seconds/sampling"] > 0


def test_old_log_probs_are_the_current_policys_and_the_samplers_those_of_what_drew(tmp_path, monkeypatch):
    units_of, policies, made = policy_updates.PolicyUpdates.units, [], []

    def watched(self, iteration, groups, params, start):
        policies.append(jax.tree.map(np.array, params))
        made.append(units_of(self, iteration, groups, params, start))
        return made[-1]

    monkeypatch.setattr(policy_updates.PolicyUpdates, "units", watched)
    play(tmp_path, config=dataclasses.replace(AHEAD, num_iterations=3))
    for iteration, before in ((1, 0), (2, 1)):
        rows = [row for unit in made[iteration] for row in unit]
        prompts = [r.prompt_ids.tolist() for r in rows]
        completions = [r.completion_ids.tolist() for r in rows]
        for name, params in (("old_log_probs", policies[iteration]), ("sampler_log_probs", policies[before])):
            scores = scoring.score(toy_self_play.toy_lm(), params, prompts, completions)
            for row, expected in zip(rows, scores, strict=True):
                np.testing.assert_allclose(row.token_values[name], expected, atol=1e-4)
        gap = [np.abs(r.token_values["old_log_probs"] - r.token_values["sampler_log_probs"]) for r in rows]
        assert max(map(np.max, gap)) > 1e-2


def test_importance_weights_make_up_for_staleness_where_a_iteration_has_one_update(tmp_path):
    """No pass is spent on old log-probabilities: the update's own are the current policy's."""
    play(tmp_path, config=dataclasses.replace(AHEAD, num_iterations=3, units_per_update=16))
    first, *stale = metrics_of(tmp_path)
    assert first["sampling/sampling_logp_difference/max"] < 1e-4
    for row in stale:
        assert row["ratio/max"] == row["ratio/min"] == 1.0
        assert row["sampling/sampling_logp_difference/max"] > 1e-2
        assert row["sampling/importance_sampling_ratio/min"] < 1 - 1e-2


def test_drawing_and_updates_run_side_by_side(tmp_path, monkeypatch):
    """Grading of iteration 1 waits for an update of iteration 0, and that update for the grading to begin."""
    grading, updating = threading.Event(), threading.Event()
    update, verdicts = policy_updates.PolicyUpdates.update, toy_self_play.ToyGrader._verdicts

    def watched_update(self, iteration, units, state, frozen, **settings):
        if iteration == 0:
            updating.set()
            assert grading.wait(60)
        return update(self, iteration, units, state, frozen, **settings)

    def watched_verdicts(self, draws, texts, num_tokens):
        if draws[0].index >= _SAMPLES:
            grading.set()
            assert updating.wait(60)
        return verdicts(self, draws, texts, num_tokens)

    monkeypatch.setattr(policy_updates.PolicyUpdates, "update", watched_update)
    monkeypatch.setattr(toy_self_play.ToyGrader, "_verdicts", watched_verdicts)
    assert play(tmp_path, config=dataclasses.replace(AHEAD, num_iterations=2, max_tries=1)).num_updates == 4


def test_what_draws_beside_the_updates_shares_no_array_with_what_they_donate(tmp_path, monkeypatch):
    """With rules the decoding layout is the parameters themselves."""
    lm = causal_lm.CausalLM(toy_self_play.toy_lm().config, rules.DEFAULT_RULES)
    mesh, drew = mesh_lib.make_mesh(mesh_lib.MeshConfig()), []

    def collect(self, iteration, snapshot, position, **_):
        drew.append({id(leaf) for leaf in jax.tree.leaves(snapshot().sampler.params)})
        return RolloutBatch([], [], 0, 0, rollouts.Times(), position)

    monkeypatch.setattr(RolloutCollector, "collect", collect)
    collector = RolloutCollector(
        lm=lm,
        tokenizer=toy_self_play.TOKENIZER,
        stream=PromptStream(toy_self_play.tasks(), seed=0),
        grader=toy_self_play.graded_by(toy_self_play.by_bytes),
        config=SAMPLING,
        iterations=AHEAD,
        algorithm=Grpo(),
        directory=epath.Path(tmp_path),
    )
    with jax.set_mesh(mesh), RunAhead(collector, mesh, num_iterations=2, max_staleness=1) as ahead:
        params = lm.init(jax.random.key(0))
        ahead.draw(0, params, params, Position.first(collector.stream))
    trained, (at_once, beside) = {id(leaf) for leaf in jax.tree.leaves(params)}, drew
    assert at_once == trained
    assert not beside & trained


def test_a_checkpoint_comes_after_the_rollouts_that_a_resumed_run_begins_with(whole, tmp_path, monkeypatch):
    """Although grading takes far longer than the updates."""
    save, verdicts, saved = self_play.TrainingCheckpoints.save, toy_self_play.ToyGrader._verdicts, []

    def slow(self, *args):
        time.sleep(0.2)
        return verdicts(self, *args)

    def watched(self, step, position):
        files = {name for name in files_of(whole[0]) if name.startswith(f"rollouts/iteration_{step:05d}")}
        assert bool(files) == (step < AHEAD.num_iterations)  # there is no iteration after the last
        assert {name: files_of(tmp_path).get(name) for name in files} == {
            name: files_of(whole[0])[name] for name in files
        }
        saved.append(step)
        save(self, step, position)

    monkeypatch.setattr(toy_self_play.ToyGrader, "_verdicts", slow)
    monkeypatch.setattr(self_play.TrainingCheckpoints, "save", watched)
    outcome = play(tmp_path)
    assert saved == [2, 4, 5]
    jax.tree.map(np.testing.assert_array_equal, outcome.params, whole[1].params)


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    some_fast(
        [
            (toy_self_play.ToyGrader, "_verdicts", 2),  # in the first iteration, which nothing runs beside
            (toy_self_play.ToyGrader, "_verdicts", 9),  # in the thread
            (engine.Engine, "stream", 4),
            (nonfinite_batches.StepsInFlight, "add", 2),  # between updates, the thread at work
            (nonfinite_batches.StepsInFlight, "add", 6),  # after a checkpoint
            (nonfinite_batches.StepsInFlight, "add", 10),
            (self_play.MetricsLog, "write", 3),
            (self_play.TrainingCheckpoints, "save", 1),
            (self_play.TrainingCheckpoints, "save", 2),
            (shards.ShardedRecords, "put_together", 2),
            (journal, "remove", 3),
        ],
        fast=(1, 3, 7),
    ),
)
def test_a_killed_run_ends_in_the_same_bits(whole, tmp_path, monkeypatch, owner, name, call):
    directory, outcome, _ = whole
    with monkeypatch.context() as patch:
        kill_at(patch, owner, name, call)
        with pytest.raises(Killed):
            play(tmp_path)
    assert no_thread_is_left()
    again = play(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again.params, outcome.params)
    assert (again.num_prompts, again.num_updates) == (outcome.num_prompts, outcome.num_updates)
    assert files_of(tmp_path) == files_of(directory)
    assert metrics_of(tmp_path) == metrics_of(directory)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": Dpo(solved_below=1.0)},
        {"algorithm": RejectionSampling(solved_below=1.0)},
        {"algorithm": Grpo(kl_beta=0.01), "adapter": lora.LoraConfig(rank=2, alpha=4.0)},
    ],
    ids=["dpo", "rejection", "adapter"],
)
def test_every_method_runs_ahead_and_resumes(tmp_path, monkeypatch, changes):
    config = dataclasses.replace(AHEAD, num_iterations=3, checkpoint_every=1, units_per_update=4)
    undisturbed = play(tmp_path / "whole", config=config, **changes)
    with monkeypatch.context() as patch:
        kill_at(patch, nonfinite_batches.StepsInFlight, "add", 4)
        with pytest.raises(Killed):
            play(tmp_path / "killed", config=config, **changes)
    again = play(tmp_path / "killed", config=config, **changes)
    jax.tree.map(np.testing.assert_array_equal, again.params, undisturbed.params)
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")
    rows = metrics_of(tmp_path / "killed")
    assert rows == metrics_of(tmp_path / "whole")
    if isinstance(changes["algorithm"], Dpo):
        # The reference is the policy before the iteration's updates: the first of two begins at log 2.
        assert all(0.3 < row["loss"] < np.log(2) + 0.05 for row in rows)


@pytest.mark.slow
def test_eight_devices_draw_what_one_does(whole, tmp_path):
    """With rules the decoding layout shares arrays with the parameters, which the updates donate."""
    lm = toy_self_play.toy_lm()
    play(
        tmp_path,
        lm=type(lm)(lm.config, rules.DEFAULT_RULES),
        mesh=mesh_lib.make_mesh(mesh_lib.MeshConfig(data=2, fsdp=2, tensor=2)),
        config=dataclasses.replace(AHEAD, num_iterations=2, micro_batches=2),
    )
    assert [r.token_ids for r in rollouts_of(tmp_path)] == [
        r.token_ids for r in rollouts_of(whole[0]) if r.iteration < 2
    ]
    for row, expected in zip(metrics_of(tmp_path), metrics_of(whole[0]), strict=False):
        for name in ("loss", "grad_norm", "ratio/max", "reward"):
            np.testing.assert_allclose(row[name], expected[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_an_error_in_the_thread_ends_the_run_and_shows_where_it_was_raised(tmp_path):
    def verdict(answer, text):
        if (tmp_path / "rollouts" / "iteration_00001.jsonl").exists():
            raise ZeroDivisionError("a grader's own")
        return toy_self_play.by_bytes(answer, text)

    with pytest.raises(ZeroDivisionError, match="a grader's own") as caught:
        play(tmp_path, verdict=verdict)
    assert "verdict" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert no_thread_is_left()


def test_an_error_of_the_updates_does_not_wait_for_what_is_still_to_be_graded(tmp_path, monkeypatch):
    """The shards of the next iteration take a second each; none is begun after the error."""
    verdicts, graded, is_grading = toy_self_play.ToyGrader._verdicts, [], threading.Event()

    def slow(self, draws, texts, num_tokens):
        if draws[0].index >= _SAMPLES:
            is_grading.set()
            time.sleep(1)
            graded.append(draws[0].index)
        return verdicts(self, draws, texts, num_tokens)

    def failing(self, iteration, units, state, frozen, **settings):
        assert is_grading.wait(60)
        raise ArithmeticError("no update")

    monkeypatch.setattr(toy_self_play.ToyGrader, "_verdicts", slow)
    monkeypatch.setattr(policy_updates.PolicyUpdates, "update", failing)
    with pytest.raises(ArithmeticError, match="no update"):
        play(
            tmp_path,
            rollouts=dataclasses.replace(SAMPLING, requests_per_shard=1),
            config=dataclasses.replace(AHEAD, max_tries=1),
        )
    assert no_thread_is_left()
    assert len(graded) < 4


def test_rollouts_that_no_policy_can_draw_again_are_missed(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        kill_at(patch, nonfinite_batches.StepsInFlight, "add", 6)
        with pytest.raises(Killed):
            play(tmp_path)
    (tmp_path / "rollouts" / "iteration_00002.jsonl").unlink()
    with pytest.raises(WrongUse, match="rollouts of iteration 2 are missing, .* begin anew"):
        play(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": Grpo(sampler_correction="none")}, "another policy draws .* old_log_probs"),
        (
            {
                "algorithm": Grpo(sampler_correction="none", single_update=True),
                "config": dataclasses.replace(AHEAD, old_log_probs="sampled", units_per_update=16),
            },
            "another policy draws",
        ),
    ],
)
def test_stale_rollouts_are_not_taken_for_the_policys_own(tmp_path, changes, message):
    with pytest.raises(WrongUse, match=message):
        play(tmp_path, **changes)
    assert not list(tmp_path.iterdir())


def test_ratios_may_refer_to_the_policy_that_drew(tmp_path):
    """The sampler's log-probabilities as the old ones: the ratio itself makes up for staleness."""
    play(
        tmp_path,
        algorithm=Grpo(sampler_correction="none"),
        config=dataclasses.replace(AHEAD, num_iterations=2, units_per_update=16, old_log_probs="sampled"),
    )
    first, stale = metrics_of(tmp_path)
    assert max(first["ratio/max"] - 1, 1 - first["ratio/min"]) < 1e-3
    assert max(stale["ratio/max"] - 1, 1 - stale["ratio/min"]) > 1e-2


def test_more_than_one_process_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(hosts, "count", lambda: 2)
    with pytest.raises(WrongUse, match="for one process, and this run has 2"):
        play(tmp_path)


@pytest.mark.usefixtures("unchecked_types")
def test_only_0_and_1_are_bounds():
    with pytest.raises(ValueError, match=r"max_staleness must be one of \[0, 1\], got 2"):
        dataclasses.replace(CONFIG, max_staleness=2)
