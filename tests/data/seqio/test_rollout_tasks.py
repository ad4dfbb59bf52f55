"""The seqio task of right completions: ids as they were drawn, prompts parted between the splits."""

import numpy as np
import pytest
import seqio

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import training_sets
from promptcot_jax.data.seqio import rollout_tasks, seqio_registry
from promptcot_jax.data.seqio.rollout_tasks import RolloutRules
from promptcot_jax.data.seqio.vocabulary import TokenizerVocabulary
from tests.data.rollouts import TOKENIZER, rollout, store

VOCABULARY = TokenizerVocabulary(TOKENIZER)
ALL = RolloutRules(solved_below=1.01, validation_share=0.3)


@pytest.fixture
def directory(tmp_path):
    iterations = [[rollout(f"p{i}", f"{i}", correct=i % 2 == 0, index=i) for i in range(40)]]
    return str(store(tmp_path / "rollouts", *iterations))


def examples_of(split):
    return [example for batch in seqio_registry.task_examples("right_rollouts", split) for example in batch]


def test_a_fit_reads_the_ids_that_the_policy_read_and_wrote(directory, tmp_path):
    name = rollout_tasks.registered(VOCABULARY, directory, rules=ALL)
    found, counts = {}, {}
    for split in ("train", "validation"):
        found[split], counts = training_sets.open_task(
            name, "", TOKENIZER, config=training_sets.DataConfig(), workdir=str(tmp_path), split=split
        )
        assert counts["in"] == len(found[split]) > 0
    pairs = {
        split: {
            (TOKENIZER.decode(e.prompt_ids.tolist()), tuple(e.completion_ids.tolist()))
            for e in (own[i] for i in range(len(own)))
        }
        for split, own in found.items()
    }
    assert pairs["train"] | pairs["validation"] == {
        (f"p{i}?", (*TOKENIZER.encode(f"{i}"), TOKENIZER.eos_id)) for i in range(0, 40, 2)
    }
    assert not pairs["train"] & pairs["validation"]


def test_all_completions_of_a_prompt_are_in_one_split(tmp_path):
    iteration = [rollout(f"p{i}", text, correct=True) for i in range(20) for text in "ab"]
    rollout_tasks.register(VOCABULARY, str(store(tmp_path, iteration)), rules=ALL)
    prompts = {
        split: [tuple(e.prompt_ids.tolist()) for e in examples_of(split)] for split in ("train", "validation")
    }
    assert not {*prompts["train"]} & {*prompts["validation"]}
    assert len(prompts["train"]) + len(prompts["validation"]) == 40


def test_rules_are_those_of_rejection_sampling(tmp_path):
    iteration = [rollout("easy", text, correct=text != "c") for text in "abc"]
    iteration += [rollout("hard", text, correct=text < "c") for text in "abcdef"]
    directory = str(store(tmp_path, iteration))
    rules = RolloutRules(solved_below=0.5, completions_per_prompt=1, validation_share=1e-9)
    rollout_tasks.register(VOCABULARY, directory, rules=rules)
    (example,) = examples_of("train")
    assert TOKENIZER.decode(example.completion_ids[:-1].tolist()) == "a"
    assert TOKENIZER.decode(example.prompt_ids.tolist()) == "hard?"


def test_ids_of_another_tokenizer_are_refused(tmp_path):
    iteration = [rollout("p", "a", correct=True)]
    iteration[0] = type(iteration[0])(**(vars(iteration[0]) | {"completion": "another text"}))
    directory = str(store(tmp_path, iteration))
    rules = RolloutRules(solved_below=1.01, validation_share=1e-9)
    rollout_tasks.register(VOCABULARY, directory, rules=rules)
    with pytest.raises(WrongUse, match="rollout 0 is another text by this vocabulary"):
        examples_of("train")


def test_a_row_that_seqio_would_cut_is_refused(directory):
    rollout_tasks.register(VOCABULARY, directory, rules=ALL)
    task = seqio.get_mixture_or_task("right_rollouts")
    with pytest.raises(Exception, match="'targets' is 2 long, over the length of 1"):
        list(task.get_dataset({"inputs": 9, "targets": 1}, split="train").as_numpy_iterator())
    rollout_tasks.register(VOCABULARY, directory, rules=ALL, overlong="drop")
    task = seqio.get_mixture_or_task("right_rollouts")
    assert not list(task.get_dataset({"inputs": 9, "targets": 1}, split="train").as_numpy_iterator())


def test_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"validation_share must lie in \(0, 1\)"):
        RolloutRules(validation_share=np.float64(0.0))
