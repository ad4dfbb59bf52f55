"""Cached = full, scanned = looped, padded = unpadded, packed = unpacked, sharded = single device."""

import dataclasses
import functools
import itertools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from promptcot_jax.models import attention, causal_lm, decoder, layers, paged_cache
from promptcot_jax.models import config as config_lib
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.parallel import rules
from tests import toys
from tests.cases import some_fast

CONFIG = config_lib.DecoderConfig(
    vocab_size=64,
    embed_dim=32,
    mlp_dim=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    rope_theta=100.0,
)
QWEN2 = dataclasses.replace(CONFIG, family="qwen2", qkv_bias=True, tie_embeddings=True)
QWEN3 = dataclasses.replace(CONFIG, family="qwen3", qk_norm=True, head_dim=10)
QWEN3_MOE, GEMMA2, GEMMA3, GPT_OSS = (
    dataclasses.replace(CONFIG, family=family, **toys.FAMILIES[family])
    for family in ("qwen3_moe", "gemma2", "gemma3", "gpt_oss")
)
EVERY = (CONFIG, QWEN2, QWEN3, QWEN3_MOE, GEMMA2, GEMMA3, GPT_OSS)
ALL = pytest.mark.parametrize("config", EVERY, ids=lambda config: config.family)
SOME = pytest.mark.parametrize("config", some_fast(EVERY), ids=lambda config: config.family)


@functools.cache
def make(config):
    """A model whose weights are wide enough for every part of it to matter."""
    lm = causal_lm.CausalLM(config)
    params = lm.init(jax.random.key(0))
    noise = np.random.default_rng(1)
    wide = jax.tree.map(lambda leaf: np.asarray(leaf) + 0.2 * noise.normal(size=leaf.shape), params)
    return lm, jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), wide)


@functools.partial(jax.jit, static_argnums=0)
def hidden_states(lm, params, token_ids, segment_ids=None, positions=None):
    return lm.hidden_states(params, token_ids, segment_ids, positions)


@functools.partial(jax.jit, static_argnums=0)
def decoding_layout(lm, params):
    return lm.decoding_layout(params)


@functools.partial(jax.jit, static_argnums=0)
def extend(lm, decoding, token_ids, positions, page_table, cache):
    return lm.extend(decoding, token_ids, paged_cache.CachePositions(page_table, positions), cache)


PAGE = 4
# Three rows of four pages each, lying about; row 2 shares its first page with row 0. Page 0 is nobody's.
PAGE_TABLE = jnp.array([[3, 9, 1, 5], [2, 4, 8, 6], [3, 7, 10, 11]], jnp.int32)


def read_in_pages(lm, decoding, token_ids, prompt, cache):
    """States of [3, T] tokens: `prompt` of them page by page, with garbage behind, the others one by one."""
    pieces = []
    for first in range(0, prompt, PAGE):
        known = min(PAGE, prompt - first)
        page = jnp.pad(token_ids[:, first : first + known], ((0, 0), (0, PAGE - known)), constant_values=7)
        positions = jnp.broadcast_to(first + jnp.arange(PAGE), (3, PAGE))
        states, cache = extend(lm, decoding, page, positions, PAGE_TABLE, cache)
        pieces.append(states[:, :known])
    for t in range(prompt, token_ids.shape[1]):
        states, cache = extend(lm, decoding, token_ids[:, t : t + 1], jnp.full((3, 1), t), PAGE_TABLE, cache)
        pieces.append(states)
    return jnp.concatenate(pieces, axis=1)


def random_ids(rows, length, seed=2):
    ids = np.random.default_rng(seed).integers(1, CONFIG.vocab_size, (rows, length))
    return jnp.asarray(ids, jnp.int32)


@ALL
@pytest.mark.parametrize(
    ("layout", "prompt"), some_fast(itertools.product(["decoding", "scanned"], [6, 0, 8]))
)
def test_cached_decoding_equals_a_full_forward(config, layout, prompt):
    lm, params = make(config)
    token_ids = random_ids(3, 13)
    token_ids = token_ids.at[2, :PAGE].set(token_ids[0, :PAGE])  # what lies in the page they share
    full = hidden_states(lm, params, token_ids)
    decoding = decoding_layout(lm, params) if layout == "decoding" else params
    cached = read_in_pages(lm, decoding, token_ids, prompt, lm.init_cache(12, PAGE))
    np.testing.assert_allclose(cached, full, atol=1e-5)
    np.testing.assert_allclose(jax.jit(lm.unembed)(decoding, cached), lm.unembed(params, full), atol=1e-4)


@pytest.mark.parametrize("config", [CONFIG, GEMMA2, GEMMA3], ids=lambda config: config.family)
def test_a_longer_neighbour_changes_no_bit(config):
    lm, params = make(config)
    decoding, token_ids = decoding_layout(lm, params), random_ids(3, 2)
    table = 1 + jnp.arange(12).reshape(3, 4)

    def second_token(third_row_position):
        cache = lm.init_cache(13, PAGE)
        first = jnp.zeros((3, 1), jnp.int32)
        _, cache = extend(lm, decoding, token_ids[:, :1], first, table, cache)
        positions = jnp.array([[1], [1], [third_row_position]])
        return extend(lm, decoding, token_ids[:, 1:], positions, table, cache)[0]

    np.testing.assert_array_equal(second_token(1)[:2], second_token(14)[:2])


def test_pages_out_of_reach_are_never_read():
    window = config_lib.SlidingWindow(size=5, pattern=(True,))
    lm, params = make(dataclasses.replace(QWEN3, window=window))
    token_ids, cache = random_ids(3, 14), lm.init_cache(13, PAGE)
    table = 1 + jnp.arange(12).reshape(3, 4)
    for first in (0, PAGE, 2 * PAGE):
        positions = jnp.broadcast_to(first + jnp.arange(PAGE), (3, PAGE))
        _, cache = extend(lm, params, token_ids[:, first : first + PAGE], positions, table, cache)
    positions = jnp.array([[12], [9], [5]])  # which see tokens from 8, 5 and 1 on
    expected, _ = extend(lm, params, token_ids[:, -1:], positions, table, cache)
    num_pages = cache.num_pages // lm.config.num_layers
    unread = [num_pages * layer + page for layer in range(2) for page in (1, 2, 5)]
    poisoned = jax.tree.map(lambda pages: pages.at[jnp.array(unread)].set(jnp.nan), cache)
    states, _ = extend(lm, params, token_ids[:, -1:], positions, table, poisoned)
    np.testing.assert_array_equal(states, expected)


@SOME
def test_scanned_equals_looped(config):
    lm, params = make(config)
    token_ids, positions = random_ids(2, 9), jnp.broadcast_to(jnp.arange(9), (2, 9))
    turn, local = functools.partial(attention.rotation, positions, head_dim=config.head_dim), None
    if config.local_rope:
        local = turn(theta=config.window.rope_theta)
    mask = jnp.broadcast_to(jnp.tril(jnp.ones((9, 9), bool)), (2, 9, 9))
    turn = turn(theta=config.rope_theta, scaling=config.rope_scaling)
    inputs = decoder.LayerInputs(turn, local, mask=mask)
    x = layers.TokenEmbedding(config).apply({"params": params["embed_tokens"]}, token_ids)
    layer = jax.jit(
        functools.partial(decoder.DecoderLayer(config, fused=True).apply, inputs=inputs, cache=None)
    )
    for layer_params, is_local in zip(
        decoding_layout(lm, params)["layers"], config.local_layers, strict=True
    ):
        x, _ = layer({"params": layer_params}, x, layer=decoder.LayerInfo(0, is_local))
    x = layers.RMSNorm(config).apply({"params": params["norm"]}, x).reshape(2, 9, -1)
    np.testing.assert_allclose(hidden_states(lm, params, token_ids), x, atol=1e-5)


@pytest.mark.parametrize("num_padding", [1, 5])
def test_padded_equals_unpadded(num_padding):
    lm, params = make(CONFIG)
    token_ids = random_ids(2, 8)
    alone = hidden_states(lm, params, token_ids)
    padding = jnp.full((2, num_padding), 3)
    for pieces, where in (
        ((padding, token_ids), slice(num_padding, None)),
        ((token_ids, padding), slice(None, 8)),
    ):
        padded = jnp.concatenate(pieces, axis=1)
        segment_ids = jnp.zeros_like(padded).at[:, where].set(1)
        np.testing.assert_allclose(hidden_states(lm, params, padded, segment_ids)[:, where], alone, atol=1e-5)


def test_packed_equals_unpacked():
    lm, params = make(CONFIG)
    first, second = random_ids(1, 5), random_ids(1, 8, seed=3)
    packed = jnp.concatenate([first, second, jnp.zeros((1, 2), jnp.int32)], axis=1)
    segment_ids = jnp.array([[1] * 5 + [2] * 8 + [0] * 2])
    states = hidden_states(lm, params, packed, segment_ids)
    np.testing.assert_allclose(states[:, :5], hidden_states(lm, params, first), atol=1e-5)
    np.testing.assert_allclose(states[:, 5:13], hidden_states(lm, params, second), atol=1e-5)


def test_positions_restart_and_can_be_given():
    segment_ids = jnp.array([[0, 0, 1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 2, 2, 2, 2]])
    expected = [[0, 1, 0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 0, 1, 2, 3]]
    np.testing.assert_array_equal(attention.positions_in_segments(segment_ids), expected)
    lm, params = make(CONFIG)
    token_ids = random_ids(1, 6)
    default = hidden_states(lm, params, token_ids)
    shifted = hidden_states(lm, params, token_ids, None, jnp.arange(6)[None] + 40)
    np.testing.assert_allclose(shifted, default, atol=1e-4)  # rotary attention sees distances only
    stretched = hidden_states(lm, params, token_ids, None, jnp.arange(6)[None] * 3)
    assert jnp.abs(stretched - default).max() > 1e-2


@pytest.mark.parametrize("remat", some_fast(["none", "offload", "full"], fast=(2,)))
def test_rematerialised_gradients_are_the_same(remat):
    lm, params = make(QWEN3)
    token_ids = random_ids(2, 7)

    def loss(params, remat):
        return jnp.sum(jnp.square(lm.hidden_states(params, token_ids, remat=remat)) * jnp.arange(7)[:, None])

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    kept, recomputed = gradient(params, "projections"), gradient(params, remat)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), kept, recomputed)
    assert all(float(jnp.abs(leaf).max()) > 0.0 for leaf in jax.tree.leaves(kept["layers"]))


def test_what_the_backward_pass_keeps():
    """In numbers a token and layer: the input, and what the projections gave that is asked for again."""
    lm, params = make(QWEN3)
    token_ids, config = random_ids(2, 7), QWEN3

    def kept(remat):
        _, backward = jax.eval_shape(
            lambda params: jax.vjp(lambda p: lm.hidden_states(p, token_ids, remat=remat), params), params
        )
        shapes = [leaf.shape for leaf in jax.tree.leaves(backward)]
        per_token = [shape[2:] for shape in shapes if shape[:2] == (config.num_layers, token_ids.size)]
        return sum(int(np.prod(shape)) for shape in per_token)

    heads = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    assert kept("full") == config.embed_dim
    # Queries, keys, values, gate, up, and what attention adds; the MLP's output is not asked for.
    assert kept("projections") == 2 * config.embed_dim + heads + 2 * config.mlp_dim
    assert kept("none") > 1.5 * kept("projections")


def test_init_draws_every_matrix_and_depends_on_the_key():
    lm = causal_lm.CausalLM(QWEN2)
    params, other = lm.init(jax.random.key(0)), lm.init(jax.random.key(1))
    kernel = params["layers"]["mlp"]["down_proj"]["kernel"]
    fan_in = kernel.shape[1]  # [L, in, out]: one layer's, not the stack's
    assert float(jnp.std(kernel)) == pytest.approx(fan_in**-0.5, rel=0.1)
    embedding = params["embed_tokens"]["embedding"]
    assert float(jnp.std(embedding)) == pytest.approx(lm.config.embed_dim**-0.5, rel=0.1)
    assert not jnp.allclose(kernel[0], kernel[1])
    assert not jnp.allclose(kernel, other["layers"]["mlp"]["down_proj"]["kernel"])
    assert set(np.unique(params["layers"]["self_attn"]["q_proj"]["bias"])) == {0.0}
    assert set(np.unique(params["norm"]["scale"])) == {1.0}
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), params, lm.init(jax.random.key(0))))


@ALL
def test_every_parameter_has_logical_axes(config):
    lm = causal_lm.CausalLM(config)
    shapes = jax.eval_shape(lm.init, jax.random.key(0))
    axes = lm.logical_axes()
    known = {name for name, _ in rules.DEFAULT_RULES}

    def check(path, shape, names):
        assert len(names) == len(shape.shape), (path, names)
        assert set(names) <= known, (path, names)
        assert (names[0] == "layers") == (path[0].key == "layers"), (path, names)

    jax.tree_util.tree_map_with_path(check, shapes, axes)
    attention = axes["layers"]["self_attn"]
    assert attention["q_proj"]["kernel"] == ("layers", "embed", "heads")
    assert attention["k_proj"]["kernel"] == ("layers", "embed", "kv_heads")
    assert attention["o_proj"]["kernel"] == ("layers", "heads", "embed")
    if config.experts is None:
        assert axes["layers"]["mlp"]["down_proj"]["kernel"] == ("layers", "mlp", "embed")
    else:
        of_experts = ("layers", "experts", "expert_mlp", "expert_embed")
        assert axes["layers"]["mlp"]["experts"]["down_proj"]["kernel"] == of_experts
        assert axes["layers"]["mlp"]["router"]["kernel"] == ("layers", "embed", "router")
    assert axes["embed_tokens"]["embedding"] == ("vocab", "embed")


def sharded(config, mesh):
    lm, params = make(config)
    lm = dataclasses.replace(lm, rules=rules.DEFAULT_RULES)
    return lm, jax.device_put(params, rules.sharding_tree(mesh, lm.logical_axes(), params))


@pytest.mark.parametrize(
    ("config", "shape"),
    some_fast(
        [
            (GPT_OSS, (1, 2, 2, 2)),
            (CONFIG, (2, 2, 1, 2)),
            (QWEN2, (1, 4, 1, 2)),
            (dataclasses.replace(GEMMA3, mlp_dim=48), (1, 2, 1, 4)),
            (QWEN3_MOE, (2, 1, 4, 1)),
        ]
    ),
    ids=["gpt_oss", "llama", "qwen2", "gemma3", "qwen3_moe"],
)
def test_sharded_equals_single_device(config, shape):
    single, params = make(config)
    data, fsdp, expert, tensor = shape
    data_shards = data * fsdp * expert
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(data=data, fsdp=fsdp, expert=expert, tensor=tensor))
    lm, sharded_params = sharded(config, mesh)
    token_ids = random_ids(8, 6)
    with jax.set_mesh(mesh):
        on_mesh = jax.device_put(token_ids, rules.batch_sharding(mesh))
        states = hidden_states(lm, sharded_params, on_mesh)
        # Every data shard counts its own pages: 1 and 2 in each row's turn.
        rows_of_shard = 8 // data_shards
        num_pages = 8 + data_shards
        table = 1 + jnp.arange(8)[:, None] % rows_of_shard
        cache = jax.jit(lm.init_cache, static_argnums=(0, 1))(num_pages, 6)
        positions = jnp.broadcast_to(jnp.arange(6), (8, 6))
        laid_out = cache.keys.sharding
        cached, cache = extend(lm, sharded_params, on_mesh, positions, table, cache)
        logits = jax.jit(lm.unembed)(sharded_params, cached)
    expected = hidden_states(single, params, token_ids)
    np.testing.assert_allclose(states, expected, atol=1e-5)
    np.testing.assert_allclose(cached, expected, atol=1e-5)
    np.testing.assert_allclose(logits, single.unembed(params, expected), atol=1e-4)
    assert states.addressable_shards[0].data.shape == (8 // data_shards, 6, config.embed_dim)
    assert laid_out.is_equivalent_to(cache.keys.sharding, 4)  # from the start: no device ever holds it whole
    split_heads = config.num_kv_heads % tensor == 0
    assert cache.keys.addressable_shards[0].data.shape == (
        config.num_layers * (rows_of_shard + 1),
        config.num_kv_heads // (tensor if split_heads else 1),
        config.head_dim,
        6,
    )


def _constraints(jaxpr):
    """(shape, spec) of every sharding constraint in a program and in the programs inside it."""
    found = set()
    for equation in jaxpr.eqns:
        if equation.primitive.name == "sharding_constraint":
            found.add((equation.outvars[0].aval.shape, equation.params["sharding"].spec))
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            found |= _constraints(inner)
    return found


def test_every_activation_is_constrained_and_the_constraints_take_effect():
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(data=2, fsdp=2, tensor=2))
    lm, params = sharded(CONFIG, mesh)
    token_ids, rows = random_ids(8, 6), ("data", "fsdp")
    with jax.set_mesh(mesh):
        traced = jax.jit(lm.hidden_states).trace(params, token_ids)
        program = traced.lower().compile().as_text()
    assert _constraints(traced.jaxpr.jaxpr) == {
        ((48, 32), jax.P(rows, None)),  # residual stream
        ((48, 32), jax.P(rows, "tensor")),  # flat queries, and attention's output
        ((48, 16), jax.P(rows, "tensor")),  # flat keys and values
        ((8, 6, 4, 8), jax.P(rows, None, "tensor", None)),  # query heads
        ((8, 6, 2, 8), jax.P(rows, None, "tensor", None)),  # key-value heads
        ((8, 2, 6, 8), jax.P(rows, "tensor", None, None)),  # the same, of whole rows
        ((8, 6, 6), jax.P(rows, None, None)),  # which keys a query sees
        ((48, 48), jax.P(rows, "tensor")),  # inside the MLP
        ((8, 6, 32), jax.P(rows, None, None)),  # hidden states
    }
    assert "f32[12,24]" in program  # one device's share of [B*T, F]
    assert "f32[48,48]" not in program
    assert "f32[12,48]" not in program
    assert not _constraints(jax.make_jaxpr(causal_lm.CausalLM(CONFIG).hidden_states)(params, token_ids).jaxpr)


def test_rules_without_a_mesh_are_an_error_and_not_dropped():
    lm = causal_lm.CausalLM(CONFIG, rules.DEFAULT_RULES)
    with pytest.raises(ValueError, match="set_mesh"):
        lm.hidden_states(make(CONFIG)[1], random_ids(1, 4))


@pytest.mark.parametrize(
    "param_dtype", ["float32", "bfloat16"]
)  # that of the file, in a fit not of the masters
def test_float32_masters_are_cast_once_for_decoding_but_for_the_scales_of_norms(param_dtype):
    config = dataclasses.replace(CONFIG, dtype="bfloat16", param_dtype=param_dtype)
    with jax.set_mesh(mesh_lib.make_mesh(mesh_lib.MeshConfig())):
        for lm in (causal_lm.CausalLM(config), causal_lm.CausalLM(config, rules.DEFAULT_RULES)):
            params = causal_lm.CausalLM(CONFIG).init(jax.random.key(0))
            for path, leaf in jax.tree_util.tree_leaves_with_path(lm.decoding_layout(params)):
                is_scale = getattr(path[-1], "key", None) == "scale"
                assert leaf.dtype == ("float32" if is_scale else "bfloat16"), jax.tree_util.keystr(path)
        same = causal_lm.CausalLM(CONFIG, rules.DEFAULT_RULES)
        assert same.decoding_layout(params) is params  # no second copy
        loaded = jax.tree.map(lambda leaf: leaf.astype("bfloat16"), params)
        assert causal_lm.CausalLM(config, rules.DEFAULT_RULES).decoding_layout(loaded) is loaded


@pytest.mark.parametrize("layout", ["scanned", "decoding"])
def test_cache_is_updated_in_place_inside_a_loop(layout):
    lm, params = make(CONFIG)
    table = 1 + jnp.arange(8 * 64).reshape(8, 64)

    def decode(decoding, cache):
        def advance(position, cache):
            places = paged_cache.CachePositions(table, jnp.full((8, 1), position))
            return lm.extend(decoding, jnp.ones((8, 1), jnp.int32), places, cache)[1]

        return jax.lax.fori_loop(0, 4000, advance, cache)

    cache = lm.init_cache(8 * 64 + 1, 64)
    decoding = decoding_layout(lm, params) if layout == "decoding" else params
    compiled = jax.jit(decode, donate_argnums=1).lower(decoding, cache).compile()
    memory, pool_bytes = compiled.memory_analysis(), cache.keys.nbytes + cache.values.nbytes
    assert memory.alias_size_in_bytes >= pool_bytes
    assert memory.temp_size_in_bytes < pool_bytes / CONFIG.num_layers / 4  # no copy of any layer's pages


@SOME
def test_the_program_does_not_grow_with_the_number_of_layers(config):
    def size(num_layers):
        lm = causal_lm.CausalLM(dataclasses.replace(config, num_layers=num_layers))
        params = jax.eval_shape(lm.init, jax.random.key(0))
        gradient = jax.grad(lambda params, ids: jnp.sum(lm.hidden_states(params, ids)))
        return jax.jit(gradient).lower(params, jnp.ones((1, 4), jnp.int32)).as_text().count("\n")

    assert size(2) == size(12)


def test_routers_report_real_tokens_of_every_layer():
    lm, params = make(QWEN3_MOE)
    token_ids = random_ids(2, 6)
    segment_ids = jnp.array([[0, 0, 1, 1, 1, 1], [1, 1, 1, 2, 2, 0]])
    report = jax.jit(lm.hidden_states_and_routers)
    states, totals = report(params, token_ids, segment_ids)
    np.testing.assert_allclose(states, hidden_states(lm, params, token_ids, segment_ids), atol=1e-5)
    np.testing.assert_array_equal(totals.num_tokens, [9.0, 9.0])
    assert totals.tokens_per_expert.shape == (2, 4)
    np.testing.assert_array_equal(totals.tokens_per_expert.sum(axis=1), [18.0, 18.0])  # two choices each
    _, others = report(params, token_ids.at[0, 0].set(5), segment_ids)  # padding
    jax.tree.map(np.testing.assert_array_equal, totals, others)
    with pytest.raises(ValueError, match="no experts"):
        make(CONFIG)[0].hidden_states_and_routers(params, token_ids)
