"""A model of one's own: the worked example of `docs/models.md` and a plainer one keep the equalities that
`CausalLM` does, and what does not keep the protocol is refused by name.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import t5x_decoder

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.models import language_model, lora, own_model, paged_cache
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.parallel import rules
from tests.cases import some_fast
from tests.models import plain_model

SIZES = {"vocab_size": 64, "num_layers": 3, "head_dim": 8, "max_positions": 128}
T5X = t5x_decoder.T5xDecoder(
    t5x_decoder.T5xConfig(**SIZES, emb_dim=32, mlp_dim=48, num_heads=4, num_kv_heads=2)
)
PLAIN = plain_model.PlainModel(plain_model.PlainConfig(**SIZES, num_kv_heads=4))
WINDOW = plain_model.PlainModel(plain_model.PlainConfig(**SIZES, num_kv_heads=4, window=5))
ALL = pytest.mark.parametrize("lm", [T5X, PLAIN, WINDOW], ids=["t5x", "plain", "window"])
SOME = pytest.mark.parametrize("lm", some_fast([T5X, PLAIN, WINDOW]), ids=["t5x", "plain", "window"])
PAGE = 4


@functools.cache
def params_of(lm):
    return lm.init(jax.random.key(0))


@functools.partial(jax.jit, static_argnums=0)
def hidden_states(lm, params, token_ids, segment_ids=None):
    return lm.hidden_states(params, token_ids, segment_ids)


@functools.partial(jax.jit, static_argnums=0)
def extend(lm, params, token_ids, positions, table, cache):
    return lm.extend(params, token_ids, paged_cache.CachePositions(table, positions), cache)


def some_ids(rows, length):
    return jnp.asarray(np.random.default_rng(rows).integers(1, 64, (rows, length)), jnp.int32)


@SOME
def test_cached_decoding_equals_a_full_forward(lm):
    """Two pages of a prompt, the second half full, then token by token."""
    params, ids, table = params_of(lm), some_ids(2, 13), jnp.array([[3, 5, 1, 7], [2, 8, 4, 6]])
    cache, states = lm.init_cache(9, PAGE), []
    for first, known in ((0, 4), (4, 2)):
        page = jnp.pad(ids[:, first : first + known], ((0, 0), (0, PAGE - known)), constant_values=9)
        positions = jnp.broadcast_to(first + jnp.arange(PAGE), (2, PAGE))
        hidden, cache = extend(lm, params, page, positions, table, cache)
        states.append(hidden[:, :known])
    for t in range(6, 13):
        hidden, cache = extend(lm, params, ids[:, t : t + 1], jnp.full((2, 1), t), table, cache)
        states.append(hidden)
    full = hidden_states(lm, params, ids)
    np.testing.assert_allclose(jnp.concatenate(states, axis=1), full, atol=2e-5)
    logits = full @ lm.output_embedding(params)
    np.testing.assert_allclose(lm.unembed(params, full), logits, atol=1e-4)


@ALL
def test_neither_padding_nor_neighbours_in_a_row_change_a_token(lm):
    params, ids = params_of(lm), some_ids(1, 12)
    segments = jnp.array([[1] * 5 + [2] * 4 + [0] * 3])
    packed = hidden_states(lm, params, ids, segments)[0]
    np.testing.assert_allclose(packed[:5], hidden_states(lm, params, ids[:, :5])[0], atol=2e-5)
    np.testing.assert_allclose(packed[5:9], hidden_states(lm, params, ids[:, 5:9])[0], atol=2e-5)


def test_gradients_do_not_depend_on_what_is_computed_again():
    lm = T5X

    def loss(params, remat):
        return jnp.sum(jnp.sin(lm.hidden_states(params, some_ids(2, 6), remat=remat)))

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    expected, found = (gradient(params_of(lm), way) for way in ("projections", "full"))
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.slow
def test_sharded_equals_one_device():
    """Whole rows, and a page and a token of each of them, two rows with pages of their own on each shard."""
    params, ids, table = params_of(T5X), some_ids(8, PAGE + 1), jnp.array([[1, 2], [3, 4]] * 4)
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(data=2, fsdp=2, tensor=2))
    lm = language_model.on_mesh(T5X)
    full = hidden_states(T5X, params, ids)
    with jax.set_mesh(mesh):
        params = jax.device_put(params, rules.sharding_tree(mesh, lm.logical_axes(), params, lm.rules))
        np.testing.assert_allclose(hidden_states(lm, params, ids), full, atol=2e-5)
        cache = jax.jit(lm.init_cache, static_argnums=(0, 1))(4 * 5, PAGE)
        positions = jnp.broadcast_to(jnp.arange(PAGE), (8, PAGE))
        page, cache = extend(lm, params, ids[:, :PAGE], positions, table, cache)
        last, cache = extend(lm, params, ids[:, PAGE:], jnp.full((8, 1), PAGE), table, cache)
    np.testing.assert_allclose(jnp.concatenate([page, last], axis=1), full, atol=2e-5)


def test_decoding_runs_on_a_mesh_that_splits_long_rows():
    """A module's own constraint of `length` cannot hold for one token of each row."""
    mesh, lm = mesh_lib.make_mesh(mesh_lib.MeshConfig(sequence=2)), language_model.on_mesh(T5X)
    one = jnp.zeros((1, 1), jnp.int32)
    with jax.set_mesh(mesh):
        cache = jax.eval_shape(lambda: lm.init_cache(2, PAGE))
        places = paged_cache.CachePositions(one, one)
        hidden, _ = jax.eval_shape(lm.extend, params_of(T5X), one, places, cache)
    assert hidden.shape == (1, 1, T5X.config.emb_dim)


def test_axes_of_the_models_own_lie_where_its_rules_say():
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(fsdp=4, tensor=2))

    def spec_of_query(lm):
        table = language_model.on_mesh(lm).rules
        shardings = rules.sharding_tree(mesh, lm.logical_axes(), params_of(T5X), table)
        return tuple(shardings["decoder"]["self_attention"]["query"]["kernel"].spec)

    assert spec_of_query(T5X) == (None, "fsdp", "tensor")
    others = (("joined_kv", "fsdp"), ("embed", None))  # the second is the table's own axis
    assert spec_of_query(dataclasses.replace(T5X, axis_rules=others)) == (None, None, "fsdp")
    with pytest.raises(WrongUse, match=r"kernel': its logical axis 'joined_kv' has no rule.*axis_rules"):
        spec_of_query(dataclasses.replace(T5X, axis_rules=()))


def test_activations_follow_flaxs_constraints():
    """Heads of the queries over `tensor`, by the module's own `nn.with_logical_constraint`."""
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(data=2, tensor=2))
    with jax.set_mesh(mesh):
        lowered = jax.jit(language_model.on_mesh(T5X).hidden_states).lower(params_of(T5X), some_ids(4, 6))
    of_queries = '[{"data", "fsdp", "expert"}, {"sequence"}, {"tensor"}, {}]> : tensor<4x6x4x8xf32>'
    assert of_queries in lowered.as_text()


def test_lora_reaches_a_model_that_says_it_applies_adapters():
    config = lora.LoraConfig(rank=2, targets=("q_proj", "o_proj"))
    adapted = lora.attach(PLAIN, params_of(PLAIN), config, jax.random.key(1))
    trained, frozen = lora.split(adapted)

    def loss(trained):
        return jnp.sum(PLAIN.hidden_states(lora.join(trained, frozen), some_ids(2, 6)) ** 2)

    gradient = jax.grad(loss)(trained)["layers"]
    assert all(jnp.any(gradient[name]["lora_b"] != 0.0) for name in config.targets)
    with pytest.raises(WrongUse, match="T5xDecoder does not say that it applies adapters"):
        lora.attach(T5X, params_of(T5X), config, jax.random.key(1))


# --- what is refused ---


@ALL
def test_models_that_keep_the_protocol_pass(lm):
    own_model.check_members(lm)
    own_model.check_programs(lm)


@dataclasses.dataclass(frozen=True)
class Wrong(t5x_decoder.T5xDecoder):
    """The example with one thing wrong."""

    wrong: str = ""

    def output_embedding(self, params):
        matrix = super().output_embedding(params)
        return matrix.T if self.wrong == "output_embedding" else matrix

    def logical_axes(self):
        axes = super().logical_axes()
        if self.wrong == "an axis":
            axes["logits_kernel"] = ("embed",)
        if self.wrong == "a parameter":
            del axes["logits_kernel"]
        return axes

    def extend(self, decoding_params, token_ids, places, cache):
        hidden, extended = super().extend(decoding_params, token_ids, places, cache)
        if self.wrong == "cache":
            extended = jax.tree.map(lambda pages: pages[1:], extended)
        return (hidden[:, 0] if self.wrong == "extend" else hidden), extended

    def hidden_states(self, params, token_ids, segment_ids=None, positions=None, *, remat="projections"):
        if self.wrong == "raises":
            raise KeyError("relpos")
        return super().hidden_states(params, token_ids, segment_ids, positions, remat=remat)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("output_embedding", r"output_embedding gives an array of shape \(64, 32\), not \(64, 64\)"),
        ("an axis", r"'logits_kernel' has shape \(32, 64\) and the axes \('embed',\)"),
        ("a parameter", "'logits_kernel' is only in init"),
        ("cache", "extend gives back another cache"),
        ("extend", r"extend gives an array of shape \(2, 32\), not \(2, 16, 32\)"),
        ("raises", "hidden_states cannot be traced.*KeyError: 'relpos'"),
    ],
)
def test_a_wrong_function_is_named_before_any_work(wrong, message):
    with pytest.raises(WrongUse, match=message):
        own_model.check_programs(Wrong(T5X.config, wrong=wrong))


def with_config(**changes):
    return dataclasses.replace(T5X, config=dataclasses.replace(T5X.config, **changes))


def test_wrong_members_and_settings_are_named():
    with pytest.raises(WrongUse, match="object is no language model: it lacks config, rules"):
        own_model.check_members(object())
    with pytest.raises(WrongUse, match=r"config.dtype must be one of .*'float32'"):
        own_model.check_members(with_config(dtype=jnp.float32))
    with pytest.raises(WrongUse, match=r"T5xDecoder cannot be hashed.*tuples"):
        own_model.check_members(dataclasses.replace(T5X, axis_rules=[("kv", None)]))
    with pytest.raises(WrongUse, match=r"rope_theta is .*which a checkpoint's description cannot hold"):
        own_model.check_members(with_config(rope_theta=jnp.sin))

    @dataclasses.dataclass(frozen=True)
    class Local(t5x_decoder.T5xDecoder):
        pass

    with pytest.raises(WrongUse, match="move it to the top of a module"):
        own_model.check_members(Local(T5X.config))

    @dataclasses.dataclass(frozen=True)
    class Shapeless:
        vocab_size: int = 3

    with pytest.raises(WrongUse, match="lacks max_positions, num_layers, logit_soft_cap, dtype, param_dtype"):
        own_model.check_members(dataclasses.replace(T5X, config=Shapeless()))


def test_a_model_that_is_not_frozen_is_refused():
    class Open:
        config = rules = axis_rules = init = logical_axes = hidden_states = output_embedding = None
        decoding_layout = init_cache = extend = unembed = None

    with pytest.raises(WrongUse, match=r"Open must be a frozen dataclass.*frozen=True"):
        own_model.check_members(Open())
