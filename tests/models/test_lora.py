"""Adapters: they begin as nothing, compute what merged weights do, and are all that is trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promptcot_jax.checkpoints import adapters, load, store
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.models import causal_lm, lora
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.parallel import rules
from promptcot_jax.sampling import generation, token_choice
from promptcot_jax.trainers import loop as fitter_lib
from promptcot_jax.trainers import optimizer, sft, train_step
from tests import toys
from tests.trainers import toy_fit

CONFIG = lora.LoraConfig(rank=3, alpha=6.0)
LM = causal_lm.CausalLM(toys.toy_config("qwen3"))
IDS = jax.random.randint(jax.random.key(5), (2, 9), 0, 256)


def _trained(lm=LM, config=CONFIG, seed=0):
    """A model whose adapter is not nothing any more."""
    params = lm.init(jax.random.key(seed))
    params = lora.attach(lm, params, config, jax.random.key(1))
    adapter, frozen = lora.split(params)
    noise = [jax.random.normal(jax.random.key(i), x.shape) for i, x in enumerate(jax.tree.leaves(adapter))]
    moved = jax.tree.map(
        lambda x, n: x + 0.1 * n, adapter, jax.tree.unflatten(jax.tree.structure(adapter), noise)
    )
    return lora.join(moved, frozen)


def _fitter(mesh, config):
    return fitter_lib.Fitter(
        fit=fitter_lib.FitConfig(row_length=12),
        optimizer=optimizer.OptimizerConfig(learning_rate=3e-2),
        loop=toy_fit.CONFIG,
        mesh=mesh,
        seed=0,
        adapter=config,
    )


def test_a_new_adapter_changes_nothing_and_shares_the_arrays():
    params = LM.init(jax.random.key(0))
    adapted = lora.attach(LM, params, CONFIG, jax.random.key(1))
    np.testing.assert_array_equal(LM.hidden_states(adapted, IDS), LM.hidden_states(params, IDS))
    assert adapted["layers"]["mlp"]["up_proj"]["kernel"] is params["layers"]["mlp"]["up_proj"]["kernel"]


def test_a_product_by_hand():
    """One layer, one target: W + alpha / rank * A B."""
    params = _trained(config=lora.LoraConfig(rank=2, alpha=5.0, targets=("v_proj",)))
    parts = params["layers"]["self_attn"]["v_proj"]
    expected = np.asarray(parts["kernel"]) + 2.5 * np.asarray(parts["lora_a"]) @ np.asarray(parts["lora_b"])
    merged = lora.merged(params)
    np.testing.assert_allclose(merged["layers"]["self_attn"]["v_proj"]["kernel"], expected, atol=1e-5)
    same = ("q_proj", "k_proj", "o_proj")
    for name in same:
        np.testing.assert_array_equal(
            merged["layers"]["self_attn"][name]["kernel"], params["layers"]["self_attn"][name]["kernel"]
        )
    assert not lora.is_adapted(merged)


def test_merged_weights_compute_the_same():
    params = _trained()
    plain = LM.hidden_states(LM.init(jax.random.key(0)), IDS)
    adapted, merged = (LM.hidden_states(p, IDS) for p in (params, lora.merged(params)))
    np.testing.assert_allclose(adapted, merged, atol=1e-5)
    assert np.abs(np.asarray(adapted) - np.asarray(plain)).max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("on_mesh", [True, False])
def test_decoding_with_an_adapter_is_decoding_with_merged_weights(on_mesh):
    """The plain layout has fused matrices; with rules layers stay scanned and keep the adapter."""
    params, lm = _trained(), LM
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(data=2, tensor=2))
    if on_mesh:
        lm = causal_lm.CausalLM(LM.config, rules.DEFAULT_RULES)
    made = []
    with jax.set_mesh(mesh):
        for p in (params, lora.merged(params)):
            completions = generation.generate(
                lm,
                lm.decoding_layout(p),
                [[1, 2, 3], [4, 5, 6, 7]],
                sampling=token_choice.SamplingConfig(temperature=0.0, max_new_tokens=8),
                stop_ids=[],
                key=jax.random.key(0),
            )
            made.append(completions)
    for one, other in zip(*made, strict=True):
        assert one.token_ids == other.token_ids
        np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [{"fsdp": 4, "tensor": 2}, {}])
def test_a_fit_trains_the_adapter_alone(tmp_path, mesh):
    lm = causal_lm.CausalLM(toy_fit.toy_lm().config, rules.DEFAULT_RULES)
    made = mesh_lib.make_mesh(mesh_lib.MeshConfig(**mesh))
    fitter = _fitter(made, CONFIG)
    with jax.set_mesh(made):
        base = lm.init(jax.random.key(0))
        base = jax.device_put(base, rules.sharding_tree(made, lm.logical_axes(), base))
        batches = toy_fit.toy_batches()
        before, _ = sft.nll(lm, base, batches, mesh=made)
        settings = {"directory": tmp_path, "name": "toy", "loss": sft.SftLoss()}
        fitted = fitter.train(lm, base, batches, **settings)
        after, _ = sft.nll(lm, fitted, batches, mesh=made)
        again = fitter.train(lm, base, batches, **settings)  # from its last checkpoint
    assert after < 0.9 * before
    jax.tree.map(np.testing.assert_array_equal, lora.base_of(fitted), base)
    jax.tree.map(np.testing.assert_array_equal, again, fitted)
    b = fitted["layers"]["mlp"]["up_proj"]["lora_b"]
    assert b.sharding.shard_shape(b.shape)[2] * mesh.get("tensor", 1) == b.shape[2]
    other = _fitter(made, lora.LoraConfig(rank=4))
    with pytest.raises(WrongUse, match="rank 3 .* set LORA"):
        other.train(lm, fitted, batches, **(settings | {"directory": tmp_path / "other"}))


def test_a_checkpoint_holds_the_adapter_and_finds_its_base(tmp_path):
    tokenizer = toys.byte_tokenizer()
    params = _trained()
    base = lora.base_of(params)
    store.save_model(tmp_path / "base", LM, base, tokenizer, {"stage": "test"})
    record = adapters.after_fit(None, CONFIG, str(tmp_path / "base"), base)
    for name in ("theta", "phi"):
        store.save_model(tmp_path / name, LM, params, tokenizer, {"stage": "test"}, adapter=record)
    bases: load.Bases = {}
    theta, phi = (load.load_model(tmp_path / name, bases=bases) for name in ("theta", "phi"))
    jax.tree.map(np.testing.assert_array_equal, theta.params, params)
    assert theta.adapter == record
    kernels = [model.params["layers"]["mlp"]["up_proj"]["kernel"] for model in (theta, phi)]
    assert kernels[0] is kernels[1]  # one base for both
    sizes = [
        sum(file.stat().st_size for file in (tmp_path / name / "params").rglob("*") if file.is_file())
        for name in ("base", "theta")
    ]
    assert sizes[1] < 0.6 * sizes[0]

    store.save_model(tmp_path / "base", LM, LM.init(jax.random.key(9)), tokenizer, {"stage": "test"})
    with pytest.raises(WrongUse, match="trained on other weights"):
        load.load_model(tmp_path / "theta")


def test_a_model_without_a_target_is_refused():
    config = toys.toy_config("qwen3")
    with pytest.raises(ValueError, match="targets must be some of"):
        lora.LoraConfig(targets=("experts",))
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig())
    shapes = lora.abstract_params(causal_lm.CausalLM(config), mesh, "float32")
    assert shapes["norm"]["scale"].dtype == jnp.float32


def test_optimizer_states_are_those_of_the_adapter():
    made = mesh_lib.make_mesh(mesh_lib.MeshConfig())
    step = train_step.make_train_step(
        LM,
        train_step.StepConfig(
            loss=sft.SftLoss(), optimizer=optimizer.OptimizerConfig(learning_rate=1e-3), adapter=CONFIG
        ),
        made,
    )
    adapter, _ = lora.split(_trained())
    state = jax.eval_shape(step.start, adapter)
    numbers = sum(x.size for x in jax.tree.leaves(adapter))
    assert sum(x.size for x in jax.tree.leaves(state.opt_state)) == 2 * numbers + 1  # moments, and the count


def test_an_adapter_of_another_shape_is_refused():
    params = lora.attach(LM, LM.init(jax.random.key(0)), CONFIG, jax.random.key(1))
    lora.check(LM, params, CONFIG)
    of_one = lora.LoraConfig(rank=3, targets=("v_proj",))
    for config in (None, lora.LoraConfig(rank=4), of_one):
        with pytest.raises(WrongUse, match="an adapter of rank 3 at"):
            lora.check(LM, params, config)
    with pytest.raises(WrongUse, match=r"an adapter of rank 3 at \['v_proj'\]"):
        lora.check(LM, lora.attach(LM, LM.init(jax.random.key(0)), of_one, jax.random.key(1)), CONFIG)
