"""E-step's samples of the cold-started q_phi: density of the mixture, who draws what, being killed."""

import dataclasses
from unittest import mock

import jax
import numpy as np
import pytest

from promptcot_jax.core import jsonl, records
from promptcot_jax.em import cold_samples, e_step, generators, pairs
from promptcot_jax.em.generators import Round
from promptcot_jax.objectives import bounds
from tests.em import table_model, toy_em
from tests.em.toy_em import E_STEP, MESH, UNSURE, ByHand

CONFIG = dataclasses.replace(E_STEP, group_size=4, num_cold_samples=1, temperature=0.8)


class TableRationaleModel(generators.RationaleModel):
    """Scores rationales of one symbol by a table log q(z | c, x), its one parameter."""

    def __init__(self):
        """Needs neither a model nor a tokenizer."""

    def token_log_probs(self, params, prompts, completions, *, temperature):
        assert temperature == 1.0
        return [
            np.array([params["log_q"][(*prompt, completion[0])], 0.0])
            for prompt, completion in zip(prompts, completions, strict=True)
        ]


def test_the_density_is_that_of_the_mixture_by_enumeration():
    """Of 500 samples 100 are of the other proposal: the mean weight is p(x | c), which either alone gives."""
    some_pairs = table_model.toy_pairs(40)
    now, cold = table_model.TableModel.random(1), table_model.TableModel.random(2)
    of_phi, of_cold = now.sample(some_pairs, 400, seed=3), cold.sample(some_pairs, 100, seed=4)
    phi, cold_phi = ({"log_q": model.log_q} for model in (now, cold))
    found = cold_samples.mixed(
        phi, cold_phi, some_pairs, of_phi, of_cold, TableRationaleModel(), temperature=1.0
    )
    for pair, row, own, more in zip(some_pairs, found, of_phi, of_cold, strict=True):
        assert [z.token_ids for z in row] == [z.token_ids for z in (*own, *more)]
        c, x = pair.theta_prompt_ids[0], pair.problem_ids[0]
        q = 0.8 * np.exp(now.log_q[c, x]) + 0.2 * np.exp(cold.log_q[c, x])  # [Z]
        np.testing.assert_allclose([z.log_q for z in row], np.log(q)[[z.token_ids[0] for z in row]])
    log_p_z, log_p_x = now.log_joint(some_pairs, found)
    log_q = np.array([[z.log_q for z in row] for row in found])
    marginals = [np.logaddexp.reduce(now.joint(pair)) for pair in some_pairs]
    errors = bounds.importance_bound(log_p_z + log_p_x - log_q) - marginals
    assert abs(errors.mean()) < 0.02


def candidates_of(em, theta, phi, cold_phi, em_round, config=CONFIG):
    with jax.set_mesh(MESH), mock.patch.object(generators.Generator, "fit", return_value=(phi, {})):
        e_step.e_step(
            theta,
            phi,
            em.pairs[:4],
            em.prompt_model,
            em.rationale_model,
            config=config,
            em_round=em_round,
            cold_phi=cold_phi,
        )
    return jsonl.read_records(em_round.directory / "candidates.jsonl", records.Candidate)


def test_samples_of_the_cold_start_have_noise_and_temperature_as_those_of_phi_have(cold, models, tmp_path):
    """And not phi's own noise, by which like models would write the same."""
    drawn, sampler = [], generators.Generator.sampler

    def spied(self, params, *, temperature, key):
        drawn.append((params, temperature, tuple(jax.random.key_data(key).tolist())))
        return sampler(self, params, temperature=temperature, key=key)

    theta, phi, cold_phi = models
    em = toy_em.make_em(cold, tmp_path)
    with mock.patch.object(generators.Generator, "sampler", spied):
        candidates_of(em, theta, phi, lambda: cold_phi, Round(1, em.directory, em.config))
    assert [params is own for (params, *_), own in zip(drawn, (cold_phi, phi), strict=True)] == [True] * 2
    assert [temperature for _, temperature, _ in drawn] == [CONFIG.temperature] * 2
    assert drawn[0][2] != drawn[1][2]


@pytest.fixture(scope="module")
def models(cold):
    """theta, an unsure phi, and a cold-started one that is less sure still."""
    return (
        cold.params("theta"),
        cold.params("phi", sharpness=UNSURE),
        cold.params("phi", sharpness=0.3),
    )


@pytest.fixture(scope="module")
def mixed(cold, models, tmp_path_factory):
    """A run whose E-step of round 1 had four pairs, in shards of two, and its candidates."""
    em = toy_em.make_em(cold, tmp_path_factory.mktemp("mixed"), e_step_config=CONFIG, pairs_per_shard=2)
    theta, phi, cold_phi = models
    calls = []

    def read():
        calls.append(1)
        return cold_phi

    candidates = candidates_of(em, theta, phi, read, Round(1, em.directory, em.config))
    assert len(calls) == 1
    return em, candidates


def test_each_model_draws_its_share_and_is_scored_at_the_temperature(mixed, cold, models):
    em, candidates = mixed
    theta, phi, cold_phi = (ByHand(cold.lm, params) for params in models)
    assert [c.sample for c in candidates] == [0, 1, 2, 3] * 4
    of_cold = jsonl.read_records(em.directory / "round_001" / "cold_rationales.jsonl", pairs.Rationale)
    assert [(z.pair_id, z.token_ids) for z in of_cold] == [
        (c.pair_id, c.token_ids) for c in candidates if c.sample == 3
    ]
    by_id, gaps = {pair.triple.id: pair for pair in em.pairs}, []
    for c in candidates:
        pair = by_id[c.pair_id]
        now, before = (
            np.sum(model.log_probs(pair.phi_prompt_ids, c.token_ids, temperature=0.8))
            for model in (phi, cold_phi)
        )
        np.testing.assert_allclose(c.log_q, np.log(0.75 * np.exp(now) + 0.25 * np.exp(before)), atol=1e-3)
        joint = theta.log_probs(pair.theta_prompt_ids, (*c.token_ids[: c.length], *pair.problem_ids))
        np.testing.assert_allclose(c.log_p_z + c.log_p_x, joint.sum(), atol=1e-3)
        gaps.append((c.sample, now - before))
    by_cold = [gap for sample, gap in gaps if sample == 3]
    by_phi = [gap for sample, gap in gaps if sample != 3]
    assert np.mean(by_phi) > 1 > np.mean(by_cold) + 1  # whoever draws a sample likes it better
    assert any(c.won for c in candidates if c.sample < 3)


def test_a_killed_e_step_goes_on_to_the_same_candidates(mixed, cold, models, tmp_path):
    _, candidates = mixed
    theta, phi, cold_phi = models
    em = toy_em.make_em(cold, tmp_path, e_step_config=CONFIG, pairs_per_shard=2)
    em_round, log_joint, calls = Round(1, em.directory, em.config), generators.PromptModel.log_joint, []

    def killed(self, *args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return log_joint(self, *args)

    with mock.patch.object(generators.PromptModel, "log_joint", killed), pytest.raises(KeyboardInterrupt):
        candidates_of(em, theta, phi, lambda: cold_phi, em_round)
    assert not (em_round.directory / "candidates.jsonl").exists()
    assert candidates_of(em, theta, phi, lambda: cold_phi, em_round) == candidates
    assert candidates_of(em, theta, phi, mock.Mock(), em_round) == candidates  # nothing is left to draw


def test_in_round_0_phi_is_the_cold_started_one_and_draws_all(cold, models, tmp_path):
    theta, phi, _ = models
    em = toy_em.make_em(cold, tmp_path, e_step_config=CONFIG)
    read = mock.Mock()
    with_cold = candidates_of(em, theta, phi, read, Round(0, em.directory / "a", em.config))
    config = dataclasses.replace(CONFIG, num_cold_samples=0)
    without = candidates_of(em, theta, phi, read, Round(0, em.directory / "b", em.config), config)
    assert with_cold == without
    later = candidates_of(em, theta, phi, read, Round(1, em.directory / "b", em.config), config)
    assert len(later) == len(without)
    read.assert_not_called()
