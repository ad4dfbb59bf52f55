"""The cache's layout for TPUs decodes what the plain one decodes, the kernel being interpreted on a CPU.

The TPU's pages hold bfloat16. Against plain pages whose keys and values are rounded likewise what is left is
the order of summation, and what follows from it where a key lies halfway between two numbers of bfloat16 and
falls to the other side: 1e-4. Against plain pages in float32 the rounding itself shows: up to 5e-3 on
attention over numbers of size 1.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.models import attention, causal_lm, page_layouts, paged_cache
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.parallel import rules
from tests import toys
from tests.cases import some_fast

PAGE = 64  # eight of the kernel's copies a block: small pages take long to interpret
# Groups of 2, 3 and 8 query heads (the kernel has a way of its own for 8), heads narrower than a line, and
# one as wide: padding and none.
CONFIGS = {
    "llama": toys.toy_config("llama", rope_theta=100.0),
    "qwen2": toys.toy_config("qwen2", num_heads=6, head_dim=128, rope_theta=100.0),
    "qwen3": toys.toy_config("qwen3", num_heads=8, num_kv_heads=1, head_dim=10, rope_theta=100.0),
    # What the kernel does: another scale and soft caps. What it does not: windows and sinks.
    "gemma2": toys.toy_config("gemma2", window=None),
    "gemma3": toys.toy_config("gemma3"),
    "gpt_oss": toys.toy_config("gpt_oss"),
}
# Rows of up to three pages, lying about; row 2 shares its first page with row 0, row 3 stands idle.
PAGE_TABLE = np.array([[3, 9, 1], [2, 4, 8], [3, 7, 5], [0, 0, 0]], np.int32)
# Of the tokens decoded first: inside a page, and at a page's start.
POSITIONS = np.array([PAGE + 5, 2 * PAGE, PAGE + 1, 0], np.int32)
NUM_PAGES = 10


@pytest.fixture(autouse=True)
def _interpreted_kernels():
    with pltpu.force_tpu_interpret_mode():
        yield


@functools.cache
def make(family):
    """A model whose weights are wide enough for every part of it to matter."""
    lm = causal_lm.CausalLM(CONFIGS[family])
    noise = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(leaf + 0.2 * noise.normal(size=leaf.shape), jnp.float32),
        lm.init(jax.random.key(0)),
    )
    return lm, params


def random_ids(rows, length):
    ids = np.random.default_rng(2).integers(1, 256, (rows, length)).astype(np.int32)
    ids[2, :PAGE] = ids[0, :PAGE]  # what lies in the page they share
    return ids


@functools.partial(jax.jit, static_argnums=0)
def extend(lm, params, token_ids, positions, page_table, cache):
    return lm.extend(params, token_ids, paged_cache.CachePositions(page_table, positions), cache)


def read_and_decode(lm, params, token_ids, page_table, cache, *, num_steps=2):
    """Two pages of prompts, then `num_steps` tokens of every row: the states of all, and the cache."""
    states = []
    for first in (0, PAGE):
        positions = np.broadcast_to(first + np.arange(PAGE), (len(token_ids), PAGE))
        # An idle row's table names page 0 throughout; its prompt is read again from its start.
        positions = np.where(page_table.any(axis=1)[:, None], positions, np.arange(PAGE)).astype(np.int32)
        hidden, cache = extend(lm, params, token_ids[:, first : first + PAGE], positions, page_table, cache)
        states.append(hidden)
    for step in range(num_steps):
        positions = (POSITIONS + step * (POSITIONS > 0)).astype(np.int32)[:, None]
        ids = token_ids[:, 2 * PAGE + step, None]
        hidden, cache = extend(lm, params, ids, positions, page_table, cache)
        states.append(hidden)
    return jnp.concatenate(states, axis=1), cache


def rounded_cache(lm):
    return toys.RoundedPages(*lm.init_cache(NUM_PAGES, PAGE, "plain"))


@pytest.mark.parametrize("family", some_fast(CONFIGS))
def test_tpu_pages_equal_plain_pages(family):
    lm, params = make(family)
    token_ids = random_ids(4, 2 * PAGE + 2)
    expected, plain = read_and_decode(lm, params, token_ids, PAGE_TABLE, rounded_cache(lm))
    cache = lm.init_cache(NUM_PAGES, PAGE, "tpu")
    assert isinstance(cache, page_layouts.TpuPages)
    states, cache = read_and_decode(lm, params, token_ids, PAGE_TABLE, cache)
    np.testing.assert_allclose(states, expected, atol=1e-4)
    # Every page of every layer: idle rows have written nowhere but in page 0, and padding is 0.
    head_dim = lm.config.head_dim
    for tpu, by_page in (
        (cache.keys, plain.keys.transpose(1, 0, 3, 2)),
        (cache.values, plain.values.swapaxes(0, 1)),
    ):
        np.testing.assert_allclose(tpu[..., :head_dim].astype(jnp.float32), by_page, rtol=2**-7, atol=1e-5)
        assert not tpu[..., head_dim:].any()


def test_attention_in_float32_differs_by_the_rounding_to_bfloat16():
    config = CONFIGS["llama"]
    noise, table = np.random.default_rng(3), jnp.asarray(PAGE_TABLE[:, :1])
    keys, values = jnp.asarray(noise.normal(size=(2, 4, PAGE, 2, config.head_dim)), jnp.float32)
    queries = jnp.asarray(noise.normal(size=(4, 1, 4, config.head_dim)), jnp.float32)
    blocks = paged_cache.CachePositions(table, jnp.tile(jnp.arange(PAGE), (4, 1)))
    last = paged_cache.CachePositions(table, jnp.full((4, 1), PAGE - 1))
    rule = attention.ScoreRule(scale=config.head_dim**-0.5)
    exact, rounded = (
        jax.jit(lambda cache: cache.write(keys, values, blocks, 0).attend(queries, last, 0, rule))(
            causal_lm.CausalLM(config).init_cache(NUM_PAGES, PAGE, layout)
        )
        for layout in ("plain", "tpu")
    )
    assert 1e-4 < jnp.abs(exact - rounded).max() < 5e-3


@pytest.mark.slow
def test_neighbours_and_the_width_of_the_table_change_no_bit():
    lm, params = make("llama")
    token_ids = random_ids(4, 2 * PAGE + 1)

    def first_rows(positions_of_others, width):
        table = np.zeros((4, width), np.int32)
        table[:, :3] = PAGE_TABLE
        others_go_on = table.copy()
        others_go_on[3, :3] = 6  # a row that is there or not, in a page of its own
        cache = lm.init_cache(NUM_PAGES, PAGE, "tpu")
        _, cache = read_and_decode(lm, params, token_ids, table, cache, num_steps=0)
        positions = POSITIONS.copy()
        positions[3] = positions_of_others
        # A page of queries, and one query.
        blocks = (positions // PAGE * PAGE)[:, None] + np.arange(PAGE, dtype=np.int32)
        read, cache = extend(lm, params, token_ids[:, :PAGE], blocks, others_go_on, cache)
        decoded, _ = extend(lm, params, token_ids[:, -1:], positions[:, None], others_go_on, cache)
        return np.concatenate([read[:3], decoded[:3]], axis=1)

    alone = first_rows(0, 3)
    np.testing.assert_array_equal(first_rows(2 * PAGE + 3, 3), alone)
    np.testing.assert_array_equal(first_rows(2 * PAGE + 3, 12), alone)  # more than one of the kernel's blocks


@pytest.mark.slow
def test_sharded_equals_single_device():
    # Four of the eight devices: interpreted kernels wait for each other in callbacks, which would hold every
    # thread that could let the last one through.
    single, params = make("llama")
    token_ids = random_ids(4, 2 * PAGE + 2)
    expected, _ = read_and_decode(single, params, token_ids, PAGE_TABLE, rounded_cache(single))
    lm = dataclasses.replace(single, rules=rules.DEFAULT_RULES)
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(data=2, tensor=2))
    sharded = jax.device_put(params, rules.sharding_tree(mesh, lm.logical_axes(), params))
    # Each shard of rows counts pages of its own, as many as the single device had: rows 0 and 2, on different
    # shards, share nothing any more, and each reads its whole prompt.
    with jax.set_mesh(mesh):
        empty = jax.jit(lm.init_cache, static_argnums=(0, 1, 2))(2 * NUM_PAGES, PAGE, "tpu")
        states, cache = read_and_decode(lm, sharded, token_ids, PAGE_TABLE, empty)
    np.testing.assert_allclose(states, expected, atol=1e-4)
    of_device = (1, 2 * NUM_PAGES, PAGE, 128)  # one of two heads, two layers of a shard's pages
    assert empty.keys.addressable_shards[0].data.shape == of_device
    assert cache.keys.addressable_shards[0].data.shape == of_device


def test_a_page_table_beyond_scalar_memory_is_refused():
    lm, params = make("llama")
    cache = lm.init_cache(2, PAGE, "tpu")
    table = np.zeros((64, 2**12 + 1), np.int32)
    with pytest.raises(WrongUse, match="EngineConfig.page_size"):
        extend(lm, params, np.ones((64, 1), np.int32), np.zeros((64, 1), np.int32), table, cache)


def test_pages_that_are_not_whole_tiles_are_refused():
    with pytest.raises(ValueError, match="multiple of 8"):
        make("llama")[0].init_cache(2, 12, "tpu")


def test_the_layout_follows_the_machine(monkeypatch):
    lm, _ = make("llama")
    assert isinstance(lm.init_cache(2, PAGE), page_layouts.PlainPages)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert isinstance(lm.init_cache(2, PAGE), page_layouts.TpuPages)
