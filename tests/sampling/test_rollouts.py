"""Facts of a stage's sampling: draw numbers, records as they come, exactly the missing drawn again."""

import dataclasses
import threading

import jax
import numpy as np
import pytest

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.shards import ShardedRecords
from promptcot_jax.models import causal_lm
from promptcot_jax.sampling import engine, journal, rollouts, token_choice
from promptcot_jax.sampling.completions import Completion, PartialCompletion
from tests import toys

LM = causal_lm.CausalLM(toys.toy_config())
TOKENIZER = toys.byte_tokenizer()
ROWS = [f"row {i}" for i in range(7)]
CONFIG = rollouts.RolloutConfig(
    sampling=token_choice.SamplingConfig(max_new_tokens=12),
    group_size=2,
    engine=engine.EngineConfig(num_slots=4, page_size=8),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
    """A record of the toy work."""

    index: int
    row: str
    token_ids: tuple[int, ...]
    log_prob: float


@pytest.fixture(scope="module")
def sampler():
    return rollouts.make_sampler(LM, LM.init(jax.random.key(0)), TOKENIZER, CONFIG, "rollout")


def work(draws, completions):
    return [
        Written(
            index=draw.index,
            row=draw.row,
            token_ids=completion.token_ids,
            log_prob=float(completion.log_probs.sum()),
        )
        for draw, completion in zip(draws, completions, strict=True)
    ]


def map_draws(path, sampler, *, work=work, rows=ROWS, shard_size=4, **settings):
    return rollouts.map_draws(
        path,
        rollouts.draws_of(rows, 2),
        work,
        Written,
        sampler=sampler,
        prompt_ids=TOKENIZER.encode,
        shard_size=shard_size,
        name="toy",
        **settings,
    )


@pytest.fixture(scope="module")
def whole(sampler, tmp_path_factory):
    """The file of an undisturbed run."""
    path = tmp_path_factory.mktemp("whole") / "written.jsonl"
    map_draws(path, sampler)
    return path


def test_samples_of_a_row_stand_side_by_side_and_are_numbered_through():
    draws = rollouts.draws_of(["a", "b"], group_size=2)
    assert [(d.index, d.row, d.sample) for d in draws] == [(0, "a", 0), (1, "a", 1), (2, "b", 0), (3, "b", 1)]


def test_records_are_those_of_the_draws_in_order_and_nothing_else_is_left(sampler, whole):
    records = jsonl.read_records(whole, Written)
    draws = rollouts.draws_of(ROWS, 2)
    assert records == work(draws, sampler.complete(draws, TOKENIZER.encode))
    assert [record.index for record in records] == list(range(14))
    assert len({record.token_ids for record in records}) == 14
    assert [path.name for path in whole.parent.iterdir()] == ["written.jsonl"]


@pytest.mark.parametrize("finished", [0, 1, 5, 9, 13])
def test_a_killed_run_draws_exactly_what_is_missing_and_ends_in_the_same_bytes(
    sampler, whole, tmp_path, monkeypatch, finished
):
    """Killed after so many completions, of which every second one had reached the disk."""
    monkeypatch.setattr(journal, "_COMPLETIONS_PER_PART", 2)
    path, drawn = tmp_path / "written.jsonl", []
    stream = engine.Engine.stream

    def watched(self, params, requests, key, **settings):
        for request, completion in stream(self, params, requests, key, **settings):
            if len(drawn) == finished:
                raise KeyboardInterrupt
            drawn.append(request.id)
            yield request, completion

    monkeypatch.setattr(engine.Engine, "stream", watched)
    monkeypatch.setattr(journal.Journal, "flush", _unless_unwinding(journal.Journal.flush))
    with pytest.raises(KeyboardInterrupt):
        map_draws(path, sampler)
    on_disk = {
        record.index
        for file in tmp_path.glob("written-0*.jsonl")
        for record in jsonl.read_records(file, Written)
    }
    on_disk |= {
        row.index
        for file in tmp_path.glob("written-drawn/*.jsonl")
        for row in jsonl.read_records(file, journal.JournalRow)
    }
    drawn_again, finished = [], -1

    def recorded(self, params, requests, key, **settings):
        for request, completion in stream(self, params, requests, key, **settings):
            drawn_again.append(request.id)
            yield request, completion

    monkeypatch.setattr(engine.Engine, "stream", recorded)
    map_draws(path, sampler)
    assert sorted(drawn_again) == sorted(set(range(14)) - on_disk)
    assert len(on_disk) >= len(drawn) // 2 - 2
    assert path.read_bytes() == whole.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["written.jsonl"]


def _unless_unwinding(flush):
    """A kill runs no `finally`: what `map_draws` would still write on its way out is left out."""
    import sys

    def flushed(self, under_way=None):
        if not isinstance(sys.exc_info()[1], KeyboardInterrupt):
            flush(self, under_way)

    return flushed


def test_a_shard_whose_work_failed_needs_no_new_completions(sampler, whole, tmp_path, monkeypatch):
    def fails(draws, completions):
        raise RuntimeError("the grader is away")

    with pytest.raises(RuntimeError, match="grader"):
        map_draws(tmp_path / "written.jsonl", sampler, work=fails, rows=ROWS[:2])
    monkeypatch.setattr(engine.Engine, "stream", None)  # nothing may be drawn
    records = map_draws(tmp_path / "written.jsonl", sampler, rows=ROWS[:2])
    assert records == jsonl.read_records(whole, Written)[:4]


def test_parts_of_a_journal_go_with_the_shards_that_need_them(sampler, tmp_path, monkeypatch):
    """Also those of a run that was killed between a shard's file and the end of its parts."""
    monkeypatch.setattr(journal, "_COMPLETIONS_PER_PART", 1)
    forget, stream, put_together = journal.Journal.forget, engine.Engine.stream, ShardedRecords.put_together
    needed = []  # completions in parts, when the run goes on and when all shards are written

    def in_parts():
        parts = tmp_path.glob("written-drawn/part*.jsonl")
        return {row.index for part in parts for row in jsonl.read_records(part, journal.JournalRow)}

    def dies_of_a_shard(self, indices):
        if indices:
            raise KeyboardInterrupt
        forget(self, indices)

    def watched(function):
        def call(*args, **settings):
            needed.append(in_parts())
            return function(*args, **settings)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "forget", dies_of_a_shard)
        with pytest.raises(KeyboardInterrupt):
            map_draws(tmp_path / "written.jsonl", sampler)
    (finished,) = tmp_path.glob("written-0*.jsonl")
    indices = {record.index for record in jsonl.read_records(finished, Written)}
    before = in_parts()
    assert indices <= before
    monkeypatch.setattr(engine.Engine, "stream", watched(stream))
    monkeypatch.setattr(ShardedRecords, "put_together", watched(put_together))
    map_draws(tmp_path / "written.jsonl", sampler)
    assert needed == [before - indices, set()]


def test_partial_completions_go_on_where_they_were_and_say_so(sampler, whole, tmp_path, monkeypatch, caplog):
    """The journal keeps what is under way; a run that continues has the same noise, so the same tokens."""
    monkeypatch.setattr(journal, "_SECONDS_PER_PART", -1.0)
    going_on = dataclasses.replace(
        sampler, continue_partial=True, engine=dataclasses.replace(sampler.engine, burst_steps=3)
    )
    bursts, under_way = [], engine.Engine.under_way

    def dies_at_the_third(self):
        bursts.append(under_way(self))
        if len(bursts) == 3:
            raise KeyboardInterrupt
        return bursts[-1]

    monkeypatch.setattr(engine.Engine, "under_way", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        map_draws(tmp_path / "written.jsonl", going_on)
    monkeypatch.setattr(engine.Engine, "under_way", under_way)
    assert [len(partial.token_ids) for partial in bursts[1].values()] == [6] * 4
    with caplog.at_level("WARNING"):
        records = map_draws(tmp_path / "written.jsonl", going_on)
    assert "4 completions were continued" in caplog.text
    expected = jsonl.read_records(whole, Written)
    assert [record.token_ids for record in records] == [record.token_ids for record in expected]
    np.testing.assert_allclose([r.log_prob for r in records], [r.log_prob for r in expected], atol=1e-4)


def test_log_probs_in_the_journal_keep_their_bits(tmp_path):
    values = np.array([-1e-8, -0.1, -3.4e38, np.float32(-1) / 3], np.float32)
    kept = journal.Journal(tmp_path / "j")
    kept.add(3, Completion((1, 2, 3, 4), values, values[::-1], "stop", has_end=True, num_continued=2))
    kept.flush({7: PartialCompletion((5,), values[:1], values[1:2])})
    read = journal.Journal(tmp_path / "j")
    np.testing.assert_array_equal(read.completions[3].log_probs, values)
    np.testing.assert_array_equal(read.completions[3].sampler_log_probs, values[::-1])
    assert dataclasses.replace(read.completions[3], log_probs=values, sampler_log_probs=values) == Completion(
        (1, 2, 3, 4), values, values, "stop", has_end=True, num_continued=2
    )
    assert read.partial[7].token_ids == (5,)
    read.forget([3])
    assert not list((tmp_path / "j").glob("part*"))


def test_greedy_samples_of_one_row_are_refused():
    with pytest.raises(ValueError, match="temperature 0"):
        rollouts.RolloutConfig(sampling=token_choice.SamplingConfig(temperature=0.0), group_size=2)


@pytest.mark.parametrize("name", ["group_size", "requests_per_shard"])
def test_a_count_below_one_is_refused_by_name(name: str):
    with pytest.raises(ValueError, match=name):
        rollouts.RolloutConfig(sampling=token_choice.SamplingConfig(), **{name: 0})


def test_a_budget_beyond_the_model_is_wrong_use_that_says_what_fits(sampler):
    too_long = dataclasses.replace(
        sampler, sampling=token_choice.SamplingConfig(max_new_tokens=LM.config.max_positions - 3)
    )
    with pytest.raises(WrongUse, match=f"lower max_new_tokens to {LM.config.max_positions - 4} or less"):
        too_long.complete(rollouts.draws_of(["four"], 1), TOKENIZER.encode)


def test_a_cache_too_small_for_one_request_is_wrong_use(sampler):
    small = dataclasses.replace(sampler, engine=engine.EngineConfig(page_size=8, cache_tokens=16))
    with pytest.raises(WrongUse, match="raise cache_tokens or lower max_new_tokens"):
        small.complete(rollouts.draws_of(["four"], 1), TOKENIZER.encode)


def test_work_beside_decoding_runs_while_others_are_drawn_and_gives_the_same_records(
    sampler, whole, tmp_path, monkeypatch
):
    """The first shard's work waits for a completion of the last one, which it would for ever in its place."""
    is_drawn = threading.Event()
    stream = engine.Engine.stream

    def watched(self, params, requests, key, **settings):
        for request, completion in stream(self, params, requests, key, **settings):
            if request.id >= 12:
                is_drawn.set()
            yield request, completion

    def waiting(draws, completions):
        assert is_drawn.wait(timeout=60)
        return work(draws, completions)

    monkeypatch.setattr(engine.Engine, "stream", watched)
    times = rollouts.Times()
    map_draws(tmp_path / "written.jsonl", sampler, work=waiting, beside=True, times=times)
    assert (tmp_path / "written.jsonl").read_bytes() == whole.read_bytes()
    assert times.sampling_seconds > 0
    assert times.new_tokens == sum(len(record.token_ids) for record in jsonl.read_records(whole, Written))


def test_what_fails_in_decoding_is_told_before_waiting_for_the_work_beside_it(sampler, tmp_path, monkeypatch):
    """The work under way may wait for another host, and would for ever if nobody said that it is over."""
    is_over, stream, told = threading.Event(), engine.Engine.stream, []

    def failing(self, *args, **settings):
        yield from stream(self, *args, **settings)
        raise OSError("disk full")

    def waiting(draws, completions):
        assert is_over.wait(timeout=60)
        return work(draws, completions)

    def on_error(error):
        told.append(error)
        is_over.set()

    monkeypatch.setattr(engine.Engine, "stream", failing)
    with pytest.raises(OSError, match="disk full") as raised:
        map_draws(tmp_path / "written.jsonl", sampler, work=waiting, beside=True, on_error=on_error)
    assert told == [raised.value]


def test_what_fails_beside_decoding_ends_the_stage(sampler, tmp_path):
    def failing(draws, completions):
        raise RuntimeError("no verdict")

    with pytest.raises(RuntimeError, match="no verdict"):
        map_draws(tmp_path / "written.jsonl", sampler, work=failing, beside=True)
