"""Hugging Face directories: what goes out comes in, and what does not fit is refused by file and tensor."""

import json
import pathlib

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from etils import epath

from promptcot_jax.checkpoints import huggingface, load
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.models import hf_mapping
from promptcot_jax.models.causal_lm import CausalLM
from promptcot_jax.parallel import mesh as mesh_lib
from tests import toys
from tests.checkpoints import conftest

SHARD_BYTES = 20_000


def save(directory, model: conftest.ToyModel, max_shard_bytes: int = 1_000_000) -> None:
    huggingface.save_hf(directory, model.lm, model.params, model.tokenizer, max_shard_bytes=max_shard_bytes)


def assert_bit_equal(left, right) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def logits(model) -> np.ndarray:
    token_ids = jnp.arange(24).reshape(2, 12) * 11 % model.lm.config.vocab_size
    hidden = model.lm.hidden_states(model.params, token_ids)
    return np.asarray(hidden @ model.lm.output_embedding(model.params))


def edit_tensors(file, change) -> None:
    """Rewrites a safetensors file with `change` applied to its dict of tensors."""
    tensors = safetensors.numpy.load_file(file)
    change(tensors)
    safetensors.numpy.save_file(tensors, file, metadata={"format": "pt"})


@pytest.fixture
def single(tmp_path, llama):
    save(tmp_path / "single", llama)
    return tmp_path / "single"


@pytest.fixture
def sharded(tmp_path, llama):
    save(tmp_path / "sharded", llama, SHARD_BYTES)
    return tmp_path / "sharded"


@pytest.mark.parametrize("family", toys.FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_comes_back_bit_equal(tmp_path, family, tied):
    model = conftest.toy_model(family, tie_embeddings=tied)
    save(tmp_path / "m", model, SHARD_BYTES)
    loaded = load.load_model(tmp_path / "m")
    assert loaded.lm == model.lm
    assert_bit_equal(loaded.params, model.params)
    assert loaded.tokenizer.digest == model.tokenizer.digest
    assert loaded.source == str(tmp_path / "m")


def test_a_model_comes_back_with_its_logits(single, llama):
    assert np.array_equal(logits(load.load_model(single)), logits(llama))


def test_bfloat16_is_written_as_such_and_read_into_either_dtype(tmp_path):
    model = conftest.toy_model("qwen2", dtype="bfloat16", param_dtype="bfloat16")
    save(tmp_path / "m", model)
    with safetensors.safe_open(tmp_path / "m" / "model.safetensors", framework="np") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 == {"BF16"}
    assert_bit_equal(load.load_model(tmp_path / "m", dtype="bfloat16").params, model.params)
    widened = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), model.params)
    assert_bit_equal(load.load_model(tmp_path / "m").params, widened)


def test_shards_keep_to_their_size_and_the_index_lists_every_tensor_once(sharded):
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in sharded.glob("*.safetensors"))
    assert len(files) > 2
    assert sorted(set(index["weight_map"].values())) == files
    total = 0
    for file in files:
        tensors = safetensors.numpy.load_file(sharded / file)
        assert {index["weight_map"][name] for name in tensors} == {file}
        size = sum(tensor.nbytes for tensor in tensors.values())
        assert size <= SHARD_BYTES or len(tensors) == 1
        total += size
    assert total == index["metadata"]["total_size"]
    assert not (sharded / "model.safetensors").exists()


def test_the_files_that_transformers_looks_for_are_there(single):
    config = json.loads((single / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["eos_token_id"] == 256
    names = {"tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"}
    assert names < {path.name for path in single.iterdir()}


def test_an_export_leaves_no_weights_of_an_earlier_one(sharded):
    other = conftest.toy_model("qwen3")
    save(sharded, other)
    assert [path.name for path in sharded.glob("model*")] == ["model.safetensors"]
    assert_bit_equal(load.load_model(sharded).params, other.params)


def test_parameters_go_onto_the_mesh(sharded, llama):
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(fsdp=4, tensor=2))
    loaded = load.load_model(sharded, mesh=mesh)
    kernel = loaded.params["layers"]["mlp"]["down_proj"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (2, 48 // 2, 32 // 4)
    assert_bit_equal(jax.device_get(loaded.params), jax.device_get(llama.params))


def test_derived_tensors_of_older_exports_are_passed_over(single, llama):
    def add(tensors):
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]

    edit_tensors(single / "model.safetensors", add)
    assert_bit_equal(load.load_model(single).params, llama.params)


def test_float16_weights_are_read(single, llama):
    def halve(tensors):
        for name in tensors:
            tensors[name] = tensors[name].astype(np.float16)

    edit_tensors(single / "model.safetensors", halve)
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.float16).astype(jnp.float32), llama.params)
    assert_bit_equal(load.load_model(single).params, rounded)


NORM = "model.layers.1.post_attention_layernorm.weight"
BAD_TENSORS = {
    "missing": (lambda t: t.pop(NORM), rf"'{NORM}' is missing; config\.json asks for it with shape \[32\]"),
    "misshaped": (
        lambda t: t.update({NORM: np.ones(31, np.float32)}),
        rf"model\.safetensors: tensor '{NORM}' has shape \[31\]; config\.json asks for \[32\]",
    ),
    "unknown": (
        lambda t: t.update({"model.layers.2.mlp.up_proj.weight": np.ones((48, 32), np.float32)}),
        r"tensor 'model\.layers\.2\.mlp\.up_proj\.weight' has no place in a llama decoder of 2 layers",
    ),
    "bias": (
        lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": np.ones(32, np.float32)}),
        r"q_proj\.bias' has no place",
    ),
    "integers": (
        lambda t: t.update({NORM: np.ones(32, np.int8)}),
        rf"tensor '{NORM}' is stored as I8; only F32, F16, BF16",
    ),
    "float8": (
        lambda t: t.update({NORM: np.ones(32, ml_dtypes.float8_e4m3fn)}),
        rf"tensor '{NORM}' is stored as F8_E4M3",
    ),
}


@pytest.mark.parametrize("kind", BAD_TENSORS)
def test_a_tensor_that_does_not_fit_is_named(single, kind):
    change, message = BAD_TENSORS[kind]
    edit_tensors(single / "model.safetensors", change)
    with pytest.raises(WrongUse, match=message):
        load.load_model(single)


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_truncated_file_is_named(single, length):
    file = single / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(WrongUse, match=r"model\.safetensors: truncated, or not a safetensors file"):
        load.load_model(single)


def test_a_truncated_shard_is_named(sharded):
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-4])
    with pytest.raises(WrongUse, match=f"{shard.name}: truncated"):
        load.load_model(sharded)


def test_a_missing_shard_is_named_with_a_tensor_of_it(sharded):
    shard = sorted(sharded.glob("*.safetensors"))[1]
    names = "|".join(safetensors.numpy.load_file(shard))
    shard.unlink()
    with pytest.raises(WrongUse, match=rf"{shard.name}: no such file, though .*places '({names})'"):
        load.load_model(sharded)


def test_an_index_that_does_not_match_its_shards_is_refused(sharded):
    index = json.loads((sharded / huggingface.INDEX).read_text())
    first, *_, last = sorted(set(index["weight_map"].values()))
    moved = next(name for name, file in index["weight_map"].items() if file == first)
    index["weight_map"][moved] = last
    (sharded / huggingface.INDEX).write_text(json.dumps(index))
    with pytest.raises(WrongUse, match=rf"{last}: tensor '{moved}' is missing"):
        load.load_model(sharded)
    index["weight_map"][moved] = "../elsewhere.safetensors"
    (sharded / huggingface.INDEX).write_text(json.dumps(index))
    with pytest.raises(WrongUse, match="must be placed in a file beside it"):
        load.load_model(sharded)


def test_an_unknown_architecture_is_named(single):
    config = json.loads((single / "config.json").read_text())
    (single / "config.json").write_text(json.dumps(config | {"architectures": ["MambaForCausalLM"]}))
    with pytest.raises(WrongUse, match=r"config\.json.*MambaForCausalLM"):
        load.load_model(single)


def test_an_export_without_config_or_tokenizer_is_refused(single):
    (single / "tokenizer.json").unlink()
    with pytest.raises(WrongUse, match=r"tokenizer\.json"):
        load.load_model(single)
    (single / "config.json").unlink()
    with pytest.raises(WrongUse, match=r"config\.json: no such file"):
        load.load_model(single)


FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"


def read(directory):
    """Model, parameters and the recorded logits of a fixture, which has no tokenizer."""
    lm = CausalLM(huggingface.read_config(epath.Path(directory)))
    with huggingface.opened(epath.Path(directory), lm.config) as get:
        return lm, hf_mapping.from_hf_tensors(get, lm.config)


def test_four_bit_experts_are_read_as_transformers_reads_them():
    directory = FIXTURES / "tiny_gpt_oss_mxfp4"
    lm, params = read(directory)
    reference = np.load(directory / "reference.npz")
    states = jax.jit(lm.hidden_states)(params, reference["token_ids"])
    np.testing.assert_allclose(lm.unembed(params, states), reference["plain"], atol=1e-4)


@pytest.mark.parametrize(
    "prefixes", [("language_model.model.", "language_model."), ("model.language_model.", "")]
)
def test_of_a_checkpoint_that_sees_the_text_part_is_read(tmp_path, prefixes):
    source = FIXTURES / "tiny_gemma3"
    model, outer = prefixes
    tensors = safetensors.numpy.load_file(source / "model.safetensors")
    tensors["model.lm_head"] = tensors["model.embed_tokens.weight"]
    renamed = {
        (model + name.removeprefix("model.") if name != "model.lm_head" else f"{outer}lm_head.weight"): tensor
        for name, tensor in tensors.items()
    }
    for vision in ("vision_tower.post_layernorm.weight", "multi_modal_projector.mm_soft_emb_norm.weight"):
        renamed[("" if outer else "model.") + vision] = np.ones(3, np.float32)
    safetensors.numpy.save_file(renamed, tmp_path / "model.safetensors")
    text = json.loads((source / "config.json").read_text())
    config = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": text, "vision_config": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    seeing, alone = read(tmp_path), read(source)
    assert seeing[0] == alone[0]
    assert_bit_equal(seeing[1], alone[1])


def test_vision_tensors_have_no_place_in_other_families(tmp_path, llama):
    save(tmp_path, llama)
    edit_tensors(
        tmp_path / "model.safetensors", lambda tensors: tensors.update({"vision_tower.x": np.ones(3)})
    )
    with pytest.raises(WrongUse, match=r"vision_tower\.x"):
        read(tmp_path)
