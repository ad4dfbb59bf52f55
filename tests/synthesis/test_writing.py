"""Facts of problem writing: what is dropped and why, lineage, and resumption to the same bytes."""

import random

import pytest

from promptcot_jax.core import jsonl, shards
from promptcot_jax.core.records import ConceptSet, Problem
from promptcot_jax.data import templates
from promptcot_jax.synthesis import writing

SETS = [ConceptSet(id=f"set{i}", concepts=("primes", f"topic {i}"), level="2") for i in range(5)]
AUTHOR = writing.Author(model_digest="abc", round_index=1, seed=7)


def blocks(rationale, problem):
    return templates.rationale_block(rationale) + templates.problem_block(problem)


def draft(index, text, finish_reason="stop", **changes):
    values = {
        "request": index,
        "concept_set_id": SETS[index % 5].id,
        "sample": index // 5,
        "text": text,
        "finish_reason": finish_reason,
        "num_tokens": 9,
        "log_p_z": -1.5,
        "log_p_x": -2.5,
        "retokenized": False,
    }
    return writing.Draft(**(values | changes))


def test_every_draft_is_kept_or_counted_under_one_reason():
    z, x = templates.BEGIN_RATIONALE, templates.BEGIN_PROBLEM
    drafts = [
        draft(0, blocks("plan", "How many primes?")),
        draft(1, blocks("other plan", "how  many\nPRIMES?")),  # a duplicate but for case and spacing
        draft(2, blocks("plan", "What is 2 + 2?")),  # a seed problem
        draft(3, blocks("plan", "Cut off?"), finish_reason="length"),
        draft(4, f"{z}\nplan\n{templates.END_RATIONALE}\n{x}\n \n{templates.END_PROBLEM}"),
        draft(5, ""),
        draft(6, f"{z}\nplan\n{templates.END_RATIONALE}\nWhat is it?"),
        draft(7, "prose before " + blocks("plan", "What is it?")),
        draft(8, blocks("plan", "Which one?"), retokenized=True),
    ]
    problems, counts = writing.select_problems(drafts, SETS, author=AUTHOR, seed_problems=["what is 2 + 2?"])
    assert [p.problem for p in problems] == ["How many primes?", "Which one?"]
    assert counts == {
        "concept_sets": 5,
        "in": 9,
        "out": 2,
        "dropped_unfinished": 1,
        "dropped_unparseable": 2,
        "dropped_empty": 2,
        "dropped_duplicate": 1,
        "dropped_duplicate_of_seed": 1,
        "retokenized": 1,
    }
    assert problems[1] == Problem(
        id="set3-r1-s7-1",
        domain="math",
        concepts=("primes", "topic 3"),
        level="2",
        rationale="plan",
        problem="Which one?",
        log_p_z=-1.5,
        log_p_x=-2.5,
        model_digest="abc",
        round_index=1,
        seed=7,
        sample=1,
    )


def fake_drafts(requests):
    """A stand-in for p_theta whose draft depends on the request's number alone, as the sampler's does."""
    drafts = []
    for request in requests:
        rng = random.Random(request.index)
        drafts.append(
            draft(
                request.index,
                blocks("plan", f"What is {rng.randrange(6)} squared?"),
                finish_reason=rng.choice(["stop", "stop", "length"]),
                concept_set_id=request.row.id,
                sample=request.sample,
                log_p_z=-rng.random(),
            )
        )
    return drafts


def write(directory, write_drafts, requests_per_shard=4):
    return writing.write_problems(
        SETS,
        write_drafts=lambda path, draws: shards.map_in_shards(
            path, draws, write_drafts, writing.Draft, shard_size=requests_per_shard, name="drafts"
        ),
        samples_per_set=3,
        author=AUTHOR,
        seed_problems=["What is 1 squared?"],
        drafts_path=directory / "synthesize" / "drafts.jsonl",
        problems_path=directory / "problems.jsonl",
    )


def files(directory):
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.mark.parametrize("calls_before_death", [0, 2])
def test_a_killed_run_ends_in_the_bytes_of_an_uninterrupted_one(tmp_path, calls_before_death):
    counts = write(tmp_path / "whole", fake_drafts)
    assert counts["in"] == 15
    assert counts["in"] == counts["out"] + sum(n for name, n in counts.items() if name.startswith("dropped_"))
    calls = []

    def dies(requests):
        if len(calls) == calls_before_death:
            raise KeyboardInterrupt
        calls.append([request.index for request in requests])
        return fake_drafts(requests)

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "killed", dies)
    assert not (tmp_path / "killed" / "problems.jsonl").exists()

    def goes_on(requests):
        calls.append([request.index for request in requests])
        return fake_drafts(requests)

    assert write(tmp_path / "killed", goes_on) == counts
    assert sum(calls, []) == list(range(15))
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_the_shard_size_does_not_change_the_problems(tmp_path):
    write(tmp_path / "small", fake_drafts, requests_per_shard=2)
    write(tmp_path / "large", fake_drafts, requests_per_shard=100)
    assert files(tmp_path / "small") == files(tmp_path / "large")
    assert jsonl.read_records(tmp_path / "small" / "problems.jsonl", Problem)
