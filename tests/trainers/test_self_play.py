"""The iterations of self-play: what is drawn, left out and trained on, and that a kill changes nothing."""

import dataclasses
import logging

import jax
import numpy as np
import pytest

from promptcot_jax.checkpoints import store
from promptcot_jax.core import jsonl, shards
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import CompletionSample
from promptcot_jax.models import lora
from promptcot_jax.sampling import engine, journal, scoring
from promptcot_jax.trainers import nonfinite_batches, packed_scores, policy_updates, self_play
from promptcot_jax.trainers.dpo import Dpo
from promptcot_jax.trainers.grpo import Grpo
from promptcot_jax.trainers.rejection import RejectionSampling
from promptcot_jax.verify.rewards import RewardConfig
from tests.cases import some_fast
from tests.trainers import toy_self_play
from tests.trainers.toy_self_play import (
    CONFIG,
    SAMPLING,
    TOKENIZER,
    Killed,
    by_bytes,
    files_of,
    kill_at,
    metrics_of,
    rollouts_of,
    samples_of,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Directory and outcome of a run that nothing disturbs."""
    directory = tmp_path_factory.mktemp("whole")
    return directory, toy_self_play.run(directory)


def test_a_rollout_says_where_it_comes_from(whole):
    directory, outcome = whole
    found = rollouts_of(directory)
    group_size, lm = SAMPLING.group_size, toy_self_play.toy_lm()
    assert [rollout.index for rollout in found] == list(range(outcome.num_prompts * group_size))
    assert all(rollout.index == rollout.group * group_size + rollout.sample for rollout in found)
    assert {rollout.iteration for rollout in found} == set(range(CONFIG.num_iterations))
    digests = {rollout.iteration: rollout.policy_digest for rollout in found}
    assert digests[0] == store.params_digest(lm.init(jax.random.key(0)))
    assert len({*digests.values()}) == CONFIG.num_iterations  # the policy changes from iteration to iteration
    for rollout in found:
        ended = rollout.token_ids[-1] in TOKENIZER.stop_ids
        assert rollout.completion == TOKENIZER.decode(rollout.token_ids[: -1 if ended else None])
        assert rollout.correct == by_bytes("", rollout.completion) == rollout.reward
        assert (rollout.token_ids[-1] in TOKENIZER.stop_ids) == ended


def test_the_samplers_log_probs_are_those_of_the_policy_at_the_temperature(tmp_path):
    sampling = dataclasses.replace(SAMPLING.sampling, temperature=0.7)
    toy_self_play.run(
        tmp_path,
        rollouts=dataclasses.replace(SAMPLING, sampling=sampling),
        config=dataclasses.replace(CONFIG, num_iterations=1, units_per_update=16),
    )
    lm, found = toy_self_play.toy_lm(), rollouts_of(tmp_path)
    scores = scoring.score(
        lm,
        lm.init(jax.random.key(0)),
        [rollout.prompt_ids for rollout in found],
        [rollout.token_ids for rollout in found],
        temperature=0.7,
    )
    for rollout, expected in zip(found, scores, strict=True):
        np.testing.assert_allclose(journal.floats_of(rollout.sampler_log_probs), expected, atol=1e-4)
    (row,) = metrics_of(tmp_path)  # one update: on policy, by its own pass
    assert row["ratio/max"] == row["ratio/min"] == 1.0
    assert row["sampling/sampling_logp_difference/max"] < 1e-4


def test_old_log_probs_are_scored_at_the_temperature_of_sampling(tmp_path):
    """Two updates, so that they are scored: they are then the sampler's, but for rounding."""
    sampling = dataclasses.replace(SAMPLING.sampling, temperature=0.7)
    toy_self_play.run(
        tmp_path,
        rollouts=dataclasses.replace(SAMPLING, sampling=sampling),
        config=dataclasses.replace(CONFIG, num_iterations=1),
    )
    (row,) = metrics_of(tmp_path)
    assert row["updates"] == 2
    assert row["sampling/sampling_logp_difference/max"] < 1e-4


def test_ratios_refer_to_the_policy_that_drew_the_iteration(whole):
    """The second update of an iteration is off policy by what the first one did (a single one: see above)."""
    directory, _ = whole
    for row in metrics_of(directory):
        assert row["updates"] == 2
        assert max(row["ratio/max"] - 1, 1 - row["ratio/min"]) > 1e-2
        assert row["policy_kl"] > 0


def test_figures_of_a_iteration_are_those_of_its_rollouts(whole):
    directory, _ = whole
    for row in metrics_of(directory, with_times=True):
        own = [rollout for rollout in rollouts_of(directory) if rollout.iteration == row["step"] - 1]
        groups = {rollout.group: [] for rollout in own}
        for rollout in own:
            groups[rollout.group].append(rollout.correct)
        alike = [len({*verdicts}) == 1 for verdicts in groups.values()]
        assert row["groups/drawn"] == len(groups)
        assert row["groups/used"] == min(len(groups) - sum(alike), CONFIG.prompts_per_iteration)
        assert row["sequences"] == row["groups/used"] * SAMPLING.group_size
        np.testing.assert_allclose(row["frac_reward_zero_std"], np.mean(alike))
        np.testing.assert_allclose(row["reward"], np.mean([rollout.reward for rollout in own]))
        lengths = [len(rollout.token_ids) for rollout in own]
        np.testing.assert_allclose(row["completions/mean_length"], np.mean(lengths))
        cut_off = [rollout.finish_reason == "length" for rollout in own]
        np.testing.assert_allclose(row["completions/clipped_ratio"], np.mean(cut_off))
        parts = [row[f"seconds/{name}"] for name in ("sampling", "grading", "scoring", "training", "other")]
        np.testing.assert_allclose(sum(parts), row["seconds"], atol=1e-3)
        assert min(parts) >= 0


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    some_fast(
        [
            (engine.Engine, "stream", 0),  # with some completions drawn
            (toy_self_play.ToyGrader, "_verdicts", 2),  # in the first iteration
            (toy_self_play.ToyGrader, "_verdicts", 9),
            (packed_scores, "score", 4),  # while the second iteration is scored
            (nonfinite_batches.StepsInFlight, "add", 2),  # between the updates of the first iteration
            (nonfinite_batches.StepsInFlight, "add", 6),  # after a checkpoint
            (nonfinite_batches.StepsInFlight, "add", 8),
            (self_play.MetricsLog, "write", 3),  # updates done, row not written
            (self_play.SampleLog, "add", 4),  # drawn, samples not written
            (self_play.TrainingCheckpoints, "save", 2),
            (journal, "remove", 2),  # the file is whole, and its shards are still there
            (shards.ShardedRecords, "put_together", 2),
        ],
        fast=(0, 4, 6, 10),
    ),
)
def test_a_killed_run_ends_in_the_same_bits(whole, tmp_path, monkeypatch, owner, name, call):
    directory, outcome = whole
    with monkeypatch.context() as patch:
        if call:
            kill_at(patch, owner, name, call)
        else:
            _kill_while_drawing(patch, completions=21)
        with pytest.raises(Killed):
            toy_self_play.run(tmp_path)
    again = toy_self_play.run(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again.params, outcome.params)
    assert (again.num_prompts, again.num_updates) == (outcome.num_prompts, outcome.num_updates)
    assert files_of(tmp_path) == files_of(directory)
    assert metrics_of(tmp_path) == metrics_of(directory)
    assert samples_of(tmp_path) == samples_of(directory)


def test_samples_to_read_are_rollouts_of_their_iteration_with_their_prompt(whole):
    directory, _ = whole
    samples = jsonl.read_records(directory / "self_play" / "samples.jsonl", CompletionSample)
    assert sorted({sample.iteration for sample in samples}) == [0, 3, 4]
    stored = {
        (rollout.iteration, rollout.group, rollout.sample): rollout for rollout in rollouts_of(directory)
    }
    for sample in samples:
        rollout = stored[sample.iteration, sample.group, sample.sample]
        assert (sample.completion, sample.reward) == (rollout.completion, rollout.reward)
        assert sample.prompt == sample.problem == f"{sample.reference}=" == f"{rollout.prompt_id[1:]}="
        if sample.kind != "random":
            rewards = [other.reward for place, other in stored.items() if place[0] == sample.iteration]
            assert sample.reward == (max if sample.kind == "best" else min)(rewards)


@pytest.mark.parametrize("algorithm", some_fast([Dpo(solved_below=1.0), RejectionSampling(solved_below=1.0)]))
def test_the_other_methods_learn_from_the_same_store_and_resume_alike(tmp_path, monkeypatch, algorithm):
    config = dataclasses.replace(CONFIG, num_iterations=3, units_per_update=4)
    undisturbed = _assert_killed_run_ends_alike(tmp_path, monkeypatch, algorithm, config, update=4)
    rows = metrics_of(tmp_path / "killed")
    num_units = [row["sequences"] // algorithm.sequences_per_unit for row in rows]
    assert undisturbed.num_updates == sum(-(-n // 4) for n in num_units) > 3
    pairs_or_right = [row["sequences"] for row in rows]
    by_iteration = [
        [r for r in rollouts_of(tmp_path / "whole") if r.iteration == iteration] for iteration in range(3)
    ]
    if isinstance(algorithm, RejectionSampling):
        assert all(
            0 < n <= sum(r.correct for r in own) for n, own in zip(pairs_or_right, by_iteration, strict=True)
        )
    else:
        assert all(n % 2 == 0 for n in pairs_or_right)
        # The reference is the policy that drew the iteration: the first update begins at log 2.
        assert all(0.3 < row["loss"] < np.log(2) + 0.05 for row in rows)
        assert {"rewards/margins", "rewards/accuracies"} <= rows[0].keys()


@pytest.mark.parametrize("algorithm", [Dpo(solved_below=1.0), Grpo(kl_beta=0.01)])
def test_a_reference_that_is_scored_again_gives_the_same_bits(tmp_path, monkeypatch, algorithm):
    """Killed in the updates of its second iteration, without a checkpoint: both iterations are made again."""
    units = 2 if isinstance(algorithm, Dpo) else CONFIG.units_per_update
    config = dataclasses.replace(CONFIG, num_iterations=2, units_per_update=units)
    _assert_killed_run_ends_alike(tmp_path, monkeypatch, algorithm, config, update=4)


def _assert_killed_run_ends_alike(tmp_path, monkeypatch, algorithm, config, *, update):
    """Killed at an update and gone on: parameters and metrics of the undisturbed run, which comes back."""
    undisturbed = toy_self_play.run(tmp_path / "whole", algorithm=algorithm, config=config)
    with monkeypatch.context() as patch:
        kill_at(patch, nonfinite_batches.StepsInFlight, "add", update)
        with pytest.raises(Killed):
            toy_self_play.run(tmp_path / "killed", algorithm=algorithm, config=config)
    again = toy_self_play.run(tmp_path / "killed", algorithm=algorithm, config=config)
    jax.tree.map(np.testing.assert_array_equal, again.params, undisturbed.params)
    assert metrics_of(tmp_path / "killed") == metrics_of(tmp_path / "whole")
    return undisturbed


def _kill_while_drawing(patch, *, completions):
    """Kills the run when so many completions have been drawn, of which some had reached the journal."""
    stream, drawn = engine.Engine.stream, []
    patch.setattr(journal, "_COMPLETIONS_PER_PART", 2)

    def watched(self, *args, **kwargs):
        for item in stream(self, *args, **kwargs):
            drawn.append(1)
            if len(drawn) == completions:
                raise Killed
            yield item

    patch.setattr(engine.Engine, "stream", watched)


def test_stored_rollouts_are_not_drawn_again(whole, tmp_path, monkeypatch):
    """After a kill in the last update all is drawn: the updates since the checkpoint are made again."""
    with monkeypatch.context() as patch:
        kill_at(patch, nonfinite_batches.StepsInFlight, "add", 10)
        with pytest.raises(Killed):
            toy_self_play.run(tmp_path)
    monkeypatch.setattr(engine.Engine, "stream", None)
    again = toy_self_play.run(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again.params, whole[1].params)


def test_prompts_without_contrast_leave_and_others_take_their_place(tmp_path):
    """Answers 0 to 4 are always right, 5 always wrong; the others tell their samples apart."""

    def verdict(answer, text):
        return answer < "5" or (answer > "5" and by_bytes(answer, text))

    config = dataclasses.replace(CONFIG, num_iterations=3, prompts_per_iteration=3, max_tries=8)
    toy_self_play.run(tmp_path, verdict=verdict, config=config)
    rows = metrics_of(tmp_path)
    assert all(row["groups/used"] == 3 for row in rows)
    assert any(row["groups/drawn"] > 3 for row in rows)
    assert sum(row["groups/all_right"] for row in rows) > 0
    for row in rows:
        shares = [row[f"groups/{kind}"] for kind in ("mixed", "all_right", "all_wrong", "ungraded")]
        np.testing.assert_allclose(sum(shares), 1)
        np.testing.assert_allclose(row["frac_reward_zero_std"], shares[1] + shares[2])


def test_a_shaped_reward_does_not_make_a_contrast(tmp_path):
    """All are wrong and their lengths differ: that is not what the policy is to learn from."""
    shaped = RewardConfig(length_weight=1.0, length_limit=3, length_buffer=2)

    class Shaped(toy_self_play.ToyGrader):
        def _verdicts(self, draws, texts, num_tokens):
            wrong = super()._verdicts(draws, texts, num_tokens)
            return [dataclasses.replace(w, length=-n / 3) for w, n in zip(wrong, num_tokens, strict=True)]

    grader = Shaped(
        tokenizer=TOKENIZER, config=shaped, run_many=lambda jobs: [], verdict=lambda answer, text: False
    )
    config = dataclasses.replace(CONFIG, num_iterations=1, max_tries=2)
    outcome = toy_self_play.run(tmp_path, grader=grader, config=config)
    assert outcome.num_updates == 0
    assert len({rollout.reward for rollout in rollouts_of(tmp_path)}) > 1


def test_a_iteration_without_use_leaves_the_policy_and_says_why(tmp_path, caplog):
    config = dataclasses.replace(CONFIG, num_iterations=2, max_tries=2)
    with caplog.at_level(logging.INFO, "promptcot_jax"):
        outcome = toy_self_play.run(tmp_path, verdict=lambda answer, text: True, config=config)
    start = toy_self_play.toy_lm().init(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, outcome.params, start)
    assert (outcome.num_updates, outcome.num_prompts) == (0, 2 * 2 * 4)
    assert "no update; of 8 prompts all samples are right for 8, all wrong for 0" in caplog.text
    for row in metrics_of(tmp_path):
        assert (row["groups/drawn"], row["groups/used"], row["frac_reward_zero_std"]) == (8, 0, 1.0)
        assert "loss" not in row


def test_what_could_not_be_graded_drops_out_and_the_others_keep_their_worth(tmp_path, monkeypatch):
    seen = []
    update = policy_updates.PolicyUpdates.update

    def watched(self, iteration, units, *args, **kwargs):
        seen.extend(row for unit in units for row in unit)
        return update(self, iteration, units, *args, **kwargs)

    monkeypatch.setattr(policy_updates.PolicyUpdates, "update", watched)

    def verdict(answer, text):
        number = sum(text.encode())
        return "sandbox_error" if number % 5 == 0 else number % 3 == 0

    config = dataclasses.replace(CONFIG, num_iterations=2)
    toy_self_play.run(tmp_path, verdict=verdict, config=config)
    by_ids = {(r.prompt_ids, r.token_ids): r for r in rollouts_of(tmp_path)}
    assert any(not rollout.graded for rollout in by_ids.values())
    for row in seen:
        rollout = by_ids[tuple(row.prompt_ids.tolist()), tuple(row.completion_ids.tolist())]
        assert rollout.graded
        assert (row.token_values["advantages"] > 0).all() == rollout.correct
    assert all(0 < row["reward/ungraded"] < 1 for row in metrics_of(tmp_path))
    for row in metrics_of(tmp_path):
        np.testing.assert_allclose(row["reward/status/sandbox_error"], row["reward/ungraded"])


def _break_a_score(monkeypatch):
    """Log-probabilities of one sequence become no numbers: the first of a row."""
    score, calls = packed_scores.score, []

    def broken(*args, batch, **kwargs):
        scores, is_first = np.array(score(*args, batch=batch, **kwargs)), not calls
        calls.append(None)
        scores[0][is_first & (batch.segment_ids[0] == 1)] = np.nan
        return scores

    monkeypatch.setattr(packed_scores, "score", broken)


def test_a_log_prob_that_is_no_number_never_reaches_an_update(tmp_path, monkeypatch):
    _break_a_score(monkeypatch)
    outcome = toy_self_play.run(tmp_path, config=dataclasses.replace(CONFIG, num_iterations=1))
    (row,) = metrics_of(tmp_path)
    assert row["sequences"] == row["groups/used"] * SAMPLING.group_size - 1
    assert row["num_skipped"] == 0
    assert np.isfinite(row["loss"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(outcome.params))


ALGORITHMS = [Grpo(), Dpo(solved_below=1.0), RejectionSampling(solved_below=1.0)]


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda algorithm: type(algorithm).__name__)
@pytest.mark.parametrize("fault", ["sampler", "reward", "empty"])
def test_what_cannot_be_learned_from_drops_out_under_every_method(tmp_path, monkeypatch, algorithm, fault):
    """A sampler's log-probability or a reward that is no number, and a completion of no tokens."""

    class Broken(toy_self_play.ToyGrader):
        def _verdicts(self, draws, texts, num_tokens):
            verdicts = super()._verdicts(draws, texts, num_tokens)
            if fault == "reward":
                verdicts[0] = dataclasses.replace(verdicts[0], length=np.nan)
            return verdicts

        def rollouts(self, draws, completions, **settings):
            first = completions[0]
            if fault == "sampler":
                values = first.sampler_log_probs.copy()
                values[0] = np.nan
                first = dataclasses.replace(first, sampler_log_probs=values)
            elif fault == "empty":
                none = np.zeros(0, np.float32)
                first = dataclasses.replace(first, token_ids=(), log_probs=none, sampler_log_probs=none)
            return super().rollouts(draws, [first, *completions[1:]], **settings)

    grader = Broken(
        tokenizer=TOKENIZER,
        config=RewardConfig(length_weight=1.0, length_limit=3),
        run_many=lambda jobs: [],
        verdict=by_bytes,
    )
    config = dataclasses.replace(CONFIG, num_iterations=2)
    outcome = toy_self_play.run(tmp_path, grader=grader, algorithm=algorithm, config=config)
    status = "empty" if fault == "empty" else "not_finite"
    for row in metrics_of(tmp_path):
        assert row["reward/ungraded"] == row[f"reward/status/{status}"] > 0
        assert row["num_skipped"] == 0
        assert np.isfinite(row["loss"])
    assert outcome.num_updates >= 2
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(outcome.params))
    for rollout in rollouts_of(tmp_path):
        assert rollout.graded or (rollout.reward, rollout.correct) == (0.0, False)


def test_a_pair_with_a_reference_that_is_no_number_leaves_whole(tmp_path, monkeypatch, caplog):
    _break_a_score(monkeypatch)
    algorithm, config = Dpo(solved_below=1.0), dataclasses.replace(CONFIG, num_iterations=1)
    with caplog.at_level(logging.WARNING, "promptcot_jax"):
        toy_self_play.run(tmp_path, algorithm=algorithm, config=config)
    (row,) = metrics_of(tmp_path)
    groups = {}
    for rollout in rollouts_of(tmp_path):
        groups.setdefault(rollout.group, []).append(rollout.correct)
    mixed = [own for own in groups.values() if len({*own}) == 2][: CONFIG.prompts_per_iteration]
    num_pairs = sum(min(own.count(True), own.count(False)) for own in mixed)
    assert row["sequences"] == 2 * (num_pairs - 1)
    assert (row["num_skipped"], np.isfinite(row["loss"])) == (0, True)
    assert f"iteration 0: 1 of {num_pairs} pairs left out" in caplog.text


def test_a_iteration_without_use_is_passed_over_with_the_samplers_log_probs_too(tmp_path):
    outcome = toy_self_play.run(
        tmp_path,
        verdict=lambda answer, text: False,
        algorithm=Grpo(sampler_correction="none"),
        config=dataclasses.replace(CONFIG, num_iterations=1, max_tries=1, old_log_probs="sampled"),
    )
    assert outcome.num_updates == 0


def test_the_reference_of_a_kl_term_is_the_policy_at_the_start(tmp_path):
    """It grows where it weighs nothing, and holds the policy back where it weighs much."""
    config = dataclasses.replace(CONFIG, num_iterations=3)
    kl = {}
    for beta in (1e-9, 10.0):
        toy_self_play.run(tmp_path / str(beta), algorithm=Grpo(kl_beta=beta), config=config)
        kl[beta] = [row["kl"] for row in metrics_of(tmp_path / str(beta))]
    assert 0 < kl[1e-9][0] < kl[1e-9][1] < kl[1e-9][2]
    assert kl[10.0][2] < 0.7 * kl[1e-9][2]


def test_dpo_takes_its_reference_anew_in_each_iteration_or_keeps_the_first(tmp_path):
    config = dataclasses.replace(CONFIG, num_iterations=2)
    rows = {}
    for reference in ("iteration", "start"):
        algorithm = Dpo(solved_below=1.0, reference=reference)
        toy_self_play.run(tmp_path / reference, algorithm=algorithm, config=config)
        rows[reference] = metrics_of(tmp_path / reference)
    assert rows["start"][0] == rows["iteration"][0]
    # To the policy before the second iteration the log-ratios begin at 0; to the first they hold more.
    for name in ("rewards/chosen", "rewards/rejected"):
        assert abs(rows["start"][1][name]) > abs(rows["iteration"][1][name])


@pytest.mark.slow
def test_dpo_with_the_first_reference_does_not_drift_as_with_a_moving_one(tmp_path):
    """KL of the next byte after each prompt, to the policy at the start, after 20 and 60 iterations."""
    lm = toy_self_play.toy_lm()
    prompts = [list(TOKENIZER.encode(f"{i}=")) for i in range(10)]

    def log_probs(params):
        rows = [(prompt, [byte]) for prompt in prompts for byte in range(256)]
        return np.concatenate(scoring.score(lm, params, *zip(*rows, strict=True))).reshape(10, 256)

    first = log_probs(lm.init(jax.random.key(0)))
    drift = {}
    for reference in ("iteration", "start"):
        for num_iterations in (20, 60):
            outcome = toy_self_play.run(
                tmp_path / f"{reference}_{num_iterations}",
                algorithm=Dpo(solved_below=1.0, reference=reference, beta=20.0),
                config=dataclasses.replace(CONFIG, num_iterations=num_iterations, units_per_update=4),
            )
            last = log_probs(outcome.params)
            drift[reference, num_iterations] = float((np.exp(last) * (last - first)).sum(1).mean())
    assert drift["iteration", 60] > 1.5 * drift["iteration", 20]
    assert drift["start", 60] < 1.3 * drift["start", 20]
    assert drift["start", 60] < 0.7 * drift["iteration", 60]


@pytest.mark.slow
def test_an_adapter_is_trained_beside_a_frozen_base_and_resumes(tmp_path, monkeypatch):
    settings = {
        "adapter": lora.LoraConfig(rank=2, alpha=4.0),
        "algorithm": Grpo(kl_beta=0.01),
        "config": dataclasses.replace(CONFIG, num_iterations=2, checkpoint_every=1),
    }
    undisturbed = toy_self_play.run(tmp_path / "whole", **settings)
    base = toy_self_play.toy_lm().init(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, lora.base_of(undisturbed.params), base)
    assert np.abs(undisturbed.params["layers"]["self_attn"]["q_proj"]["lora_b"]).max() > 0
    with monkeypatch.context() as patch:
        kill_at(patch, nonfinite_batches.StepsInFlight, "add", 4)
        with pytest.raises(Killed):
            toy_self_play.run(tmp_path / "killed", **settings)
    again = toy_self_play.run(tmp_path / "killed", **settings)
    jax.tree.map(np.testing.assert_array_equal, again.params, undisturbed.params)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rollouts": dataclasses.replace(SAMPLING, group_size=1)}, "group_size to at least 2"),
        (
            {
                "rollouts": dataclasses.replace(
                    SAMPLING, sampling=dataclasses.replace(SAMPLING.sampling, top_p=0.9)
                )
            },
            "Set them to 1, 0 and 0",
        ),
        ({"config": dataclasses.replace(CONFIG, row_length=4)}, "row_length=4, but .* 5 tokens"),
        ({"config": dataclasses.replace(CONFIG, old_log_probs="sampled")}, "sampler_correction to 'none'"),
        ({"algorithm": Grpo(single_update=True)}, "an iteration makes 2 updates"),
    ],
)
def test_what_would_train_on_something_else_is_refused(tmp_path, changes, message):
    with pytest.raises(WrongUse, match=message):
        toy_self_play.run(tmp_path, **changes)
    assert not list(tmp_path.iterdir())
