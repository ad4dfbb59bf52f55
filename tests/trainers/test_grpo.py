import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promptcot_jax.data import examples, packing
from promptcot_jax.models import causal_lm
from promptcot_jax.objectives import advantages, token_log_probs
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.parallel import rules
from promptcot_jax.sampling import scoring
from promptcot_jax.trainers import algorithm, grpo, optimizer, train_step
from tests.cases import some_fast
from tests.data import rollouts
from tests.trainers import toy_fit
from tests.trainers.test_sft import BIGRAM, TABLE

EVERYTHING = grpo.Grpo(kl_beta=0.1, sampler_correction="token")
SWITCHES = [
    grpo.Grpo(ratio=ratio, surrogate=surrogate, aggregation=aggregation, **more)
    for ratio, surrogate, aggregation in itertools.product(
        ("token", "sequence"), ("clip", "cispo"), ("token", "sequence", "constant")
    )
    for more in [
        {
            "kl_beta": 0.1,
            "kl_estimator": "k2" if ratio == "token" else "k3",
            "sampler_correction": "sequence" if surrogate == "clip" else "token",
            "constant_length": 5 if aggregation == "constant" else 0,
        }
    ]
]
# Each value of each switch is in one of the fast three.
SOME_SWITCHES = pytest.mark.parametrize(
    "config",
    some_fast(SWITCHES, fast=(0, 4, 11)),
    ids=lambda config: f"{config.ratio}-{config.surrogate}-{config.aggregation}",
)


def _rollout(prompt, completion, advantage, *, old=None, gap=0.0, reference=0.0):
    """A sample as the trainer gets it; without `old`, log-probabilities that random numbers stand for."""
    rng = np.random.default_rng(len(completion))
    old = rng.normal(-1.5, 0.5, len(completion)) if old is None else np.asarray(old)
    values = {
        "advantages": np.full(len(completion), advantage),
        "old_log_probs": old,
        "sampler_log_probs": old + gap,
        "reference_log_probs": old + reference,
    }
    return examples.TokenExample(prompt_ids=prompt, completion_ids=completion, token_values=values)


def _batch(rows, *, row_length=12, config=EVERYTHING):
    return packing.pack_rows(rows, num_rows=len(rows), row_length=row_length, value_names=config.value_names)


def _toy_rollouts(number=8):
    """Of unlike lengths, with advantages of both signs."""
    rng = np.random.default_rng(1)
    return [
        _rollout(
            (2, 3),
            tuple(rng.integers(2, toy_fit.VOCAB_SIZE, n % 4 + 1).tolist()),
            rng.normal(),
            gap=0.1 * rng.normal(),
            reference=0.2 * rng.normal(),
        )
        for n in range(number)
    ]


def test_the_loss_with_a_pencil():
    """1 -> 2 has probability 6/8, 2 -> 0 has 5/8, 1 -> 1 has 1/8."""
    batch = _batch(
        [
            [
                _rollout((0, 1), (2, 0), 1.0, old=np.log([6 / 8, 1 / 8]), gap=np.log(4), reference=0.0),
                _rollout((1,), (1,), -2.0, old=np.log([1 / 8]), gap=-np.log(8)),
            ]
        ]
    )
    config = dataclasses.replace(EVERYTHING, aggregation="sequence", kl_estimator="k2")
    total, count, figures = grpo.GrpoLoss(config=config)(BIGRAM, {"table": TABLE}, batch)
    # Sampler weights 1/4 and min(8, 2); ratios 1, 5 (clipped to 1.28) and 1.
    first = -(1 / 4) * (1.0 + 1.28) / 2 + 0.1 * 0.5 * np.log(5) ** 2 / 2
    np.testing.assert_allclose(total, first + 2.0 * 2.0, rtol=1e-5)
    assert count == 2
    found = grpo.GrpoLoss(config=EVERYTHING).metrics_of([jax.device_get(figures)])
    expected = {
        "clip_ratio/low_mean": 0.0,
        "clip_ratio/high_mean": 1 / 3,
        "ratio/min": 1.0,
        "ratio/max": 5.0,
        "policy_kl": (5 - 1 - np.log(5)) / 3,
        "kl": 0.5 * np.log(5) ** 2 / 3,
        "sampling/sampling_logp_difference/mean": (2 * np.log(4) + np.log(8)) / 3,
        "sampling/sampling_logp_difference/max": np.log(8),
        "sampling/importance_sampling_ratio/mean": (1 / 4 + 1 / 4 + 2) / 3,
        "sampling/importance_sampling_ratio/min": 1 / 4,
        # Of the rows 1, 2, 1 of the table.
        "entropy": -(
            2 * np.sum(np.array([1, 1, 6]) / 8 * np.log(np.array([1, 1, 6]) / 8))
            + np.sum(np.array([5, 2, 1]) / 8 * np.log(np.array([5, 2, 1]) / 8))
        )
        / 3,
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


@SOME_SWITCHES
def test_the_gradient_by_finite_differences(config):
    """CISPO's weight is a constant of the loss: there the differences are those of the log-probabilities."""
    rows = [[_rollout((0, 1), (2, 0), 1.0, gap=0.1), _rollout((2,), (1, 1, 2), -0.7, reference=0.3)]]
    batch = _batch(rows, config=config)
    if config.surrogate == "cispo":  # inside the clip the differences would show the weight's own slope
        config = dataclasses.replace(config, clip_low=0.0, clip_high=0.0)

    def loss(table):
        return grpo.GrpoLoss(config=config)(BIGRAM, {"table": table}, batch)[0]

    gradient = np.asarray(jax.grad(loss)(TABLE))
    step = 1e-2
    for i, j in np.ndindex(3, 3):
        up, down = (float(loss(TABLE.at[i, j].add(sign * step))) for sign in (1, -1))
        np.testing.assert_allclose(gradient[i, j], (up - down) / (2 * step), atol=3e-3)
    assert np.abs(gradient).max() > 0.05


@SOME_SWITCHES
def test_packed_equals_a_row_each_and_prompts_and_padding_take_no_part(config):
    lm = toy_fit.toy_lm()
    params = lm.init(jax.random.key(0))
    rows = _toy_rollouts(6)
    value_and_gradient = jax.jit(
        jax.value_and_grad(lambda p, b: grpo.GrpoLoss(config=config)(lm, p, b)[:2], has_aux=True)
    )
    packed = _batch([rows[:3], rows[3:]], row_length=18, config=config)
    for name, value in packed.values.items():  # what must not be read
        value[~packed.loss_mask] = {"advantages": np.nan}.get(name, np.inf)
    (total, count), gradient = value_and_gradient(params, packed)
    (alone, alone_count), alone_gradient = value_and_gradient(
        params, _batch([[row] for row in rows], row_length=8, config=config)
    )
    assert count == alone_count
    np.testing.assert_allclose(total, alone, rtol=1e-5)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), gradient, alone_gradient
    )


def test_the_end_token_is_trained_and_the_prompt_is_not():
    batch = _batch([[_rollout((0, 1), (2, 0), 1.0)]])
    gradient = jax.grad(lambda table: grpo.GrpoLoss(config=EVERYTHING)(BIGRAM, {"table": table}, batch)[0])(
        TABLE
    )
    assert not np.any(gradient[0])  # token 0 is read before a prompt token, and as the very last one
    assert np.all(gradient[1])
    assert np.all(gradient[2])  # predicts the end


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_ratios_are_one_on_policy_at_the_temperature_of_sampling(temperature):
    lm = toy_fit.toy_lm()
    params = lm.init(jax.random.key(0))
    rows = [(r.prompt_ids.tolist(), r.completion_ids.tolist()) for r in _toy_rollouts()]
    scores = scoring.score(lm, params, *zip(*rows, strict=True), temperature=temperature)
    batch = _batch([[_rollout(*row, 1.0, old=old)] for row, old in zip(rows, scores, strict=True)])
    for right in (True, False):
        *_, figures = grpo.GrpoLoss(config=EVERYTHING, temperature=temperature if right else 1.3)(
            lm, params, batch
        )
        found = grpo.GrpoLoss(config=EVERYTHING).metrics_of([jax.device_get(figures)])
        extremes = np.array([found["ratio/min"], found["ratio/max"]])
        assert np.all(np.abs(extremes - 1) < 1e-5) == right


def test_a_single_update_needs_no_old_log_probs():
    """Loss and gradient are those with the policy's own ones, and ratios are 1 to the last bit."""
    lm, rows = toy_fit.toy_lm(), _toy_rollouts()
    params = lm.init(jax.random.key(0))
    scores = scoring.score(
        lm, params, [r.prompt_ids.tolist() for r in rows], [r.completion_ids.tolist() for r in rows]
    )
    rows = [
        dataclasses.replace(row, token_values={**row.token_values, "old_log_probs": old})
        for row, old in zip(rows, scores, strict=True)
    ]
    single = dataclasses.replace(EVERYTHING, single_update=True)
    found = []
    for config in (EVERYTHING, single):
        batch = _batch([[row] for row in rows], config=config)
        found.append(
            jax.value_and_grad(
                lambda p, batch=batch, config=config: grpo.GrpoLoss(config=config)(lm, p, batch)[0]
            )(params)
        )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), *found)
    *_, figures = grpo.GrpoLoss(config=single)(lm, params, _batch([[row] for row in rows], config=single))
    shown = grpo.GrpoLoss(config=EVERYTHING).metrics_of([jax.device_get(figures)])
    assert shown["ratio/min"] == shown["ratio/max"] == 1.0
    assert shown["policy_kl"] == 0.0


@pytest.mark.parametrize(("old_log_probs", "needs_them"), [("scored", False), ("sampled", True)])
def test_ratios_of_a_single_update_refer_to_the_sampler_where_it_gives_the_old_log_probs(
    old_log_probs, needs_them
):
    config = grpo.Grpo(sampler_correction="none").for_iterations(
        num_updates=1, old_log_probs=old_log_probs, max_staleness=0
    )
    assert config.single_update == (not needs_them)
    assert ("old_log_probs" in config.value_names) == needs_them


@pytest.mark.parametrize("aggregation", some_fast(["token", "sequence", "constant"]))
@pytest.mark.parametrize("micro_batches", some_fast([2, 4]))
def test_micro_batches_equal_the_whole(aggregation, micro_batches):
    """Loss, gradient, and figures, extremes included; counts of the micro-batches differ."""
    constant_length = 5 if aggregation == "constant" else 0
    config = dataclasses.replace(EVERYTHING, aggregation=aggregation, constant_length=constant_length)
    lm, batch = toy_fit.toy_lm(), _batch([[row] for row in _toy_rollouts()], config=config)
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig())
    results = []
    for number in (1, micro_batches):
        step = train_step.make_train_step(
            lm,
            train_step.StepConfig(
                loss=grpo.GrpoLoss(config=config),
                optimizer=optimizer.OptimizerConfig(learning_rate=1e-2),
                micro_batches=number,
            ),
            mesh,
        )
        with jax.set_mesh(mesh):
            results.append(jax.device_get(step.run(step.start(lm.init(jax.random.key(0))), batch, 9, {})))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), *results)
    figures = grpo.GrpoLoss(config=EVERYTHING).metrics_of([results[1][1]["figures"]])
    assert figures["ratio/min"] < 1 < figures["ratio/max"]


def test_eight_devices_equal_one():
    lm, batch = toy_fit.toy_lm(), _batch([[row] for row in _toy_rollouts()])
    loss = grpo.GrpoLoss(config=EVERYTHING)
    on_mesh = causal_lm.CausalLM(lm.config, rules.DEFAULT_RULES)
    results = []
    for model, shape in ((lm, {}), (on_mesh, {"data": 2, "fsdp": 2, "tensor": 2})):
        mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(**shape))
        step = train_step.make_train_step(
            model,
            train_step.StepConfig(
                loss=loss, optimizer=optimizer.OptimizerConfig(learning_rate=1e-2), micro_batches=2
            ),
            mesh,
        )
        with jax.set_mesh(mesh):
            params = jax.device_put(lm.init(jax.random.key(0)), step.shardings.params)
            results.append(jax.device_get(step.run(step.start(params), batch, np.int32(9), {})))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), *results)


@SOME_SWITCHES
def test_a_bandit_is_solved(config):
    """Of three arms the least likely one is paid; 16 samples a step, two updates on each."""
    config = dataclasses.replace(config, kl_beta=0.0, sampler_correction="none")
    rng, table = np.random.default_rng(0), jnp.array(TABLE)

    @jax.jit
    def update(table, batch):
        (total, count), slope = jax.value_and_grad(
            lambda t: grpo.GrpoLoss(config=config)(BIGRAM, {"table": t}, batch)[:2], has_aux=True
        )(table)
        return table - 0.3 * slope / count

    for _ in range(80):
        log_p = np.asarray(jax.nn.log_softmax(table[1]), np.float64)  # what follows token 1
        arms = rng.choice(3, size=16, p=np.exp(log_p) / np.exp(log_p).sum())
        worth = advantages.group_advantages(
            jnp.asarray([(arms == 1).astype(np.float32)]), jnp.ones((1, 16), bool), baseline=config.baseline
        )
        rows = [
            [_rollout((1,), (int(arm),), float(a), old=[log_p[arm]])]
            for arm, a in zip(arms, worth[0], strict=True)
        ]
        batch = _batch(rows, row_length=2, config=config)
        for _ in range(2):
            table = update(table, batch)
    assert jax.nn.softmax(table[1])[1] > 0.8


def test_entropies_do_not_depend_on_chunks_and_pass_no_gradient():
    hidden = jax.random.normal(jax.random.key(0), (3, 7, 4))
    embedding = jax.random.normal(jax.random.key(1), (4, 11))
    labels = jnp.zeros((3, 7), jnp.int32)
    log_p = jax.nn.log_softmax(hidden @ embedding / 0.5)
    for chunk in (3, 6, 1000):
        log_probs, entropies = token_log_probs.chunked_log_probs_and_entropies(
            hidden, embedding, labels, temperature=0.5, chunk=chunk
        )
        np.testing.assert_allclose(entropies, -jnp.sum(jnp.exp(log_p) * log_p, -1), rtol=1e-4)
        np.testing.assert_allclose(log_probs, log_p[..., 0], rtol=1e-4)
    slope = jax.grad(
        lambda x: jnp.sum(token_log_probs.chunked_log_probs_and_entropies(x, embedding, labels)[1])
    )(hidden)
    assert not np.any(slope)


@pytest.mark.parametrize("chunk", [3, 1000])
def test_the_gradient_of_entropies_is_that_of_the_formula(chunk):
    hidden = jax.random.normal(jax.random.key(0), (3, 7, 4))
    embedding = jax.random.normal(jax.random.key(1), (4, 11))
    labels, is_label = jnp.zeros((3, 7), jnp.int32), jax.random.bernoulli(jax.random.key(2), 0.6, (3, 7))

    def chunked(x, matrix):
        _, entropies = token_log_probs.chunked_log_probs_and_entropies(
            x, matrix, labels, is_label=is_label, temperature=0.5, chunk=chunk, entropy_gradient=True
        )
        return jnp.sum(jnp.where(is_label, entropies, 0.0))

    def plain(x, matrix):
        log_p = jax.nn.log_softmax(x @ matrix / 0.5)
        return jnp.sum(jnp.where(is_label, -jnp.sum(jnp.exp(log_p) * log_p, -1), 0.0))

    found, expected = (jax.grad(total, argnums=(0, 1))(hidden, embedding) for total in (chunked, plain))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), found, expected)


@pytest.mark.parametrize("aggregation", ["token", "sequence"])
def test_an_entropy_bonus_is_the_mean_entropy_off_the_loss_and_spreads_the_policy(aggregation):
    """Without an advantage nothing else moves a policy: it goes towards the uniform one."""
    base = grpo.Grpo(sampler_correction="none", single_update=True, aggregation=aggregation)
    bonus = dataclasses.replace(base, entropy_coef=0.25)
    rows = [[_rollout((0, 1), (2, 0), 0.0)], [_rollout((2,), (1,), 0.0)]]

    def loss(table, config):
        batch = _batch(rows, row_length=4, config=config)
        total, count, _ = grpo.GrpoLoss(config=config)(BIGRAM, {"table": table}, batch)
        return total / count

    log_p = jax.nn.log_softmax(TABLE)
    entropies = -jnp.sum(jnp.exp(log_p) * log_p, -1)
    mean = (
        jnp.mean(entropies[jnp.array([1, 2, 2])])
        if aggregation == "token"
        else (jnp.mean(entropies[jnp.array([1, 2])]) + entropies[2]) / 2
    )
    np.testing.assert_allclose(loss(TABLE, base), 0.0, atol=1e-7)
    np.testing.assert_allclose(loss(TABLE, bonus), -0.25 * mean, rtol=1e-5)
    table = TABLE
    for _ in range(200):
        table = table - 5.0 * jax.grad(loss)(table, bonus)
    np.testing.assert_allclose(jax.nn.softmax(table)[1:], 1 / 3, atol=0.02)


def test_figures_of_steps_are_means_over_all_their_tokens():
    def step(labels, entropy, ratio):
        sums = dict.fromkeys(("clip_low", "clip_high", "policy_kl"), np.float32(0))
        return train_step.LossFigures(
            sums | {"labels": np.float32(labels), "entropy": np.float32(entropy)},
            {"max_ratio": np.float32(ratio), "max_minus_ratio": np.float32(-ratio)},
        )

    found = grpo.GrpoLoss(config=EVERYTHING).metrics_of([step(1, 4.0, 0.5), step(3, 0.0, 2.0)])
    assert (found["entropy"], found["ratio/min"], found["ratio/max"]) == (1.0, 0.5, 2.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kl_beta": 0.1, "kl_estimator": "k1"}, "gradient of mean 0"),
        ({"aggregation": "constant"}, "constant_length=0"),
        ({"constant_length": 8}, "constant_length=8"),
        ({"clip_low": 1.5}, "clip_low"),
        ({"sampler_cap": 0.0}, "sampler_cap"),
        ({"dual_clip": 1.28}, "above 1"),
        ({"dual_clip": 3.0, "surrogate": "cispo"}, "part of 'clip'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        grpo.Grpo(**settings)


def test_the_dual_clip_reaches_the_loss():
    ones = jnp.ones((1, 2))
    values = {"advantages": -ones, "old_log_probs": -5.0 * ones, "sampler_log_probs": -5.0 * ones}
    of = [
        grpo.token_losses(
            -ones, values, jnp.ones((1, 2), jnp.int32), jnp.ones((1, 2), bool), config=grpo.Grpo(dual_clip=c)
        )[0]
        for c in (0.0, 3.0)
    ]
    np.testing.assert_allclose(of[0], math.exp(4.0), rtol=1e-5)
    np.testing.assert_allclose(of[1], 3.0)


@pytest.mark.parametrize(
    ("scores", "verdicts"),
    [
        ((0.2, 0.7), "mixed"),
        ((1.0, 0.7), "mixed"),
        ((0.7, 0.7), "all_wrong"),
        ((1.0, 1.0), "all_right"),
        ((0.0, 0.0), "all_wrong"),
    ],
)
def test_a_group_is_of_use_where_the_scores_of_a_users_reward_differ(scores, verdicts):
    samples = [
        dataclasses.replace(rollouts.rollout("p", "x", correct=score == 1.0), score=score, reward=score)
        for score in scores
    ]
    group = algorithm.Group(tuple(samples))
    assert group.verdicts == verdicts
    assert grpo.Grpo().is_of_use(group) == (verdicts == "mixed")
    assert algorithm.figures_of([group])["reward/correct"] == pytest.approx(sum(scores) / 2)
