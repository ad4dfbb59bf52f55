"""What a rollout store says of its prompts: tries over all iterations, and right completions, each once."""

import collections

import pytest

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import VerifiedMathPrompt
from promptcot_jax.data import rollout_sets
from promptcot_jax.data.prompt_stream import PromptConfig, read_tasks
from tests.data.rollouts import TOKENIZER, rollout, store


@pytest.fixture
def directory(tmp_path):
    """`half` is solved in 2 of 4 samples, `rare` in 1 of 3, of which one more was not graded."""
    return store(
        tmp_path / "rollouts",
        [rollout("half", "a", correct=True), rollout("half", "b", correct=False)],
        [
            rollout("rare", "a", correct=True),
            rollout("rare", "b", correct=False),
            rollout("rare", "c", correct=False),
            rollout("rare", "d", correct=False, graded=False),
            rollout("half", "a", correct=True),
            rollout("half", "c", correct=False),
        ],
    )


def texts(directory, **rules):
    settings = {"solved_below": 1.01, "completions_per_prompt": 0} | rules
    return [(r.prompt_id, r.completion) for r in rollout_sets.right_ones(directory, **settings)]


def test_tries_add_up_over_iterations_and_leave_out_what_was_not_graded(directory):
    tries = rollout_sets.tries_by_prompt(directory)
    assert {name: (own.num_graded, own.num_right) for name, own in tries.items()} == {
        "half": (4, 2),
        "rare": (3, 1),
    }


def test_right_completions_come_once_and_of_prompts_that_are_hard_enough(directory, tmp_path):
    assert texts(directory) == [("half", "a"), ("rare", "a")]
    assert texts(directory, solved_below=0.5) == [("rare", "a")]
    many = store(tmp_path / "many", [rollout("p", text, correct=True) for text in "abab"])
    assert texts(many) == [("p", "a"), ("p", "b")]
    assert texts(many, completions_per_prompt=1) == [("p", "a")]


def test_files_that_are_not_finished_are_not_read(directory):
    jsonl.write_records(
        directory / "iteration_00002-00000-of-00002.jsonl", [rollout("new", "a", correct=True)]
    )
    assert "new" not in rollout_sets.tries_by_prompt(directory)


def test_prompts_are_left_out_by_what_the_policy_made_of_them(directory, tmp_path):
    """Not by what their rows say of another solver; a prompt that the policy never tried stays."""
    prompts = [
        VerifiedMathPrompt(
            id=name, problem=f"{name}?", answer="1", agreement=1.0, num_solutions=8, pass_share=share
        )
        for name, share in (("half", 0.0), ("rare", 1.0), ("untried", 1.0))
    ]
    jsonl.write_records(tmp_path / "prompts.jsonl", prompts)

    def kept(**settings):
        config, counts = PromptConfig(solved_below=0.5, **settings), collections.Counter()
        found = read_tasks(tmp_path / "prompts.jsonl", TOKENIZER, config, longest=1000, counts=counts)
        assert counts["dropped_difficulty"] == 3 - len(found)
        return [task.prompt.id for task in found]

    assert kept() == ["half"]
    assert kept(solved_in=str(directory)) == ["rare", "untried"]
    with pytest.raises(WrongUse, match="nowhere: there are no finished rollouts here"):
        kept(solved_in=str(tmp_path / "nowhere"))
