"""Facts of drafts from a real decoder: the split into z and x, resumption to the same bytes."""

import jax
import numpy as np
import pytest

from promptcot_jax.checkpoints import load
from promptcot_jax.core.records import ConceptSet
from promptcot_jax.data import examples, templates
from promptcot_jax.models import causal_lm
from promptcot_jax.models.hashed_tfidf import HashedTfidf
from promptcot_jax.sampling import completions, engine, rollouts, scoring, token_choice
from promptcot_jax.synthesis import drafts, writing
from promptcot_jax.synthesis.drafts import Author
from promptcot_jax.synthesis.filters import FilterConfig
from promptcot_jax.synthesis.near_duplicates import DuplicateConfig
from promptcot_jax.synthesis.selection import Selection
from tests import toys

SETS = [ConceptSet(id=f"set{i}", concepts=(f"topic {i}",), level="2") for i in range(3)]
CONFIG = rollouts.RolloutConfig(
    group_size=2,
    sampling=token_choice.SamplingConfig(max_new_tokens=12),
    engine=engine.EngineConfig(num_slots=4, page_size=32),
    requests_per_shard=2,
    seed=5,
)


@pytest.fixture(scope="module")
def model():
    lm = causal_lm.CausalLM(toys.toy_config())
    return load.LoadedModel(lm, lm.init(jax.random.key(0)), toys.byte_tokenizer(), "toy")


def write(model, directory, write_drafts):
    return writing.write_problems(
        lambda size: SETS[:size],
        config=writing.ListBatchConfig(num_concept_sets=0),
        write_drafts=write_drafts,
        samples_per_set=CONFIG.group_size,
        selection=Selection(FilterConfig(), DuplicateConfig(), encode=HashedTfidf([]), seed_problems=[]),
        author=Author(model_digest="abc", round_index=-1, seed=CONFIG.seed),
        directory=directory / "synthesize",
        problems_path=directory / "problems.jsonl",
    )


def test_a_killed_run_of_the_real_sampler_ends_in_the_same_bytes(model, tmp_path, monkeypatch):
    write_drafts = drafts.draft_writer(model, CONFIG, score_tokens=1024)
    write(model, tmp_path / "whole", write_drafts)
    scored, score = [], scoring.score

    def dies_once(lm, params, prompts, *arguments, **settings):
        scored.append(len(prompts))
        if len(scored) == 2:
            raise KeyboardInterrupt
        return score(lm, params, prompts, *arguments, **settings)

    monkeypatch.setattr(scoring, "score", dies_once)
    with pytest.raises(KeyboardInterrupt):
        write(model, tmp_path / "killed", write_drafts)
    write(model, tmp_path / "killed", write_drafts)
    assert scored == [2, 2, 2, 2]  # the first shard once, the second twice, the third once
    for name in ("problems.jsonl", "synthesize/drafts_000.jsonl", "synthesize/rejects.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()
    assert sorted(p.name for p in (tmp_path / "killed" / "synthesize").iterdir()) == [
        "drafts_000.jsonl",
        "rejects.jsonl",
    ]
    texts = (tmp_path / "whole" / "synthesize" / "drafts_000.jsonl").read_text().splitlines()
    assert len(set(texts)) == 6  # every request has noise of its own


@pytest.mark.parametrize("special_markers", [True, False])
def test_scores_are_split_at_the_end_of_the_rationale_block(model, special_markers):
    tokenizer = toys.byte_tokenizer(special_markers=special_markers)
    z_ids = examples.rationale_ids(tokenizer, "a plan")
    x_ids = examples.problem_ids(tokenizer, "a problem?")
    prompt = tuple(tokenizer.prompt_ids(examples.theta_prompt(SETS[0])))
    (scores,) = scoring.score(
        model.lm, model.params, [prompt], [(*z_ids, *x_ids)], batch_tokens=1024, pad_id=tokenizer.pad_id
    )
    draft = drafts.to_draft(
        tokenizer,
        rollouts.Draw(index=0, row=SETS[0], sample=0),
        completions.Completion((*z_ids, *x_ids), scores, scores, "stop", has_end=True),
        np.asarray(scores),
    )
    assert templates.parse_problem(draft.text) == ("a plan", "a problem?")
    assert draft.log_p_z == pytest.approx(float(np.sum(scores[: len(z_ids)])), rel=1e-5)
    assert draft.log_p_x == pytest.approx(float(np.sum(scores[len(z_ids) :])), rel=1e-5)
    assert not draft.retokenized
