"""Which completions of an iteration are picked to be read, and the file that they are in."""

import dataclasses

import pytest

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import (
    CompletionSample,
    MathPrompt,
    ProgramPrompt,
    Rollout,
    StdioTest,
)
from promptcot_jax.trainers import algorithm, completion_samples
from promptcot_jax.trainers.completion_samples import SampleLog, pick
from tests.trainers.toy_self_play import TOKENIZER

NUM_PROMPTS, GROUP_SIZE = 6, 4


def rollout(group: int, sample: int, reward: float, **changes) -> Rollout:
    fields = {
        "prompt_id": f"p{group}",
        "domain": "math",
        "iteration": 0,
        "group": group,
        "sample": sample,
        "index": group * GROUP_SIZE + sample,
        "seed": 0,
        "policy_digest": "d",
        "prompt_ids": tuple(TOKENIZER.encode("1+1=")),
        "token_ids": (1, 2, 3),
        "sampler_log_probs": "",
        "completion": f"<think>\\boxed{{9}}</think> \\boxed{{{sample}}}",
        "finish_reason": "stop",
        "graded": True,
        "correct": reward > 0,
        "score": float(reward > 0),
        "reward": reward,
        "format": 1.0,
        "length": 0.0,
        "status": "match",
    }
    return Rollout(**(fields | changes))


def iteration_of(reward, **changes) -> list[algorithm.Group]:
    """Groups whose rewards are a function of (group, sample)."""
    return algorithm.groups_of(
        [rollout(g, s, reward(g, s), **changes) for g in range(NUM_PROMPTS) for s in range(GROUP_SIZE)]
    )


def places(rollouts) -> list[tuple[int, int]]:
    return [(one.group, one.sample) for one in rollouts]


def test_best_and_worst_are_those_of_the_reward_one_of_a_prompt():
    picked = pick(iteration_of(lambda group, sample: group + sample / 10), seed=0, iteration=3)
    assert places(picked["best"]) == [(5, 3), (4, 3), (3, 3)]
    assert places(picked["worst"]) == [(0, 0), (1, 0), (2, 0)]
    assert len({*places(picked["random"])}) == completion_samples.OF_EACH_KIND


def test_what_has_no_verdict_is_neither_best_nor_worst_and_may_be_drawn():
    groups = iteration_of(lambda group, sample: 0.5)
    ungraded = dataclasses.replace(groups[0].rollouts[0], graded=False, reward=0.0)
    groups[0] = algorithm.Group((ungraded, *groups[0].rollouts[1:]))
    is_drawn = []
    for seed in range(60):
        picked = pick(groups, seed=seed, iteration=0)
        assert ungraded not in picked["best"] + picked["worst"]
        is_drawn.append(ungraded in picked["random"])
    assert 0 < sum(is_drawn) < 30  # 3 of 24 completions: 7.5 on average
    alone = pick([algorithm.Group((ungraded,))], seed=0, iteration=0)
    assert alone == {"best": [], "worst": [], "random": [ungraded]}


def test_ties_are_broken_by_seed_and_iteration_alone():
    groups = iteration_of(lambda group, sample: 1.0)
    orders = {
        (seed, iteration): [places(some) for some in pick(groups, seed=seed, iteration=iteration).values()]
        for seed in (0, 1)
        for iteration in (0, 1)
    }
    assert len({str(order) for order in orders.values()}) == 4
    assert orders == {
        (seed, iteration): [places(some) for some in pick(groups, seed=seed, iteration=iteration).values()]
        for seed, iteration in orders
    }
    for best, worst, _ in orders.values():  # all rewards are one: still none is both
        assert not {*best} & {*worst}


PROMPTS = {f"p{i}": MathPrompt(id=f"p{i}", problem=f"{i}=", answer=f"{i}") for i in range(NUM_PROMPTS)}


def sample_log(directory, *, prompts=PROMPTS, **changes) -> SampleLog:
    settings = {"every": 3, "num_iterations": 8, "seed": 0, "tokenizer": TOKENIZER}
    return SampleLog(directory, prompts=prompts, **(settings | changes))


def write_iterations(log: SampleLog, iterations) -> None:
    for iteration in iterations:
        log.add(iteration, iteration_of(lambda group, sample: float(sample == 0), iteration=iteration))


def read(directory) -> list[CompletionSample]:
    return jsonl.read_records(directory / completion_samples.FILE, CompletionSample)


def test_the_first_the_last_and_every_third_iteration_have_samples(tmp_path):
    shown = []
    write_iterations(sample_log(tmp_path, show=lambda samples: shown.append(len(samples))), range(8))
    samples = read(tmp_path)
    assert [sample.iteration for sample in samples] == [
        iteration for iteration in (0, 3, 6, 7) for _ in range(9)
    ]
    assert [sample.kind for sample in samples[:9]] == ["best"] * 3 + ["worst"] * 3 + ["random"] * 3
    assert shown == [9, 18, 27, 36]
    first = samples[0]
    assert (first.prompt, first.problem) == ("1+1=", f"{first.group}=")
    assert (first.reference, first.answer) == (str(first.group), "0")  # a box in the thinking is none
    assert (first.reward, first.num_tokens, first.finish_reason) == (1.0, 3, "stop")


@pytest.mark.parametrize("killed_after", range(8))
@pytest.mark.parametrize("checkpoint_every", [1, 4])
def test_a_resumed_run_leaves_the_file_of_an_undisturbed_one(tmp_path, killed_after, checkpoint_every):
    write_iterations(sample_log(tmp_path / "whole"), range(8))
    write_iterations(sample_log(tmp_path / "killed"), range(killed_after + 1))
    first = (killed_after + 1) // checkpoint_every * checkpoint_every
    write_iterations(sample_log(tmp_path / "killed"), range(first, 8))
    whole, killed = ((tmp_path / name / completion_samples.FILE).read_bytes() for name in ("whole", "killed"))
    assert killed == whole


def test_no_samples_are_written_where_none_are_wanted_or_by_another_host(tmp_path):
    write_iterations(sample_log(tmp_path, every=0), range(8))
    write_iterations(sample_log(tmp_path, writes=False), range(8))
    assert not list(tmp_path.iterdir())


def test_the_answer_to_a_programming_problem_is_the_program_that_is_tested(tmp_path):
    prompts = {"p0": ProgramPrompt(id="p0", problem="Print 1.", tests=(StdioTest("", "1\n"),))}
    written = "```python\nprint(0)\n```\n</think>\n```python\nprint(1)\n```\n"
    group = algorithm.Group((rollout(0, 0, 1.0, domain="code", completion=written),))
    sample_log(tmp_path, prompts=prompts).add(0, [group])
    first = read(tmp_path)[0]
    assert (first.answer.strip(), first.reference, first.completion) == ("print(1)", "", written)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"iteration": 0', r"samples.jsonl:10: not a JSON object"),
        ('{"iteration": 0}', "field 'kind' .* is missing"),
    ],
)
def test_a_damaged_file_is_named_and_not_written_over(tmp_path, line, message):
    write_iterations(sample_log(tmp_path), range(1))
    path = tmp_path / completion_samples.FILE
    path.write_text(path.read_text() + line + "\n")
    before = path.read_bytes()
    with pytest.raises(WrongUse, match=message):
        sample_log(tmp_path)
    assert path.read_bytes() == before
