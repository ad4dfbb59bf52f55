"""Eight devices equal one: loss, gradients, an optimizer step, scores and greedy decoding, on every mesh.

And what a step or a burst is given to keep, it writes in place.

Tolerances: 1e-5 for what is a sum of rounded numbers, 1e-4 for scores (of a deep net) and for parameters
after Adam, which divides by the root of tiny second moments.
"""

import contextlib
import functools
import math
import re
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from promptcot_jax.checkpoints.training import TrainingCheckpoints
from promptcot_jax.data import examples, packing
from promptcot_jax.models import causal_lm, lora
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.parallel import rules, sequence_shards
from promptcot_jax.sampling import engine as engine_lib
from promptcot_jax.sampling import scoring, slots
from promptcot_jax.sampling.completions import Request
from promptcot_jax.sampling.token_choice import SamplingConfig
from promptcot_jax.trainers import optimizer, sft, train_step
from tests import toys

SMALL = {"vocab_size": 64, "mlp_dim": 32, "tie_embeddings": False}
CONFIGS = {
    "qwen3": toys.toy_config("qwen3", **SMALL),
    "gemma3": toys.toy_config("gemma3", **SMALL | {"tie_embeddings": True}),
    "qwen3_moe": toys.toy_config("qwen3_moe", **SMALL),
}
MESHES = {
    "fsdp": {"fsdp": 8},
    "tensor": {"data": 2, "tensor": 4},  # of two key-value heads
    "all three": {"data": 2, "fsdp": 2, "tensor": 2},
    "expert": {"data": 2, "expert": 4},
    "sequence": {"fsdp": 2, "sequence": 2, "tensor": 2},
}
# Every family's own part meets every axis once; each pair costs some seconds of compiling.
PAIRS = (
    ("qwen3", "fsdp"),
    ("qwen3", "tensor"),
    ("qwen3", "all three"),
    ("qwen3", "sequence"),
    ("gemma3", "sequence"),
    ("qwen3_moe", "expert"),
    ("qwen3_moe", "sequence"),
)
ADAPTER = lora.LoraConfig(rank=2, targets=("q_proj", "v_proj", "o_proj"))
OPTIMIZER = optimizer.OptimizerConfig(learning_rate=1e-3, weight_decay=0.1)
ONE = {}
# Those that share most between them; `make test-slow` has the others.
SOME_FAST = [
    pytest.param(*pair, marks=() if pair == ("qwen3_moe", "expert") else pytest.mark.slow) for pair in PAIRS
]


def mesh_of(sizes):
    return mesh_lib.make_mesh(mesh_lib.MeshConfig(**sizes))


@functools.cache
def make(family):
    """A model whose weights are wide enough for every part of it to matter, on the host."""
    noise = np.random.default_rng(0)
    params = jax.device_get(causal_lm.CausalLM(CONFIGS[family]).init(jax.random.key(0)))
    return jax.tree.map(lambda x: (x + 0.1 * noise.normal(size=x.shape)).astype(np.float32), params)


def batch():
    """Eight rows of 24 tokens: packed, padded, and with few labels in some."""
    noise = np.random.default_rng(1)

    def example(prompt, completion):
        ids = noise.integers(0, 64, prompt + completion).tolist()
        return examples.TokenExample(prompt_ids=tuple(ids[:prompt]), completion_ids=tuple(ids[prompt:]))

    rows = [[example(2 + i, 9 - i), example(3, 2 + i)] for i in range(7)] + [[example(20, 4)]]
    return packing.pack_rows(rows, num_rows=8, row_length=24)


def place(lm, params, mesh):
    return jax.device_put(params, rules.sharding_tree(mesh, lm.logical_axes(), params))


@functools.cache
def trained(family, mesh_name, *, adapted=False, micro_batches=1):
    """A step's metrics, the state after it on its devices, and the bytes that its program writes in place."""
    mesh = mesh_of(MESHES.get(mesh_name, ONE))
    lm = causal_lm.CausalLM(CONFIGS[family], rules.DEFAULT_RULES)
    adapter = ADAPTER if adapted else None
    step = train_step.make_train_step(
        lm,
        train_step.StepConfig(
            loss=sft.SftLoss(), optimizer=OPTIMIZER, adapter=adapter, micro_batches=micro_batches
        ),
        mesh,
    )
    with jax.set_mesh(mesh):
        params = place(lm, make(family), mesh)
        if adapted:
            params = lora.attach(lm, params, ADAPTER, jax.random.key(1), mesh)
        some, frozen = lora.split(params)
        if adapted:  # B is zero at the start, and A then has no gradient
            some = jax.tree.map(lambda x: jnp.full_like(x, 0.05) + x, some)
        before = step.start(jax.device_put(some, step.shardings.params))
        arguments = before, jax.device_put(batch(), step.batch_sharding), np.int32(10), frozen
        compiled = step.run.lower(*arguments).compile()
        state, metrics = compiled(*arguments)
    assert all(x.is_deleted() for x in jax.tree.leaves(before))
    assert not any(x.is_deleted() for x in jax.tree.leaves((some, frozen)))
    return jax.device_get(metrics), state, compiled.memory_analysis().alias_size_in_bytes


@contextlib.contextmanager
def spied_caches():
    """The caches that the engine's programs were given, which none of them may copy."""
    given = []

    def spy(name, program):
        def call(lm, params, cache, *arguments, **settings):
            given.append((name, cache))
            return program(lm, params, cache, *arguments, **settings)

        return call

    with contextlib.ExitStack() as stack:
        for name in ("read_blocks", "decode_burst"):
            program = getattr(slots, name)
            stack.enter_context(mock.patch.object(slots, name, spy(name, program)))
        yield given


PROMPTS = [[1, 2, 3], [7] * 9, [4, 5], [9, 8, 7, 6, 5, 4], [11], [12, 13], [3, 1, 4, 1, 5], [2, 7]]


@functools.cache
def sampled_and_scored(family, mesh_name):
    """Greedy completions of the engine, and the scores of fixed completions."""
    mesh = mesh_of(MESHES.get(mesh_name, ONE))
    lm = causal_lm.CausalLM(CONFIGS[family], rules.DEFAULT_RULES)
    greedy = SamplingConfig(max_new_tokens=8, temperature=0.0)
    requests = [Request(id=i, prompt_ids=tuple(ids), sampling=greedy) for i, ids in enumerate(PROMPTS)]
    with jax.set_mesh(mesh):
        params = place(lm, make(family), mesh)
        config = engine_lib.EngineConfig(num_slots=8, page_size=4, burst_steps=8)
        engine = engine_lib.Engine(lm, config, max_tokens=20)
        with spied_caches() as given:
            served = list(engine.stream(lm.decoding_layout(params), requests, jax.random.key(0)))
        completions = [list(range(5 + i, 9 + 2 * i)) for i in range(8)]
        scores = scoring.score(lm, params, PROMPTS, completions, batch_tokens=256)
    assert {name for name, _ in given} == {"read_blocks", "decode_burst"}
    assert all(array.is_deleted() for _, cache in given for array in jax.tree.leaves(cache))
    completed = {request.id: completion for request, completion in served}
    return [completed[i] for i in range(8)], scores


def assert_close(tree, other, tolerance):
    def close(path, a, b):
        scale = max(float(np.abs(b).max()), 1e-3)
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale, err_msg=name)

    jax.tree_util.tree_map_with_path(close, tree, other)


def assert_same_step(one, other):
    """Loss, gradients (Adam's first moment is a tenth of them) and what the step made of the parameters."""
    (metrics, state, _), (expected, expected_state, _) = one, other
    for name in ("total", "count", "gradient_norm"):
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5)
    gradients, expected_gradients = (optax.tree.get(s.opt_state, "mu") for s in (state, expected_state))
    assert_close(jax.device_get(gradients), jax.device_get(expected_gradients), 1e-5)
    assert_close(jax.device_get(state.params), jax.device_get(expected_state.params), 1e-4)


@pytest.mark.parametrize(("family", "mesh_name"), SOME_FAST)
def test_loss_gradients_and_a_step(family, mesh_name):
    assert_same_step(trained(family, mesh_name), trained(family, "one"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "mesh_name"),
    [("qwen3", "all three"), ("qwen3_moe", "sequence")],
)
def test_a_step_of_an_adapter(family, mesh_name):
    micro_batches = 2 if family == "qwen3" else 1
    sharded = trained(family, mesh_name, adapted=True, micro_batches=micro_batches)
    assert_same_step(sharded, trained(family, "one", adapted=True))


@pytest.mark.parametrize(("adapted", "micro_batches"), [(False, 1), (False, 2), (True, 2)])
def test_a_step_writes_the_whole_state_in_place(adapted, micro_batches):
    _, state, in_place = trained("qwen3", "all three", adapted=adapted, micro_batches=micro_batches)
    of_a_device = [array.addressable_shards[0].data.nbytes for array in jax.tree.leaves(state)]
    assert in_place == sum(of_a_device)


@pytest.mark.parametrize(("family", "mesh_name"), SOME_FAST)
def test_scores_and_greedy_decoding(family, mesh_name):
    completions, scores = sampled_and_scored(family, mesh_name)
    expected_completions, expected_scores = sampled_and_scored(family, "one")
    for one, other in zip(scores, expected_scores, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    for one, other in zip(completions, expected_completions, strict=True):
        assert one.token_ids == other.token_ids
        np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-4)


@pytest.mark.parametrize("adapted", [False, True])
def test_decoding_moves_tokens_and_no_weights(adapted):
    lm, mesh = causal_lm.CausalLM(CONFIGS["qwen3"], rules.DEFAULT_RULES), mesh_of(MESHES["all three"])
    with jax.set_mesh(mesh):
        params = place(lm, make("qwen3"), mesh)
        if adapted:
            params = lora.attach(lm, params, ADAPTER, jax.random.key(1), mesh)
        decoding, cache = lm.decoding_layout(params), slots.empty_cache(lm, 16, 4)
        rows, key = slots.idle_slots(8, 4), jax.random.key(0)

        def largest_part_sent(of_params):
            burst = slots.decode_burst.lower(lm, of_params, cache, rows, key, 1, 1, max_steps=2)
            kinds = "all-gather|all-to-all|all-reduce|reduce-scatter|collective-permute"
            sent = re.findall(rf"\w+\[([\d,]+)\]\S* (?:{kinds})\(", burst.compile().as_text())
            return max(math.prod(map(int, shape.split(","))) for shape in sent)

        # 8 rows of the widest features, the vocabulary's 64, are the most; the smallest matrix has 32 x 32.
        assert largest_part_sent(decoding) <= 8 * 64
        assert largest_part_sent(params) >= 32 * 32


@pytest.mark.parametrize(
    ("family", "mesh_name", "path", "shape"),
    [
        ("qwen3", "fsdp", ("layers", "mlp", "up_proj", "kernel"), (2, 4, 32)),
        ("qwen3", "tensor", ("layers", "self_attn", "q_proj", "kernel"), (2, 32, 8)),
        ("qwen3", "all three", ("lm_head", "kernel"), (16, 32)),
        ("qwen3", "sequence", ("layers", "mlp", "down_proj", "kernel"), (2, 16, 8)),
        ("qwen3_moe", "expert", ("layers", "mlp", "experts", "gate_proj", "kernel"), (2, 1, 32, 32)),
        ("qwen3_moe", "expert", ("layers", "mlp", "router", "kernel"), (2, 8, 4)),
    ],
)
def test_a_device_holds_its_part_of_parameters_and_moments(family, mesh_name, path, shape):
    _, state, _ = trained(family, mesh_name)
    for tree in (state.params, optax.tree.get(state.opt_state, "mu"), optax.tree.get(state.opt_state, "nu")):
        array = functools.reduce(lambda node, name: node[name], path, tree)
        assert {shard.data.shape for shard in array.addressable_shards} == {shape}


def test_a_state_written_on_one_mesh_goes_on_on_another(tmp_path):
    _, state, _ = trained("qwen3", "all three")
    saved = TrainingCheckpoints(tmp_path, keep=1)
    saved.save(1, state)
    saved.wait()
    _, like, _ = trained("qwen3", "sequence")
    wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
    step, restored = saved.restore_latest(wanted)
    saved.close()
    assert step == 1
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(jax.device_get(a), jax.device_get(b)), restored, state
    )
    for array, wanted in zip(jax.tree.leaves(restored), jax.tree.leaves(like), strict=True):
        assert array.sharding.is_equivalent_to(wanted.sharding, array.ndim)


def program_of_a_layer(sizes, axes):
    """One MLP-like product over tokens that `axes` split: what a device multiplies."""
    mesh = mesh_of(sizes)
    with jax.set_mesh(mesh):

        def product(x, w):
            flat = sequence_shards.as_sequence_shards(x, rules.DEFAULT_RULES).reshape(-1, x.shape[-1])
            return rules.constrain(flat, (axes, None), rules.DEFAULT_RULES) @ w

        x = jax.ShapeDtypeStruct((8, 16, 4), jnp.float32)
        return jax.jit(product).lower(x, jax.ShapeDtypeStruct((4, 4), jnp.float32)).compile()


def test_flat_tokens_of_split_positions_are_nobodys_twice():
    """128 tokens over 2 x 2 shards: 32 a device; by rows alone each pair would multiply the same 64."""
    sizes = {"fsdp": 2, "sequence": 2}
    assert program_of_a_layer(sizes, sequence_shards.TOKENS).cost_analysis()["flops"] == 2 * 32 * 16
    assert program_of_a_layer(sizes, "batch").cost_analysis()["flops"] == 2 * 64 * 16


def test_sequence_shards_are_what_devices_hold_and_come_back():
    mesh = mesh_of({"data": 2, "sequence": 4})
    rows = jnp.arange(4 * 8).reshape(4, 8)
    with jax.set_mesh(mesh):
        cut = jax.jit(lambda x: sequence_shards.as_sequence_shards(x, rules.DEFAULT_RULES))(rows)
        back = jax.jit(lambda x: sequence_shards.as_rows(x, rows.shape, rules.DEFAULT_RULES))(cut)
        uneven = sequence_shards.as_sequence_shards(rows[:, :6], rules.DEFAULT_RULES)
    # First device: rows 0 and 1, positions 0 and 1; then their positions 2 and 3.
    np.testing.assert_array_equal(cut[:4], [[0, 1], [8, 9], [2, 3], [10, 11]])
    assert cut.addressable_shards[0].data.shape == (2, 2)
    np.testing.assert_array_equal(back, rows)
    assert uneven.shape == (4, 6)
