"""Router losses by hand, in the step, and in the rows of a fit."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.models import causal_lm, layers
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.trainers import metrics, optimizer, router_losses, sft, train_step
from promptcot_jax.trainers.router_losses import RouterLossConfig
from tests.trainers import toy_fit

MOE = causal_lm.CausalLM(
    toy_fit.toys.toy_config("qwen3_moe", vocab_size=toy_fit.VOCAB_SIZE, embed_dim=16, mlp_dim=16, num_heads=2)
)
# Two layers, ten tokens, four experts.
TOTALS = layers.RouterTotals(
    load_balancing=np.array([20.0, 30.0]),
    router_z=np.array([5.0, 15.0]),
    num_tokens=np.array([10.0, 10.0]),
    tokens_per_expert=np.array([[5.0, 5.0, 5.0, 5.0], [12.0, 8.0, 0.0, 0.0]]),
)


def test_losses_are_means_over_tokens_and_layers_times_the_count():
    config = RouterLossConfig(load_balancing=0.1, z=0.01)
    by_hand = 7 * ((0.1 * 2.0 + 0.01 * 0.5) + (0.1 * 3.0 + 0.01 * 1.5)) / 2
    np.testing.assert_allclose(router_losses.total(config, TOTALS, jnp.float32(7)), by_hand, rtol=1e-6)
    nothing = jax.tree.map(np.zeros_like, TOTALS)
    assert router_losses.total(config, nothing, jnp.float32(0)) == 0


def test_figures_by_hand():
    more = TOTALS._replace(tokens_per_expert=np.array([[5.0] * 4, [0.0, 0.0, 20.0, 0.0]]))
    assert router_losses.figures([TOTALS, more]) == {
        "routers/max_over_mean_load": 2.0,  # 20 of 40 in the second layer, where 10 is the mean
        "routers/idle_share": 1 / 8,
        "routers/load_balancing": 2.5,
        "routers/z": 1.0,
    }


@functools.cache
def step_of(weights, micro_batches=1):
    """Metrics of one step and gradients (from Adam's first moment)."""
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig())
    step = train_step.make_train_step(
        MOE,
        train_step.StepConfig(
            loss=sft.SftLoss(),
            optimizer=optimizer.OptimizerConfig(learning_rate=1e-3, clip_norm=1e9),
            micro_batches=micro_batches,
            router_losses=RouterLossConfig(load_balancing=weights[0], z=weights[1]),
        ),
        mesh,
    )
    with jax.set_mesh(mesh):
        state = step.start(MOE.init(jax.random.key(0)))
        state, found = step.run(state, toy_fit.toy_batches().batch(0), np.int32(10), {})
    return jax.device_get(found), jax.device_get(train_step.optax.tree.get(state.opt_state, "mu"))


@pytest.mark.slow
def test_the_step_adds_the_losses_to_the_gradient_and_not_to_the_loss():
    batch = toy_fit.toy_batches().batch(0)

    def by_hand(params):
        total, count, routers = sft.SftLoss()(MOE, params, batch)
        each = 0.5 * routers.load_balancing / routers.num_tokens + 0.1 * routers.router_z / routers.num_tokens
        return total / count + jnp.mean(each)

    gradients = jax.jit(jax.grad(by_hand))(MOE.init(jax.random.key(0)))
    found, moments = step_of((0.5, 0.1))
    jax.tree.map(lambda m, g: np.testing.assert_allclose(10 * m, g, rtol=1e-4, atol=1e-5), moments, gradients)
    plain, plain_moments = step_of((0.0, 0.0))
    assert plain["total"] == found["total"]
    router = ("layers", "mlp", "router", "kernel")
    moved, unmoved = (functools.reduce(lambda t, n: t[n], router, tree) for tree in (moments, plain_moments))
    assert np.abs(moved - unmoved).max() > 1e-4


@pytest.mark.slow
def test_micro_batches_add_up_what_adds_up():
    """Loads, z and the likelihood are sums; balance is each micro-batch's own, above that of the whole."""
    whole, _ = step_of((0.0, 0.0))
    parts, _ = step_of((0.0, 0.0), 2)
    for name in ("total", "count"):
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-5)
    for name in ("router_z", "num_tokens", "tokens_per_expert"):
        one, other = (getattr(found["routers"], name) for found in (parts, whole))
        np.testing.assert_allclose(one, other, rtol=1e-5)
    assert np.abs(parts["routers"].load_balancing / whole["routers"].load_balancing - 1).max() > 1e-4


def test_rows_of_a_mixture_have_figures_and_others_none(tmp_path):
    def keys_of(directory, lm):
        toy_fit.fit(directory, toy_fit.Fixed([toy_fit.toy_batches().batch(0)]), lm=lm, evaluate=None)
        return json.loads((directory / metrics.FILE).read_text().splitlines()[-1])

    row = keys_of(tmp_path / "moe", MOE)
    assert row["routers/max_over_mean_load"] >= 1
    assert 0 <= row["routers/idle_share"] < 1
    assert not [name for name in keys_of(tmp_path / "dense", toy_fit.toy_lm()) if name.startswith("routers")]


def test_losses_of_routers_that_are_not_there_are_refused():
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig())
    with pytest.raises(WrongUse, match="has none"):
        train_step.make_train_step(
            toy_fit.toy_lm(),
            train_step.StepConfig(
                loss=sft.SftLoss(),
                optimizer=toy_fit.OPTIMIZER,
                router_losses=RouterLossConfig(load_balancing=0.1),
            ),
            mesh,
        )
    with pytest.raises(ValueError, match="0 or more"):
        RouterLossConfig(z=-1.0)
