"""Ranking against brute force on an enumerable model: rewards, bounds, choice, targets, figures."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from promptcot_jax.em import diagnostics, ranking
from promptcot_jax.em.settings import EStepConfig
from promptcot_jax.objectives import advantages, bounds
from tests.em import table_model

PAIRS = table_model.toy_pairs(40)


def enumerate_all(config: EStepConfig = table_model.EXACT):
    model = table_model.TableModel.random(0)
    candidates = model.rank(PAIRS, model.every_rationale(PAIRS), config)
    starts = range(0, len(candidates), table_model.NUM_Z)
    return model, [candidates[i : i + table_model.NUM_Z] for i in starts]


def test_reward_is_the_log_joint_of_each_pair():
    model, rows = enumerate_all()
    for pair, row in zip(PAIRS, rows, strict=True):
        np.testing.assert_allclose([c.log_p_z + c.log_p_x for c in row], model.joint(pair), atol=1e-5)


def test_reward_weights_are_the_posterior_when_every_z_is_proposed():
    model, rows = enumerate_all()
    for pair, row in zip(PAIRS, rows, strict=True):
        joint = model.joint(pair)
        posterior = np.exp(joint - np.logaddexp.reduce(joint))
        np.testing.assert_allclose([c.weight for c in row], posterior, atol=1e-5)


def test_bounds_agree_with_enumeration():
    model, rows = enumerate_all()
    log_joint = np.array([[c.log_p_z + c.log_p_x for c in row] for row in rows])
    log_q = np.array([[c.log_q for c in row] for row in rows])
    log_weights = bounds.log_importance_weights(log_joint, log_q, np.ones_like(log_q, bool))
    marginals = np.array([np.logaddexp.reduce(model.joint(pair)) for pair in PAIRS])
    np.testing.assert_allclose(bounds.importance_bound(log_weights), marginals, atol=1e-5)
    # With a uniform q the ELBO is mean_z log p(z, x | c) + log Z, written out here by hand.
    by_hand = np.array([model.joint(pair).mean() + np.log(table_model.NUM_Z) for pair in PAIRS])
    np.testing.assert_allclose(bounds.elbo(log_weights), by_hand, atol=1e-5)
    assert np.all(by_hand <= marginals + 1e-9)


def test_importance_bound_stays_below_the_marginal_on_average_and_tightens_with_samples():
    model = table_model.TableModel.random(3)
    marginals = np.array([np.logaddexp.reduce(model.joint(pair)) for pair in PAIRS])
    gaps = []
    for group_size in (1, 8, 128):
        rationales = model.sample(PAIRS, group_size, seed=5)
        log_p_z, log_p_x = model.log_joint(PAIRS, rationales)
        log_q = np.array([[z.log_q for z in row] for row in rationales])
        log_weights = bounds.log_importance_weights(log_p_z + log_p_x, log_q, np.ones(log_q.shape, bool))
        gaps.append(float(np.mean(marginals - bounds.importance_bound(log_weights))))
    assert gaps[0] > gaps[1] > gaps[2] > -0.02
    assert gaps[2] < 0.05


def test_exact_em_never_lowers_the_likelihood():
    curve = table_model.curve(table_model.EXACT, rounds=25)
    assert np.all(np.diff(curve) > -1e-6)
    assert curve[-1] > curve[0] + 0.02


def test_hard_em_chooses_the_first_best_valid_sample_and_counts_it():
    model = table_model.TableModel.random(1)
    rationales = model.sample(PAIRS, 8, seed=0)
    candidates = model.rank(PAIRS, rationales, table_model.HARD)
    for i, pair in enumerate(PAIRS):
        row = candidates[8 * i : 8 * i + 8]
        scores = [float(model.joint(pair)[z.token_ids[0]]) for z in rationales[i]]
        expected = scores.index(max(scores))  # a z sampled twice ties: the first one wins
        assert [c.won for c in row] == [g == expected for g in range(8)]
        assert [c.weight for c in row] == [float(g == expected) for g in range(8)]
    targets = ranking.phi_targets(PAIRS, candidates, table_model.HARD)
    assert len(targets) == len(PAIRS)
    assert [tuple(t.prompt_ids) for t in targets] == [pair.phi_prompt_ids for pair in PAIRS]
    assert [tuple(t.completion_ids) for t in targets] == [c.token_ids for c in candidates if c.won]


def rank(rewards, valid, **settings):
    """Candidates of one pair whose samples have these log p(z | c), and log p(x | z, c) = 0."""
    rows = [[table_model.make_rationale(z, -1.0, valid=ok) for z, ok in enumerate(valid)]]
    scores = np.array([rewards], np.float64)
    config = EStepConfig(group_size=len(rewards), max_rationale_tokens=5, **settings)
    return ranking.rank([table_model.make_pair(0, 0, 0)], rows, scores, np.zeros_like(scores), config)


@pytest.mark.parametrize(
    ("rewards", "valid", "winners"),
    [
        ([-3.0, -1.0, -2.0], [True, True, True], [1]),
        ([-1.0, -1.0, -2.0], [True, True, True], [0]),  # ties go to the first
        ([-3.0, -1.0, -2.0], [True, False, True], [2]),  # an unfinished or unparseable one cannot win
        ([-3.0, float("nan"), -2.0], [True, True, True], [2]),  # nor an unscorable one
        ([-3.0, -1.0, -2.0], [False, False, False], []),  # a pair with no valid candidate is skipped
        ([-300.00001, -300.0, -300.00002], [True, True, True], [1]),  # float32 would tie these
    ],
)
def test_choice(rewards, valid, winners):
    candidates = rank(rewards, valid)
    assert [c.sample for c in candidates if c.won] == winners
    assert [c.weight for c in candidates] == [float(c.won) for c in candidates]


def test_rewards_other_than_the_papers():
    log_p_z, log_p_x, log_q = np.array([[-2.0, -6.0]]), np.array([[-2.0, -1.0]]), np.array([[-1.0, -9.0]])
    args, num_tokens = (log_p_z, log_p_x, log_q), np.array([[2, 5]])
    settings = {"group_size": 2, "max_rationale_tokens": 5}
    assert ranking.reward(*args, num_tokens, EStepConfig(**settings)).tolist() == [[-4.0, -7.0]]
    per_token = ranking.reward(*args, num_tokens, EStepConfig(**settings, reward="log_joint_per_token"))
    np.testing.assert_allclose(per_token, [[-4.0 / 2, -7.0 / 5]])
    assert ranking.reward(*args, num_tokens, EStepConfig(**settings, reward="elbo")).tolist() == [[-3.0, 2.0]]


@pytest.mark.parametrize(
    ("log_p_short", "short_wins"),
    [
        (-1.5, True),  # -1.5 / 2 against -5 / 5; by the tokens of z alone -1.5 / 1 against -5 / 4
        (-2.25, False),  # -2.25 / 2 against -5 / 5; with the end token of q -2.25 / 3 against -5 / 6
    ],
)
def test_a_reward_per_token_counts_z_and_x_but_not_the_end_token_of_q(log_p_short, short_wins):
    short = table_model.make_rationale(1, -1.0)
    long = dataclasses.replace(short, token_ids=(0, 0, 0, 0, table_model.NUM_Z))
    config = EStepConfig(group_size=2, max_rationale_tokens=5, reward="log_joint_per_token")
    scores = np.array([[log_p_short, -5.0]])
    pairs = [table_model.make_pair(0, 0, 0)]
    candidates = ranking.rank(pairs, [[short, long]], scores, np.zeros_like(scores), config)
    assert [c.won for c in candidates] == [short_wins, not short_wins]
    figures = diagnostics.of_candidates(pairs, candidates, config)
    np.testing.assert_allclose(figures["reward_mean"], (log_p_short / 2 - 1) / 2)


def test_the_weights_of_the_exact_e_step_subtract_log_q_once_whichever_reward():
    model = table_model.TableModel.random(2)
    rationales = model.sample(PAIRS, 8, seed=1)
    weights = [
        [
            c.weight
            for c in model.rank(PAIRS, rationales, dataclasses.replace(table_model.EXACT, reward=reward))
        ]
        for reward in ("log_joint", "elbo")
    ]
    np.testing.assert_allclose(*weights, atol=1e-5)
    log_q = np.array([[z.log_q for z in row] for row in rationales])
    unnormalised = np.exp(sum(model.log_joint(PAIRS, rationales)) - log_q)
    by_hand = unnormalised / unnormalised.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(weights[0], by_hand.ravel(), atol=1e-5)


def test_a_sample_without_a_finite_log_q_is_no_candidate():
    pairs, scores = [table_model.make_pair(0, 0, 0)], np.array([[-1.0, -2.0]])
    rows = [[table_model.make_rationale(0, -np.inf), table_model.make_rationale(1, -1.0)]]
    config = EStepConfig(group_size=2, max_rationale_tokens=5)
    candidates = ranking.rank(pairs, rows, scores, np.zeros_like(scores), config)
    assert [(c.valid, c.won) for c in candidates] == [(False, False), (True, True)]


def candidates_of(rows, config):
    """Candidates of pairs whose samples are (z, log p(z, x | c), log q, valid)."""
    pairs = [table_model.make_pair(index, 0, 0) for index in range(len(rows))]
    rationales = [
        [table_model.make_rationale(z, log_q, index=index, valid=valid) for z, _, log_q, valid in row]
        for index, row in enumerate(rows)
    ]
    log_joint = np.array([[sample[1] for sample in row] for row in rows])
    return pairs, ranking.rank(pairs, rationales, log_joint / 2, log_joint / 2, config)


SAMPLES_OF_PAIRS = [
    # 0 is best, 0.3 nats above 1, which q prefers; what is not valid would be best by both.
    [(0, -1.0, -2.0, True), (1, -1.3, -1.0, True), (0, -1.0, -2.0, True), (2, 5.0, -0.1, False)],
    # 1 is best and likeliest, 2 nats above 0; its copy is not the second best.
    [(0, -4.0, -1.0, True), (1, -2.0, -0.5, True), (2, -9.0, -3.0, True), (1, -2.0, -0.5, True)],
    [(3, -1.0, -1.0, True)] * 4,  # nothing to choose from
    [(z, -1.0, -1.0, False) for z in range(4)],
]


def test_figures_say_whether_r_or_q_chose():
    config = EStepConfig(group_size=4, max_rationale_tokens=5)
    found = diagnostics.of_candidates(*candidates_of(SAMPLES_OF_PAIRS, config), config)
    expected = {
        "choice_share": 2 / 4,
        "log_q_agreement": 1 / 2,
        "log_q_agreement_chance": (1 / 2 + 1 / 3) / 2,
        "log_q_agreement_all": 2 / 3,
        "close_share": 1 / 2,
        "distinct_rationales": (1 / 2 + 2 / 3 + 0) / 3,  # of the valid ones but the first
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    "config",
    [
        EStepConfig(group_size=4, max_rationale_tokens=5, num_winners=2),
        EStepConfig(group_size=4, max_rationale_tokens=5, objective="reward_weighted"),
    ],
)
def test_what_stands_in_for_an_invalid_rationale_is_the_best_sample_whatever_phi_learns(config):
    _, candidates = candidates_of(SAMPLES_OF_PAIRS, config)
    assert sum(c.weight > 0 for c in candidates) > 3
    found = ranking.winners(candidates)
    assert {pair_id: z.token_ids[0] for pair_id, z in found.items()} == {
        candidates[4 * i].pair_id: z for i, z in enumerate((0, 1, 3))
    }


def test_there_are_no_figures_of_choices_where_there_was_nothing_to_choose():
    config = EStepConfig(group_size=4, max_rationale_tokens=5)
    found = diagnostics.of_candidates(*candidates_of(SAMPLES_OF_PAIRS[2:], config), config)
    assert found["choice_share"] == 0
    assert found["log_q_agreement"] is found["close_share"] is found["log_q_agreement_chance"] is None
    assert found["log_q_agreement_all"] == 1


@pytest.mark.parametrize(("second", "close"), [(-1.4, 1.0), (-1.6, 0.0)])
@pytest.mark.parametrize("reward", ["log_joint", "log_joint_per_token"])
def test_a_choice_is_close_within_half_a_nat_whatever_r_is_divided_by(reward, second, close):
    """z and x have a token each: R per token differs by 0.2 and 0.3."""
    config = EStepConfig(group_size=2, max_rationale_tokens=5, reward=reward)
    rows = [[(0, -1.0, -1.0, True), (1, second, -1.0, True)]]
    assert diagnostics.of_candidates(*candidates_of(rows, config), config)["close_share"] == close


def test_the_kl_estimate_goes_to_the_exact_one_from_below():
    model = table_model.TableModel.random(4)
    exact = []
    for pair in PAIRS:
        joint = model.joint(pair)
        log_q = model.log_q[pair.theta_prompt_ids[0], pair.problem_ids[0]]
        exact.append(np.sum(np.exp(log_q) * (log_q - (joint - np.logaddexp.reduce(joint)))))
    estimates = {}
    for group_size in (1, 4, 2000):
        config = dataclasses.replace(table_model.EXACT, group_size=group_size)
        candidates = model.rank(PAIRS, model.sample(PAIRS, group_size, seed=7), config)
        figures = diagnostics.of_candidates(PAIRS, candidates, config)
        estimates[group_size] = figures["kl_q_posterior_estimate"]
    assert np.mean(exact) > 0.3
    np.testing.assert_allclose(estimates[2000], np.mean(exact), rtol=0.05)
    assert abs(estimates[1]) < 1e-5  # of one sample it is 0, whatever q is
    assert estimates[1] + 0.1 < estimates[4] < np.mean(exact) - 0.02


@pytest.mark.parametrize("num_winners", [1, 2, 3])
def test_the_winners_are_the_best_distinct_valid_samples(num_winners):
    rng = np.random.default_rng(num_winners)
    config = EStepConfig(group_size=6, max_rationale_tokens=5, num_winners=num_winners)
    rows = [
        [(int(rng.integers(4)), float(rng.integers(5)), -1.0, bool(rng.random() < 0.5)) for _ in range(6)]
        for _ in range(200)
    ]
    pairs, candidates = candidates_of(rows, config)
    expected = []
    for row in rows:
        left, winners = [g for g in range(6) if row[g][3]], []
        while left and len(winners) < num_winners:
            best = next(g for g in left if row[g][1] == max(row[other][1] for other in left))
            winners.append(best)
            left = [g for g in left if row[g][0] != row[best][0]]
        expected.append(winners)
    assert {len(winners) for winners in expected} == set(range(num_winners + 1))
    of_pairs = [candidates[i : i + 6] for i in range(0, len(candidates), 6)]
    for row, winners in zip(of_pairs, expected, strict=True):
        assert [c.weight for c in row] == [float(g in winners) for g in range(6)]
        assert [c.sample for c in row if c.won] == winners[:1]
    targets = ranking.phi_targets(pairs, candidates, config)
    assert len(targets) == sum(map(len, expected))
    assert all(not target.token_values for target in targets)  # each weighs the same


def test_styles_are_reported_where_they_have_names():
    pairs, config = [table_model.make_pair(0, 0, 0)], EStepConfig(group_size=3, max_rationale_tokens=5)
    candidates = rank([-1.0, -2.0, -6.0], [True] * 3)  # of the texts "0", "1", "2"
    assert not [name for name in diagnostics.of_candidates(pairs, candidates, config) if "style" in name]
    figures = diagnostics.of_candidates(pairs, candidates, config, lambda z: "even" if z in "02" else "odd")
    assert figures["style_share"] == {"even": pytest.approx(2 / 3), "odd": pytest.approx(1 / 3)}
    assert figures["style_share_chosen"] == {"even": 1.0}
    assert figures["style_log_p"] == {"even": {"z": -3.5, "x": 0.0}, "odd": {"z": -2.0, "x": 0.0}}


def test_the_elbo_stays_below_the_marginal_when_some_samples_do_not_end():
    """One z, p(z, x) = 0.5, and a q that ends half the time, with q(z) = 0.5: two samples, one unfinished."""
    log_weights = bounds.log_importance_weights(
        np.log([[0.5, 0.5]]), np.log([[0.5, 0.5]]), np.array([[True, False]])
    )
    np.testing.assert_allclose(bounds.elbo(log_weights), [np.log(0.5)], atol=1e-6)
    np.testing.assert_allclose(bounds.importance_bound(log_weights), [np.log(0.5)], atol=1e-6)
    np.testing.assert_allclose(diagnostics.kl_to_posterior(np.asarray(log_weights)), [0.0], atol=1e-6)


def test_combinations_without_a_meaning_are_refused():
    for settings in (
        {"objective": "reward_weighted", "reward": "log_joint_per_token"},
        {"objective": "grpo", "temperature": 0.7},
        {"objective": "grpo", "group_size": 1},
        {"objective": "reward_weighted", "num_winners": 2},
        {"num_winners": 9},
        {"objective": "grpo", "num_cold_samples": 1},
        {"num_cold_samples": 8},
    ):
        with pytest.raises(ValueError):
            EStepConfig(max_rationale_tokens=8, **settings)


def test_group_advantages_ignore_invalid_samples():
    rewards = jnp.array([[1.0, 3.0, 100.0], [2.0, 2.0, 2.0]])
    valid = jnp.array([[True, True, False], [True, True, True]])
    found = advantages.group_advantages(rewards, valid)
    np.testing.assert_allclose(found, [[-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]], atol=2e-4)


def test_rewards_that_differ_by_rounding_give_no_advantage():
    """One unit in the last place of float32 at 300 nats must not become a gradient of full size."""
    rewards = jnp.array([[-300.0, jnp.nextafter(jnp.float32(-300.0), jnp.float32(0.0))]]) + 300.0
    assert float(jnp.abs(advantages.group_advantages(rewards, jnp.ones((1, 2), bool))).max()) < 0.2


def test_no_weight_where_nothing_ended():
    log_weights = np.full((1, 3), -np.inf)
    assert bounds.posterior_weights(log_weights).tolist() == [[0.0, 0.0, 0.0]]
    assert bounds.effective_sample_size(log_weights).tolist() == [0.0]
    assert bounds.importance_bound(log_weights).tolist() == [-np.inf]
