"""Keep-best: the policy that a run ends with is that of its best evaluation, whatever interrupts it."""

import dataclasses

import jax
import pytest

from promptcot_jax.checkpoints import store
from promptcot_jax.data import rollout_sets
from promptcot_jax.trainers import goals, self_play, train_step
from tests.cases import some_fast
from tests.trainers import toy_self_play
from tests.trainers.toy_self_play import CONFIG, Killed, kill_at

METRIC = "eval/avg_at_k"
CONFIG = dataclasses.replace(CONFIG, num_iterations=3, units_per_update=16, checkpoint_every=2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Told(toy_self_play.ToyGrader):
    """So many of four samples are right after each number of iterations."""

    right: tuple[int, ...]

    def rollouts(self, draws, completions, *, iteration, **facts):
        found = super().rollouts(draws, completions, iteration=iteration, **facts)
        return [
            dataclasses.replace(rollout, correct=rollout.sample < self.right[iteration], status="told")
            for rollout in found
        ]


def run(directory, *, right, keep_best=METRIC):
    plain = toy_self_play.held_out(directory, every=1, number=2)
    graded = plain.grader
    grader = Told(
        tokenizer=graded.tokenizer,
        config=graded.config,
        run_many=graded.run_many,
        verdict=graded.verdict,
        right=right,
    )
    settings = dataclasses.replace(plain.config, prompts="told", keep_best=keep_best)
    return toy_self_play.run(
        directory, config=CONFIG, held_out=dataclasses.replace(plain, grader=grader, config=settings)
    )


def policies_of(directory):
    """Digest of the policy after each number of iterations, as the rollouts of the next say it."""
    return {r.iteration: r.policy_digest for r in rollout_sets.read(directory / "rollouts")}


@pytest.fixture(scope="module")
def last(tmp_path_factory):
    """Outcome of a run that keeps none, and digests of its policies."""
    directory = tmp_path_factory.mktemp("last")
    outcome = run(directory, right=(1, 3, 3, 2), keep_best=None)
    assert outcome.best is None
    assert not (directory / "self_play" / "best").exists()
    return outcome, policies_of(directory) | {3: store.params_digest(outcome.params)}


@pytest.mark.parametrize(
    ("right", "best"),
    some_fast(
        [
            ((1, 3, 3, 2), 1),  # of equals the earlier
            ((2, 1, 1, 0), 0),  # what it began with
            ((0, 1, 2, 3), 3),
        ],
        fast=(0,),
    ),
)
def test_the_best_evaluated_policy_is_what_the_run_ends_with(last, tmp_path, right, best):
    outcome = run(tmp_path, right=right)
    assert outcome.best == goals.Best(best, METRIC, right[best] / 4)
    assert store.params_digest(outcome.params) == last[1][best]
    assert len({*last[1].values()}) == 4


@pytest.mark.parametrize(
    ("right", "owner", "name", "call"),
    some_fast(
        [
            (
                (1, 3, 3, 2),
                self_play.TrainingCheckpoints,
                "save",
                1,
            ),  # the policy at the start is the best so far
            ((1, 3, 3, 2), goals.TrainingCheckpoints, "save", 2),
            ((1, 3, 3, 2), self_play.MetricsLog, "write", 2),  # kept, and the row is not written
            (
                (1, 3, 3, 2),
                train_step.TrainStep,
                "place",
                3,
            ),  # after a checkpoint that is later than the best
            ((0, 1, 2, 3), self_play.MetricsLog, "write", 4),  # the best is later than the checkpoint
            ((1, 3, 3, 2), goals.BestPolicy, "chosen", 1),
        ],
        fast=(2, 4),
    ),
)
def test_a_killed_run_keeps_the_same(last, tmp_path, monkeypatch, right, owner, name, call):
    with monkeypatch.context() as patch:
        kill_at(patch, owner, name, call)
        with pytest.raises(Killed):
            run(tmp_path, right=right)
    outcome = run(tmp_path, right=right)
    best = right.index(max(right))
    assert outcome.best == goals.Best(best, METRIC, right[best] / 4)
    assert store.params_digest(outcome.params) == last[1][best]


def test_what_is_no_number_is_never_the_best(tmp_path):
    kept = goals.BestPolicy(tmp_path, METRIC, value_at=lambda step: 0.5)
    kept.offer(0, float("nan"), {"w": jax.numpy.zeros(2)})
    assert kept.best is None
    kept.offer(1, 0.0, {"w": jax.numpy.ones(2)})
    kept.offer(2, float("nan"), {"w": jax.numpy.zeros(2)})
    again = goals.BestPolicy(tmp_path, METRIC, value_at=lambda step: 0.25 * step)
    assert again.best == goals.Best(1, METRIC, 0.25)
    goals.remove_best(tmp_path)
    assert not list(tmp_path.iterdir())
