"""Held-out measurement against full logits and enumeration; when EM stops, and which round is best."""

import dataclasses
from unittest import mock

import jax
import numpy as np
import pytest
from etils import epath

from promptcot_jax.checkpoints import load
from promptcot_jax.core import jsonl, prng, records
from promptcot_jax.data import examples, templates
from promptcot_jax.em import derangement, generators, held_out, history, proposals
from promptcot_jax.em import pairs as pairs_lib
from promptcot_jax.em.generators import Round
from promptcot_jax.em.pairs import Rationale
from promptcot_jax.em.settings import EmConfig, HeldOutConfig
from promptcot_jax.objectives import bounds, paired
from promptcot_jax.sampling import completions as completions_lib
from promptcot_jax.sampling import rollouts
from tests.em import table_model, toy_em
from tests.em.toy_em import E_STEP, MESH, UNSURE, ByHand

BUDGET = E_STEP.max_rationale_tokens


@dataclasses.dataclass(frozen=True)
class Measured:
    """Figures of an unsure theta and phi in a later round, what they rest on, and the models by hand."""

    em: object
    figures: dict
    drawn: proposals.Proposals
    greedy: list
    theta: ByHand
    phi: ByHand
    cold_phi: ByHand


def measure(em, theta, phi, em_round, cold_phi):
    models = em.prompt_model, em.rationale_model
    return held_out.held_out(
        theta,
        phi,
        em.held_out_pairs,
        *models,
        config=em.held_out,
        em_round=em_round,
        cold_phi=lambda: cold_phi,
    )[2]


@pytest.fixture(scope="module")
def measured(cold, tmp_path_factory):
    em = toy_em.make_em(cold, tmp_path_factory.mktemp("measured"))
    theta, phi = (cold.params(role, sharpness=UNSURE) for role in ("theta", "phi"))
    cold_phi = cold.params("phi", sharpness=0.8)
    seen = {}

    def spied(module, name):
        function = getattr(module, name)

        def spy(*args, **kwargs):
            seen[name] = function(*args, **kwargs)
            return seen[name]

        return mock.patch.object(module, name, spy)

    with jax.set_mesh(MESH), spied(proposals, "draw"), spied(held_out, "greedy_rationales"):
        figures = measure(em, theta, phi, Round(1, em.directory, em.config), cold_phi)
    by_hand = [ByHand(cold.lm, params) for params in (theta, phi, cold_phi)]
    return Measured(em, figures, seen["draw"], seen["greedy_rationales"], *by_hand)


def num_x_tokens(some_pairs):
    return sum(len(pair.problem_ids) for pair in some_pairs)


def joint_by_hand(theta, pair, block):
    """log p(z | c) and log p(x | z, c)."""
    log_probs = theta.log_probs(pair.theta_prompt_ids, (*block, *pair.problem_ids))
    return log_probs[: len(block)].sum(), log_probs[len(block) :].sum()


def test_the_bound_weighs_all_samples_by_the_density_of_their_mixture(measured):
    em, drawn = measured.em, measured.drawn
    assert drawn.counts == (4, 4, 4)
    eos, end = em.prompt_model.tokenizer.eos_id, templates.END_RATIONALE + "\n"
    bound, elbo, effective = [], [], []
    for pair, row in zip(drawn.pairs, drawn.blocks, strict=True):
        assert len(row) == 12
        weights, of_phi = [], []
        for n, block in enumerate(row):
            if block is None:
                weights.append(-np.inf)
                of_phi += [-np.inf] if 4 <= n < 8 else []
                continue
            log_p_z, log_p_x = joint_by_hand(measured.theta, pair, block)
            text = em.prompt_model.tokenizer.decode(block)
            by_theta = log_p_z if text.endswith(end) and text.count(end) == 1 else -np.inf
            densities = [
                measured.cold_phi.log_probs(pair.phi_prompt_ids, (*block, eos)).sum(),
                measured.phi.log_probs(pair.phi_prompt_ids, (*block, eos)).sum(),
                by_theta,
            ]
            if len(block) == BUDGET:  # no room for the end token
                densities[:2] = -np.inf, -np.inf
            weights.append(log_p_z + log_p_x - np.log(np.mean(np.exp(densities))))
            of_phi += [log_p_z + log_p_x - densities[1]] if 4 <= n < 8 else []
        bound.append(np.log(np.mean(np.exp(weights))))
        ended = np.array([w for w in of_phi if np.isfinite(w)])
        elbo.append(ended.mean() + np.log(len(ended) / 4))
        effective.append(np.exp(weights).sum() ** 2 / (np.exp(weights) ** 2).sum())
    tokens = num_x_tokens(drawn.pairs)
    figures = measured.figures
    np.testing.assert_allclose(figures["nll_bound"], -np.sum(bound) / tokens, atol=1e-3)
    np.testing.assert_allclose(figures["held_out_by_pair"]["bound"], -np.array(bound), atol=1e-2)
    np.testing.assert_allclose(figures["nll_elbo"], -np.sum(elbo) / tokens, atol=1e-3)
    np.testing.assert_allclose(figures["held_out_effective_samples"], np.mean(effective), rtol=1e-2)
    error = np.sqrt(np.sum(1 / np.array(effective) - 1 / 12)) / tokens
    np.testing.assert_allclose(figures["nll_bound_error"], error, rtol=2e-2)
    slack = np.sum(1 / np.array(effective) - 1 / 12) / 2 / tokens
    np.testing.assert_allclose(figures["nll_bound_slack"], slack, rtol=4e-2)
    assert figures["bound_pairs"] == 3 < figures["held_out_pairs"]


def test_the_proposals_are_samples_of_three_models(measured):
    """Those of the cold start are drawn once; in the rounds after, q_phi and p_theta write others."""
    row_of = [{block for row in measured.drawn.blocks for block in row[i : i + 4]} for i in (0, 4, 8)]
    assert row_of[0] != row_of[1] != row_of[2]
    em = measured.em
    written = jsonl.read_records(em.directory / "held_out_proposals.jsonl", Rationale)
    of_file = [z.block_ids if z.finish_reason == "stop" else None for z in written]
    assert of_file == [block for row in measured.drawn.blocks for block in row[:4]]


def test_the_figures_given_q_are_those_of_its_greedy_rationale_and_of_other_pairs(measured):
    em, figures = measured.em, measured.figures
    eos_id = em.prompt_model.tokenizer.eos_id
    for pair, z in zip(em.held_out_pairs, measured.greedy, strict=True):
        by_hand = measured.phi.greedy(pair.phi_prompt_ids, BUDGET, lambda written: written[-1:] == [eos_id])
        assert z.token_ids == by_hand
    blocks = [held_out.closed_block(em.prompt_model.tokenizer, z) for z in measured.greedy]

    def with_blocks(some):
        return np.array(
            [joint_by_hand(measured.theta, *both) for both in zip(em.held_out_pairs, some, strict=True)]
        )

    own, other = with_blocks(blocks), with_blocks(blocks[1:] + blocks[:1])
    pairs = derangement.like_pairs(em.held_out_pairs)
    some = np.flatnonzero(pairs.is_like)
    assert 1 < len(some) < len(pairs.is_like)
    like = with_blocks([blocks[i] for i in pairs.others])[some]
    cold_blocks = [
        tuple(measured.cold_phi.greedy(pair.phi_prompt_ids, BUDGET, lambda ids: ids[-1:] == [eos_id]))[:-1]
        for pair in em.held_out_pairs
    ]
    cold_own = with_blocks(cold_blocks)[some]
    cold_like = with_blocks([cold_blocks[i] for i in pairs.others])[some]
    z_tokens, x_tokens = sum(map(len, blocks)), num_x_tokens(em.held_out_pairs)
    like_tokens = num_x_tokens([em.held_out_pairs[i] for i in some])
    expected = {
        "nll_x_given_q": -own[:, 1].sum() / x_tokens,
        "nll_z": -own[:, 0].sum() / z_tokens,
        "nll_z_and_x": -own.sum() / (z_tokens + x_tokens),
        "nll_x_given_other": -other[:, 1].sum() / x_tokens,
        "z_gap_other": (own[:, 1].sum() - other[:, 1].sum()) / x_tokens,
        "nll_x_given_like": -like[:, 1].sum() / like_tokens,
        "z_gap": (own[some, 1].sum() - like[:, 1].sum()) / like_tokens,
        "z_gap_cold": (cold_own[:, 1].sum() - cold_like[:, 1].sum()) / like_tokens,
    }
    assert len({round(value, 3) for value in expected.values()}) > 4
    for name, value in expected.items():
        np.testing.assert_allclose(figures[name], value, atol=1e-3, err_msg=name)
    np.testing.assert_allclose(figures["held_out_by_pair"]["x_given_q"], -own[:, 1], atol=1e-2)
    x_by_pair = np.array([len(pair.problem_ids) for pair in em.held_out_pairs])
    for name, others, counted in (("z_gap", like, some), ("z_gap_other", other, range(4))):
        tokens, n = x_by_pair[list(counted)], len(counted)
        distances = own[list(counted), 1] - others[:, 1] - figures[name] * tokens
        error = np.sqrt((distances**2).sum() * n / (n - 1)) / tokens.sum()
        np.testing.assert_allclose(figures[f"{name}_error"], error, rtol=2e-2)


def test_a_block_has_room_for_its_end_token_or_no_density(measured):
    model, pair = measured.em.rationale_model, measured.em.held_out_pairs[0]
    blocks = [(5,) * (BUDGET - 1), (5,) * BUDGET]
    with jax.set_mesh(MESH):
        found = proposals.log_densities(model, measured.phi.params, [pair] * 2, blocks)
    assert np.isfinite(found).tolist() == [True, False]


def test_p_thetas_block_ends_with_the_marker_and_a_newline(cold):
    end, encode = "\n" + templates.END_RATIONALE, cold.tokenizer.encode
    begun = tuple(encode("<!-- BEGIN RATIONALE -->\nhalf" + end))
    assert proposals._ended_block(cold.tokenizer, begun) is None
    whole = (*begun, *encode("\n"))
    assert proposals._ended_block(cold.tokenizer, (*whole, *encode("more"))) == whole


def test_each_proposal_is_of_its_model_undistorted_and_by_noise_of_its_own(measured, tmp_path):
    """From the same noise models that are alike would draw the same rationales."""
    drawn, sampler = [], generators.Generator.sampler

    def spied(self, params, *, temperature, key):
        drawn.append((self.role, params, temperature, tuple(jax.random.key_data(key).tolist())))
        return sampler(self, params, temperature=temperature, key=key)

    em = measured.em
    models = measured.cold_phi.params, measured.phi.params, measured.theta.params
    with jax.set_mesh(MESH), mock.patch.object(generators.Generator, "sampler", spied):
        proposals.draw(
            measured.theta.params,
            measured.phi.params,
            em.held_out_pairs[:3],
            (4, 4, 4),
            em.prompt_model,
            em.rationale_model,
            cold_phi=lambda: measured.cold_phi.params,
            em_round=Round(1, epath.Path(tmp_path), em.config),
        )
    assert [role for role, *_ in drawn] == ["phi", "phi", "theta"]
    assert all(params is own for (_, params, *_), own in zip(drawn, models, strict=True))
    assert [temperature for *_, temperature, _ in drawn] == [1.0] * 3
    assert len({key for *_, key in drawn}) == 3


def test_the_figure_given_p_reads_c_alone(measured):
    """p_theta writes z greedily from c; x comes after it, to be scored."""
    em, theta = measured.em, measured.theta
    tokenizer, end = em.prompt_model.tokenizer, templates.END_RATIONALE + "\n"
    total, own_blocks = 0.0, []
    for pair in em.held_out_pairs:
        block = theta.greedy(
            pair.theta_prompt_ids,
            BUDGET,
            lambda written: tokenizer.decode(written).endswith(end) or written[-1:] == [tokenizer.eos_id],
        )
        block = tuple(i for i in block if i != tokenizer.eos_id)
        if not tokenizer.decode(block).endswith(end):
            block = (*block, *tokenizer.encode("\n" + end))
        own_blocks.append(block)
        total += joint_by_hand(theta, pair, block)[1]
    assert own_blocks != [held_out.closed_block(tokenizer, z) for z in measured.greedy]
    np.testing.assert_allclose(
        measured.figures["nll_x_given_p"], -total / num_x_tokens(em.held_out_pairs), atol=1e-3
    )


def pairs_of_unlike_lengths(cold):
    """The third is the longest by far; greedy rationales do not depend on it."""
    problems = ("0+1", "2+2", "1+2, and then 2+1, and then 0+0", "1+1 or 2")
    triples = [
        records.Triple(id=f"u{i}", concepts=("c0",), rationale="add a", problem=problem)
        for i, problem in enumerate(problems)
    ]
    return pairs_lib.tokenize_pairs(cold.tokenizer, triples)


def test_each_pairs_nats_go_with_its_own_tokens(measured, cold, tmp_path):
    pairs = pairs_of_unlike_lengths(cold)
    em = dataclasses.replace(measured.em, held_out_pairs=pairs, directory=epath.Path(tmp_path))
    em_round = Round(1, em.directory, em.config)
    with jax.set_mesh(MESH):
        figures = measure(em, measured.theta.params, measured.phi.params, em_round, measured.cold_phi.params)
    tokens = [len(pair.problem_ids) for pair in pairs]
    assert len({*tokens}) > 2
    assert figures["held_out_by_pair"]["x_tokens"] == tokens
    nats = figures["held_out_by_pair"]["bound"]
    assert len(nats) == figures["bound_pairs"] == 3
    np.testing.assert_allclose(figures["nll_bound"], sum(nats) / sum(tokens[:3]), rtol=1e-6)


def test_the_rationales_of_the_cold_start_are_its_own_and_drawn_once(measured, cold, tmp_path):
    em = dataclasses.replace(measured.em, directory=epath.Path(tmp_path))
    drawn, sampler = [], generators.Generator.sampler

    def spied(self, params, *, temperature, key):
        if self.role == "phi" and temperature == 0.0:
            drawn.append(params)
        return sampler(self, params, temperature=temperature, key=key)

    given = measured.theta.params, measured.phi.params
    cold_phi = measured.cold_phi.params
    with jax.set_mesh(MESH), mock.patch.object(generators.Generator, "sampler", spied):
        for index in (1, 2):
            measure(em, *given, Round(index, em.directory, em.config), cold_phi)
    assert [params is cold_phi for params in drawn] == [False, True, False]
    assert all(params is measured.phi.params for params in (drawn[0], drawn[2]))


def test_the_model_without_rationale_reads_its_own_prompt(measured, cold):
    model = load.LoadedModel(cold.lm, measured.theta.params, cold.tokenizer, "toy")
    pairs = pairs_of_unlike_lengths(cold)
    with jax.set_mesh(MESH):
        found = held_out.direct_nll(model, pairs, toy_em.SIZES)
    by_pair = [
        -measured.theta.log_probs(
            cold.tokenizer.prompt_ids(examples.direct_prompt(pair.triple)), pair.problem_ids
        ).sum()
        for pair in pairs
    ]
    np.testing.assert_allclose(found["direct_by_pair"], by_pair, rtol=1e-4)
    np.testing.assert_allclose(found["nll_direct"], sum(by_pair) / num_x_tokens(pairs), rtol=1e-4)


def test_problems_that_p_theta_writes_have_room_for_z_and_x_and_count_once(measured, cold):
    em, pairs = measured.em, pairs_of_unlike_lengths(cold)
    block = templates.rationale_block("add a") + "{}"
    texts = [block.format(templates.problem_block(x)) for x in ("1 + 1", "1 +  1", "2")] + ["no block"]
    seen = []

    def complete(self, draws, prompt_ids):
        seen.append((self.sampling, self.key))
        return [
            completions_lib.Completion(
                token_ids=(*cold.tokenizer.encode(text), cold.tokenizer.eos_id),
                log_probs=np.zeros(0),
                sampler_log_probs=np.zeros(0),
                finish_reason="stop",
                has_end=True,
            )
            for text in texts
        ]

    key = prng.stream_key(0, "held_out")
    with jax.set_mesh(MESH), mock.patch.object(rollouts.Sampler, "complete", complete):
        sampler = em.prompt_model.sampler(measured.theta.params, temperature=1.0, key=key)
        found = held_out._distinct_problems(cold.tokenizer, sampler, pairs, em.held_out, 0)
    assert found == {"problems_parsed_share": 3 / 4, "problems_distinct_share": 2 / 3}
    ((sampling, used),) = seen
    assert sampling.max_new_tokens == BUDGET + max(len(pair.problem_ids) for pair in pairs)
    assert sampling.temperature == 1.0
    assert not np.array_equal(jax.random.key_data(used), jax.random.key_data(key))


def test_rounds_are_measured_with_the_same_noise(measured, cold):
    theta, phi = (cold.params(role, sharpness=UNSURE) for role in ("theta", "phi"))
    cold_phi, em = cold.params("phi", sharpness=0.8), measured.em
    with jax.set_mesh(MESH):
        assert measure(em, theta, phi, Round(0, em.directory, em.config), cold_phi) == measured.figures


def test_a_pair_without_an_ended_sample_is_left_out_and_counted(measured):
    blocks = [[None] * 12, *measured.drawn.blocks[1:]]
    nothing = dataclasses.replace(measured.drawn, blocks=[[None] * 12 for _ in blocks])

    def bound_of(drawn):
        with jax.set_mesh(MESH):
            models = measured.em.prompt_model, measured.em.rationale_model
            theta, phi = (toy.params for toy in (measured.theta, measured.phi))
            return proposals.measure(theta, phi, drawn, *models, cold_phi=lambda: measured.cold_phi.params)

    figures, nats = bound_of(dataclasses.replace(measured.drawn, blocks=blocks))
    assert figures["bound_pairs_unmeasured"] == 1
    of_all = np.array(measured.figures["held_out_by_pair"]["bound"])
    np.testing.assert_allclose(nats, [np.inf, *of_all[1:]], atol=1e-4)
    expected = of_all[1:].sum() / num_x_tokens(measured.drawn.pairs[1:])
    np.testing.assert_allclose(figures["nll_bound"], expected, atol=1e-4)
    assert np.isnan(bound_of(nothing)[0]["nll_bound"])


def sampled_bounds(table, some_pairs, counts, repetitions):
    """Log weights [R, B, N] of samples of two random tables and of the prior."""
    other = table_model.TableModel.random(99)
    rng, rows = np.random.default_rng(0), []
    for pair in some_pairs:
        c, x = pair.theta_prompt_ids[0], pair.problem_ids[0]
        log_q = np.stack([other.log_q[c, x], table.log_q[c, x], table.log_p_z[c]])
        log_weights = table.joint(pair) - proposals.mixture_log_density(log_q, counts)  # of each z
        z = [
            rng.choice(len(q), (repetitions, n), p=q / q.sum())
            for q, n in zip(np.exp(log_q), counts, strict=True)
        ]
        rows.append(log_weights[np.concatenate(z, axis=1)])
    return np.stack(rows, axis=1)


def test_the_bound_is_below_the_marginal_by_half_its_squared_error():
    """Against enumeration: the mean weight is unbiased, the error is the spread over repetitions."""
    table, some_pairs = table_model.TableModel.random(0), table_model.toy_pairs(6)
    exact = np.array([np.logaddexp.reduce(table.joint(pair)) for pair in some_pairs])
    for counts in ((10, 10, 10), (5, 20, 5), (40, 0, 1)):
        weights = sampled_bounds(table, some_pairs, counts, 2000)
        bound = bounds.importance_bound(weights)
        mean, error = np.exp(bound).mean(axis=0), np.exp(bound).std(axis=0) / np.sqrt(2000)
        assert np.all(np.abs(mean - np.exp(exact)) < 4 * error), counts
        if min(counts):
            spread, slack = bound.std(axis=0), exact - bound.mean(axis=0)
            estimated = np.sqrt((bounds.importance_bound_error(weights) ** 2).mean(axis=0))
            np.testing.assert_allclose(estimated, spread, rtol=0.35)
            np.testing.assert_allclose(slack, spread**2 / 2, atol=0.25 * spread.max() ** 2 + 2e-3)


def test_a_mixtures_density_is_that_of_its_shares():
    log_q = np.log([[0.5, 0.25], [0.1, 0.0 + 1e-300]])
    found = proposals.mixture_log_density(log_q, (3, 1))
    np.testing.assert_allclose(np.exp(found), [0.75 * 0.5 + 0.25 * 0.1, 0.75 * 0.25])
    assert HeldOutConfig(num_samples=512).samples_by_proposal == (172, 170, 170)


def test_a_paired_difference_has_the_error_of_a_ratio_over_pairs():
    rng = np.random.default_rng(0)
    tokens = rng.integers(20, 60, 400)
    base = rng.normal(3.0, 2.0, 400) + tokens
    changes = 0.02 * tokens + rng.normal(0.0, 0.5, 400)
    mean, error, _ = paired.difference(list(base + changes), list(base), tokens.tolist())
    np.testing.assert_allclose(mean, changes.sum() / tokens.sum())
    drawn = rng.integers(0, 400, (4000, 400))
    np.testing.assert_allclose(error, (changes[drawn].sum(-1) / tokens[drawn].sum(-1)).std(), rtol=0.06)
    some = [None, *base[1:]]
    without = paired.difference(list(base[1:] + changes[1:]), list(base[1:]), tokens[1:].tolist())
    assert paired.difference(list(base + changes), some, tokens.tolist()) == without
    assert without[2] == 399
    assert paired.difference([1.0], [2.0], [3])[1:] == (np.inf, 1)
    # Three pairs of two tokens that change by 0, 2 and 4 nats: mean 1 a token, distances -2, 0, 2.
    three = paired.difference([0.0, 2.0, 4.0], [0.0] * 3, [2] * 3)
    np.testing.assert_allclose(three, (1.0, np.sqrt(8 * 3 / 2) / 6, 3))
    np.testing.assert_allclose(paired.half_width(1.0, 3), 4.303, atol=1e-3)
    np.testing.assert_allclose(paired.half_width(1.0, 3, comparisons=5), 9.925, atol=1e-3)


def rows_of(bounds_by_round, tokens):
    """Rows of a history whose pairs have these bounds, nats."""
    return [
        {
            "round": i - 1,
            "nll_bound": float(np.sum(nats) / np.sum(tokens)),
            "held_out_by_pair": {"bound": list(map(float, nats)), "x_tokens": list(map(int, tokens))},
        }
        for i, nats in enumerate(bounds_by_round)
    ]


def curves(falls, noise, seed, num_pairs=32):
    """Pairs of 40 tokens whose bound falls by `falls` nats per token, round by round, with noise a pair."""
    rng, tokens = np.random.default_rng(seed), np.full(num_pairs, 40)
    nats, means = [rng.normal(20.0, 5.0, num_pairs)], 0.0
    for fall in falls:
        means = means - fall * tokens
        nats.append(nats[0] + means + rng.normal(0.0, noise, num_pairs))
    return rows_of(nats, tokens)


CONFIG = EmConfig(max_rounds=9, tolerance=0.002, patience=2)


def first_stop(rows):
    return next((i for i in range(1, len(rows) + 1) if history.has_converged(rows[:i], CONFIG)), None)


@pytest.mark.parametrize("noise", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("fall", [0.003, 0.01])
def test_a_curve_that_falls_is_hardly_ever_stopped(noise, fall):
    stopped = [first_stop(curves([fall] * 6, noise, seed)) is not None for seed in range(300)]
    assert np.mean(stopped) < 0.05


def test_a_flat_or_rising_curve_stops_where_the_pairs_can_tell():
    for falls in ([0.0] * 6, [-0.01] * 6):
        assert np.mean([first_stop(curves(falls, 0.02, seed)) == 3 for seed in range(50)]) > 0.95
    # Noise of 2 nats a pair hides 0.002 nats a token: nothing is concluded.
    assert np.mean([first_stop(curves([0.0] * 6, 2.0, seed)) is None for seed in range(50)]) > 0.8


@pytest.mark.parametrize(("fall", "noise"), [(1e-4, 0.005), (5e-4, 0.02), (1e-5, 0.0005)])
def test_falls_below_the_tolerance_stop_however_sure_they_are(fall, noise):
    assert all(first_stop(curves([fall] * 6, noise, seed)) == 3 for seed in range(20))


def test_slow_falls_add_up():
    assert all(first_stop(curves([0.0015] * 8, 0.002, seed)) is None for seed in range(20))


def test_a_round_that_lacks_a_hard_pair_is_no_reference():
    easy, hard = np.arange(8) < 7, 60.0
    nats = [np.where(easy, 20.0, hard), np.where(easy, 22.0, np.inf)]
    nats += [np.where(easy, 20.0 - 0.001 * i, hard) for i in range(4)]
    rows = rows_of(nats, [40] * 8)
    rows[1]["held_out_by_pair"]["bound"][7] = None
    assert first_stop(rows) == 3
    assert history.best_round(rows[:2]) == -1


def test_equal_rounds_hardly_ever_lose_the_last():
    for num_pairs in (2, 8, 32):
        taken = [history.best_round(curves([0.0] * 10, 0.5, seed, num_pairs)) != 9 for seed in range(200)]
        assert np.mean(taken) < 0.07, num_pairs


@pytest.mark.parametrize("loose", [range(4), range(1), range(1, 4)])
def test_a_loose_bound_concludes_nothing(loose):
    """Of either of the rounds that are compared."""
    rows = curves([-0.02, -0.02, -0.02], 0.01, 0)
    for i in loose:
        rows[i]["nll_bound_slack"] = 0.1
    assert history.change_of_bound(rows[3], rows[0])[1] > 0.1
    assert history.change_of_bound(rows[0], rows[3])[1] > 0.1
    assert first_stop(rows) is None


def rows_by_weights(deviations, num_samples, seed, num_pairs=32):
    """Rounds of one and the same p(x | c), whose log weights have these deviations."""
    rng, rows = np.random.default_rng(seed), []
    for i, deviation in enumerate(deviations):
        log_weights = rng.normal(-(deviation**2) / 2, deviation, (num_pairs, num_samples))
        nats, errors = -bounds.importance_bound(log_weights), bounds.importance_bound_error(log_weights)
        (row,) = rows_of([nats], [40] * num_pairs)
        rows.append(
            row
            | {
                "round": i - 1,
                "nll_bound_slack": float((errors**2).sum()) / 2 / (40 * num_pairs),
                "held_out_effective_samples": float(bounds.effective_sample_size(log_weights).mean()),
                "held_out_samples": num_samples * num_pairs,
                "bound_pairs": num_pairs,
            }
        )
    return rows


@pytest.mark.parametrize("num_samples", [96, 512])
@pytest.mark.parametrize("deviation", [0.5, 1.0, 1.5, 2.0, 3.0, 4.0])
def test_slack_alone_makes_no_round_better_or_worse(num_samples, deviation):
    """As EM sharpens q_phi the weights spread, and the bound rises though p(x | c) stays as it was."""
    spreads = (deviation, deviation + 0.5)
    found = [history.best_round(rows_by_weights(spreads, num_samples, seed)) for seed in range(100)]
    assert np.mean(np.array(found) < 0) <= 0.07  # 0.025 by chance, where the slack is told exactly


def test_a_bound_that_rests_on_few_samples_is_said_to_and_compares_nothing(tmp_path, caplog):
    rows = rows_by_weights((1.0, 4.0), 96, 0)
    assert not np.isfinite(history.change_of_bound(rows[1], rows[0])[1])
    recorded = history.History(epath.Path(tmp_path), CONFIG)
    recorded.rows = rows
    recorded.record()
    assert "effective samples of a pair's 96" in caplog.text
    assert "HELD_OUT_SAMPLES" in caplog.text
    assert "bound_change" not in toy_em.rows_in(tmp_path / "nll.jsonl")[1]


def test_a_record_adds_tokens_up_and_warns_of_a_round_that_is_surely_worse(tmp_path, caplog):
    recorded = history.History(epath.Path(tmp_path), CONFIG)
    rows = curves([-0.02, -0.02], 0.01, 0)
    recorded.rows = [row | {"theta_tokens": 10 * i} for i, row in enumerate(rows)]
    recorded.rows[0]["direct_by_pair"] = [nats - 40 for nats in rows[0]["held_out_by_pair"]["bound"]]
    recorded.record()
    assert "EM round 1 (e_step): its held-out bound is surely above the cold start's" in caplog.text
    assert "'synthesize' will write problems with the cold-started p_theta" in caplog.text
    written = toy_em.rows_in(tmp_path / "nll.jsonl")
    assert [row["theta_tokens_seen"] for row in written] == [0, 10, 30]
    # The model without rationale is a nat per token below the cold start, with the same pairs.
    np.testing.assert_allclose(written[0]["bound_above_direct"], 1.0)
    np.testing.assert_allclose(written[0]["bound_above_direct_half_width"], 0.0, atol=1e-9)
    np.testing.assert_allclose(written[2]["bound_above_direct"], 1.04, atol=0.01)


def test_an_arm_to_compare_with_is_named_and_says_nothing_of_synthesize(tmp_path, caplog):
    config = dataclasses.replace(CONFIG, arm="fixed")
    recorded = history.History(epath.Path(tmp_path) / "fixed", config)
    recorded.rows = curves([-0.02, -0.02], 0.01, 0)
    recorded.record()
    assert "EM round 1 (fixed): its held-out bound is surely above" in caplog.text
    assert "synthesize" not in caplog.text


def test_a_run_that_its_pairs_cannot_end_says_how_many_would(tmp_path, caplog):
    caplog.set_level("INFO")
    recorded = history.History(epath.Path(tmp_path), dataclasses.replace(CONFIG, max_rounds=2))
    recorded.rows = [row | {"bound_pairs": 32} for row in curves([0.0, 0.0], 2.0, 0)]
    recorded.record()
    width = history.change_of_bound(recorded.rows[2], recorded.rows[0])[1]
    assert 5 * CONFIG.tolerance < width
    assert f"About {round(32 * (width / CONFIG.tolerance) ** 2, -1):.0f} pairs would do" in caplog.text


def test_the_count_begins_anew_with_a_round_that_surely_is_better():
    falls = [0.0, 0.05, 0.0, 0.0]
    assert [history.has_converged(curves(falls[:i], 0.01, 0), CONFIG) for i in range(5)] == [False] * 4 + [
        True
    ]


def test_the_best_round_is_the_last_one_unless_an_earlier_one_is_surely_better():
    def best(falls, noise=0.1):
        return history.best_round(curves(falls, noise, 1))

    assert best([0.01, 0.01]) == 1
    assert best([0.0, 0.0], noise=2.0) == 1  # who knows
    assert best([0.05, -0.03]) == 0
    assert best([-0.02, -0.02]) == -1
    assert best([]) == -1


def test_rounds_without_a_bound_decide_nothing():
    assert not history.has_converged([], CONFIG)
    rows = rows_of([[1.0, 2.0]] * 4, [3, 4])
    for row in rows:
        row |= {"nll_bound": None, "held_out_by_pair": {"bound": [None, None], "x_tokens": [3, 4]}}
    assert first_stop(rows) is None
    assert history.best_round(rows) == 2


@pytest.mark.parametrize(
    ("gaps", "error", "is_ignored"),
    [
        ([0.2, 0.15], 0.01, False),
        ([0.2, 0.1], 0.01, True),
        ([0.01], 0.01, True),
        ([0.01], 0.001, False),
        ([0.2, None], None, False),
        ([None, 0.06], 0.01, False),
    ],
)
def test_collapse_shows_in_the_gap_and_in_its_fall(gaps, error, is_ignored):
    rows = [{"z_gap": gap, "z_gap_error": error} for gap in gaps]
    assert history.is_ignored(rows, share=0.7) == is_ignored
