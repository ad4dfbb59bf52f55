"""Attention for TPUs equals plain attention, the kernels being interpreted on a CPU.

In float32 what differs is the order of sums: 1e-5 of the largest number. In bfloat16 both round scores'
inputs, weights and results at other places: 2**-6, two units of its last place, of the largest number.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promptcot_jax.models import splash
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.parallel import rules
from tests.cases import some_fast

BLOCK = 128
TOLERANCE = {"float32": 1e-5, "bfloat16": 2**-6}


pytestmark = pytest.mark.usefixtures("interpreted_kernels")


def plain(queries, keys, values, segment_ids, sinks, *, scale, window=None, soft_cap=None):
    """Softmax over everything, in float32."""
    batch, length, num_heads, _ = queries.shape
    group = num_heads // keys.shape[1]
    keys, values = (jnp.repeat(x.astype(jnp.float32), group, axis=1) for x in (keys, values))
    scores = scale * jnp.einsum("BTNH,BNSH->BNTS", queries.astype(jnp.float32), keys)
    if soft_cap is not None:
        scores = soft_cap * jnp.tanh(scores / soft_cap)
    distance = jnp.arange(length)[:, None] - jnp.arange(length)
    mask = (distance >= 0) & (distance < (window or length))
    mask = mask & (segment_ids[:, :, None] == segment_ids[:, None, :])
    scores = jnp.where(mask[:, None], scores, -1e30)
    if sinks is not None:
        sink = jnp.broadcast_to(sinks[:, None, None].astype(jnp.float32), (batch, num_heads, length, 1))
        scores = jnp.concatenate([scores, sink], axis=-1)
    weights = jax.nn.softmax(scores, axis=-1)[..., :length]
    mixed = jnp.einsum("BNTS,BNSH->BTNH", weights, values)
    mixed = jnp.where(segment_ids[..., None, None] != 0, mixed, 0)
    return mixed.astype(queries.dtype)


def packed_ids(batch, length):
    """Row 0 is packed and ends in padding, row 1 is padded on the left, others are one segment."""
    ids = np.ones((batch, length), np.int32)
    ids[0, length // 3 : length // 2] = 2
    ids[0, length // 2 :] = 3
    ids[0, -length // 8 :] = 0
    ids[1, : length // 2 + 3] = 0
    return jnp.asarray(ids)


def make_inputs(batch, length, num_heads, num_kv_heads, head_dim, dtype="float32", has_sinks=False):
    noise = np.random.default_rng(0)
    shapes = (
        (batch, length, num_heads, head_dim),
        (batch, num_kv_heads, length, head_dim),
        (batch, num_kv_heads, length, head_dim),
    )
    arrays = [jnp.asarray(noise.normal(size=shape), dtype) for shape in shapes]
    sinks = jnp.asarray(noise.normal(size=num_heads), dtype) if has_sinks else None
    return *arrays, packed_ids(batch, length), sinks


def outputs_and_gradients(attend, *inputs):
    """The mix, and gradients of a number that depends on all of it, padding included."""
    differentiable = (0, 1, 2) if inputs[4] is None else (0, 1, 2, 4)

    def total(*inputs):
        mixed = attend(*inputs)
        noise = np.random.default_rng(1).normal(size=mixed.shape)
        return jnp.sum(mixed.astype(jnp.float32) * noise), mixed

    (_, mixed), gradients = jax.jit(jax.value_and_grad(total, differentiable, has_aux=True))(*inputs)
    return [mixed, *gradients]


def splash_attend(queries, keys, values, segment_ids, sinks, **settings):
    return splash.attend(queries, keys, values, segment_ids, sinks=sinks, block=BLOCK, **settings)


def assert_close(actual, expected, tolerance):
    for one, other in zip(actual, expected, strict=True):
        one, other = np.asarray(one, np.float32), np.asarray(other, np.float32)
        assert np.isfinite(one).all()
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.abs(other).max())


@pytest.mark.parametrize(
    ("dtype", "shape", "has_sinks", "settings"),
    some_fast(
        [
            # Two blocks and a part; heads narrower than a line of 128.
            ("float32", (2, 300, 4, 2, 8), False, {}),
            # A band that skips blocks, six query heads on two, and everything else at once.
            ("float32", (2, 520, 6, 2, 16), True, {"window": 100, "soft_cap": 5.0}),
            ("bfloat16", (2, 200, 4, 1, 128), True, {"window": 300}),
            ("bfloat16", (2, 100, 2, 2, 64), False, {"soft_cap": 50.0}),
        ],
        fast=(1,),
    ),
    ids=["grouped", "all settings", "bfloat16, sinks", "bfloat16, cap"],
)
def test_equals_plain_attention(dtype, shape, has_sinks, settings):
    inputs = make_inputs(*shape, dtype=dtype, has_sinks=has_sinks)
    settings = {"scale": shape[-1] ** -0.5, **settings}
    expected = outputs_and_gradients(functools.partial(plain, **settings), *inputs)
    actual = outputs_and_gradients(functools.partial(splash_attend, **settings), *inputs)
    assert_close(actual, expected, TOLERANCE[dtype])


def test_padding_is_nothing():
    """What stands in padding, however large, has no part in values and gradients."""
    *arrays, ids, sinks = make_inputs(2, 140, 2, 1, 8, has_sinks=True)
    is_padding = np.asarray(ids) == 0
    queries, keys, values = arrays
    wild = (
        queries.at[is_padding].set(1e4),
        keys.swapaxes(1, 2).at[is_padding].set(-1e4).swapaxes(1, 2),
        values.swapaxes(1, 2).at[is_padding].set(1e4).swapaxes(1, 2),
    )
    attend = functools.partial(splash_attend, scale=0.3, window=50)
    tame = outputs_and_gradients(attend, *arrays, ids, sinks)
    assert_close(outputs_and_gradients(attend, *wild, ids, sinks), tame, 1e-6)
    mixed, d_queries, d_keys, d_values, _ = tame
    assert not mixed.reshape(2, 140, -1)[is_padding].any()
    for gradient in (d_queries, d_keys.swapaxes(1, 2), d_values.swapaxes(1, 2)):
        assert not gradient[is_padding].any()


@pytest.mark.parametrize(
    ("sizes", "shape"),
    some_fast(
        [
            ({"data": 2, "tensor": 2}, (2, 200, 4, 2, 8)),
            (
                {"sequence": 2, "tensor": 2},
                (2, 200, 4, 1, 8),
            ),  # a key-value head on both shards of query heads
            (
                {"fsdp": 2, "sequence": 2},
                (3, 390, 3, 3, 8),
            ),  # rows that do not divide; a block of one shard unused
        ],
        fast=(1,),
    ),
    ids=str,
)
def test_sharded_equals_single_device(sizes, shape):
    # Four of the eight devices, as in test_tpu_pages.py.
    inputs = make_inputs(*shape, has_sinks=True)
    settings = {"scale": 0.3, "window": 150}
    expected = outputs_and_gradients(functools.partial(plain, **settings), *inputs)
    attend = functools.partial(splash_attend, rules=rules.DEFAULT_RULES, **settings)
    with jax.set_mesh(mesh_lib.make_mesh(mesh_lib.MeshConfig(**sizes))):
        actual = outputs_and_gradients(attend, *inputs)
    assert_close(actual, expected, TOLERANCE["float32"])


def test_rules_without_a_mesh_are_refused():
    queries, keys, values, ids, _ = make_inputs(2, 8, 2, 1, 8)
    with pytest.raises(ValueError, match="set_mesh"):
        splash.attend(queries, keys, values, ids, scale=1.0, rules=rules.DEFAULT_RULES)
