"""What phi's fit hands to the optimizer under `reward_weighted` and `grpo`, against sums by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import Candidate
from promptcot_jax.data import example_sets, examples, packing
from promptcot_jax.em import e_step, ranking
from promptcot_jax.em.settings import EStepConfig
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.parallel import rules
from promptcot_jax.trainers import train_step
from promptcot_jax.trainers.optimizer import OptimizerConfig
from tests.cases import some_fast
from tests.em import table_model, toy_em
from tests.trainers import toy_fit

LENGTHS = [[3, 6], [2, 5, 4], [7, 3, 3]]  # tokens of the samples of three pairs
WEIGHTED = EStepConfig(group_size=3, max_rationale_tokens=8, objective="reward_weighted")
GRPO = dataclasses.replace(WEIGHTED, objective="grpo")
# Nothing but Adam's first moment is read: after one step it is (1 - b1) times the gradient.
OPTIMIZER = OptimizerConfig(learning_rate=1e-3, clip_norm=None)


def candidates_of(weights, lengths, seed=0, valid=None):
    """A candidate of random tokens for each weight, b pairs of these; and the pairs."""
    rng = np.random.default_rng(seed)
    pairs = [table_model.make_pair(b, int(rng.integers(3, 9)), b) for b in range(len(weights))]
    rows = [
        Candidate(
            pair_id=pair.triple.id,
            sample=g,
            rationale="",
            token_ids=tuple(rng.integers(2, toy_fit.VOCAB_SIZE, length).tolist()),
            finish_reason="stop",
            valid=valid is None or valid[b][g],
            retokenized=False,
            log_p_z=-1.0,
            log_p_x=-1.0,
            log_q=-1.0,
            length=length - 1,
            weight=weight,
            won=weight == max(weights[b]),
        )
        for b, pair in enumerate(pairs)
        for g, (weight, length) in enumerate(zip(weights[b], lengths[b], strict=True))
    ]
    return pairs, rows


def batches_of(targets, *, rows_per_batch=8, row_length=16, pack=True):
    return packing.PackedEpochs(
        example_sets.Listed(targets),
        row_length=row_length,
        rows_per_batch=rows_per_batch,
        num_epochs=1,
        seed=0,
        pack=pack,
    )


def gradient_handed_over(batch, config, *, micro_batches=1, mesh=None):
    """What the train step hands to the optimizer for a batch."""
    mesh = mesh or mesh_lib.make_mesh(mesh_lib.MeshConfig())
    lm = toy_fit.toy_lm()
    lm = type(lm)(lm.config, rules.DEFAULT_RULES)
    settings = train_step.StepConfig(
        loss=e_step.phi_loss(config), optimizer=OPTIMIZER, micro_batches=micro_batches
    )
    step = train_step.make_train_step(lm, settings, mesh)
    with jax.set_mesh(mesh):
        state = step.start(jax.device_put(lm.init(jax.random.key(0)), step.shardings.params))
        state, metrics = step.run(state, batch, np.int32(1), {})
        assert int(metrics["num_skipped"]) == 0
        moments = jax.device_get(optax.tree.get(state.opt_state, "mu"))
    return jax.tree.map(lambda moment: moment / (1 - OPTIMIZER.b1), moments)


def norm(gradient):
    return float(np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradient))))


def assert_close(found, expected):
    """Sums of some hundred float32 terms: 1e-4 of the largest one."""
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * largest), found, expected
    )


def log_likelihood(lm, params, prompt, completion):
    """log q(z | c, x) of one sequence alone, from full logits."""
    ids = jnp.array([[*prompt, *completion]])
    logits = lm.hidden_states(params, ids) @ lm.output_embedding(params)
    log_probs = jax.nn.log_softmax(logits[0])
    return sum(log_probs[len(prompt) - 1 + i, token] for i, token in enumerate(completion))


def gradient_by_hand(pairs, candidates, weight_of, normalizer):
    """Gradient of sum_b sum_g weight_bg * -log q(z_bg | c_b, x_b) / normalizer."""
    lm, by_id = toy_fit.toy_lm(), {pair.triple.id: pair for pair in pairs}

    def objective(params):
        terms = [
            weight_of(c) * log_likelihood(lm, params, by_id[c.pair_id].phi_prompt_ids, c.token_ids)
            for c in candidates
            if weight_of(c)
        ]
        return -sum(terms) / normalizer

    return jax.jit(jax.grad(objective))(lm.init(jax.random.key(0)))


def weighted_case():
    """Three pairs; the second has a sample of too little weight."""
    weights = [[0.25, 0.75], [0.5, 0.4995, 0.0005], [0.9, 0.06, 0.04]]
    pairs, candidates = candidates_of(weights, LENGTHS)
    expected_tokens = (
        0.25 * 3
        + 0.75 * 6
        + (0.5 * 2 + 0.4995 * 5) / 0.9995  # of the two that are kept
        + (0.9 * 7 + 0.06 * 3 + 0.04 * 3)
    )
    return pairs, candidates, expected_tokens


@pytest.mark.parametrize(
    ("batching", "step"),
    some_fast(
        [
            ({}, {}),
            ({"pack": False}, {"micro_batches": 4}),
            ({"row_length": 40}, {}),  # more padding
            ({"rows_per_batch": 16, "pack": False}, {"mesh": mesh_lib.MeshConfig(data=2)}),
        ]
    ),
    ids=["packed", "micro-batches", "padding", "two devices"],
)
def test_the_weighted_gradient_is_that_of_the_pairs_objective_per_expected_token(batching, step):
    pairs, candidates, expected_tokens = weighted_case()
    by_hand = gradient_by_hand(
        pairs, candidates, lambda c: c.weight if c.weight >= 1e-3 else 0.0, expected_tokens
    )
    batches = batches_of(ranking.phi_targets(pairs, candidates, WEIGHTED), **batching)
    assert batches.num_steps == 1
    if "mesh" in step:
        step = step | {"mesh": mesh_lib.make_mesh(step["mesh"])}
    assert_close(gradient_handed_over(batches.batch(0), WEIGHTED, **step), by_hand)


def test_the_sums_of_two_pairs_with_a_pencil():
    """Weights (1, 0) and (0.5, 0.5)."""
    pairs = [dataclasses.replace(table_model.make_pair(b, 0, b), phi_prompt_ids=(0, 1)) for b in range(2)]
    _, candidates = candidates_of([[1.0, 0.0], [0.5, 0.5]], [[2, 1], [1, 3]])
    ids = [(2, 0), (1,), (2,), (1, 2, 2)]
    candidates = [dataclasses.replace(c, token_ids=z) for c, z in zip(candidates, ids, strict=True)]
    targets = ranking.phi_targets(pairs, candidates, WEIGHTED)
    assert [tuple(target.completion_ids) for target in targets] == [(2, 0), (2,), (1, 2, 2)]
    batch = batches_of(targets, rows_per_batch=2).batch(0)
    total, count = e_step.phi_loss(WEIGHTED)(toy_fit.BIGRAM, {"table": toy_fit.TABLE}, batch)
    # 1 -> 2 -> 0; half of 1 -> 2; half of 1 -> 1 -> 2 -> 2, in eighths
    by_hand = -np.log(6 / 8 * 5 / 8) - 0.5 * np.log(6 / 8) - 0.5 * np.log(1 / 8 * 6 / 8 * 1 / 8)
    np.testing.assert_allclose(total, by_hand, rtol=1e-6)
    np.testing.assert_allclose(count, 2 + (1 + 3) / 2, rtol=1e-6)


def test_a_batch_of_rejected_samples_hands_the_optimizer_next_to_nothing():
    """Also where a batch has lost the heavy samples of its pairs, which the length policy can drop."""
    pairs, candidates = candidates_of([[0.998, 0.002], [0.002, 0.998]], [[4, 4], [4, 4]])
    targets = ranking.phi_targets(pairs, candidates, WEIGHTED)
    heavy, light = (
        gradient_handed_over(batches_of([targets[i] for i in which]).batch(0), WEIGHTED)
        for which in ((0, 3), (1, 2))
    )
    assert norm(light) < 0.01 * norm(heavy)
    # Divided by the weights, as the objective is not, both would be as large.
    by_hand = gradient_by_hand(pairs, candidates, lambda c: c.weight if c.weight < 0.5 else 0.0, 4.0)
    assert_close(light, by_hand)


def test_weights_of_one_sample_give_the_gradient_of_best_of_g():
    weights = [[0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    pairs, candidates = candidates_of(weights, LENGTHS)
    best = dataclasses.replace(WEIGHTED, objective="best_of_g")
    weighted_batch, best_batch = (
        batches_of(ranking.phi_targets(pairs, candidates, config)).batch(0) for config in (WEIGHTED, best)
    )
    assert_close(gradient_handed_over(weighted_batch, WEIGHTED), gradient_handed_over(best_batch, best))


def test_the_sizes_of_batches_with_and_without_rejected_samples_are_in_proportion():
    """A pair of two good samples and one of a good and a rejected one: alike per pair."""
    pairs, candidates = candidates_of([[0.5, 0.5], [0.9995, 0.0005]], [[4, 4], [4, 4]])
    targets = ranking.phi_targets(pairs, candidates, WEIGHTED)
    loss, params = e_step.phi_loss(WEIGHTED), {"table": jnp.zeros((toy_fit.VOCAB_SIZE, toy_fit.VOCAB_SIZE))}
    both, alone = (
        loss(toy_fit.BIGRAM, params, batches_of(some).batch(0)) for some in (targets[:2], targets[2:])
    )
    np.testing.assert_allclose([both[1], alone[1]], [4.0, 4.0], rtol=1e-6)
    np.testing.assert_allclose(
        [both[0], alone[0]], np.array([1.0, 0.9995]) * 4 * np.log(toy_fit.VOCAB_SIZE), rtol=1e-6
    )


def test_samples_of_a_pair_with_unlike_rewards_are_targets_and_those_of_a_tied_pair_are_not():
    weights = [[-1.2, 0.0, 1.2], [0.0, 0.0, 0.0], [1.0, -1.0, 0.0]]
    valid = [[True] * 3, [True] * 3, [True, True, False]]
    pairs, candidates = candidates_of(weights, [[3] * 3] * 3, valid=valid)
    targets = ranking.phi_targets(pairs, candidates, GRPO)
    expected = [candidates[i] for i in (0, 1, 2, 6, 7)]
    assert [tuple(target.completion_ids) for target in targets] == [c.token_ids for c in expected]
    assert [target.group for target in targets] == [0, 0, 0, 2, 2]
    # Copies of one sample are rewarded alike, whatever rounding makes of it.
    copies = [dataclasses.replace(c, token_ids=candidates[0].token_ids) for c in candidates[:3]]
    assert ranking.phi_targets(pairs, [*copies, *candidates[3:]], GRPO) == targets[3:]


def test_the_gradient_of_grpo_is_that_of_the_advantages_over_the_tokens_of_whole_pairs():
    """At the phi that wrote the samples ratios are 1: -sum_bg A_bg * log q(z_bg | c, x) over all tokens."""
    weights = [[-1.0, 1.0], [-1.2, 0.0, 1.2], [0.0, 0.0, 0.0]]
    pairs, candidates = candidates_of(weights, LENGTHS)
    by_hand = gradient_by_hand(pairs, candidates, lambda c: c.weight, 3 + 6 + 2 + 5 + 4)
    targets, lm = ranking.phi_targets(pairs, candidates, GRPO), toy_fit.toy_lm()
    params = lm.init(jax.random.key(0))

    def with_old(target):
        ids = jnp.array([[*target.prompt_ids, *target.completion_ids]])
        logits = lm.hidden_states(params, ids) @ lm.output_embedding(params)
        of_tokens = jax.nn.log_softmax(logits[0])[jnp.arange(ids.shape[1] - 1), ids[0, 1:]]
        old = np.asarray(of_tokens)[len(target.prompt_ids) - 1 :]
        return dataclasses.replace(target, token_values=target.token_values | {"old_log_probs": old})

    batches = batches_of([with_old(target) for target in targets])
    assert_close(gradient_handed_over(batches.batch(0), GRPO), by_hand)


@pytest.mark.parametrize(("epsilon", "bound"), [(0.1, 1.1), (0.4, 1.4), (0.9, 1.8)])
def test_the_ratio_of_grpo_is_clipped_as_it_is_set(epsilon, bound):
    """A token 1.8 times as likely as it was, of a sample with advantage 1; and the same with advantage -1."""
    config = dataclasses.replace(GRPO, clip_epsilon=epsilon)
    old = np.log(6 / 8 / 1.8)  # 1 -> 2
    pair = dataclasses.replace(table_model.make_pair(0, 0, 0), phi_prompt_ids=(0, 1))
    totals = []
    for advantage in (1.0, -1.0):
        values = {"advantages": (advantage,), "old_log_probs": (old,)}
        target = examples.TokenExample(
            prompt_ids=pair.phi_prompt_ids, completion_ids=(2,), token_values=values
        )
        batch = batches_of([target], rows_per_batch=1).batch(0)
        totals.append(float(e_step.phi_loss(config)(toy_fit.BIGRAM, {"table": toy_fit.TABLE}, batch)[0]))
    np.testing.assert_allclose(totals, [-bound, 1.8], rtol=1e-5)


@pytest.mark.parametrize("config", [WEIGHTED, GRPO], ids=["reward_weighted", "grpo"])
@pytest.mark.parametrize("pack", [True, False])
def test_all_samples_of_a_pair_are_in_one_batch(config, pack):
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(40, 3)) if config is GRPO else rng.dirichlet(np.ones(3), size=40)
    pairs, candidates = candidates_of(weights.tolist(), rng.integers(2, 9, (40, 3)).tolist())
    pairs = [dataclasses.replace(pair, phi_prompt_ids=(pair.index + 100,)) for pair in pairs]  # to tell apart
    targets = ranking.phi_targets(pairs, candidates, config)
    if config is GRPO:
        targets = [
            dataclasses.replace(
                t, token_values=t.token_values | {"old_log_probs": t.token_values["advantages"]}
            )
            for t in targets
        ]
    batches = batches_of(targets, rows_per_batch=4, row_length=10, pack=pack)
    of_batches = [
        {int(i) for i in batches.batch(step).token_ids.ravel() if i >= 100}
        for step in range(batches.num_steps)
    ]
    assert sum(map(len, of_batches)) == 40  # each pair in one batch alone
    assert of_batches[0] != set(range(100, 100 + len(of_batches[0])))  # in an order of the seed


def test_a_batch_of_fewer_rows_than_a_pair_has_samples_is_refused(cold, tmp_path):
    e_step_config = dataclasses.replace(toy_em.E_STEP, objective="reward_weighted", group_size=5)
    with pytest.raises(WrongUse, match=r"5 samples of a pair in one batch.*rows_per_batch is 4.*EM_BATCH"):
        toy_em.make_em(cold, tmp_path, e_step_config=e_step_config)
    toy_em.make_em(cold, tmp_path, e_step_config=dataclasses.replace(e_step_config, objective="best_of_g"))
