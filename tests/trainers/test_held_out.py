"""Held-out accuracy between iterations: what it measures, that it changes nothing, and that it resumes."""

import collections
import dataclasses

import jax
import numpy as np
import pytest
from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.core.records import AttemptRecord, MathPrompt
from promptcot_jax.data.prompt_stream import Task
from promptcot_jax.sampling import engine
from promptcot_jax.sampling.rollouts import Draw
from promptcot_jax.trainers import held_out, self_play
from tests.cases import some_fast
from tests.data import rollouts
from tests.trainers import toy_self_play
from tests.trainers.toy_self_play import CONFIG, Killed, by_bytes, kill_at, metrics_of

THREE = dataclasses.replace(CONFIG, num_iterations=3)


def without_evaluations(rows):
    kept = [{k: v for k, v in row.items() if not k.startswith("eval/")} for row in rows]
    return [row for row in kept if len(row) > 1]


def attempts_of(directory, step):
    return jsonl.read_file(directory / "self_play" / "evaluations" / f"step_{step:05d}.jsonl", AttemptRecord)


def files_of(directory):
    """Attempts and rollouts, whole or in shards, and what is left of journals."""
    return {
        str(p.relative_to(directory)): p.read_bytes()
        for p in directory.rglob("*/*.jsonl")
        if "met" not in p.name
    }


def run(directory, **changes):
    settings = {"config": THREE, "held_out": toy_self_play.held_out(directory)} | changes
    return toy_self_play.run(directory, **settings)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Directory and outcome of a run with evaluations that nothing disturbs."""
    directory = tmp_path_factory.mktemp("whole")
    return directory, run(directory)


def test_a_run_with_evaluations_makes_the_iterations_of_one_without(whole, tmp_path):
    directory, outcome = whole
    plain = toy_self_play.run(tmp_path, config=THREE)
    jax.tree.map(np.testing.assert_array_equal, outcome.params, plain.params)
    assert without_evaluations(metrics_of(directory)) == metrics_of(tmp_path)
    rollouts = {name: data for name, data in files_of(directory).items() if "evaluations" not in name}
    assert rollouts == files_of(tmp_path)


def test_the_start_every_second_iteration_and_the_end_are_evaluated(whole):
    """And the figures are those of the attempts that are kept, by the verdict's own definition."""
    directory, _ = whole
    measured = {row["step"]: row for row in metrics_of(directory) if "eval/avg_at_k" in row}
    assert list(measured) == [0, 2, 3]
    assert [row["step"] for row in metrics_of(directory)] == [0, 1, 2, 3]
    for step, row in measured.items():
        right = collections.defaultdict(list)
        for attempt in attempts_of(directory, step):
            right[attempt.problem_id].append(by_bytes("", attempt.completion))
        shares = [np.mean(own) for own in right.values()]
        assert [len(own) for own in right.values()] == [4, 4, 4]
        assert row["eval/avg_at_k"] == pytest.approx(np.mean(shares))
        assert row["eval/standard_error"] == pytest.approx(np.std(shares, ddof=1) / np.sqrt(3))
        assert row["eval/pass_at_k"] == pytest.approx(np.mean([any(own) for own in right.values()]))
        assert row["eval/num_problems"] == 3
    assert attempts_of(directory, 0) != attempts_of(directory, 3)


def test_every_evaluation_has_the_same_noise(tmp_path):
    """A policy that learns nothing, since all samples are right, answers each time the same."""
    run(tmp_path, verdict=lambda answer, text: True, config=dataclasses.replace(THREE, max_tries=1))
    assert attempts_of(tmp_path, 0) == attempts_of(tmp_path, 2) == attempts_of(tmp_path, 3)
    samples = [a.completion for a in attempts_of(tmp_path, 0) if a.problem_id == "p0"]
    assert len({*samples}) > 1  # and that of a sample is its own


def test_greedy_needs_one_sample_and_finds_the_likeliest(tmp_path):
    greedy = toy_self_play.held_out(tmp_path, samples=1, temperature=0.0, number=2)
    again = dataclasses.replace(
        greedy,
        directory=epath.Path(tmp_path) / "again",
        config=dataclasses.replace(
            greedy.config, rollouts=dataclasses.replace(greedy.config.rollouts, seed=1)
        ),
    )
    params = toy_self_play.toy_lm().init(jax.random.key(0))
    assert greedy.measure(0, params)["eval/num_problems"] == 2
    again.measure(0, params)
    attempts = jsonl.read_file(tmp_path / "again" / "step_00000.jsonl", AttemptRecord)
    assert attempts_of(tmp_path, 0) == attempts  # whatever the seed


def test_lengths_cut_off_and_what_could_not_be_graded_are_told():
    def attempt(**changes):
        facts = {"problem_id": "a", "sample": 0, "completion": "", "answer": "", "reference": ""}
        facts |= {"correct": False, "status": "mismatch", "finish_reason": "stop", "num_tokens": 2}
        return AttemptRecord(**(facts | changes))

    found = held_out.figures_of(
        [
            attempt(correct=True, status="match"),
            attempt(finish_reason="length", num_tokens=8),
            attempt(status="sandbox_error"),
            attempt(status="not_finite"),  # the policy's fault: wrong
        ]
    )
    assert found["eval/avg_at_k"] == pytest.approx(1 / 3)
    assert (found["eval/mean_length"], found["eval/clipped_ratio"]) == (3.5, 0.25)
    assert (found["eval/ungraded"], found["eval/num_problems"]) == (0.25, 1)
    assert np.isnan(found["eval/standard_error"])  # of one problem


@pytest.mark.parametrize(
    ("status", "kept"),
    [
        ("timeout", "error"),
        ("judge_away", "error"),
        ("sandbox_error", "sandbox_error"),
        ("empty", "empty"),
        ("not_finite", "not_finite"),
    ],
)
def test_an_attempt_that_a_grader_left_without_a_verdict_is_not_wrong(status, kept):
    prompt = MathPrompt(id="p", problem="?", answer="1")
    draw = Draw(row=Task(prompt=prompt, prompt_ids=(1,)), sample=0, index=0)
    ungraded = dataclasses.replace(rollouts.rollout("p", "x", correct=False, graded=False), status=status)
    right = dataclasses.replace(rollouts.rollout("p", "x", correct=True), status="match")
    attempts = [held_out._attempt(draw, one) for one in (right, ungraded)]
    assert [attempt.status for attempt in attempts] == ["match", kept]
    is_policys_fault = kept in ("empty", "not_finite")
    assert held_out.figures_of(attempts)["eval/avg_at_k"] == (0.5 if is_policys_fault else 1.0)


def drawn_in(patch):
    """Counts the completions that evaluations draw."""
    stream, drawn = engine.Engine.stream, []

    def watched(self, params, requests, *args, **kwargs):
        for item in stream(self, params, requests, *args, **kwargs):
            drawn.append(item[0].id)
            yield item

    patch.setattr(engine.Engine, "stream", watched)
    return drawn


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    some_fast(
        [
            (held_out, "_attempt", 6),  # of the first evaluation, when one of its shards is written
            (held_out, "_attempt", 18),
            (held_out, "figures_of", 2),  # drawn and graded, and no row yet
            (self_play.MetricsLog, "write", 1),
            (self_play.TrainingCheckpoints, "save", 1),  # the second evaluation has its row
            (held_out, "figures_of", 3),
        ],
        fast=(0, 3),
    ),
)
def test_a_run_killed_around_an_evaluation_ends_in_the_same_bits(
    whole, tmp_path, monkeypatch, owner, name, call
):
    """And no completion is drawn twice: 3 iterations and 3 evaluations, 12 attempts each."""
    directory, outcome = whole
    drawn = drawn_in(monkeypatch)
    with monkeypatch.context() as patch:
        kill_at(patch, owner, name, call)
        with pytest.raises(Killed):
            run(tmp_path)
    again = run(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again.params, outcome.params)
    assert files_of(tmp_path) == files_of(directory)
    assert metrics_of(tmp_path) == metrics_of(directory)
    assert len(drawn) == outcome.num_prompts * 4 + 3 * 12
