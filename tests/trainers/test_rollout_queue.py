"""The queue of an iteration: how many prompts are drawn, what is left over, which leave the stream."""

import dataclasses
import math
import threading
import time

import jax
import numpy as np
import pytest
from etils import epath

from promptcot_jax.core import shards
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data.prompt_stream import PromptStream
from promptcot_jax.sampling import engine, journal
from promptcot_jax.trainers import nonfinite_batches, rollout_collector, self_play
from promptcot_jax.trainers.grpo import Grpo
from promptcot_jax.trainers.rollout_collector import Position, RolloutCollector
from tests.trainers import toy_self_play
from tests.trainers.toy_self_play import (
    CONFIG,
    SAMPLING,
    Killed,
    by_bytes,
    files_of,
    kill_at,
    metrics_of,
    rollouts_of,
)


def collector_of(directory, *, verdict=by_bytes, grader=None, slots=16, lm=None, **changes):
    """Of one iteration's rollouts by itself."""
    config = dataclasses.replace(CONFIG, **({"prompts_per_iteration": 6, "max_tries": 4} | changes))
    return RolloutCollector(
        lm=lm or toy_self_play.toy_lm(),
        tokenizer=toy_self_play.TOKENIZER,
        stream=PromptStream(toy_self_play.tasks(), seed=0),
        grader=grader or toy_self_play.graded_by(verdict),
        config=dataclasses.replace(SAMPLING, engine=engine.EngineConfig(num_slots=slots, page_size=8)),
        iterations=config,
        algorithm=Grpo(),
        directory=epath.Path(directory) / "rollouts",
    )


def collect(collector, iteration=0, position=None):
    params = collector.lm.init(jax.random.key(0))
    position = position or Position.first(collector.stream)
    return collector.collect(iteration, lambda: collector.snapshot(iteration, params), position)


def drawn_of(batch):
    return [
        (rollout.index, rollout.token_ids, rollout.correct) for g in batch.groups for rollout in g.rollouts
    ]


class SlowGrader(toy_self_play.ToyGrader):
    """The first prompts of a try take longest."""

    def _verdicts(self, draws, texts, num_tokens):
        time.sleep(max(0.3 - 0.02 * (draws[0].index // SAMPLING.group_size), 0.0))
        return super()._verdicts(draws, texts, num_tokens)


def test_what_is_drawn_depends_on_neither_the_number_of_slots_nor_the_speed_of_grading(tmp_path):
    slow = SlowGrader(
        tokenizer=toy_self_play.TOKENIZER,
        config=toy_self_play.graded_by(by_some).config,
        run_many=lambda jobs: [],
        verdict=by_some,
    )
    batches = [
        collect(collector_of(tmp_path / "4", verdict=by_some, slots=4)),
        collect(collector_of(tmp_path / "64", verdict=by_some, slots=64)),
        collect(collector_of(tmp_path / "slow", grader=slow, slots=64)),
    ]
    first = batches[0]
    assert 6 < len(first.groups) < 24
    assert len(first.used) == 6
    assert first.used == [group for group in first.groups if group.verdicts == "mixed"][:6]
    for other in batches[1:]:
        assert drawn_of(other) == drawn_of(first)
        jax.tree.map(np.testing.assert_array_equal, other.after, first.after)
    assert files_of(tmp_path / "slow") == files_of(
        tmp_path / "64"
    )  # 4 slots round log-probabilities otherwise


def by_some(answer, text):
    """Half of the prompts are always right."""
    return answer < "5" or by_bytes(answer, text)


def test_further_prompts_join_the_queue_while_others_are_under_way(tmp_path, monkeypatch):
    """One stream of the engine draws them all, although an iteration draws more than it began with."""
    streams, stream = [], engine.Engine.stream

    def watched(self, *args, **kwargs):
        streams.append(0)
        for ended in stream(self, *args, **kwargs):
            streams[-1] += 1
            yield ended

    monkeypatch.setattr(engine.Engine, "stream", watched)
    batch = collect(collector_of(tmp_path, verdict=by_some, slots=4))
    assert streams == [len(batch.groups) * SAMPLING.group_size]
    assert len(batch.groups) > 6


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_how_many_are_drawn_is_the_same_whichever_prompts_come_in_together(share):
    settings = {"wanted": 6, "share": share, "weight": 6, "most": 24}
    of_use = [False, False, False, True, True, True, True, True, False, True]
    counts = [rollout_collector.prompts_to_draw(of_use[:n], **settings) for n in range(len(of_use) + 1)]
    assert counts[0] == 6 / share
    assert counts == sorted(counts)
    assert counts[-1] > counts[0]
    # The three that came first were of no use, and what they asked for stays, whatever comes later.
    assert counts[3] == 3 + math.ceil(6 / ((6 * share) / 9))
    assert counts[-1] == counts[3]


def test_no_more_are_drawn_than_there_may_be_nor_fewer_than_one():
    settings = {"share": 1.0, "weight": 6, "most": 24}
    assert rollout_collector.prompts_to_draw([False] * 24, wanted=6, **settings) == 24
    assert rollout_collector.prompts_to_draw([True] * 6, wanted=6, **settings) == 6
    assert rollout_collector.prompts_to_draw([], wanted=-2, **settings) == 1
    assert rollout_collector.prompts_to_draw([], wanted=2, **{**settings, "share": 0.01}) == 8  # of 0.25


def test_groups_left_over_are_the_next_iterations_first_ones(tmp_path):
    """Positions over three iterations, by a pencil; at most half an iteration is left over."""
    collector, before = collector_of(tmp_path, verdict=by_some), None
    position = dataclasses.replace(Position.first(collector.stream), share=np.float32(0.1))
    for iteration in range(3):
        batch = collect(collector, iteration, position)
        own = [group for group in batch.groups if group.verdicts == "mixed"]
        older = [] if before is None else before[len(before) - int(position.num_left_over) :]
        assert batch.num_older == len(older)
        assert batch.used == [*older, *own][:6]
        assert batch.groups[0].rollouts[0].index == int(position.next_prompt) * SAMPLING.group_size
        after = batch.after
        assert after.num_left_over == min(max(len(older) + len(own) - 6, 0), 3)
        assert after.next_prompt == after.num_drawn == position.next_prompt + len(batch.groups)
        share = (len(own) + 6 * float(position.share)) / (len(batch.groups) + 6)
        np.testing.assert_allclose(after.share, share, rtol=1e-5)
        missing = 6 - int(after.num_left_over)
        assert collector._how_many(after)([]) == SAMPLING.group_size * math.ceil(missing / max(share, 0.25))
        settings = {"wanted": 6 - len(older), "share": float(position.share), "weight": 6, "most": 24}
        of_use = [group.verdicts == "mixed" for group in batch.groups]
        for count in range(len(of_use) + 1):
            rolled = [rollout for group in batch.groups[:count] for rollout in group.rollouts]
            prompts = rollout_collector.prompts_to_draw(of_use[:count], **settings)
            assert collector._how_many(position)(rolled) == SAMPLING.group_size * prompts
        if iteration == 0:
            assert after.num_left_over == 3 < len(own) - 6
        position, before = after, own
    (tmp_path / "rollouts" / "iteration_00000.jsonl").unlink()
    with pytest.raises(WrongUse, match="iteration_00000"):
        collect(collector, 1, dataclasses.replace(position, num_left_over=np.int32(1)))


def test_a_streak_grows_where_all_are_right_ends_where_not_and_waits_for_a_verdict(tmp_path):
    collector = collector_of(tmp_path)
    groups = collect(collector).groups[:4]

    def judged(group, correct, graded=True):
        score = [float(c) for c in correct]
        rows = [
            dataclasses.replace(rollout, graded=graded, correct=c, score=s)
            for rollout, c, s in zip(group.rollouts, correct, score, strict=True)
        ]
        return dataclasses.replace(group, rollouts=tuple(rows))

    prompts = [collector.stream.index_of(group.rollouts[0].prompt_id) for group in groups]
    streaks = np.full(len(collector.stream), 5, np.int32)
    position = dataclasses.replace(Position.first(collector.stream), streaks=streaks)
    verdicts = [
        judged(groups[0], [True] * 4),
        judged(groups[1], [True, True, True, False]),
        judged(groups[2], [False] * 4),
        judged(groups[3], [True] * 4, graded=False),
    ]
    found = collector._streaks(position, verdicts)
    assert found[prompts].tolist() == [6, 0, 0, 5]
    assert sorted(np.delete(found, prompts).tolist()) == [5] * (len(found) - 4)


def test_rollouts_that_are_all_there_ask_for_no_policy(tmp_path, monkeypatch):
    """Killed before its shards were put together, an iteration goes on without one."""
    collector = collector_of(tmp_path, verdict=by_some)
    with monkeypatch.context() as patch:
        kill_at(patch, shards.ShardedRecords, "put_together", 1)
        with pytest.raises(Killed):
            collect(collector)
    batch = collector.collect(
        0, lambda: pytest.fail("a policy is asked for"), Position.first(collector.stream)
    )
    assert drawn_of(batch) == drawn_of(collect(collector_of(tmp_path / "whole", verdict=by_some)))


def test_nothing_is_left_over_where_no_weight_makes_up_for_its_age(tmp_path):
    collector = collector_of(tmp_path, verdict=by_some)
    collector = dataclasses.replace(collector, algorithm=Grpo(sampler_correction="none"))
    half = dataclasses.replace(Position.first(collector.stream), share=np.float32(0.3))
    batch = collect(collector, 0, half)
    assert sum(group.verdicts == "mixed" for group in batch.groups) > 6
    assert batch.after.num_left_over == 0


def test_prompts_that_are_always_solved_leave_the_stream(tmp_path):
    """0 to 3 are always right: after two rounds they are drawn no more, and their numbers stay unused."""
    config = dataclasses.replace(CONFIG, num_iterations=6, retire_after=2)
    outcome = toy_self_play.run(tmp_path, config=config, verdict=toy_self_play.some_are_easy)
    rows, found = metrics_of(tmp_path), rollouts_of(tmp_path)
    for prompt in ("p0", "p1", "p2", "p3"):
        groups = {rollout.group: rollout.iteration for rollout in found if rollout.prompt_id == prompt}
        second = sorted(groups.values())[1]
        assert max(groups.values()) == second < config.num_iterations - 1
    assert rows[-1]["prompts/retired"] >= 4
    assert rows[0]["prompts/retired"] == 0
    assert outcome.num_prompts == len({rollout.group for rollout in found})


def test_no_prompt_leaves_where_too_few_would_stay(tmp_path):
    config = dataclasses.replace(CONFIG, num_iterations=3, retire_after=1, max_tries=3)
    toy_self_play.run(tmp_path, config=config, verdict=lambda answer, text: answer < "8")
    assert {(row["groups/drawn"], row["prompts/retired"]) for row in metrics_of(tmp_path)} == {(12, 0)}


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (toy_self_play.ToyGrader, "_verdicts", 7),
        (shards.ShardedRecords, "write", 9),
        (journal.Journal, "forget", 12),
        (shards.ShardedRecords, "put_together", 2),
        (nonfinite_batches.StepsInFlight, "add", 4),
        (self_play.TrainingCheckpoints, "save", 1),
    ],
)
def test_a_run_killed_in_its_queue_ends_in_the_same_bits(tmp_path, monkeypatch, owner, name, call):
    config = dataclasses.replace(CONFIG, num_iterations=4, retire_after=2, checkpoint_every=1)
    settings = {"config": config, "verdict": toy_self_play.some_are_easy}
    whole = toy_self_play.run(tmp_path / "whole", **settings)
    with monkeypatch.context() as patch:
        kill_at(patch, owner, name, call)
        with pytest.raises(Killed):
            toy_self_play.run(tmp_path / "killed", **settings)
    threads, snapshot = [], RolloutCollector.snapshot

    def watched(self, *args):
        threads.append(threading.current_thread())
        return snapshot(self, *args)

    monkeypatch.setattr(RolloutCollector, "snapshot", watched)
    again = toy_self_play.run(tmp_path / "killed", **settings)
    assert {*threads} <= {threading.main_thread()}  # a mesh is entered there alone
    jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")
    assert metrics_of(tmp_path / "killed") == metrics_of(tmp_path / "whole")
    assert any(row["groups/older"] for row in metrics_of(tmp_path / "whole"))
