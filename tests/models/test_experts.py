"""A mixture of experts equals a loop over its experts, on one device and on meshes.

Tolerances are 1e-5 of the largest number: what differs is the order of sums. `float32` throughout, but where
a test says otherwise.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from promptcot_jax.models import experts, grouped_dots
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.parallel import rules
from tests.cases import some_fast

RULES = rules.DEFAULT_RULES
NUM_EXPERTS, NUM_SELECTED, EMBED_DIM, MLP_DIM = 8, 3, 16, 12


def swiglu(gate, up):
    return jax.nn.silu(gate) * up


def clamped(gate, up):
    """The activation of gpt-oss."""
    gate, up = jnp.minimum(gate, 7.0), jnp.clip(up, -7.0, 7.0)
    return gate * jax.nn.sigmoid(1.702 * gate) * (up + 1.0)


def normal(seed, *shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def make_weights(has_bias=False, dtype=jnp.float32):
    shapes = {
        "gate": (NUM_EXPERTS, EMBED_DIM, MLP_DIM),
        "up": (NUM_EXPERTS, EMBED_DIM, MLP_DIM),
        "down": (NUM_EXPERTS, MLP_DIM, EMBED_DIM),
    }
    if has_bias:
        shapes |= {f"{name}_bias": (shape[0], shape[2]) for name, shape in shapes.items()}
    return experts.ExpertWeights(
        **{name: normal(i, *shape, dtype=dtype) / 3 for i, (name, shape) in enumerate(shapes.items())}
    )


def make_inputs(num_tokens, dtype=jnp.float32):
    """Tokens and router logits; experts 5 and 6 are nobody's first choices."""
    logits = normal(11, num_tokens, NUM_EXPERTS).at[:, 5:7].add(-4.0)
    return normal(10, num_tokens, EMBED_DIM, dtype=dtype), logits


def looped(x, routing, weights, activation):
    """Every expert on every token."""
    total = jnp.zeros(x.shape, jnp.float32)
    for e in range(weights.gate.shape[0]):
        gate, up = x @ weights.gate[e], x @ weights.up[e]
        if weights.gate_bias is not None:
            gate, up = gate + weights.gate_bias[e], up + weights.up_bias[e]
        y = activation(gate, up) @ weights.down[e]
        if weights.down_bias is not None:
            y = y + weights.down_bias[e]
        share = jnp.sum(jnp.where(routing.chosen == e, routing.weights, 0.0), axis=1)
        total += share[:, None] * y
    return total


def loss(apply, x, logits, weights):
    """A number that depends on every output, and gives router, tokens and weights a gradient."""
    routing = experts.route(logits, num_selected=NUM_SELECTED, order="top_k_then_softmax")
    y = apply(x, routing, weights)
    return jnp.sum(jnp.sin(y) * normal(12, *y.shape)), y


def value_and_gradients(apply, *arguments):
    function = jax.value_and_grad(functools.partial(loss, apply), argnums=(0, 1, 2), has_aux=True)
    (_, y), gradients = jax.jit(function)(*arguments)
    return y, gradients


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-5):
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        one, other = np.asarray(one, np.float32), np.asarray(other, np.float32)
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.abs(other).max())


def make_mesh(**sizes):
    return mesh_lib.make_mesh(mesh_lib.MeshConfig(**sizes))


@pytest.mark.parametrize(
    ("platform", "activation", "has_bias"),
    some_fast([("plain", clamped, True), ("plain", swiglu, False), ("tpu", clamped, True)]),
)
def test_equals_a_loop_over_experts(platform, activation, has_bias):
    x, logits = make_inputs(21)
    weights = make_weights(has_bias)
    expected = value_and_gradients(functools.partial(looped, activation=activation), x, logits, weights)
    apply = functools.partial(experts.apply_experts, activation=activation, platform=platform, chunk=16)
    with pltpu.force_tpu_interpret_mode():  # of no effect on the plain form
        actual = value_and_gradients(apply, x, logits, weights)
    assert_close(actual, expected)


@pytest.mark.parametrize(
    ("sizes", "num_tokens"),
    some_fast(
        [
            ({"data": 2, "expert": 4}, 64),
            ({"data": 2, "expert": 4}, 3),
            ({"fsdp": 2, "expert": 2, "tensor": 2}, 37),
            ({"sequence": 2, "expert": 2, "tensor": 2}, 37),
            ({"data": 2, "fsdp": 2, "tensor": 2}, 37),
        ],
        fast=(2,),
    ),
    ids=str,
)
def test_sharded_equals_single_device(sizes, num_tokens):
    x, logits = make_inputs(num_tokens)
    weights = make_weights(has_bias=True)
    apply = functools.partial(experts.apply_experts, activation=clamped, chunk=16)
    expected = value_and_gradients(apply, x, logits, weights)
    with jax.set_mesh(make_mesh(**sizes)):
        actual = value_and_gradients(functools.partial(apply, rules=RULES), x, logits, weights)
    assert_close(actual, expected)


@pytest.mark.slow
def test_dimensions_that_do_not_divide_stay_whole():
    x, logits = make_inputs(20)
    weights = jax.tree.map(lambda w: w[:6], make_weights(has_bias=True))  # 6 experts over 4 shards
    apply = functools.partial(experts.apply_experts, activation=swiglu)
    expected = value_and_gradients(apply, x, logits[:, :6], weights)
    with jax.set_mesh(make_mesh(expert=4, data=2)):
        actual = value_and_gradients(functools.partial(apply, rules=RULES), x, logits[:, :6], weights)
    assert_close(actual, expected)


def test_a_shard_holds_and_computes_its_own_experts_only():
    """In the compiled program a device has 2 of 8 experts, and nowhere the matrices of all."""
    x, logits = make_inputs(64)
    apply = functools.partial(experts.apply_experts, activation=swiglu, rules=RULES)
    mesh = make_mesh(expert=4, data=2)
    spec = jax.sharding.PartitionSpec("expert", "fsdp", "tensor")
    weights = jax.device_put(make_weights(), jax.sharding.NamedSharding(mesh, spec))
    with jax.set_mesh(mesh):
        function = jax.grad(lambda *arguments: loss(apply, *arguments)[0], argnums=2)
        text = jax.jit(function).lower(x, logits, weights).compile().as_text()
    assert f"f32[2,{EMBED_DIM},{MLP_DIM}]" in text
    assert f"f32[{NUM_EXPERTS},{EMBED_DIM},{MLP_DIM}]" not in text


@pytest.mark.slow
def test_bfloat16_chunks_add_up_in_float32():
    """A hundred chunks: added up in bfloat16 their gradients would be off by several per cent."""
    x, logits = make_inputs(400, jnp.bfloat16)
    weights = make_weights(dtype=jnp.bfloat16)
    whole, chunked = (
        value_and_gradients(
            functools.partial(experts.apply_experts, activation=swiglu, chunk=chunk), x, logits, weights
        )
        for chunk in (400, 4)
    )
    assert_close(chunked, whole, tolerance=2**-7)  # a rounding of each chunk's gradient, and one of the sum


def test_a_token_does_not_see_the_others():
    """To the last bit: whatever else is in the batch, and however many there are."""
    x, logits = make_inputs(40)
    weights = make_weights()
    apply = jax.jit(functools.partial(experts.apply_experts, activation=swiglu))

    def through(tokens):
        routing = experts.route(
            logits[tokens], num_selected=NUM_SELECTED, order="softmax_then_top_k", renormalize=True
        )
        return np.asarray(apply(x[tokens], routing, weights))

    everyone = through(np.arange(40))
    np.testing.assert_array_equal(through(np.arange(40)[::-1]), everyone[::-1])
    np.testing.assert_array_equal(through(np.array([7, 30])), everyone[[7, 30]])
    np.testing.assert_array_equal(through(np.array([7])), everyone[[7]])


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["plain", "tpu"])
def test_rows_after_the_last_group_are_zero_and_unread(platform):
    rows, matrices = normal(0, 20, 6), normal(1, 3, 6, 4)
    sizes = jnp.array([4, 0, 9], jnp.int32)
    rows = rows.at[13:].set(jnp.nan)

    def total(rows, matrices):
        y = grouped_dots.grouped_dot(rows, matrices, sizes, platform)
        return jnp.sum(y * normal(2, *y.shape)), y

    with pltpu.force_tpu_interpret_mode():
        (_, y), (d_rows, d_matrices) = jax.value_and_grad(total, (0, 1), has_aux=True)(rows, matrices)
    expected = np.concatenate([rows[:4] @ matrices[0], rows[4:13] @ matrices[2], np.zeros((7, 4))])
    np.testing.assert_allclose(y, expected, atol=1e-5)
    assert not d_rows[13:].any()
    assert not d_matrices[1].any()
    assert np.isfinite(d_matrices).all()


def test_routing_orders():
    logits = jnp.log(jnp.array([[1.0, 4.0, 2.0, 3.0]]))
    route = functools.partial(experts.route, logits, num_selected=2)
    plain = route(order="softmax_then_top_k")
    np.testing.assert_array_equal(plain.chosen, [[1, 3]])
    np.testing.assert_allclose(plain.weights, [[0.4, 0.3]], rtol=1e-6)
    for one in (route(order="softmax_then_top_k", renormalize=True), route(order="top_k_then_softmax")):
        np.testing.assert_array_equal(one.chosen, [[1, 3]])
        np.testing.assert_allclose(one.weights, [[4 / 7, 3 / 7]], rtol=1e-6)
    with pytest.raises(ValueError, match="between 1 and the number of experts, 4"):
        experts.route(logits, num_selected=5, order="top_k_then_softmax")


def routing_of(probabilities, num_selected):
    return experts.route(
        jnp.log(jnp.array(probabilities)), num_selected=num_selected, order="softmax_then_top_k"
    )


def test_load_balancing_loss_by_hand():
    routing = routing_of([[0.7, 0.2, 0.1], [0.6, 0.1, 0.3], [0.2, 0.2, 0.6]], num_selected=1)
    is_token = jnp.array([True, True, False])
    # Both real tokens chose expert 0, whose mean probability is 0.65: 3 * 1 * 0.65 a token.
    total, count = experts.load_balancing_total(routing, is_token)
    np.testing.assert_allclose(total, 2 * 3 * 0.65, rtol=1e-6)
    assert count == 2
    total, count = experts.load_balancing_total(routing, jnp.array([True] * 3))
    np.testing.assert_allclose(total / count, 3 * (2 / 3 * 0.5 + 1 / 3 * 1 / 3), rtol=1e-6)


def test_even_experts_cost_as_many_as_are_chosen():
    routing = routing_of([[0.3, 0.3, 0.2, 0.2], [0.2, 0.2, 0.3, 0.3]], num_selected=2)
    total, count = experts.load_balancing_total(routing, jnp.array([True, True]))
    np.testing.assert_allclose(total / count, 2.0, rtol=1e-6)


def test_router_z_loss_by_hand():
    logits = jnp.array([[0.0, 0.0], [jnp.log(3.0), 0.0], [9.0, 9.0]])
    routing = experts.route(logits, num_selected=1, order="top_k_then_softmax")
    total, count = experts.router_z_total(routing, jnp.array([True, True, False]))
    np.testing.assert_allclose(total, np.log(2) ** 2 + np.log(4) ** 2, rtol=1e-6)
    assert count == 2


@pytest.mark.parametrize("total_of", [experts.load_balancing_total, experts.router_z_total])
def test_padding_gives_router_losses_no_gradient(total_of):
    logits = normal(0, 4, 3).at[3].set(jnp.inf)
    is_token = jnp.array([True, True, True, False])

    def total(logits):
        return total_of(experts.route(logits, num_selected=2, order="top_k_then_softmax"), is_token)[0]

    gradient = jax.grad(total)(logits)
    np.testing.assert_allclose(gradient[:3], jax.grad(lambda x: total(logits.at[:3].set(x)))(logits[:3]))
    assert np.isfinite(gradient[:3]).all()
    assert jnp.abs(gradient[:3]).max() > 0
    assert not jax.grad(total)(normal(0, 4, 3))[3].any()


def test_tokens_per_expert_by_hand():
    routing = routing_of([[0.4, 0.3, 0.2, 0.1], [0.4, 0.2, 0.3, 0.1], [0.1, 0.2, 0.3, 0.4]], num_selected=2)
    load = experts.tokens_per_expert(routing, jnp.array([True, True, False]))
    np.testing.assert_array_equal(load, [2, 1, 1, 0])


def test_rules_without_a_mesh_are_refused():
    x, logits = make_inputs(4)
    routing = experts.route(logits, num_selected=2, order="top_k_then_softmax")
    with pytest.raises(ValueError, match="set_mesh"):
        experts.apply_experts(x, routing, make_weights(), activation=swiglu, rules=RULES)
