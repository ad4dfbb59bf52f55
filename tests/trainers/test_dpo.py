import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promptcot_jax.core.records import Rollout
from promptcot_jax.data import examples
from promptcot_jax.objectives import preference
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.sampling import journal
from promptcot_jax.trainers import dpo, grpo, optimizer, rejection, sft, train_step
from promptcot_jax.trainers.algorithm import Group
from promptcot_jax.trainers.policy_updates import Minibatches
from tests.trainers import toy_fit
from tests.trainers.test_sft import BIGRAM, TABLE

CONFIG = dpo.Dpo(beta=0.5)


def _unit(prompt, chosen, rejected, reference=(0.0, 0.0)):
    """A pair whose reference gives each completion this log-probability a token."""
    return tuple(
        examples.TokenExample(
            prompt_ids=prompt,
            completion_ids=completion,
            token_values={"reference_log_probs": np.full(len(completion), log_prob)},
        )
        for completion, log_prob in zip((chosen, rejected), reference, strict=True)
    )


def _batch(units, *, row_length=24, rows_multiple=1):
    source = Minibatches(
        units,
        num_minibatches=1,
        num_passes=1,
        row_length=row_length,
        rows_multiple=rows_multiple,
        seed=0,
        value_names=CONFIG.value_names,
    )
    return source.batch(0)


def _toy_units(number=6):
    rng = np.random.default_rng(0)

    def completion():
        return tuple(rng.integers(2, toy_fit.VOCAB_SIZE, rng.integers(1, 5)).tolist())

    return [_unit((2, 3), completion(), completion(), rng.normal(-2, 0.3, 2)) for _ in range(number)]


def test_the_loss_with_a_pencil():
    """1 -> 2 -> 0 has probability 6/8 * 5/8, 1 -> 1 has 1/8."""
    batch = _batch([_unit((0, 1), (2, 0), (1,), (np.log(0.5), np.log(0.25)))])
    total, count, figures = dpo.DpoLoss(config=CONFIG)(BIGRAM, {"table": TABLE}, batch)
    chosen, rejected = np.log(6 / 8 * 5 / 8 / 0.25), np.log(1 / 8 / 0.25)
    margin = 0.5 * (chosen - rejected)
    np.testing.assert_allclose(total, np.log1p(np.exp(-margin)), rtol=1e-5)
    assert count == 1
    found = CONFIG.loss(1.0).metrics_of([jax.device_get(figures)])
    expected = {
        "rewards/chosen": 0.5 * chosen,
        "rewards/rejected": 0.5 * rejected,
        "rewards/margins": margin,
        "rewards/accuracies": 1.0,
        "logps/chosen": np.log(6 / 8 * 5 / 8),
        "logps/rejected": np.log(1 / 8),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)
    # By length: the chosen has two tokens. Smoothed: a tenth of the pairs is the wrong way round.
    by_length = dataclasses.replace(CONFIG, length_normalized=True, label_smoothing=0.1)
    total, _, _ = dpo.DpoLoss(config=by_length)(BIGRAM, {"table": TABLE}, batch)
    margin = 0.5 * (chosen / 2 - rejected)
    np.testing.assert_allclose(
        total, 0.9 * np.log1p(np.exp(-margin)) + 0.1 * np.log1p(np.exp(margin)), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"loss_type": "ipo"}, lambda chosen, rejected: (chosen - rejected - 1 / (2 * 0.5)) ** 2),
        ({"target_margin": 0.7}, lambda chosen, rejected: np.log1p(np.exp(0.7 - 0.5 * (chosen - rejected)))),
        (
            {"nll_weight": 0.3},
            lambda chosen, rejected: (
                np.log1p(np.exp(-0.5 * (chosen - rejected))) - 0.3 * np.log(6 / 8 * 5 / 8) / 2
            ),
        ),
    ],
    ids=["ipo", "margin", "nll"],
)
def test_the_other_losses_with_a_pencil(settings, expected):
    batch = _batch([_unit((0, 1), (2, 0), (1,), (np.log(0.5), np.log(0.25)))])
    config = dataclasses.replace(CONFIG, **settings)
    total, count, figures = dpo.DpoLoss(config=config)(BIGRAM, {"table": TABLE}, batch)
    chosen, rejected = np.log(6 / 8 * 5 / 8 / 0.25), np.log(1 / 8 / 0.25)
    np.testing.assert_allclose(total, expected(chosen, rejected), rtol=1e-5)
    assert count == 1
    if config.nll_weight:
        found = config.loss(1.0).metrics_of([jax.device_get(figures)])
        np.testing.assert_allclose(found["nll_loss"], -np.log(6 / 8 * 5 / 8) / 2, rtol=1e-5)


def test_simpo_takes_no_reference():
    """-log sigmoid(beta * (mean log p chosen - mean log p rejected) - margin)."""
    config = dpo.Dpo(reference="none", length_normalized=True, beta=2.0, target_margin=1.0)
    assert config.value_names == ()
    assert not config.keeps_reference
    chosen, rejected = np.log(6 / 8 * 5 / 8) / 2, np.log(1 / 8)
    batch = _batch([_unit((0, 1), (2, 0), (1,))])
    bare = dataclasses.replace(batch, values={})
    total, *_ = dpo.DpoLoss(config=config)(BIGRAM, {"table": TABLE}, bare)
    np.testing.assert_allclose(total, np.log1p(np.exp(1.0 - 2.0 * (chosen - rejected))), rtol=1e-5)


def test_at_the_reference_the_loss_is_log_2_and_far_from_it_finite():
    far = jnp.array([0.0, 1e6, -1e6])
    losses = preference.preference_losses(far, -far, beta=0.1)
    np.testing.assert_allclose(losses[:2], [np.log(2), 0.0], atol=1e-6)
    assert np.isfinite(losses).all()


@pytest.mark.parametrize("length_normalized", [False, True])
def test_the_gradient_by_finite_differences(length_normalized):
    config = dataclasses.replace(CONFIG, length_normalized=length_normalized, label_smoothing=0.1)
    batch = _batch([_unit((0, 1), (2, 0), (1,), (-0.7, -1.0)), _unit((2,), (1, 1, 0), (0,), (-1.0, -0.5))])

    def loss(table):
        return dpo.DpoLoss(config=config)(BIGRAM, {"table": table}, batch)[0]

    gradient = np.asarray(jax.grad(loss)(TABLE))
    for i, j in np.ndindex(3, 3):
        up, down = (float(loss(TABLE.at[i, j].add(sign * 1e-2))) for sign in (1, -1))
        np.testing.assert_allclose(gradient[i, j], (up - down) / 2e-2, atol=2e-3)
    assert np.abs(gradient).max() > 0.05


@pytest.mark.parametrize("row_length", [15, 16, 40])
def test_packed_pairs_equal_pairs_in_rows_of_their_own(row_length):
    lm, units = toy_fit.toy_lm(), _toy_units()
    params = lm.init(jax.random.key(0))
    value_and_gradient = jax.jit(
        jax.value_and_grad(lambda p, b: dpo.DpoLoss(config=CONFIG)(lm, p, b)[:2], has_aux=True)
    )
    (total, count), gradient = value_and_gradient(params, _batch(units, row_length=row_length))
    alone = [value_and_gradient(params, _batch([unit], row_length=12)) for unit in units]
    assert count == len(units)
    np.testing.assert_allclose(total, sum(float(t) for (t, _), _ in alone), rtol=1e-5)
    summed = jax.tree.map(lambda *parts: sum(parts), *(g for _, g in alone))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), gradient, summed)


def test_micro_batches_equal_the_whole():
    """A pair is never parted by the cut."""
    lm, batch = toy_fit.toy_lm(), _batch(_toy_units(8), row_length=14, rows_multiple=4)
    assert (batch.segment_ids.max(axis=1) % 2 == 0).all()
    mesh, results = mesh_lib.make_mesh(mesh_lib.MeshConfig()), []
    for number in (1, 4):
        step = train_step.make_train_step(
            lm,
            train_step.StepConfig(
                loss=CONFIG.loss(1.0),
                optimizer=optimizer.OptimizerConfig(learning_rate=1e-2),
                micro_batches=number,
            ),
            mesh,
        )
        with jax.set_mesh(mesh):
            results.append(jax.device_get(step.run(step.start(lm.init(jax.random.key(0))), batch, 9, {})))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), *results)


def test_dpo_orders_a_pair_and_its_margin_rises():
    lm = toy_fit.toy_lm()
    mesh, margins = mesh_lib.make_mesh(mesh_lib.MeshConfig()), []
    batch = _batch([_unit((2, 3), (5, 6), (7, 8), (-2.8, -2.8))])
    step = train_step.make_train_step(
        lm,
        train_step.StepConfig(loss=CONFIG.loss(1.0), optimizer=optimizer.OptimizerConfig(learning_rate=3e-3)),
        mesh,
    )
    with jax.set_mesh(mesh):
        state = step.start(lm.init(jax.random.key(0)))
        for _ in range(20):
            state, metrics = step.run(state, batch, np.int32(20), {})
            margins.append(
                CONFIG.loss(1.0).metrics_of([jax.device_get(metrics["figures"])])["rewards/margins"]
            )
    assert all(later > earlier for earlier, later in itertools.pairwise(margins))
    assert margins[-1] > margins[0] + 1.0


def _group(verdicts, tokens=None, finish_reasons=None):
    """A group with these verdicts; None: not graded."""
    return Group(
        tuple(
            Rollout(
                prompt_id="p",
                domain="math",
                iteration=0,
                group=0,
                sample=i,
                index=i,
                seed=0,
                policy_digest="",
                prompt_ids=(1,),
                token_ids=(10 + i,) if tokens is None else tokens[i],
                sampler_log_probs=journal.float_text(np.zeros(1)),
                completion="",
                finish_reason="stop" if finish_reasons is None else finish_reasons[i],
                graded=verdict is not None,
                correct=bool(verdict),
                score=float(bool(verdict)),
                reward=float(bool(verdict)),
                format=0.0,
                length=0.0,
                status="",
            )
            for i, verdict in enumerate(verdicts)
        )
    )


def test_what_was_not_graded_is_no_wrong_answer():
    """One of two verdicts is right: half is solved, whatever else was drawn."""
    group = _group([True, None, False, None])
    assert group.pass_share == 0.5
    assert not CONFIG.is_of_use(group)
    assert not rejection.RejectionSampling().is_of_use(group)
    assert _group([None, None]).pass_share == 0.0


def test_pairs_are_as_many_as_the_rarer_kind_gives_and_none_of_prompts_that_are_too_easy():
    def pairs(group, **settings):
        config = dataclasses.replace(CONFIG, **settings)
        units = config.units_of([group], num_groups=1) if config.is_of_use(group) else []
        return [tuple(int(row.completion_ids[0]) - 10 for row in unit) for unit in units]

    mixed = [False, True, None, False, True, False, False, False]
    assert pairs(_group(mixed)) == [(1, 0), (4, 3)]
    assert pairs(_group(mixed), pairs_per_prompt=1) == [(1, 0)]
    half = [True] * 4 + [False] * 4
    assert pairs(_group(half)) == []  # solved in half of 8
    assert len(pairs(_group(half), solved_below=0.51)) == 4  # the released script's rule
    assert pairs(_group([False] * 8)) == pairs(_group([True] * 8)) == pairs(_group([None] * 8)) == []


def test_a_completion_that_came_out_both_ways_is_in_no_pair():
    """Verdicts that hang on the clock: such a pair would teach nothing, and the loss would count it."""
    same = [(1,), (1,), (1,), (1,)]
    assert not dataclasses.replace(CONFIG, solved_below=1.0).is_of_use(
        _group([True, False, True, False], same)
    )
    group = _group([True, False, True, False, False], [(1,), (1,), (2,), (3,), (4,)])
    config = dataclasses.replace(CONFIG, solved_below=1.0)
    assert config.is_of_use(group)
    ((chosen, rejected),) = config.units_of([group], num_groups=1)
    assert (chosen.completion_ids.tolist(), rejected.completion_ids.tolist()) == ([2], [3])


def test_a_completion_that_was_cut_off_counts_in_the_baseline_and_trains_nothing():
    group = _group([True, False, False, True], finish_reasons=["stop", "length", "stop", "length"])
    kept = grpo.Grpo(baseline="mean").units_of([group], num_groups=1)
    masked = grpo.Grpo(baseline="mean", mask_cut_off=True).units_of([group], num_groups=1)

    def advantages(units):
        return {int(row.completion_ids[0]) - 10: float(row.token_values["advantages"][0]) for (row,) in units}

    assert advantages(kept) == {0: 0.5, 1: -0.5, 2: -0.5, 3: 0.5}
    assert advantages(masked) == {0: 0.5, 2: -0.5}


def test_rejection_takes_each_right_completion_once():
    tokens = [(1,), (2,), (1,), (3,), (4,), (5,), (6,), (7,)]
    group = _group([True, False, True, True, None, False, False, False], tokens)
    config = rejection.RejectionSampling()
    assert config.is_of_use(group)
    taken = [int(row.completion_ids[0]) for (row,) in config.units_of([group], num_groups=1)]
    assert taken == [1, 3]
    capped = rejection.RejectionSampling(completions_per_prompt=1)
    assert len(capped.units_of([group], num_groups=1)) == 1
    assert not config.is_of_use(_group([False] * 4))
    assert not config.is_of_use(_group([True, True, False, False]))
    assert config.loss(1.2) == sft.SftLoss()


@pytest.mark.parametrize("solved_below", [0.2, 0.5, 0.51, 0.8, 1.01])
@pytest.mark.parametrize("most", [0, 2])
def test_the_most_units_of_a_prompt_are_what_the_most_fruitful_verdicts_give(solved_below, most):
    size = 5
    groups = [_group(verdicts) for verdicts in itertools.product((True, False, None), repeat=size)]
    for config in (
        dpo.Dpo(solved_below=solved_below, pairs_per_prompt=most),
        rejection.RejectionSampling(solved_below=solved_below, completions_per_prompt=most),
        grpo.Grpo(),
    ):
        found = [len(config.units_of([group], num_groups=1)) for group in groups if config.is_of_use(group)]
        assert config.most_units(size) == max(found, default=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.0}, "beta"),
        ({"beta": float("nan")}, "beta"),
        ({"label_smoothing": 0.5}, "label_smoothing"),
        ({"pairs_per_prompt": -1}, "pairs"),
        ({"loss_type": "ipo", "target_margin": 1.0}, "of loss_type 'sigmoid'"),
        ({"loss_type": "ipo", "label_smoothing": 0.1}, "of loss_type 'sigmoid'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        dpo.Dpo(**settings)
