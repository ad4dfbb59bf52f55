import dataclasses

import jax
import numpy as np
import pytest

from promptcot_jax.data import examples, packing
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.trainers import sft
from tests.trainers import toy_fit
from tests.trainers.toy_fit import BIGRAM, TABLE


def _batch(rows, **settings):
    return packing.pack_rows(rows, num_rows=len(rows), **settings)


def _example(prompt, completion, **values):
    return examples.TokenExample(prompt_ids=prompt, completion_ids=completion, token_values=values)


def test_sft_loss_with_a_pencil():
    batch = _batch([[_example((0, 1), (2, 0)), _example((2,), (1,))], [_example((1,), (1,))]], row_length=7)
    total, count = sft.SftLoss()(BIGRAM, {"table": TABLE}, batch)
    # 1 -> 2 and 2 -> 0 of the first example, 2 -> 1 of the second, 1 -> 1 of the third; 0 -> 1 is prompt
    np.testing.assert_allclose(total, -np.log(6 / 8 * 5 / 8 * 2 / 8 * 1 / 8), rtol=1e-6)
    assert count == 4


def test_weighted_sft_loss_with_a_pencil():
    first = _example((0, 1), (2, 0), weight=(0.5, 2.0), count=(0.25, 0.5))
    batch = _batch(
        [[first, _example((2,), (1,), weight=(3.0,), count=(1.5,))]],
        row_length=7,
        value_names=("weight", "count"),
    )
    total, count = sft.WeightedSftLoss()(BIGRAM, {"table": TABLE}, batch)
    np.testing.assert_allclose(total, -0.5 * np.log(6 / 8) - 2 * np.log(5 / 8) - 3 * np.log(2 / 8), rtol=1e-6)
    np.testing.assert_allclose(count, 2.25, rtol=1e-6)


def test_a_label_is_never_predicted_from_another_segment():
    batch = _batch([[_example((0,), (1,)), _example((2,), (0,))]], row_length=4)
    everything = dataclasses.replace(batch, loss_mask=np.ones_like(batch.loss_mask))  # prompts too
    total, count = sft.SftLoss()(BIGRAM, {"table": TABLE}, everything)
    np.testing.assert_allclose(total, -np.log(2 / 8 * 5 / 8), rtol=1e-6)
    assert count == 2


def test_prompt_and_padding_tokens_carry_no_gradient_of_their_own():
    batch = _batch([[_example((0, 1), (2, 0))]], row_length=9)
    gradient = jax.grad(lambda params: sft.SftLoss()(BIGRAM, params, batch)[0])({"table": TABLE})["table"]
    assert not np.any(gradient[0])  # token 0 is read in the prompt (its label is prompt) and at the very end
    assert np.all(gradient[1])
    assert np.all(gradient[2])


def test_packed_equals_unpacked():
    lm = toy_fit.toy_lm()
    params = lm.init(jax.random.key(0))
    value_and_gradient = jax.jit(jax.value_and_grad(lambda p, b: sft.SftLoss()(lm, p, b), has_aux=True))
    rows = toy_fit.toy_examples(9)
    packed = _batch([rows[:3], rows[3:6], rows[6:]], row_length=33)
    alone = _batch([[row] for row in rows], row_length=11)
    (total, count), gradient = value_and_gradient(params, packed)
    (alone_total, alone_count), alone_gradient = value_and_gradient(params, alone)
    assert count == alone_count == sum(len(row.completion_ids) for row in rows)
    np.testing.assert_allclose(total, alone_total, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), gradient, alone_gradient
    )


def test_remat_changes_nothing():
    lm = toy_fit.toy_lm()
    params = lm.init(jax.random.key(0))
    batch = toy_fit.toy_batches().batch(0)
    plain, again = (
        jax.jit(jax.grad(lambda p, remat=remat: sft.SftLoss()(lm, p, batch, remat=remat)[0]))(params)
        for remat in ("none", "full")
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), plain, again)


@pytest.mark.parametrize("mesh", [None, mesh_lib.MeshConfig(data=2, fsdp=2)])
def test_held_out_nll_sums_over_all_batches(mesh):
    lm = toy_fit.toy_lm()
    params = lm.init(jax.random.key(0))
    batches = toy_fit.toy_batches(num_epochs=1)
    total, count = sft.nll(lm, params, batches, mesh=mesh and mesh_lib.make_mesh(mesh))
    loss = jax.jit(lambda batch: sft.SftLoss()(lm, params, batch))
    one_by_one = [loss(_batch([[row]], row_length=12)) for row in toy_fit.toy_examples()]
    np.testing.assert_allclose(total, sum(float(t) for t, _ in one_by_one), rtol=1e-5)
    assert count == batches.num_labels
