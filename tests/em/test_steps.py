"""E-step, M-step and held-out measurement against full logits, with models that are unsure of what to write.

Sharp models hide what a wrong step does: all samples of a pair are the greedy one, before and after the fit.
"""

import dataclasses
from typing import get_args
from unittest import mock

import jax
import numpy as np
import pytest
from etils import epath

from promptcot_jax.core import jsonl, prng, records
from promptcot_jax.data import examples
from promptcot_jax.em import e_step, generators, m_step, pairs, rounds
from promptcot_jax.em.generators import Round
from promptcot_jax.em.settings import EmConfig, Role, role_seed
from promptcot_jax.models import language_model
from promptcot_jax.trainers import grpo, loop, sft
from tests.em import toy_em
from tests.em.toy_em import E_STEP, MESH, UNSURE, ByHand

BUDGET = E_STEP.max_rationale_tokens


@dataclasses.dataclass(frozen=True)
class UnsureRun:
    """One round of all pairs from an unsure q_phi, whose fit changes what it writes greedily."""

    em: rounds.Em
    targets: dict  # what each model was fitted to
    old_phi: ByHand
    new_phi: ByHand
    theta: ByHand

    def records(self, name, record_type):
        return jsonl.read_records(self.em.directory / "round_000" / f"{name}.jsonl", record_type)

    def greedy(self, phi, pair):
        """What q_phi writes greedily for a pair, token by token."""
        eos_id = self.em.rationale_model.tokenizer.eos_id
        return phi.greedy(pair.phi_prompt_ids, BUDGET, lambda written: written[-1:] == [eos_id])


@pytest.fixture(scope="module")
def unsure(cold, tmp_path_factory):
    em = toy_em.make_em(
        cold, tmp_path_factory.mktemp("unsure"), max_rounds=1, pairs_per_round=0, phi_learning_rate=1e-2
    )
    targets, fit = {}, generators.Generator.fit

    def spied(self, params, rows, em_round, **settings):
        targets[self.role] = rows
        return fit(self, params, rows, em_round, **settings)

    with mock.patch.object(generators.Generator, "fit", spied):
        toy_em.run(cold, em, sharpness=UNSURE)
    by_hand = [
        ByHand(cold.lm, params)
        for params in (
            cold.params("phi", sharpness=UNSURE),
            toy_em.params_of(em.directory / "round_000" / "phi"),
            cold.params("theta"),
        )
    ]
    return UnsureRun(em, targets, *by_hand)


def test_the_run_is_not_degenerate(unsure):
    """Or the tests below would pass with a wrong program."""
    candidates = unsure.records("candidates", records.Candidate)
    groups = [candidates[i : i + 3] for i in range(0, len(candidates), 3)]
    valid = [[c for c in group if c.valid] for group in groups]
    assert sum(len({c.token_ids for c in row}) > 1 for row in valid) > 2
    assert sum(not row[0].won for row in valid if row) > 2
    assert len(groups) < sum(map(len, valid)) < len(candidates)
    old, new = (
        [unsure.greedy(phi, pair) for pair in unsure.em.pairs] for phi in (unsure.old_phi, unsure.new_phi)
    )
    assert sum(before != after for before, after in zip(old, new, strict=True)) > 2
    unfinished = [c for c in candidates if c.finish_reason == "length"]
    assert {len(c.token_ids) for c in unfinished} == {BUDGET}
    assert not any(c.valid for c in unfinished)


def test_scores_of_candidates_are_the_sums_over_completion_tokens(unsure):
    """log p(z | c), log p(x | z, c) and log q again from full logits, token by token."""
    by_id = {pair.triple.id: pair for pair in unsure.em.pairs}
    for candidate in unsure.records("candidates", records.Candidate)[:12]:
        pair = by_id[candidate.pair_id]
        block = candidate.token_ids[: candidate.length]
        joint = unsure.theta.log_probs(pair.theta_prompt_ids, (*block, *pair.problem_ids))
        log_q = unsure.old_phi.log_probs(pair.phi_prompt_ids, candidate.token_ids)
        found = [candidate.log_p_z, candidate.log_p_x, candidate.log_q]
        by_hand = [joint[: len(block)].sum(), joint[len(block) :].sum(), log_q.sum()]
        np.testing.assert_allclose(found, by_hand, atol=1e-3)


def test_phi_is_fitted_to_the_winners_with_their_end_token(unsure):
    by_id = {pair.triple.id: pair for pair in unsure.em.pairs}
    winners = [c for c in unsure.records("candidates", records.Candidate) if c.won]
    assert [tuple(row.prompt_ids) for row in unsure.targets["phi"]] == [
        by_id[c.pair_id].phi_prompt_ids for c in winners
    ]
    assert [tuple(row.completion_ids) for row in unsure.targets["phi"]] == [c.token_ids for c in winners]
    assert {c.token_ids[-1] for c in winners} == {unsure.em.rationale_model.tokenizer.eos_id}


def test_theta_is_fitted_to_the_greedy_rationales_of_the_updated_phi(unsure):
    """c -> z, x: the greedy z without its end token, and the x block, which has one.

    Where the greedy z is not valid, the E-step's winner takes its place.
    """
    greedy = [unsure.greedy(unsure.new_phi, pair) for pair in unsure.em.pairs]
    rationales = unsure.records("rationales", pairs.Rationale)
    assert [z.token_ids for z in rationales] == greedy
    eos_id = unsure.em.rationale_model.tokenizer.eos_id
    won = {c.pair_id: c.token_ids for c in unsure.records("candidates", records.Candidate) if c.won}
    used = [
        ids if z.valid else won.get(pair.triple.id)
        for pair, ids, z in zip(unsure.em.pairs, greedy, rationales, strict=True)
    ]
    expected = [
        (pair.theta_prompt_ids, (*ids[:-1], *pair.problem_ids))
        for pair, ids in zip(unsure.em.pairs, used, strict=True)
        if ids is not None
    ]
    given = [(tuple(row.prompt_ids), tuple(row.completion_ids)) for row in unsure.targets["theta"]]
    assert given == expected
    assert all(completion.count(eos_id) == 1 and completion[-1] == eos_id for _, completion in given)


def test_a_rationale_that_is_not_valid_is_no_target_of_theta(cold, tmp_path):
    em = toy_em.make_em(cold, tmp_path)
    eos_id = cold.tokenizer.eos_id
    z = pairs.Rationale(
        pair_id="",
        rationale="",
        token_ids=(5, 6, eos_id),
        finish_reason="stop",
        valid=True,
        retokenized=False,
        log_q=-1.0,
    )
    of_pairs = [
        z,
        dataclasses.replace(z, valid=False),
        dataclasses.replace(z, finish_reason="length", valid=False),
    ]
    fixed = {pair.triple.id: z for pair, z in zip(em.pairs, of_pairs, strict=False)}

    def m_step_of(**rationales):
        with mock.patch.object(
            generators.Generator, "fit", lambda self, params, rows, em_round, **_: ({"of": rows}, {})
        ):
            theta, phi, figures = m_step.m_step(
                {},
                {},
                em.pairs[:3],
                em.prompt_model,
                em.rationale_model,
                em_round=Round(0, em.directory, em.config),
                held_out_pairs=em.held_out_pairs,
                **rationales,
            )
        assert phi == {}
        return [tuple(row.completion_ids) for row in theta["of"]], list(figures.values())

    first, second, _ = (pair.problem_ids for pair in em.pairs[:3])
    targets, counts = m_step_of(fixed=fixed)
    assert (targets, counts) == ([(5, 6, *first)], [0, 2, 0])  # of fallbacks, skipped, retokenized
    # The E-step's winners stand in for what q_phi wrote greedily and is not valid, and for nothing else.
    winners = {
        pair.triple.id: dataclasses.replace(z, token_ids=(7, 8, 9, eos_id), retokenized=True)
        for pair in em.pairs[:2]
    }
    with mock.patch.object(generators.RationaleModel, "map_rationales", return_value=of_pairs):
        targets, counts = m_step_of(winners=winners)
    assert (targets, counts) == ([(5, 6, *first), (7, 8, 9, *second)], [1, 1, 1])


def test_a_killed_m_step_falls_back_to_the_same_winners(cold, tmp_path):
    """They are read from the candidates again: q_phi is the next one by then."""
    em = toy_em.make_em(cold, tmp_path, max_rounds=1)
    given, fit = [], generators.Generator.fit
    real = m_step._one_each

    def none_valid(*arguments):
        return [dataclasses.replace(z, valid=False) for z in real(*arguments)]

    def killed(self, params, rows, em_round, **settings):
        if self.role == "phi":
            return fit(self, params, rows, em_round, **settings)
        given.append([(tuple(row.prompt_ids), tuple(row.completion_ids)) for row in rows])
        raise KeyboardInterrupt

    for _ in range(2):
        with (
            mock.patch.object(m_step, "_one_each", none_valid),
            mock.patch.object(generators.Generator, "fit", killed),
            pytest.raises(KeyboardInterrupt),
        ):
            toy_em.run(cold, em, sharpness=UNSURE)
    candidates = jsonl.read_records(tmp_path / "round_000" / "candidates.jsonl", records.Candidate)
    by_id = {pair.triple.id: pair for pair in em.pairs}
    expected = [
        (
            by_id[c.pair_id].theta_prompt_ids,
            (*c.token_ids[: c.length], *by_id[c.pair_id].problem_ids),
        )
        for c in candidates
        if c.won
    ]
    assert len(expected) > 4
    assert given == [expected, expected]


def e_step_of(em, theta, phi, config, em_round):
    """What the E-step returns, and its candidates."""
    with jax.set_mesh(MESH):
        models = em.prompt_model, em.rationale_model
        found = e_step.e_step(
            theta, phi, em.pairs[:4], *models, config=config, em_round=em_round, cold_phi=em.cold_phi
        )
    return found, jsonl.read_records(em_round.directory / "candidates.jsonl", records.Candidate)


def test_rationales_are_sampled_at_the_temperature_that_is_set(cold, tmp_path, caplog):
    """Near 0 all samples of a pair are the greedy one; at 1 this model writes unlike ones, as seen above."""
    em = toy_em.make_em(cold, tmp_path)
    theta, phi = cold.params("theta"), cold.params("phi", sharpness=UNSURE)
    config = dataclasses.replace(E_STEP, temperature=1e-3, group_size=4)
    with mock.patch.object(generators.Generator, "fit", return_value=(phi, {})):
        _, candidates = e_step_of(em, theta, phi, config, Round(0, em.directory, em.config))
    assert len({(c.pair_id, c.token_ids) for c in candidates}) == 4
    assert "EM round 0 (e_step): q_phi has collapsed: only 0 % of a pair's further" in caplog.text
    assert "Raise EM_TEMPERATURE, EM_COLD_SAMPLES or EM_NUM_WINNERS, lower" in caplog.text


@pytest.mark.parametrize(
    ("objective", "loss"),
    [("best_of_g", sft.SftLoss), ("reward_weighted", sft.WeightedSftLoss), ("grpo", grpo.GrpoLoss)],
)
def test_phi_is_fitted_by_the_loss_of_the_objective(cold, tmp_path, objective, loss):
    em = toy_em.make_em(cold, tmp_path)
    theta, phi = cold.params("theta"), cold.params("phi", sharpness=UNSURE)
    config = dataclasses.replace(E_STEP, objective=objective)
    with mock.patch.object(generators.Generator, "fit", return_value=(phi, {})) as fit:
        e_step_of(em, theta, phi, config, Round(0, em.directory, em.config))
    assert type(fit.call_args.kwargs["loss"]) is loss


def test_grpo_is_given_standardized_rewards_and_the_log_probs_of_the_phi_that_sampled(cold, unsure, tmp_path):
    config, given = dataclasses.replace(E_STEP, objective="grpo"), []
    em = toy_em.make_em(cold, tmp_path, e_step_config=config)
    theta, phi = cold.params("theta"), cold.params("phi", sharpness=UNSURE)

    def fit(self, params, rows, em_round, **_):
        given.extend(rows)
        return params, {}

    with mock.patch.object(generators.Generator, "fit", fit):
        _, candidates = e_step_of(em, theta, phi, config, Round(0, em.directory, em.config))
    expected = []
    for i, pair in enumerate(em.pairs[:4]):
        row = [c for c in candidates[3 * i : 3 * i + 3] if c.valid]
        rewards = np.array([c.log_p_z + c.log_p_x for c in row])
        if len({c.token_ids for c in row}) > 1:
            advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
            expected += [(pair.phi_prompt_ids, c.token_ids, a) for c, a in zip(row, advantages, strict=True)]
    assert len(expected) > 3
    assert [(tuple(t.prompt_ids), tuple(t.completion_ids)) for t in given] == [case[:2] for case in expected]
    for target, (prompt, completion, advantage) in zip(given, expected, strict=True):
        np.testing.assert_allclose(target.token_values["advantages"], advantage, atol=1e-3)
        by_hand = unsure.old_phi.log_probs(prompt, completion)
        np.testing.assert_allclose(target.token_values["old_log_probs"], by_hand, atol=1e-3)
        assert np.ptp(by_hand) > 0.1


def test_phi_that_has_nothing_to_learn_from_is_written_as_it_was(cold, tmp_path, caplog):
    """The samples of each pair are rewarded alike, so that no advantage tells them apart."""
    config = dataclasses.replace(E_STEP, objective="grpo")
    em = toy_em.make_em(cold, tmp_path, e_step_config=config)
    phi = cold.params("phi")
    before = jax.tree.map(np.array, phi)
    em_round, alike = Round(0, em.directory, em.config), np.zeros((4, config.group_size))
    with mock.patch.object(generators.PromptModel, "log_joint", return_value=(alike, alike)):
        (_, phi, *_), candidates = e_step_of(em, {}, phi, config, em_round)
    assert {c.weight for c in candidates} == {0.0}
    assert "the samples of each pair are rewarded alike; phi stays" in caplog.text
    with jax.set_mesh(MESH):
        read = em.rationale_model.read(phi, em_round)
    jax.tree.map(np.testing.assert_array_equal, read, before)


def test_fits_of_two_rounds_go_through_the_same_targets_in_orders_of_their_own(unsure):
    model, batches = unsure.em.rationale_model, []
    too_long = examples.TokenExample(prompt_ids=(5,), completion_ids=(6,) * toy_em.FIT.row_length)
    targets = [*unsure.targets["phi"], too_long]

    def spied(self, lm, params, source, **settings):
        batches.append(source.batch(0).token_ids)
        return params

    with (
        mock.patch.object(loop.Fitter, "train", spied),
        mock.patch.object(generators.Generator, "write"),
    ):
        for index in (7, 7, 8):
            _, counts = model.fit({}, targets, Round(index, unsure.em.directory, unsure.em.config))
            assert (counts["phi_targets"], counts["phi_overlong"]) == (len(targets) - 1, 1)
    first, again, second = batches
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, second)
    assert len({role_seed(1, role) for role in get_args(Role)}) == 3


def test_each_round_has_its_own_noise_and_the_same_when_it_is_run_again(cold, tmp_path, caplog):
    em = toy_em.make_em(cold, tmp_path)
    theta, phi = cold.params("theta"), cold.params("phi", sharpness=UNSURE)

    def rationales_of(index, directory, some_pairs=em.pairs):
        em_round = Round(index, em.directory / directory, em.config)
        with jax.set_mesh(MESH), mock.patch.object(generators.Generator, "fit", return_value=(phi, {})):
            e_step.e_step(
                theta,
                phi,
                some_pairs,
                em.prompt_model,
                em.rationale_model,
                config=E_STEP,
                em_round=em_round,
                cold_phi=em.cold_phi,
            )
        candidates = jsonl.read_records(em_round.directory / "candidates.jsonl", records.Candidate)
        return {(c.pair_id, c.sample): c.token_ids for c in candidates}

    first, again, second = rationales_of(0, "a"), rationales_of(0, "b"), rationales_of(1, "a")
    assert first == again
    assert sum(first[sample] != second[sample] for sample in first) > len(first) / 4
    # The noise is that of the pair, whichever others are in its round.
    some = rationales_of(0, "c", em.pairs[:3:-1])
    assert some.items() < first.items()
    assert "collapsed" not in caplog.text


def test_the_noise_of_a_round_is_that_of_the_runs_seed(tmp_path):
    keys = [
        jax.random.key_data(
            Round(index, epath.Path(tmp_path), EmConfig(max_rounds=9, seed=seed)).key("propose")
        ).tolist()
        for seed, index in ((3, 1), (4, 1), (3, 2))
    ]
    assert keys[0] == jax.random.key_data(prng.stream_key(3, "propose", 1)).tolist()
    assert len({*map(tuple, keys)}) == 3


def test_a_fit_measures_the_held_out_pairs_that_its_rows_have_room_for(cold, tmp_path):
    """Of the M-step's model, given phi's greedy rationales: NLL per token of z and x together."""
    em = toy_em.make_em(cold, tmp_path, max_rounds=1)
    fitter = em.prompt_model.fitter
    measuring = dataclasses.replace(fitter, loop=dataclasses.replace(fitter.loop, eval_every=100))
    overlong = records.Triple(id="long", concepts=("c0",), rationale="add a", problem="1+1 " * 80)
    held_out_pairs = [*em.held_out_pairs, *pairs.tokenize_pairs(cold.tokenizer, [overlong])]
    assert len(held_out_pairs[-1].problem_ids) > toy_em.FIT.row_length
    em = dataclasses.replace(
        em,
        prompt_model=dataclasses.replace(em.prompt_model, fitter=measuring),
        held_out_pairs=[dataclasses.replace(pair, index=i) for i, pair in enumerate(held_out_pairs)],
    )
    toy_em.run(cold, em)
    metrics = toy_em.rows_in(em.directory / "round_000" / "theta_training" / "metrics.jsonl")
    (measured,) = [row["eval/nll"] for row in metrics if "eval/nll" in row][-1:]
    theta, phi = (
        ByHand(cold.lm, toy_em.params_of(em.directory / "round_000" / role)) for role in ("theta", "phi")
    )
    eos_id, nats, tokens = cold.tokenizer.eos_id, 0.0, 0
    for pair in em.held_out_pairs[:-1]:
        z = phi.greedy(pair.phi_prompt_ids, E_STEP.max_rationale_tokens, lambda ids: ids[-1:] == [eos_id])
        assert z[-1] == eos_id
        completion = (*z[:-1], *pair.problem_ids)
        nats -= theta.log_probs(pair.theta_prompt_ids, completion).sum()
        tokens += len(completion)
    np.testing.assert_allclose(measured, nats / tokens, rtol=1e-3)


def test_the_first_token_of_x_is_no_part_of_log_p_z(cold, tmp_path):
    """With parameters at random, of which each token costs some nats."""
    em = toy_em.make_em(cold, tmp_path)
    theta = cold.lm.init(jax.random.key(3))
    pair, block = em.pairs[0], (5, 6, 7)
    by_hand = ByHand(cold.lm, theta).log_probs(pair.theta_prompt_ids, (*block, *pair.problem_ids))
    assert by_hand.max() < -1
    with jax.set_mesh(MESH):
        found = em.prompt_model.log_joint(theta, [pair], [[block]])
    np.testing.assert_allclose(np.ravel(found), [by_hand[:3].sum(), by_hand[3:].sum()], atol=1e-3)


def test_a_model_that_computes_in_bfloat16_keeps_float32_parameters_between_rounds(cold, tmp_path):
    """At the paper's learning rates an update is below bfloat16's resolution."""
    em = toy_em.make_em(cold, tmp_path)
    model = dataclasses.replace(em.prompt_model, lm=language_model.in_types(cold.lm, dtype="bfloat16"))
    em_round = Round(0, em.directory, em.config)
    with jax.set_mesh(MESH):
        theta = cold.params("theta")
        before = jax.tree.map(np.asarray, theta)
        model.write(theta, em_round)
        jax.tree.map(np.testing.assert_array_equal, model.read(theta, em_round), before)
