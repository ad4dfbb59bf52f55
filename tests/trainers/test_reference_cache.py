"""Log-probabilities under the reference are scored once, kept in their bits, and never taken for others."""

import dataclasses

import jax
import numpy as np
import pytest
from etils import epath

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data.examples import TokenExample
from promptcot_jax.sampling import scoring
from promptcot_jax.trainers import reference_cache, train_step
from promptcot_jax.trainers.dpo import Dpo
from promptcot_jax.trainers.grpo import Grpo
from promptcot_jax.trainers.reference_cache import ReferenceCache, ScoredBy
from tests.trainers import toy_self_play
from tests.trainers.toy_self_play import CONFIG, Killed, kill_at, metrics_of

BY = ScoredBy(reference="a", temperature=1.0, sequences="s", devices="cpu")
SCORES = [np.array([-0.1, -1e-30], np.float32), np.array([np.nan], np.float32), np.array([-3], np.float32)]
LENGTHS = [2, 1, 1]
ALGORITHMS = [Dpo(solved_below=1.0), Grpo(kl_beta=0.01)]


def never():
    raise AssertionError("scored again")


def bits(scores):
    return [values.view(np.int32).tolist() for values in scores]


def test_what_was_scored_comes_back_in_its_bits_and_is_not_scored_again(tmp_path):
    cache = ReferenceCache(directory=epath.Path(tmp_path) / "reference", keep=2)
    assert bits(cache.scores(3, BY, LENGTHS, lambda: SCORES)) == bits(SCORES)
    assert bits(cache.scores(3, BY, LENGTHS, never)) == bits(SCORES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"reference": "b"},
            r"iteration_00003.npz.* stale: .* reference changed \(a, now b\).* delete the file",
        ),
        ({"temperature": 0.5}, r"temperature changed \(1.0, now 0.5\)"),
        ({"sequences": "t"}, "sequences changed"),
    ],
)
def test_a_stale_file_is_refused_and_stays(tmp_path, change, message):
    cache = ReferenceCache(directory=epath.Path(tmp_path), keep=2)
    cache.scores(3, BY, LENGTHS, lambda: SCORES)
    with pytest.raises(WrongUse, match=message):
        cache.scores(3, dataclasses.replace(BY, **change), LENGTHS, never)
    assert bits(cache.scores(3, BY, LENGTHS, never)) == bits(SCORES)


def test_what_other_devices_scored_is_scored_again(tmp_path):
    """A preempted run may go on on another slice, and its policy is then another one by rounding."""
    cache, others = (
        ReferenceCache(directory=epath.Path(tmp_path), keep=2),
        dataclasses.replace(BY, reference="b"),
    )
    cache.scores(3, BY, LENGTHS, lambda: SCORES)
    elsewhere = dataclasses.replace(others, devices="tpu")
    assert bits(cache.scores(3, elsewhere, LENGTHS, lambda: SCORES[::-1])) == bits(SCORES[::-1])
    with pytest.raises(WrongUse, match="reference changed"):
        cache.scores(3, dataclasses.replace(elsewhere, reference="c"), LENGTHS, never)


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "iteration_00000.npz").write_bytes(b"half a fi")
    with pytest.raises(WrongUse, match="iteration_00000.npz: cannot be read .* delete the file"):
        ReferenceCache(directory=epath.Path(tmp_path), keep=2).scores(0, BY, LENGTHS, lambda: SCORES)


def test_the_newest_iterations_are_kept(tmp_path):
    cache = ReferenceCache(directory=epath.Path(tmp_path), keep=2)
    for iteration in (8, 9, 10):
        cache.scores(iteration, BY, LENGTHS, lambda: SCORES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iteration_00009.npz", "iteration_00010.npz"]


def test_a_digest_knows_order_and_where_a_prompt_ends():
    def digest(*rows):
        return reference_cache.digest_of([TokenExample(prompt_ids=p, completion_ids=c) for p, c in rows])

    one, other = ([1, 2], [3]), ([4], [5])
    assert digest(one, other) == digest(one, other)
    assert len({digest(one, other), digest(other, one), digest(([1], [2, 3]), other), digest(one)}) == 4


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda algorithm: type(algorithm).__name__)
def test_a_resumed_run_scores_its_reference_once_and_ends_in_the_same_bits(tmp_path, monkeypatch, algorithm):
    """Killed in the updates of its second iteration, without a checkpoint: both iterations are made again."""
    config = dataclasses.replace(CONFIG, num_iterations=2)
    undisturbed = toy_self_play.run(tmp_path / "whole", algorithm=algorithm, config=config)
    with monkeypatch.context() as patch:
        kill_at(patch, train_step.TrainStep, "place", 4)
        with pytest.raises(Killed):
            toy_self_play.run(tmp_path / "killed", algorithm=algorithm, config=config)
    score, calls = scoring.score, []
    monkeypatch.setattr(scoring, "score", lambda *args, **kwargs: calls.append(1) or score(*args, **kwargs))
    again = toy_self_play.run(tmp_path / "killed", algorithm=algorithm, config=config)
    # GRPO's old log-probabilities are the policy's own, and are scored with each making of an iteration.
    assert len(calls) == (0 if isinstance(algorithm, Dpo) else 2)
    jax.tree.map(np.testing.assert_array_equal, again.params, undisturbed.params)
    assert metrics_of(tmp_path / "killed") == metrics_of(tmp_path / "whole")
    names = [path.name for path in sorted((tmp_path / "killed/self_play/reference").iterdir())]
    assert names == ["iteration_00000.npz", "iteration_00001.npz"]


def test_a_resumed_run_refuses_the_reference_of_another_policy(tmp_path, monkeypatch):
    """The policy to begin with was exchanged under the run."""
    algorithm, config = ALGORITHMS[0], dataclasses.replace(CONFIG, num_iterations=1)
    with monkeypatch.context() as patch:
        kill_at(patch, train_step.TrainStep, "place", 1)
        with pytest.raises(Killed):
            toy_self_play.run(tmp_path, algorithm=algorithm, config=config)
    other = toy_self_play.toy_lm().init(jax.random.key(1))
    with pytest.raises(WrongUse, match="iteration_00000.npz.* reference changed"):
        toy_self_play.run(tmp_path, algorithm=algorithm, config=config, params=other)
