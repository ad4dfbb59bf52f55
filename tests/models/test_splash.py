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


def plain(queries, keys, values, segment_ids, sinks, *, scale, window=None, soft_cap=None, prefix_ids=None):
    """Softmax over everything, in float32."""
    batch, length, num_heads, _ = queries.shape
    group = num_heads // keys.shape[1]
    keys, values = (jnp.repeat(x.astype(jnp.float32), group, axis=1) for x in (keys, values))
    scores = scale * jnp.einsum("BTNH,BNSH->BNTS", queries.astype(jnp.float32), keys)
    if soft_cap is not None:
        scores = soft_cap * jnp.tanh(scores / soft_cap)
    distance = jnp.arange(length)[:, None] - jnp.arange(length)
    mask = (distance >= 0) & (distance < (window or length))
    is_seen = segment_ids[:, :, None] == segment_ids[:, None, :]
    if prefix_ids is not None:
        is_seen = is_seen | (prefix_ids[:, :, None] == segment_ids[:, None, :])
    mask = mask & is_seen
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


def ids_with_prefixes(batch, length):
    """Row 0 begins with two prompts, of three completions and of one; row 1 shares none."""
    segment_ids = np.array(packed_ids(batch, length))
    prefix_ids = segment_ids.copy()
    first, second, start = length // 8, length // 4, length // 4 + 5
    segment_ids[0, :first], segment_ids[0, first:second] = 11, 12
    prefix_ids[0, :second] = segment_ids[0, :second]
    segment_ids[0, second:start] = prefix_ids[0, second:start] = 1  # a completion with a prompt of its own
    ends = np.linspace(start, length - length // 8, 5).astype(int)
    for number, (begin, end) in enumerate(zip(ends, ends[1:], strict=False), start=2):
        segment_ids[0, begin:end] = number
        prefix_ids[0, begin:end] = 12 if number == 4 else 11
    assert segment_ids[0, -1] == 0
    return jnp.asarray(segment_ids), jnp.asarray(prefix_ids)


@pytest.mark.parametrize(
    ("dtype", "shape", "has_sinks", "sizes"),
    some_fast(
        [
            ("float32", (2, 300, 4, 2, 8), True, {}),
            ("bfloat16", (2, 520, 2, 1, 128), False, {}),
            ("float32", (2, 390, 4, 2, 8), True, {"data": 2, "tensor": 2}),
            ("float32", (2, 390, 3, 3, 8), False, {"fsdp": 2, "sequence": 2}),
        ],
        fast=(0,),
    ),
    ids=str,
)
def test_tokens_see_the_prompt_that_they_share(dtype, shape, has_sinks, sizes):
    """Values and gradients of one softmax over both; a program that took either part alone is far off."""
    *arrays, _, sinks = make_inputs(*shape, dtype=dtype, has_sinks=has_sinks)
    segment_ids, prefix_ids = ids_with_prefixes(*shape[:2])
    inputs = (*arrays, segment_ids, sinks)
    settings = {"scale": 0.3, "prefix_ids": prefix_ids, "soft_cap": 5.0}
    expected = outputs_and_gradients(functools.partial(plain, **settings), *inputs)
    if sizes:
        attend = functools.partial(splash_attend, rules=rules.DEFAULT_RULES, **settings)
        with jax.set_mesh(mesh_lib.make_mesh(mesh_lib.MeshConfig(**sizes))):
            actual = outputs_and_gradients(attend, *inputs)
    else:
        actual = outputs_and_gradients(functools.partial(splash_attend, **settings), *inputs)
    assert_close(actual, expected, TOLERANCE[dtype])


def test_the_second_kernel_is_recomputed_neither_way_in_the_backward_pass():
    """Its results and normalizers are what `RESIDUALS` names, as the first one's are."""
    *arrays, _, _ = make_inputs(2, 300, 2, 1, 8)
    segment_ids, prefix_ids = ids_with_prefixes(2, 300)

    def total(*arrays):
        return jnp.sum(splash_attend(*arrays, segment_ids, None, scale=0.3, prefix_ids=prefix_ids))

    policy = jax.checkpoint_policies.save_only_these_names(splash.RESIDUALS)
    kept = jax.make_jaxpr(jax.grad(jax.checkpoint(total, policy=policy)))(*arrays)
    again = jax.make_jaxpr(jax.grad(jax.checkpoint(total)))(*arrays)
    # Two forward and four backward kernels; where nothing is kept two forward ones more.
    assert str(kept).count("pallas_call[") == 6
    assert str(again).count("pallas_call[") == 8


def test_rules_without_a_mesh_are_refused():
    queries, keys, values, ids, _ = make_inputs(2, 8, 2, 1, 8)
    with pytest.raises(ValueError, match="set_mesh"):
        splash.attend(queries, keys, values, ids, scale=1.0, rules=rules.DEFAULT_RULES)
