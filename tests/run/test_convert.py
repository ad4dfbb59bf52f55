"""`convert`: what comes out computes what went in, or nothing comes out."""

import dataclasses
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from promptcot_jax.checkpoints import adapters, huggingface, load, safetensors_file, store
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.models import lora
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.run import cli, convert
from tests import toys
from tests.cases import some_fast
from tests.checkpoints import conftest
from tests.run import calling

bucket = conftest.bucket
ONE = mesh_lib.MeshConfig()
EIGHT = mesh_lib.MeshConfig(fsdp=4, tensor=2)


def converted(tmp_path: Path, source, output: str, **settings) -> load.LoadedModel:
    settings = {"mesh": ONE} | settings
    settings |= {"source": str(source), "output": f"{{workdir}}/{output}"}
    calling.call(convert.convert, workdir=str(tmp_path), **settings)
    return load.load_model(tmp_path / output, dtype=settings.get("dtype", "float32"))


def assert_bit_equal(left, right) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.fixture
def source(tmp_path: Path, llama) -> Path:
    huggingface.save_hf(tmp_path / "source", llama.lm, llama.params, llama.tokenizer)
    return tmp_path / "source"


@pytest.fixture(scope="module")
def llama() -> conftest.ToyModel:
    return conftest.toy_model("llama")


@pytest.mark.parametrize("family", some_fast(toys.FAMILIES, fast=(1,)))
def test_there_and_back_gives_the_same_files(tmp_path, family):
    model = conftest.toy_model(family, tie_embeddings=False)
    huggingface.save_hf(tmp_path / "source", model.lm, model.params, model.tokenizer)
    own = converted(tmp_path, tmp_path / "source", "own", output_format="checkpoint", mesh=EIGHT)
    assert_bit_equal(own.params, model.params)
    assert store.load_provenance(tmp_path / "own")["stage"] == "convert"
    converted(tmp_path, tmp_path / "own", "again", verify=family == "llama")
    names = sorted(os.listdir(tmp_path / "source"))
    assert sorted(os.listdir(tmp_path / "again")) == names
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "source" / name).read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["again", "own", "source"]


def test_weights_are_stored_in_the_dtype_that_is_asked_for(tmp_path, source, llama):
    model = converted(tmp_path, source, "half", dtype="bfloat16", mesh=EIGHT)
    assert_bit_equal(model.params, jax.tree.map(lambda x: x.astype("bfloat16"), llama.params))
    size, whole = ((tmp_path / name / huggingface.WEIGHTS).stat().st_size for name in ("half", "source"))
    assert 0.4 < size / whole < 0.6


def test_an_existing_output_is_refused(tmp_path, source):
    with pytest.raises(WrongUse, match="source exists already; remove it or set another OUTPUT"):
        converted(tmp_path, source, "source")


def one_number_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a file's norms have one number that is not the model's."""
    writing = safetensors_file.writing

    class Off:
        def __init__(self, *arguments):
            self.writing = writing(*arguments)

        def __enter__(self):
            write = self.writing.__enter__()

            def write_otherwise(tensor):
                tensor = np.array(tensor)
                if tensor.ndim == 1:
                    tensor[0] = np.nextafter(tensor[0], np.inf, dtype=tensor.dtype)
                write(tensor)

            return write_otherwise

        def __exit__(self, *exception):
            return self.writing.__exit__(*exception)

    monkeypatch.setattr(safetensors_file, "writing", Off)


def test_one_bit_that_differs_is_noticed_and_nothing_stays(tmp_path, source, monkeypatch, capsys):
    one_number_off(monkeypatch)
    output = tmp_path / "out"
    settings = [f"--gin.SOURCE='{source}'", f"--gin.OUTPUT='{output}'", f"--workdir={tmp_path / 'run'}"]
    assert cli.main(["convert", "--gin_file=stages/convert.gin", *settings]) == 1
    message = capsys.readouterr().err
    assert "NotTheSame" in message
    assert "of its logits differ from the source's, by" in message
    assert sorted(os.listdir(tmp_path)) == ["run", "source"]
    assert cli.main(["convert", "--gin_file=stages/convert.gin", *settings, "--gin.VERIFY=False"]) == 0


def test_a_config_that_reads_back_as_another_is_noticed(tmp_path, source, monkeypatch):
    read = huggingface.read_config

    def other(directory):
        config = read(directory)
        return config if directory.name == "source" else dataclasses.replace(config, norm_epsilon=1e-3)

    monkeypatch.setattr(huggingface, "read_config", other)
    with pytest.raises(convert.NotTheSame, match=r"norm_epsilon read back as \[0.001\]"):
        converted(tmp_path, source, "out")
    assert os.listdir(tmp_path) == ["source"]


@pytest.mark.parametrize("output_format", ["huggingface", "checkpoint"])
def test_what_a_killed_conversion_leaves_does_not_load(tmp_path, source, output_format, monkeypatch, llama):
    def killed(*arguments):
        raise KeyboardInterrupt

    writer = (safetensors_file, "writing") if output_format == "huggingface" else (store, "mark_complete")
    with monkeypatch.context() as patched:
        patched.setattr(*writer, killed)
        with pytest.raises(KeyboardInterrupt):
            converted(tmp_path, source, "out", output_format=output_format)
    left = [name for name in os.listdir(tmp_path) if name != "source"]
    assert left
    assert "out" not in left
    for name in left:
        with pytest.raises(WrongUse):
            load.load_model(tmp_path / name)
    model = converted(tmp_path, source, "out", output_format=output_format)
    assert_bit_equal(model.params, llama.params)
    assert sorted(os.listdir(tmp_path)) == ["out", "source"]


def adapted(tmp_path: Path, source: Path) -> load.LoadedModel:
    """An adapter on the source, saved; and the adapted model."""
    base = load.load_model(source)
    config = lora.LoraConfig(rank=2)
    described = adapters.after_fit(None, config, str(source), base.params)
    params = lora.attach(base.lm, base.params, config, jax.random.key(0))
    trained, frozen = lora.split(params)
    params = lora.join(jax.tree.map(lambda x: x + 0.1, trained), frozen)
    store.save_model(tmp_path / "adapter", base.lm, params, base.tokenizer, {}, described)
    return dataclasses.replace(base, params=params)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", some_fast([EIGHT, ONE]))
def test_an_adapter_is_merged(tmp_path, source, mesh):
    model = adapted(tmp_path, source)
    merged = converted(tmp_path, tmp_path / "adapter", "merged", mesh=mesh)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), merged.params, lora.merged(model.params)
    )
    again = converted(tmp_path, source, "again", adapter=str(tmp_path / "adapter"), mesh=mesh)
    assert_bit_equal(again.params, merged.params)
    on_mesh = load.load_model(tmp_path / "adapter", mesh=mesh_lib.make_mesh(mesh))
    huggingface.save_hf(tmp_path / "direct", on_mesh.lm, on_mesh.params, on_mesh.tokenizer)
    assert_bit_equal(load.load_model(tmp_path / "direct").params, merged.params)
    assert lora.is_adapted(on_mesh.params)


def test_an_adapter_needs_a_base(tmp_path, source):
    adapted(tmp_path, source)
    adapter = str(tmp_path / "adapter")
    for wrong in ({"source": source, "adapter": str(source)}, {"source": adapter, "adapter": adapter}):
        with pytest.raises(WrongUse, match="must be a checkpoint of an adapter, and SOURCE="):
            converted(tmp_path, output="out", **wrong)


def test_from_bucket_to_bucket(tmp_path, bucket, llama, monkeypatch):
    huggingface.save_hf("gs://bucket/in", llama.lm, llama.params, llama.tokenizer)
    settings = {"workdir": str(tmp_path), "source": "gs://bucket/in", "output": "gs://bucket/out"}
    convert.convert(**settings, mesh=EIGHT)
    assert_bit_equal(load.load_model("gs://bucket/out").params, llama.params)
    one_number_off(monkeypatch)
    with pytest.raises(convert.NotTheSame):
        convert.convert(**settings | {"output": "gs://bucket/wrong"}, mesh=ONE)
    assert bucket.find("gs://bucket/wrong") == []
