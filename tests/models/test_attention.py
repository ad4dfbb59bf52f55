"""Attention by blocks of queries, as a CPU computes it, against one product over the whole row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promptcot_jax.models import attention


@pytest.mark.parametrize("length", [1, 127, 128, 129, 300, 1100])
@pytest.mark.parametrize("reach", [None, 40])
def test_blocks_of_queries_equal_the_whole_row(length, reach):
    keys = jax.random.split(jax.random.key(length), 4)
    batch, heads, kv_heads, head_dim = 2, 4, 2, 8
    q = jax.random.normal(keys[0], (batch, length, heads, head_dim))
    k, v = (jax.random.normal(key, (batch, kv_heads, length, head_dim)) for key in keys[1:3])
    segment_ids = jnp.sort(jax.random.randint(keys[3], (batch, length), 0, 4), axis=1)[:, ::-1]
    mask = attention.segment_mask(segment_ids, ())
    rule = attention.ScoreRule(
        scale=0.3,
        soft_cap=5.0,
        reach=None if reach is None else jnp.int32(reach),
        sinks=jnp.linspace(-1.0, 1.0, heads),
    )

    real = (segment_ids > 0)[..., None, None]  # what padding gets, nothing reads

    def graded(attend):
        def weighed(q, k, v):
            mixed = attend(q, k, v) * real
            return jnp.sum(mixed * jnp.cos(jnp.arange(mixed.size).reshape(mixed.shape))), mixed

        (_, mixed), gradients = jax.value_and_grad(weighed, argnums=(0, 1, 2), has_aux=True)(q, k, v)
        return mixed, *gradients

    def in_blocks(q, k, v):
        return attention.attend_in_rows(q, k, v, mask=mask, segment_ids=segment_ids, rule=rule)

    of_blocks, of_row = graded(in_blocks), graded(lambda q, k, v: attention.attend(q, k, v, mask, rule))
    for got, expected in zip(of_blocks, of_row, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_row_has_at_most_eight_blocks(monkeypatch):
    called = []
    plain = attention.attend
    monkeypatch.setattr(
        attention, "attend", lambda *args, **kwargs: called.append(args) or plain(*args, **kwargs)
    )
    x = jnp.ones((1, 4100, 1, 2))
    kv = jnp.ones((1, 1, 4100, 2))
    ids = jnp.ones((1, 4100), jnp.int32)
    rule = attention.ScoreRule(scale=1.0)
    attention.attend_in_rows(x, kv, kv, mask=attention.segment_mask(ids, ()), segment_ids=ids, rule=rule)
    assert len(called) == 8
    assert called[0][1].shape[2] < 600  # the first stretch sees its own keys alone
