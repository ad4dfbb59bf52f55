"""Facts of drafts from a real decoder: the split into z and x, resumption to the same bytes."""

import jax
import numpy as np
import pytest

from promptcot_jax.checkpoints import load
from promptcot_jax.core.records import ConceptSet
from promptcot_jax.data import examples, templates
from promptcot_jax.models import causal_lm
from promptcot_jax.sampling import completions, rollouts, scoring, token_choice
from promptcot_jax.synthesis import prompt_model, writing
from tests import toys

SETS = [ConceptSet(id=f"set{i}", concepts=(f"topic {i}",), level="2") for i in range(3)]
CONFIG = rollouts.RolloutConfig(
    samples_per_row=2,
    sampling=token_choice.SamplingConfig(max_new_tokens=12),
    batch_size=4,
    requests_per_shard=2,
    seed=5,
)


@pytest.fixture(scope="module")
def model():
    lm = causal_lm.CausalLM(toys.toy_config())
    return load.LoadedModel(lm, lm.init(jax.random.key(0)), toys.byte_tokenizer(), "toy")


def write(model, directory, write_drafts):
    return writing.write_problems(
        SETS,
        write_drafts=write_drafts,
        config=CONFIG,
        author=writing.Author(model_digest="abc", round_index=-1, seed=CONFIG.seed),
        seed_problems=[],
        drafts_path=directory / "synthesize" / "drafts.jsonl",
        problems_path=directory / "problems.jsonl",
    )


def test_a_killed_run_of_the_real_sampler_ends_in_the_same_bytes(model, tmp_path):
    write_drafts = prompt_model.draft_writer(model, CONFIG, score_tokens=1024)
    write(model, tmp_path / "whole", write_drafts)
    calls = []

    def dies_once(requests):
        calls.append([request.index for request in requests])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return prompt_model.draft_writer(model, CONFIG, score_tokens=1024)(requests)

    with pytest.raises(KeyboardInterrupt):
        write(model, tmp_path / "killed", dies_once)
    write(model, tmp_path / "killed", dies_once)
    assert calls == [[0, 1], [2, 3], [2, 3], [4, 5]]
    for name in ("problems.jsonl", "synthesize/drafts.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()
    texts = (tmp_path / "whole" / "synthesize" / "drafts.jsonl").read_text().splitlines()
    assert len(set(texts)) == 6  # every request has noise of its own


@pytest.mark.parametrize("special_markers", [True, False])
def test_scores_are_split_at_the_end_of_the_rationale_block(model, special_markers):
    tokenizer = toys.byte_tokenizer(special_markers=special_markers)
    z_ids = examples.rationale_ids(tokenizer, "a plan")
    x_ids = examples.problem_ids(tokenizer, "a problem?")
    prompt = examples.theta_prompt_ids(tokenizer, SETS[0])
    (scores,) = scoring.score(
        model.lm, model.params, [prompt], [(*z_ids, *x_ids)], batch_tokens=1024, pad_id=tokenizer.pad_id
    )
    draft = prompt_model.to_draft(
        tokenizer,
        rollouts.Request(index=0, row=SETS[0], sample=0),
        completions.Completion((*z_ids, *x_ids), scores, scores, "stop", has_end=True),
        np.asarray(scores),
    )
    assert templates.parse_problem(draft.text) == ("a plan", "a problem?")
    assert draft.log_p_z == pytest.approx(float(np.sum(scores[: len(z_ids)])), rel=1e-5)
    assert draft.log_p_x == pytest.approx(float(np.sum(scores[len(z_ids) :])), rel=1e-5)
    assert not draft.retokenized
