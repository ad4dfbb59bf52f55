"""Our own model checkpoints: bit-equal, and complete or refused."""

import dataclasses
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promptcot_jax.checkpoints import load, store
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.models import language_model
from promptcot_jax.parallel import mesh as mesh_lib
from tests.cases import some_fast
from tests.checkpoints import conftest


def save(directory, model: conftest.ToyModel) -> None:
    store.save_model(directory, model.lm, model.params, model.tokenizer, {"stage": "em", "round": 3})


@pytest.fixture(scope="module")
def saved(tmp_path_factory, llama):
    directory = tmp_path_factory.mktemp("store") / "theta"
    save(directory, llama)
    return directory


@pytest.fixture
def copy(saved, tmp_path):
    """A copy of the saved model that a test may damage."""
    return shutil.copytree(saved, tmp_path / "theta")


def assert_bit_equal(left, right) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_model_comes_back_bit_equal(tmp_path, family):
    model = conftest.toy_model(family, tie_embeddings=family != "qwen3")
    save(tmp_path / "m", model)
    loaded = load.load_model(tmp_path / "m")
    assert_bit_equal(loaded.params, model.params)
    assert loaded.lm == model.lm
    assert loaded.tokenizer.digest == model.tokenizer.digest


def test_bfloat16_parameters_keep_their_bits_and_float32_ones_are_rounded(tmp_path, saved, llama):
    model = conftest.toy_model("qwen2", dtype="bfloat16", param_dtype="bfloat16")
    save(tmp_path / "m", model)
    assert_bit_equal(load.load_model(tmp_path / "m", dtype="bfloat16").params, model.params)
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), llama.params)
    assert_bit_equal(load.load_model(saved, dtype="bfloat16").params, rounded)


def test_parameters_go_straight_into_their_shards(saved, llama):
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(fsdp=4, tensor=2))
    loaded = load.load_model(saved, mesh=mesh)
    kernel = loaded.params["layers"]["mlp"]["up_proj"]["kernel"]
    assert len(kernel.addressable_shards) == 8
    assert kernel.addressable_shards[0].data.shape == (2, 32 // 4, 48 // 2)
    assert_bit_equal(jax.device_get(loaded.params), jax.device_get(llama.params))


def test_provenance_tells_the_digest_of_the_parameters(saved, llama):
    provenance = store.load_provenance(saved)
    assert provenance == {"stage": "em", "round": 3, "params_digest": store.params_digest(llama.params)}


def test_digest_depends_on_values_names_shapes_and_dtypes():
    a = {"x": jnp.zeros(4), "y": jnp.ones(4)}
    different = [
        {"x": jnp.zeros(4), "y": jnp.ones(4).at[3].set(1.0000001)},
        {"x": jnp.zeros(4), "z": jnp.ones(4)},
        {"x": jnp.zeros((2, 2)), "y": jnp.ones(4)},
        {"x": jnp.zeros(4, jnp.int32), "y": jnp.ones(4)},
        {"y": jnp.zeros(4), "x": jnp.ones(4)},
    ]
    digests = [store.params_digest(tree) for tree in (a, *different)]
    assert len(set(digests)) == len(digests)
    assert store.params_digest({"y": a["y"], "x": a["x"]}) == digests[0]


def test_saving_again_replaces_the_model(tmp_path, llama):
    save(tmp_path / "m", llama)
    (tmp_path / "m" / "stray").write_text("of the old one")
    other = conftest.toy_model("qwen3")
    save(tmp_path / "m", other)
    assert_bit_equal(load.load_model(tmp_path / "m").params, other.params)
    assert not (tmp_path / "m" / "stray").exists()
    assert os.listdir(tmp_path) == ["m"]


def test_a_directory_without_its_marker_is_never_loaded(copy):
    os.unlink(copy / "COMPLETE")
    assert not store.is_complete(copy)
    with pytest.raises(WrongUse, match=r"theta: an incomplete checkpoint \(no COMPLETE"):
        load.load_model(copy)
    with pytest.raises(WrongUse, match="incomplete"):
        store.load_provenance(copy)


def test_a_model_left_half_written_is_named(tmp_path, saved):
    half = shutil.copytree(saved, tmp_path / "theta.part")
    os.unlink(half / "COMPLETE")
    with pytest.raises(WrongUse, match=r"theta\.part: an incomplete checkpoint"):
        load.load_model(tmp_path / "theta")


def test_a_killed_save_leaves_the_old_model(tmp_path, llama, monkeypatch):
    save(tmp_path / "m", llama)

    def killed(directory):
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "mark_complete", killed)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "m", conftest.toy_model("qwen3"))
    assert_bit_equal(load.load_model(tmp_path / "m").params, llama.params)


@pytest.mark.parametrize("damage", ["truncated", "missing", "empty marker"])
def test_a_changed_directory_is_not_complete(copy, damage):
    data = max((p for p in (copy / "params").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    if damage == "truncated":
        data.write_bytes(data.read_bytes()[:-1])
    elif damage == "missing":
        data.unlink()
    else:
        (copy / "COMPLETE").write_text("")
    assert not store.is_complete(copy)
    with pytest.raises(WrongUse, match="theta: a damaged checkpoint"):
        load.load_model(copy)


def test_every_flipped_byte_of_the_arrays_is_noticed(copy):
    for file in [p for p in (copy / "params").rglob("*") if p.is_file()]:
        content = file.read_bytes()
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 1
        file.write_bytes(flipped)
        with pytest.raises(WrongUse, match=f"{file.name}: damaged"):
            load.load_model(copy)
        file.write_bytes(content)
    load.load_model(copy)


def test_a_config_of_another_model_is_refused_with_the_parameter(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    store.mark_complete(store.location(copy))  # as a user who edits and re-marks would
    with pytest.raises(WrongUse, match=r"'layers\.mlp\.down_proj\.kernel': shape \[2, 64, 32\] expected"):
        load.load_model(copy)


def test_paths_that_orbax_would_glob_are_refused(tmp_path, llama):
    with pytest.raises(WrongUse, match="rename it"):
        save(tmp_path / "lr[1e-5]", llama)


MESHES = [{"fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}, {}]


@pytest.mark.parametrize("family", some_fast(["llama", "qwen3_moe"]))
def test_a_model_goes_from_mesh_to_mesh_bit_equal(tmp_path, family):
    model = conftest.toy_model(family)
    save(tmp_path / "0", model)
    for i, shape in enumerate(MESHES):
        mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(**shape))
        loaded = load.load_model(tmp_path / str(i), mesh=mesh)
        wanted = language_model.param_shardings(loaded.lm, mesh)
        assert jax.tree.map(lambda leaf: leaf.sharding, loaded.params) == wanted
        assert_bit_equal(jax.device_get(loaded.params), jax.device_get(model.params))
        save(tmp_path / str(i + 1), dataclasses.replace(model, params=loaded.params))
