import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promptcot_jax.objectives import token_log_probs
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.parallel import rules
from tests.cases import some_fast


def _inputs(num_rows=3, length=7, embed_dim=5, vocab_size=11, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 4)
    hidden = jax.random.normal(keys[0], (num_rows, length, embed_dim)).astype(dtype)
    embedding = jax.random.normal(keys[1], (embed_dim, vocab_size)).astype(dtype)
    labels = jax.random.randint(keys[2], (num_rows, length), 0, vocab_size)
    weights = jax.random.uniform(keys[3], (num_rows, length)) * jax.random.bernoulli(
        keys[0], 0.6, (num_rows, length)
    )
    return hidden, embedding, labels, weights


def _naive(hidden, embedding, labels, temperature=1.0, soft_cap=None):
    logits = hidden.astype(jnp.float32) @ embedding.astype(jnp.float32)
    if soft_cap is not None:
        logits = soft_cap * jnp.tanh(logits / soft_cap)
    log_p = jax.nn.log_softmax(logits / temperature)
    return jnp.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]


def test_label_log_probs_by_hand():
    logits = jnp.log(jnp.array([[[1.0, 2.0, 5.0], [6.0, 1.0, 1.0]]]))  # probabilities are eighths
    got = token_log_probs.label_log_probs(logits, jnp.array([[1, 0]]))
    np.testing.assert_allclose(got, [[math.log(2 / 8), math.log(6 / 8)]], rtol=1e-6)


def test_label_log_probs_reduces_in_float32():
    logits = jnp.zeros((1, 1, 50_000), jnp.bfloat16)  # in bfloat16 a sum of ones stops growing at 256
    got = token_log_probs.label_log_probs(logits, jnp.array([[3]]))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, [[-math.log(50_000)]], rtol=1e-6)


def test_masked_total_ignores_what_is_masked():
    values = jnp.array([[1.0, 2.0, 3.0, jnp.inf], [jnp.nan, 4.0, -1.0, 0.0]])
    mask = jnp.array([[False, True, True, False], [False, True, False, False]])
    assert token_log_probs.masked_total(values, mask) == (9.0, 3)
    gradient = jax.grad(lambda v: token_log_probs.masked_total(v, mask)[0])(values)
    np.testing.assert_array_equal(gradient, mask.astype(np.float32))


def test_masked_total_of_nothing_is_zero_over_zero():
    assert token_log_probs.masked_total(jnp.full((1, 2), jnp.nan), jnp.zeros((1, 2), bool)) == (0.0, 0)


@pytest.mark.parametrize("chunk", some_fast([1, 4, 6, 21, 1000], fast=(1, 4)))
@pytest.mark.parametrize(("temperature", "soft_cap"), some_fast([(0.7, 1.5), (1.0, None), (0.7, None)]))
def test_chunked_equals_naive_at_any_chunk_size(chunk, temperature, soft_cap):
    hidden, embedding, labels, weights = _inputs()

    def total(function, hidden, embedding):
        log_probs = function(hidden, embedding, labels, temperature=temperature, soft_cap=soft_cap)
        return jnp.sum(weights * log_probs), log_probs

    def chunked(*args, **kwargs):
        return token_log_probs.chunked_label_log_probs(*args, **kwargs, chunk=chunk)

    def value_and_gradients(function):
        return jax.value_and_grad(lambda h, e: total(function, h, e), argnums=(0, 1), has_aux=True)(
            hidden, embedding
        )

    got, want = value_and_gradients(chunked), value_and_gradients(_naive)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)


@pytest.mark.parametrize("chunk", [1, 4, 6, 21, 1000])
@pytest.mark.parametrize("soft_cap", [None, 1.5])
def test_weighted_nll_and_its_gradients_equal_naive_at_any_chunk_size(chunk, soft_cap):
    hidden, embedding, labels, weights = _inputs()

    def fused(h, e):
        return 0.3 * token_log_probs.weighted_nll(h, e, labels, weights, soft_cap=soft_cap, chunk=chunk)

    def naive(h, e):
        return -0.3 * jnp.sum(weights * _naive(h, e, labels, soft_cap=soft_cap))

    got = jax.jit(jax.value_and_grad(fused, argnums=(0, 1)))(hidden, embedding)
    want = jax.value_and_grad(naive, argnums=(0, 1))(hidden, embedding)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)
    np.testing.assert_allclose(fused(hidden, embedding), want[0], rtol=1e-5)  # without a gradient


def test_weighted_nll_by_hand():
    hidden = jnp.array([[[0.0], [1.0], [1.0]]])
    embedding = jnp.log(jnp.array([[1.0, 3.0]]))  # second and third position: p = 1/4, 3/4
    got = token_log_probs.weighted_nll(
        hidden, embedding, jnp.array([[0, 0, 1]]), jnp.array([[2.0, 1.0, 0.0]])
    )
    np.testing.assert_allclose(got, 2 * math.log(2) + math.log(4), rtol=1e-6)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_what_stands_at_weight_zero_reaches_neither_value_nor_gradient(bad):
    hidden, embedding, labels, weights = _inputs()
    poisoned = jnp.where((weights == 0)[..., None], bad, hidden)
    function = jax.value_and_grad(token_log_probs.weighted_nll, argnums=(0, 1))
    got = function(poisoned, embedding, labels, weights, chunk=6)
    want = function(hidden, embedding, labels, weights, chunk=6)
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert not np.any(np.asarray(got[1][0])[np.asarray(weights) == 0])


def test_weighted_nll_with_no_weight_at_all_is_zero():
    hidden, embedding, labels, weights = _inputs()
    total, gradients = jax.value_and_grad(token_log_probs.weighted_nll, argnums=(0, 1))(
        hidden, embedding, labels, 0 * weights
    )
    assert total == 0
    assert not any(np.any(g) for g in gradients)


def test_bfloat16_inputs_give_float32_sums_and_gradients_of_their_own_dtype():
    hidden, embedding, labels, weights = _inputs(dtype=jnp.bfloat16)
    log_probs = token_log_probs.chunked_label_log_probs(hidden, embedding, labels, chunk=6)
    assert log_probs.dtype == jnp.float32
    np.testing.assert_allclose(log_probs, _naive(hidden, embedding, labels), rtol=1e-4, atol=1e-4)
    total, gradients = jax.value_and_grad(token_log_probs.weighted_nll, argnums=(0, 1))(
        hidden, embedding, labels, weights, chunk=6
    )
    np.testing.assert_allclose(total, -jnp.sum(weights * log_probs), rtol=1e-4)
    assert [g.dtype for g in gradients] == [jnp.bfloat16, jnp.bfloat16]
    want = jax.grad(lambda h: -jnp.sum(weights * _naive(h, embedding, labels)))(hidden)
    # bfloat16 keeps 8 bits: d_logits and the result are each rounded once
    np.testing.assert_allclose(
        gradients[0].astype(jnp.float32), want.astype(jnp.float32), rtol=0.03, atol=0.03
    )


def test_no_array_of_all_logits_exists():
    """The compiled gradient at B * T = 4,096 needs less scratch memory than its [B, T, V] logits would."""
    num_rows, length, embed_dim, vocab_size = 4, 1024, 8, 4096
    shapes = (
        jax.ShapeDtypeStruct((num_rows, length, embed_dim), jnp.float32),
        jax.ShapeDtypeStruct((embed_dim, vocab_size), jnp.float32),
        jax.ShapeDtypeStruct((num_rows, length), jnp.int32),
    )
    weights = jax.ShapeDtypeStruct((num_rows, length), jnp.float32)

    def through_log_probs(hidden, embedding, labels, weights):
        return jnp.sum(
            weights * token_log_probs.chunked_label_log_probs(hidden, embedding, labels, chunk=256)
        )

    def fused(hidden, embedding, labels, weights):
        return token_log_probs.weighted_nll(hidden, embedding, labels, weights, chunk=256)

    for function in (through_log_probs, fused):
        compiled = jax.jit(jax.grad(function, argnums=(0, 1))).lower(*shapes, weights).compile()
        assert compiled.memory_analysis().temp_size_in_bytes < num_rows * length * vocab_size * 4 / 2


@pytest.mark.parametrize("soft_cap", some_fast([3.0, None]))
@pytest.mark.parametrize(
    "shape", [{"fsdp": 4, "tensor": 2}, {"data": 2, "fsdp": 2, "sequence": 2}, {"fsdp": 2, "expert": 2}]
)
def test_a_mesh_changes_neither_total_nor_gradients(shape: dict[str, int], soft_cap: float | None):
    hidden, embedding, labels, weights = _inputs(num_rows=8, length=12, embed_dim=8, vocab_size=10)

    def total(hidden, embedding, **settings):
        return 2.0 * token_log_probs.weighted_nll(
            hidden, embedding, labels, weights, soft_cap=soft_cap, **settings
        )

    expected = jax.value_and_grad(total, (0, 1))(hidden, embedding)
    value = total(hidden, embedding)
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(**shape))
    over_mesh = functools.partial(total, rules=rules.DEFAULT_RULES, chunk=4)
    with jax.set_mesh(mesh):
        got = jax.jit(jax.value_and_grad(over_mesh, (0, 1)))(hidden, embedding)
        np.testing.assert_allclose(jax.jit(over_mesh)(hidden, embedding), value, rtol=1e-5)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk", [3, 6, 12, 1000])
def test_where_log_probs_are_wanted_they_and_their_gradients_do_not_depend_on_the_others(chunk):
    hidden, embedding, labels, weights = _inputs()
    is_label = weights > 0

    def total(hidden, embedding, **settings):
        log_probs, entropies = token_log_probs.chunked_log_probs_and_entropies(
            hidden, embedding, labels, temperature=0.7, **settings
        )
        return jnp.sum(weights * log_probs), (log_probs, entropies)

    def value_and_gradients(**settings):
        of = functools.partial(total, **settings)
        (value, of_tokens), slopes = jax.value_and_grad(of, (0, 1), has_aux=True)(hidden, embedding)
        return value, [jnp.where(is_label, values, 0.0) for values in of_tokens], slopes

    got, want = value_and_gradients(is_label=is_label, chunk=chunk), value_and_gradients()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)


def test_chunks_without_a_label_are_passed_over():
    """Not a number stands where none is; two labels a row fill the first of the chunks."""
    hidden, embedding, labels, _ = _inputs()
    is_label = jnp.zeros(labels.shape, bool).at[:, jnp.array([2, 5])].set(True)
    hidden = jnp.where(is_label[..., None], hidden, jnp.nan)

    def total(hidden, embedding):
        log_probs = token_log_probs.chunked_label_log_probs(
            hidden, embedding, labels, is_label=is_label, chunk=6
        )
        return token_log_probs.masked_total(log_probs, is_label)[0]

    found = jax.value_and_grad(total, (0, 1))(hidden, embedding)
    expected = jnp.sum(jnp.where(is_label, _naive(hidden, embedding, labels), 0.0))
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))


@pytest.mark.parametrize("shape", [{"fsdp": 4, "tensor": 2}, {"data": 2, "fsdp": 2, "sequence": 2}])
def test_a_mesh_does_not_change_wanted_log_probs_and_entropies(shape: dict[str, int]):
    hidden, embedding, labels, weights = _inputs(num_rows=8, length=12, embed_dim=8, vocab_size=10)
    is_label = (weights > 0) & (jnp.arange(8) > 1)[:, None]  # a shard has none

    def total(hidden, embedding, **settings):
        log_probs, entropies = token_log_probs.chunked_log_probs_and_entropies(
            hidden, embedding, labels, is_label=is_label, **settings
        )
        return jnp.sum(jnp.where(is_label, weights * log_probs, 0.0)), jnp.where(is_label, entropies, 0.0)

    expected = jax.value_and_grad(total, (0, 1), has_aux=True)(hidden, embedding)
    over_mesh = functools.partial(total, rules=rules.DEFAULT_RULES, chunk=4)
    with jax.set_mesh(mesh_lib.make_mesh(mesh_lib.MeshConfig(**shape))):
        got = jax.jit(jax.value_and_grad(over_mesh, (0, 1), has_aux=True))(hidden, embedding)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, expected)


def test_no_collective_is_inside_the_loop_over_chunks():
    hidden, embedding, labels, weights = _inputs(num_rows=8, length=12, embed_dim=8, vocab_size=10)
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(fsdp=8))

    def total(hidden, embedding):
        return token_log_probs.weighted_nll(
            hidden, embedding, labels, weights, chunk=2, rules=rules.DEFAULT_RULES
        )

    def shape(array, *spec):
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    with jax.set_mesh(mesh):
        arguments = shape(hidden, "fsdp"), shape(embedding, "fsdp")
        program = jax.jit(jax.grad(total, (0, 1))).lower(*arguments).compile().as_text()
    bodies = re.findall(r"^%\S*(?:body|region)\S* \(.*?^}", program, re.MULTILINE | re.DOTALL)
    assert any("dynamic-update-slice" in body for body in bodies)
    assert not [body for body in bodies if re.search(r"all-(reduce|gather)\(|reduce-scatter\(", body)]
    assert re.search(r"(reduce-scatter|all-reduce)(-start)?\(", program)
