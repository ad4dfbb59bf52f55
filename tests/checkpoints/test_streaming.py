"""Weights go into shards and out of them tensor by tensor: same numbers, little memory, few reads."""

import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from promptcot_jax.checkpoints import huggingface, load
from promptcot_jax.models import causal_lm, hf_mapping, language_model
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.parallel import placing
from promptcot_jax.parallel import rules as rules_lib
from tests import toys
from tests.cases import some_fast
from tests.checkpoints import conftest

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
IMPORT_MEMORY = pathlib.Path(__file__).with_name("import_memory.py")  # sets JAX's devices: not imported here
MESHES = {
    "fsdp x tensor": {"fsdp": 4, "tensor": 2},
    "replicas": {"data": 4, "fsdp": 2},
    "experts": {"data": 2, "expert": 4},
    "experts x fsdp x tensor": {"expert": 2, "fsdp": 2, "tensor": 2},
}


def make_mesh(name: str) -> jax.sharding.Mesh:
    return mesh_lib.make_mesh(mesh_lib.MeshConfig(**MESHES[name]))


def assert_bit_equal(left, right) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("mesh_name", some_fast(MESHES, fast=(3,)))
@pytest.mark.parametrize("family", toys.FAMILIES)
def test_any_mesh_holds_the_same_model_and_writes_the_same_files(tmp_path, family, mesh_name):
    model, mesh = conftest.toy_model(family, tie_embeddings=False), make_mesh(mesh_name)
    one, other = tmp_path / "one", tmp_path / "other"
    huggingface.save_hf(one, model.lm, model.params, model.tokenizer, max_shard_bytes=30_000)
    sharded = load.load_model(one, mesh=mesh)
    shardings = language_model.param_shardings(sharded.lm, mesh)
    assert jax.tree.map(lambda leaf: leaf.sharding, sharded.params) == shardings
    assert_bit_equal(jax.device_get(sharded.params), jax.device_get(model.params))
    huggingface.save_hf(other, sharded.lm, sharded.params, sharded.tokenizer, max_shard_bytes=30_000)
    files = sorted(path.name for path in one.iterdir())
    assert files == sorted(path.name for path in other.iterdir())
    assert all((one / name).read_bytes() == (other / name).read_bytes() for name in files)


@pytest.mark.parametrize("shape", [{"fsdp": 4, "tensor": 2}, {"expert": 3, "data": 2}])
def test_four_bit_experts_on_a_mesh(shape):
    directory = epath.Path(FIXTURES / "tiny_gpt_oss_mxfp4")
    config = huggingface.read_config(directory)
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(**shape))
    rules = dict(rules_lib.DEFAULT_RULES) | {"embed": "fsdp"}  # of 32, which three devices do not divide
    lm = causal_lm.CausalLM(config, tuple(rules.items()))
    with huggingface.opened(directory, config) as get:
        whole = hf_mapping.from_hf_tensors(get, config)
        sharded = hf_mapping.from_hf_tensors(get, config, language_model.param_shardings(lm, mesh))
    assert_bit_equal(jax.device_get(sharded), jax.device_get(whole))


class _Counted:
    """An array that knows how many of its rows were read."""

    def __init__(self, array: np.ndarray):
        self.shape, self.array, self.rows = array.shape, array, 0

    def __getitem__(self, rows: slice) -> np.ndarray:
        self.rows += len(range(*rows.indices(self.shape[0])))
        return self.array[rows]


@pytest.mark.parametrize("family", ["llama", "qwen3_moe", "gpt_oss"])
def test_a_host_reads_the_rows_that_its_devices_hold_and_each_once(family, monkeypatch):
    """Of two hosts with four devices each, who hold half of the experts each."""
    model, mesh = conftest.toy_model(family), make_mesh("experts x fsdp x tensor")
    tensors = {name: _Counted(t) for name, t in hf_mapping.to_hf_tensors(model.params, model.lm.config)}
    ours = set(mesh.devices[:, :, 0].flat)
    all_parts = placing.local_parts

    def parts_of_one_host(*arguments):
        return [part for part in all_parts(*arguments) if ours & set(part.devices)]

    monkeypatch.setattr(placing, "local_parts", parts_of_one_host)
    monkeypatch.setattr(placing, "from_parts", lambda shape, sharding, parts: jnp.zeros(shape))
    monkeypatch.setattr(placing, "set_layer", lambda stack, layer, i: stack)
    hf_mapping.from_hf_tensors(
        tensors.__getitem__, model.lm.config, language_model.param_shardings(model.lm, mesh)
    )
    for name, tensor in tensors.items():
        assert tensor.rows == tensor.shape[0] * share_of_rows(name, family), name


def share_of_rows(name: str, family: str) -> float:
    """What the host needs of a tensor whose first axis lies over experts, or over fsdp and experts."""
    if "experts." in name and family == "qwen3_moe":
        return 1 if ".experts.0." in name or ".experts.1." in name else 0
    if any(part in name for part in ("experts.", "o_proj", "down_proj", "layernorm", "model.norm")):
        return 1 / 2
    return 1


@pytest.mark.slow
def test_reading_and_writing_take_memory_for_tensors_not_for_parameters(tmp_path):
    run = subprocess.run(
        [sys.executable, str(IMPORT_MEMORY), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(FIXTURES.parents[1]), "PATH": ""},
    )
    figures = json.loads(run.stdout)
    assert figures["parameters"] > 1200  # MB, like all figures
    assert figures["largest_parameter"] == 20 * figures["largest_tensor"] == 320
    # 65 and 110 of 16 MB tensors: a few of them, and what compiling leaves behind.
    assert figures["reading"] < 160
    assert figures["writing"] < 160


def test_a_bucket_is_written_and_read(bucket):
    model, mesh = conftest.toy_model("qwen3"), make_mesh("fsdp x tensor")
    huggingface.save_hf("gs://bucket/m", model.lm, model.params, model.tokenizer, max_shard_bytes=20_000)
    names = {name.rpartition("/")[2] for name in bucket.find("gs://bucket/m")}
    assert {"config.json", "tokenizer.json", "generation_config.json", huggingface.INDEX} < names
    bucket.bytes_read = 0
    loaded = load.load_model("gs://bucket/m", mesh=mesh)
    assert_bit_equal(jax.device_get(loaded.params), jax.device_get(model.params))
    assert bucket.bytes_read < 1.3 * bucket.du("gs://bucket/m")  # not once for each device
    huggingface.save_hf("gs://bucket/m", model.lm, model.params, model.tokenizer)
    files = {name.rpartition("/")[2] for name in bucket.find("gs://bucket/m")}
    assert {name for name in files if name.startswith("model")} == {huggingface.WEIGHTS}
