"""Facts of writing in batches: a target is reached, the seed decides all, a killed run ends the same."""

import random

import pytest

from promptcot_jax.core import jsonl, shards
from promptcot_jax.core.records import ConceptSet, Problem
from promptcot_jax.data import templates
from promptcot_jax.models.hashed_tfidf import HashedTfidf
from promptcot_jax.synthesis import writing
from promptcot_jax.synthesis.drafts import Author, Draft
from promptcot_jax.synthesis.filters import FilterConfig
from promptcot_jax.synthesis.near_duplicates import DuplicateConfig
from promptcot_jax.synthesis.selection import Selection

AUTHOR = Author(model_digest="abc", round_index=1, seed=7)
SEEDS = ["What is the square of 1 and of nothing else?"]


def sets_of(count):
    """The first `count` of endless lists, taken by and by."""
    rest = iter(ConceptSet(id=f"set{i}", concepts=("squares", f"topic {i}"), level="2") for i in range(count))
    return lambda size: [one for _, one in zip(range(size), rest, strict=False)]


def fake_drafts(requests, kept_share=0.6):
    """A stand-in for p_theta whose draft depends on the request's number alone, as the sampler's does."""
    drafts = []
    for request in requests:
        draw = random.Random(request.index)
        words = " ".join(
            draw.choice(("apple", "river", "stone", "cloud", "lamp", "seven")) for _ in range(30)
        )
        problem = f"What is the number of ways to order {words} on a shelf?"
        if draw.random() > kept_share:
            problem = draw.choice(SEEDS)
        drafts.append(
            Draft(
                request=request.index,
                concept_set_id=request.row.id,
                sample=request.sample,
                text=templates.rationale_block("a plan") + templates.problem_block(problem),
                finish_reason="stop",
                num_tokens=9,
                log_p_z=-draw.random(),
                log_p_x=-2.5,
                retokenized=draw.random() < 0.5,
            )
        )
    return drafts


def write(directory, write_drafts=fake_drafts, *, num_sets=10_000, requests_per_shard=4, **settings):
    selection = Selection(FilterConfig(), DuplicateConfig(), encode=HashedTfidf(SEEDS), seed_problems=SEEDS)
    return writing.write_problems(
        sets_of(num_sets),
        config=writing.ListBatchConfig(**({"num_concept_sets": 0} | settings)),
        write_drafts=lambda path, draws: shards.map_in_shards(
            path, draws, write_drafts, Draft, shard_size=requests_per_shard, name="drafts"
        ),
        samples_per_set=3,
        selection=selection,
        author=AUTHOR,
        directory=directory / "synthesize",
        problems_path=directory / "problems.jsonl",
    )


def files(directory):
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_batchs_go_on_until_the_target_is_kept_and_not_much_further(tmp_path):
    counts = write(tmp_path, lambda requests: fake_drafts(requests, kept_share=0.4), target=100)
    problems = jsonl.read_records(tmp_path / "problems.jsonl", Problem)
    rejects = [row for *_, row in jsonl.iter_rows(tmp_path / "synthesize" / "rejects.jsonl")]
    assert 100 <= counts["out"] == len(problems) <= 125
    assert counts["batches"] > 1
    assert counts["in"] == 3 * counts["concept_sets"] == len(problems) + len(rejects)
    assert counts["in"] == counts["out"] + sum(n for name, n in counts.items() if name.startswith("dropped_"))
    assert counts["dropped_near_seed"] == len(rejects)
    drafts = [
        draft
        for batch in range(counts["batches"])
        for draft in jsonl.read_records(tmp_path / "synthesize" / f"drafts_{batch:03d}.jsonl", Draft)
    ]
    assert [draft.request for draft in drafts] == list(range(counts["in"]))  # each draw with noise of its own
    kept = {problem.id for problem in problems}
    odd = [d for d in drafts if d.retokenized and f"{d.concept_set_id}-r1-s7-{d.sample}" in kept]
    assert counts["retokenized"] == len(odd)


def test_without_a_target_there_is_one_batch_of_so_many_lists_or_of_all(tmp_path):
    assert write(tmp_path / "some", num_concept_sets=5)["in"] == 15
    counts = write(tmp_path / "all", num_sets=7)
    assert (counts["in"], counts["batches"], counts["concept_sets"]) == (21, 1, 7)


@pytest.mark.parametrize(("num_sets", "limit"), [(10_000, 12), (12, 1000)])
def test_a_limit_ends_the_batchs_with_a_warning(tmp_path, caplog, num_sets, limit):
    counts = write(tmp_path, num_sets=num_sets, target=100, max_concept_sets=limit)
    assert counts["concept_sets"] == 12
    assert 0 < counts["out"] < 100
    assert "of the 100 asked for, from 12 concept sets" in caplog.text


def test_a_model_whose_drafts_are_all_refused_is_stopped_by_the_limit(tmp_path):
    counts = write(tmp_path, lambda r: fake_drafts(r, kept_share=-1.0), target=50, max_concept_sets=200)
    assert (counts["out"], counts["concept_sets"]) == (0, 200)


@pytest.mark.parametrize("calls_before_death", [0, 2, 12, 20])
def test_a_killed_run_ends_in_the_bytes_of_an_uninterrupted_one(tmp_path, calls_before_death):
    counts = write(tmp_path / "whole", target=60)
    calls = []

    def dies(requests):
        if len(calls) == calls_before_death:
            raise KeyboardInterrupt
        calls.append([request.index for request in requests])
        return fake_drafts(requests)

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "killed", dies, target=60)
    assert not (tmp_path / "killed" / "problems.jsonl").exists()

    def goes_on(requests):
        calls.append([request.index for request in requests])
        return fake_drafts(requests)

    assert write(tmp_path / "killed", goes_on, target=60) == counts
    assert sum(calls, []) == list(range(counts["in"]))
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_the_size_of_shards_does_not_change_anything(tmp_path):
    write(tmp_path / "small", requests_per_shard=1, target=40)
    write(tmp_path / "large", requests_per_shard=1000, target=40)
    assert files(tmp_path / "small") == files(tmp_path / "large")
    counts = write(tmp_path / "sharded", target=40, rows_per_file=10)
    names = sorted(p.name for p in (tmp_path / "sharded").glob("problems*"))
    assert names == [f"problems-{i:05d}-of-{-(-counts['out'] // 10):05d}.jsonl" for i in range(len(names))]
    assert jsonl.read_records(tmp_path / "sharded" / "problems.jsonl", Problem) == jsonl.read_records(
        tmp_path / "small" / "problems.jsonl", Problem
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": -1}, "target must be 0 or more"),
        ({"num_concept_sets": -1}, "num_concept_sets must be 0 or more"),
        ({"max_concept_sets": 0}, "max_concept_sets must be at least 1"),
        ({"target": 5, "num_concept_sets": 5}, "set one to 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        writing.ListBatchConfig(**({"num_concept_sets": 0} | settings))
