import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from promptcot_jax.checkpoints import training
from promptcot_jax.data import examples, packing
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.parallel import rules
from promptcot_jax.trainers import optimizer as optimizer_lib
from promptcot_jax.trainers import sft, train_step
from tests.cases import some_fast
from tests.trainers import toy_fit

OPTIMIZER = optimizer_lib.OptimizerConfig(learning_rate=1e-2, weight_decay=0.1)
SFT = sft.SftLoss()


def _uneven_batch(num_rows=8):
    """Rows with from 1 to `num_rows` trained tokens."""
    rng = np.random.default_rng(0)
    rows = [
        examples.TokenExample(
            prompt_ids=(2, 3),
            completion_ids=tuple(rng.integers(2, toy_fit.VOCAB_SIZE, n + 1).tolist()),
            token_values={
                "weight": tuple(rng.uniform(0, 2, n + 1).tolist()),
                "count": tuple(np.linspace(0.5, 1.5, n + 1).tolist()),
            },
        )
        for n in range(num_rows)
    ]
    return packing.pack_rows(
        [[row] for row in rows], num_rows=num_rows, row_length=12, value_names=("weight", "count")
    )


def _run(batches, *, lm=None, mesh=None, loss=SFT, optimizer=OPTIMIZER, **settings):
    """States and metrics after each batch, on the host."""
    lm = lm or toy_fit.toy_lm()
    mesh = mesh or mesh_lib.make_mesh(mesh_lib.MeshConfig())
    step = train_step.make_train_step(
        lm, train_step.StepConfig(loss=loss, optimizer=optimizer, **settings), mesh
    )
    states, metrics = [], []
    with jax.set_mesh(mesh):
        state = step.start(jax.device_put(lm.init(jax.random.key(0)), step.shardings.params))
        for batch in batches:
            state, figures = step.run(state, batch, np.int32(10), {})
            states.append(jax.device_get(state))
            metrics.append(jax.device_get(figures))
    return states, metrics, state


def _assert_close(a, b, rtol=1e-5, atol=1e-5):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol), a, b)


@pytest.mark.parametrize(("loss", "micro_batches"), [(sft.SftLoss(), 4), (sft.WeightedSftLoss(), 2)])
def test_micro_batches_equal_one_big_batch_with_unequal_counts(loss, micro_batches):
    batch = _uneven_batch()
    states, metrics, _ = _run([batch, batch], loss=loss)
    micro_states, micro_metrics, _ = _run([batch, batch], loss=loss, micro_batches=micro_batches)
    _assert_close(micro_states, states)
    _assert_close(micro_metrics, metrics)


def test_the_gradient_is_divided_once_by_the_count_of_the_whole_batch():
    lm, batch = toy_fit.toy_lm(), _uneven_batch()
    params = lm.init(jax.random.key(0))
    (total, count), gradient = jax.jit(
        jax.value_and_grad(lambda p: sft.SftLoss()(lm, p, batch), has_aux=True)
    )(params)
    _, (metrics,), _ = _run([batch], micro_batches=4)
    assert metrics["count"] == count == 36
    np.testing.assert_allclose(metrics["total"], total, rtol=1e-5)
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(gradient))) / 36
    np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-5)


def test_one_step_is_adamw_by_hand():
    """Adam's first step is the sign of the gradient; decay pulls the matrices only."""
    lm, batch = toy_fit.toy_lm(), _uneven_batch()
    before = lm.init(jax.random.key(0))
    gradient = jax.jit(jax.grad(lambda p: sft.SftLoss()(lm, p, batch)[0]))(before)
    (state,), _, _ = _run([batch])
    scale = gradient["norm"]["scale"]
    np.testing.assert_allclose(state.params["norm"]["scale"], 1 - 1e-2 * np.sign(scale), rtol=1e-4)
    kernel, slope = (tree["layers"]["mlp"]["up_proj"]["kernel"] for tree in (before, gradient))
    clear = np.abs(slope) > 1e-3  # where epsilon does not matter
    expected = kernel - 1e-2 * (np.sign(slope) + 0.1 * kernel)
    np.testing.assert_allclose(
        state.params["layers"]["mlp"]["up_proj"]["kernel"][clear], expected[clear], atol=1e-5
    )


@pytest.mark.parametrize("shape", some_fast([{"data": 2, "fsdp": 2, "tensor": 2}, {"fsdp": 8}]))
def test_sharded_equals_one_device(shape):
    batch = _uneven_batch()
    states, metrics, _ = _run([batch, batch, batch])
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(**shape))
    lm = toy_fit.toy_lm()
    with_rules = type(lm)(lm.config, rules.DEFAULT_RULES)
    sharded_states, sharded_metrics, last = _run([batch, batch, batch], lm=with_rules, mesh=mesh)
    _assert_close(sharded_metrics, metrics, rtol=1e-4)
    # Adam divides by the root of tiny second moments, so a rounding difference of a gradient shows
    _assert_close(sharded_states, states, rtol=1e-4, atol=1e-4)
    kernel = last.params["layers"]["mlp"]["up_proj"]["kernel"]  # [L, D, F]
    moment = optax.tree.get(last.opt_state, "nu")["layers"]["mlp"]["up_proj"]["kernel"]
    for array in (kernel, moment):
        shards = (1, shape.get("fsdp", 1), shape.get("tensor", 1))
        assert array.sharding.shard_shape(array.shape) == tuple(
            n // s for n, s in zip(array.shape, shards, strict=True)
        )


def test_an_update_with_a_gradient_that_is_not_finite_is_left_out_and_counted():
    good = _uneven_batch()
    bad_values = good.values | {"weight": np.where(good.loss_mask, np.float32(np.inf), 0).astype(np.float32)}
    bad = type(good)(
        **{name: getattr(good, name) for name in ("token_ids", "segment_ids", "positions", "loss_mask")},
        values=bad_values,
    )
    states, metrics, _ = _run([good, bad, good], loss=sft.WeightedSftLoss())
    jax.tree.map(np.testing.assert_array_equal, states[1].params, states[0].params)
    jax.tree.map(np.testing.assert_array_equal, states[1].opt_state, states[0].opt_state)
    assert [int(m["num_skipped"]) for m in metrics] == [0, 1, 1]
    assert [int(s.step) for s in states] == [1, 2, 3]
    without, _, _ = _run([good, good], loss=sft.WeightedSftLoss())
    jax.tree.map(np.testing.assert_array_equal, states[2].params, without[1].params)


def test_an_update_with_a_loss_that_is_not_finite_is_left_out_though_its_gradient_is():
    @dataclasses.dataclass(frozen=True)
    class Infinite(sft.SftLoss):
        def __call__(self, lm, params, batch, *, remat="projections"):
            total, count = super().__call__(lm, params, batch, remat=remat)
            return total + jnp.where(batch.token_ids[0, 0] == 3, jnp.inf, 0.0), count

    good = _uneven_batch()
    bad = jax.tree.map(np.copy, good)
    bad.token_ids[0, 0] = 3
    states, metrics, _ = _run([good, bad], loss=Infinite())
    assert np.isfinite(metrics[1]["gradient_norm"])
    assert np.isinf(metrics[1]["total"])
    jax.tree.map(np.testing.assert_array_equal, states[1].params, states[0].params)
    assert int(metrics[1]["num_skipped"]) == 1


def test_a_batch_without_labels_is_skipped():
    good = _uneven_batch()
    empty = jax.tree.map(np.zeros_like, good)
    states, metrics, _ = _run([good, empty])
    jax.tree.map(np.testing.assert_array_equal, states[1].params, states[0].params)
    assert int(metrics[1]["num_skipped"]) == 1


def test_parameters_stored_in_bfloat16_train_in_float32():
    """At the paper's learning rate an update is below what bfloat16 can hold; activations may be bfloat16."""
    lm = toy_fit.toy_lm(param_dtype="bfloat16", dtype="bfloat16")
    tiny = optimizer_lib.OptimizerConfig(learning_rate=2e-6)
    (state,), (half,), _ = _run([_uneven_batch()], lm=lm, optimizer=tiny)
    _, (full,), _ = _run([_uneven_batch()])
    np.testing.assert_allclose(half["total"], full["total"], rtol=0.02)  # 8 bits of mantissa
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {np.dtype("float32")}
    before = lm.init(jax.random.key(0))["layers"]["self_attn"]["v_proj"]["kernel"]
    after = state.params["layers"]["self_attn"]["v_proj"]["kernel"]
    assert np.mean(np.asarray(before, np.float32) != after) > 0.9
    assert np.mean(np.asarray(before) != after.astype(jnp.bfloat16)) < 0.1


def test_the_same_configuration_gives_the_same_compiled_step():
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig())

    @dataclasses.dataclass(frozen=True)
    class Scaled(sft.SftLoss):
        factor: float

        def __call__(self, lm, params, batch, *, remat="projections"):
            total, count = super().__call__(lm, params, batch, remat=remat)
            return self.factor * total, count

    def make(factor):
        return train_step.make_train_step(
            toy_fit.toy_lm(), train_step.StepConfig(loss=Scaled(factor), optimizer=OPTIMIZER), mesh
        )

    assert make(2.0) is make(2.0)
    assert make(2.0) is not make(3.0)


def test_rows_that_do_not_divide_are_refused_with_the_way_out():
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(data=2, fsdp=2))
    step = train_step.make_train_step(
        toy_fit.toy_lm(),
        train_step.StepConfig(loss=sft.SftLoss(), optimizer=OPTIMIZER, micro_batches=2),
        mesh,
    )
    step.check_rows(16)
    with pytest.raises(ValueError, match=r"12 rows .* multiple of 8 rows"):
        step.check_rows(12)


def test_tokens_and_what_they_see_by_hand():
    """Segments of 3 and 2 tokens in one row, 4 in another: 1 + 2 + 3, 1 + 2, and 1 + 2 + 3 + 4 are seen."""
    rows = [
        [
            examples.TokenExample(prompt_ids=(5,), completion_ids=(6, 7)),
            examples.TokenExample(prompt_ids=(5,), completion_ids=(6,)),
        ],
        [examples.TokenExample(prompt_ids=(5, 5), completion_ids=(6, 7))],
    ]
    batch = packing.pack_rows(rows, num_rows=3, row_length=8)
    _, (metrics,), _ = _run([batch])
    assert (metrics["tokens"], metrics["tokens_seen"]) == (9, 19)


@pytest.mark.slow
def test_a_state_goes_from_mesh_to_mesh_bit_equal(tmp_path):
    """Parameters, both moments and the schedule's count, through checkpoints; and the fit goes on there."""
    lm, batch = toy_fit.toy_lm(), _uneven_batch()
    meshes = [
        mesh_lib.make_mesh(mesh_lib.MeshConfig(**shape))
        for shape in ({"fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}, {})
    ]
    _, _, state = _run([batch, batch], lm=lm, mesh=meshes[0])
    expected = jax.device_get(state)
    assert np.abs(jax.tree.leaves(expected.opt_state)[-1]).max() > 0
    for i, mesh in enumerate([*meshes, meshes[0]]):
        step = train_step.make_train_step(
            lm, train_step.StepConfig(loss=sft.SftLoss(), optimizer=OPTIMIZER), mesh
        )
        with contextlib.closing(training.TrainingCheckpoints(tmp_path / str(i))) as checkpoints:
            checkpoints.save(2, state)
            _, state = checkpoints.restore_latest(step.abstract_state)
        assert jax.tree.map(lambda leaf: leaf.sharding, state) == step.shardings
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), expected)
    with jax.set_mesh(meshes[0]):
        went_on, _ = step.run(state, batch, np.int32(10), {})
    (*_, undisturbed), _, _ = _run([batch] * 3, lm=lm, mesh=meshes[0])
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(went_on), undisturbed)
