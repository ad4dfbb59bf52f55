"""Checkpoints of a model of one's own: they say which class it is, and what cannot be read says why."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import t5x_decoder

from promptcot_jax import api
from promptcot_jax.checkpoints import huggingface, load, store
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.models import own_model
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.sources import model_source
from tests import toys

CONFIG = t5x_decoder.T5xConfig(
    vocab_size=270,
    num_layers=2,
    num_kv_heads=2,
    head_dim=8,
    max_positions=64,
    emb_dim=16,
    mlp_dim=24,
    num_heads=2,
)
LM = t5x_decoder.T5xDecoder(CONFIG, axis_rules=(("joined_kv", "fsdp"), ("kv", None), ("embed", None)))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model with rules of its own, and its parameters."""
    directory, params = tmp_path_factory.mktemp("own") / "theta", LM.init(jax.random.key(0))
    store.save_model(directory, LM, params, toys.byte_tokenizer(), {"stage": "em"})
    return directory, params


def test_a_model_comes_back_bit_equal_and_of_its_class(saved):
    directory, params = saved
    loaded = load.load_model(directory)
    assert loaded.lm == LM
    assert jax.tree.structure(loaded.params) == jax.tree.structure(params)
    for one, other in zip(jax.tree.leaves(loaded.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(one, other)
    assert store.load_provenance(directory)["params_digest"] == store.params_digest(params)


def test_types_and_mesh_are_those_of_the_loader(saved):
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(fsdp=2, tensor=2))
    loaded = load.load_model(saved[0], dtype="bfloat16", mesh=mesh)
    assert (loaded.lm.config.dtype, loaded.lm.config.param_dtype) == ("bfloat16", "bfloat16")
    query = loaded.params["decoder"]["self_attention"]["query"]["kernel"]
    assert query.dtype == "bfloat16"
    assert tuple(query.sharding.spec) == (None, None, "fsdp")  # by the model's own rules, which were saved


def test_weights_come_in_by_the_api(saved, tmp_path):
    toys.byte_tokenizer().save(tmp_path)
    params = saved[1]
    api.save_model(tmp_path / "m", LM, params, tmp_path)
    np.testing.assert_array_equal(
        api.load_model(tmp_path / "m").params["logits_kernel"], params["logits_kernel"]
    )
    wrong = params | {"logits_kernel": params["token_embedding"]}
    with pytest.raises(
        WrongUse, match=r"'logits_kernel' has shape \(270, 16\), T5xDecoder.init gives it \(16, 270"
    ):
        api.save_model(tmp_path / "wrong", LM, wrong, tmp_path)
    assert not (tmp_path / "wrong").exists()


def test_the_api_scores_and_samples_as_the_model_does(saved):
    model = api.load_model(saved[0])
    (row,) = model.generate([[1, 2, 3]], max_new_tokens=5, temperature=0.0, stop_token_ids=())
    (score,) = model.score([[1, 2, 3]], [row[0].token_ids])
    np.testing.assert_allclose(score.token_log_probs, row[0].log_probs, atol=1e-4)


def test_hugging_face_export_is_refused_by_name_or_done_by_the_model(saved, tmp_path):
    model = load.load_model(saved[0])
    with pytest.raises(WrongUse, match=r"T5xDecoder has no form in Hugging Face's libraries.*save_hf"):
        huggingface.save_hf(tmp_path / "hf", model.lm, model.params, model.tokenizer)
    assert not (tmp_path / "hf").exists()

    class Exporting(t5x_decoder.T5xDecoder):
        def save_hf(self, directory, params, tokenizer):
            directory.mkdir()
            (directory / "done").touch()

    huggingface.save_hf(tmp_path / "hf", Exporting(CONFIG), model.params, model.tokenizer)
    assert (tmp_path / "hf" / "done").exists()


def test_a_gin_file_that_describes_a_decoder_refuses_it(saved):
    source = model_source.Pretrained(path=str(saved[0]), expected=toys.toy_config())
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig())
    with pytest.raises(WrongUse, match="holds a T5xDecoder, not the decoder that the gin file describes"):
        source.load(seed=0, mesh=mesh)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class": "gone_module:T5xDecoder"}, "gone_module:T5xDecoder cannot be imported.*PYTHONPATH"),
        ({"class": "t5x_decoder:Gone"}, "t5x_decoder:Gone cannot be imported"),
        ({"class": "os:system"}, "os:system is no dataclass"),
        ({"class": "t5x_decoder:T5xConfig"}, "does not take the settings that were saved"),
        ({"settings": {"config": None}}, "must be a frozen dataclass"),
        ({"extra": 1}, "a class and its settings are expected"),
    ],
)
def test_a_description_that_cannot_be_followed_says_why(saved, tmp_path, change, message):
    text = json.loads((saved[0] / store.MODEL).read_text())
    lm_file = tmp_path / "m" / store.MODEL
    store.save_model(tmp_path / "m", LM, {"w": jax.numpy.zeros(2)}, toys.byte_tokenizer(), {})
    lm_file.write_text(json.dumps(text | change))
    store.mark_complete(store.location(tmp_path / "m"))
    with pytest.raises(WrongUse, match=rf"{store.MODEL}: .*{message}"):
        load.load_model(tmp_path / "m")


def test_other_parameters_than_described_are_refused(tmp_path):
    store.save_model(tmp_path / "m", LM, {"w": jax.numpy.zeros(2)}, toys.byte_tokenizer(), {})
    with pytest.raises(WrongUse, match="expected from model.json, none found"):
        load.load_model(tmp_path / "m")


def test_nested_settings_come_back_equal():
    """Dataclasses of several kinds inside one another, as our own decoder's are."""
    for family in toys.FAMILIES:
        config = toys.toy_config(family)
        text = json.loads(json.dumps(own_model.described(config)))
        assert own_model.from_described(text) == config
    odd = dataclasses.replace(CONFIG, logit_soft_cap=2.5)
    assert own_model.from_described(own_model.described(odd)) == odd
