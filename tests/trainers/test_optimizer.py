import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from promptcot_jax.trainers import optimizer
from tests.cases import some_fast
from tests.trainers import toy_fit


def _rates(config, steps, end):
    return [float(config.learning_rate_at(jnp.int32(i), jnp.int32(end))) for i in steps]


def test_constant_schedule_with_warm_up():
    config = optimizer.OptimizerConfig(learning_rate=0.8, warmup_steps=4)
    np.testing.assert_allclose(_rates(config, range(6), end=6), [0.2, 0.4, 0.6, 0.8, 0.8, 0.8], rtol=1e-6)


def test_cosine_schedule_falls_from_the_end_of_warm_up_to_the_final_fraction():
    config = optimizer.OptimizerConfig(
        learning_rate=1.0, warmup_steps=2, schedule="cosine", final_fraction=0.2
    )
    got = _rates(config, (0, 1, 2, 6, 10, 50), end=10)
    np.testing.assert_allclose(got, [0.5, 1.0, 1.0, 0.6, 0.2, 0.2], rtol=1e-6)


def test_updates_are_those_of_optax_adamw():
    """Gradients above and below the clip, in turn: Adam alone does not see the scale of a constant one."""
    config = optimizer.OptimizerConfig(learning_rate=0.1, weight_decay=0.3, clip_norm=0.5)
    params = {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([3.0])}
    gradients = [
        {"kernel": scale * jnp.array([[3.0, 4.0]]), "bias": scale * jnp.array([-1.0])}
        for scale in (1.0, 0.02, 10.0, 0.3)
    ]
    reference = optax.chain(
        optax.clip_by_global_norm(0.5),
        optax.adamw(0.1, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.3, mask={"kernel": True, "bias": False}),
    )
    ours, theirs, mine = config.build(), params, params
    state, reference_state = ours.init(params), reference.init(params)
    for gradient in gradients:
        updates, state = ours.update(gradient, state, mine)
        mine = jax.tree.map(lambda p, u: p - 0.1 * u, mine, updates)
        updates, reference_state = reference.update(gradient, reference_state, theirs)
        theirs = optax.apply_updates(theirs, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), mine, theirs)
    assert int(optimizer.num_updates(state)) == 4


@pytest.mark.parametrize("family", some_fast(["qwen2", "llama", "qwen3"]))
def test_weight_decay_touches_neither_norms_nor_biases(family):
    lm = toy_fit.toy_lm(family=family, qkv_bias=family == "qwen2", qk_norm=family == "qwen3")
    params = jax.tree.map(jnp.ones_like, lm.init(jax.random.key(0)))
    direction = optimizer.OptimizerConfig(learning_rate=1.0, weight_decay=0.5).build()
    updates, _ = direction.update(jax.tree.map(jnp.zeros_like, params), direction.init(params), params)
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        name = jax.tree_util.keystr(path)
        expected = 0.0 if "norm" in name or "bias" in name else 0.5
        np.testing.assert_array_equal(update, np.full(update.shape, expected), err_msg=name)


def test_moments_of_bfloat16_parameters_are_float32():
    state = (
        optimizer.OptimizerConfig(learning_rate=1.0).build().init({"kernel": jnp.ones((2, 2), jnp.bfloat16)})
    )
    assert {x.dtype for x in jax.tree.leaves(state) if x.ndim} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", 0.0),
        ("warmup_steps", -1),
        ("final_fraction", 1.5),
        ("weight_decay", -0.1),
        ("b2", 1.0),
        ("epsilon", 0.0),
        ("clip_norm", 0.0),
    ],
)
def test_nonsense_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(optimizer.OptimizerConfig(learning_rate=1.0), **{field: value})
