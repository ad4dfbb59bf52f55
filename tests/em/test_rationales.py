"""What becomes of one completion of q_phi: parsed, checked, scored, and given to both fits as sampled."""

import numpy as np
import pytest

from promptcot_jax.data import examples, templates
from promptcot_jax.em import m_step, pairs, ranking
from promptcot_jax.sampling import completions
from tests.em.toy_em import E_STEP, TRIPLES

TEXT = "<!-- BEGIN RATIONALE -->\nadd a\n<!-- END RATIONALE -->\n"


def completed(ids, eos_id=None):
    """These ids, and the end token where it is given; log q of the tokens is -1 / 8, -2 / 8, -3 / 8 ..."""
    token_ids = tuple(ids) if eos_id is None else (*ids, eos_id)
    log_probs = -np.arange(1, len(token_ids) + 1, dtype=np.float32) / 8
    return completions.Completion(
        token_ids=token_ids,
        log_probs=log_probs,
        sampler_log_probs=np.zeros_like(log_probs),
        finish_reason="length" if eos_id is None else "stop",
        has_end=eos_id is not None,
    )


@pytest.fixture(scope="module")
def pair(cold):
    return pairs.tokenize_pairs(cold.tokenizer, TRIPLES[:1])[0]


def test_a_rationale_that_ended_is_valid_and_scored_with_its_end_token(cold, pair):
    ids, eos_id = tuple(cold.tokenizer.encode(TEXT)), cold.tokenizer.eos_id
    z = pairs.to_rationale(cold.tokenizer, pair, completed(ids, eos_id))
    assert (z.pair_id, z.rationale, z.valid, z.retokenized) == (pair.triple.id, "add a", True, False)
    assert (z.token_ids, z.block_ids) == ((*ids, eos_id), ids)
    n = len(ids) + 1
    assert z.log_q == -n * (n + 1) / 2 / 8


def test_a_rationale_that_ran_out_of_its_budget_is_not_valid_though_it_parses(cold, pair):
    ids = tuple(cold.tokenizer.encode(TEXT))
    assert templates.parse_rationale(TEXT) == "add a"
    z = pairs.to_rationale(cold.tokenizer, pair, completed(ids))
    assert not z.valid
    assert z.token_ids == z.block_ids == ids


@pytest.mark.parametrize("text", ["add a", TEXT + TEXT, TEXT.replace("add a", "")])
def test_a_rationale_that_does_not_parse_is_not_valid(cold, pair, text):
    completion = completed(cold.tokenizer.encode(text), cold.tokenizer.eos_id)
    assert not pairs.to_rationale(cold.tokenizer, pair, completion).valid


def test_a_rationale_sampled_in_other_pieces_is_trained_on_as_it_was_sampled(cold, pair):
    tokenizer = cold.tokenizer
    ids = tuple(i for letter in TEXT for i in tokenizer.encode(letter))
    assert tokenizer.decode(ids) == TEXT
    assert ids != examples.rationale_ids(tokenizer, "add a")
    z = pairs.to_rationale(tokenizer, pair, completed(ids, tokenizer.eos_id))
    assert (z.valid, z.retokenized) == (True, True)
    of_theta = m_step.theta_target(pair, z)
    assert tuple(of_theta.prompt_ids) == pair.theta_prompt_ids
    assert tuple(of_theta.completion_ids) == (*ids, *pair.problem_ids)
    scores = np.array([[-1.0]])
    (of_phi,) = ranking.phi_targets([pair], ranking.rank([pair], [[z]], scores, scores, E_STEP), E_STEP)
    assert tuple(of_phi.prompt_ids) == pair.phi_prompt_ids
    assert tuple(of_phi.completion_ids) == (*ids, tokenizer.eos_id)


def test_a_sample_that_spells_a_stop_token_is_no_target_and_no_end_of_the_run(cold, pair):
    tokenizer = cold.tokenizer
    text = TEXT.replace("add a", f"add {tokenizer.token_text(tokenizer.eos_id)} a")
    pieces = ("<!-- BEGIN RATIONALE -->\nadd ", "<|endof", "text|> a\n", "<!-- END RATIONALE -->\n")
    ids = [i for piece in pieces for i in tokenizer.encode(piece)]
    assert tokenizer.decode(ids) == text
    assert not pairs.to_rationale(tokenizer, pair, completed(ids, tokenizer.eos_id)).valid
