"""Exports of every family load in `transformers` with the same logits, and what it saves loads here.

Skipped without torch and transformers; PROMPTCOT_TRANSFORMERS_PYTHON names an interpreter that has them.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from promptcot_jax.checkpoints import huggingface, load
from promptcot_jax.parallel import mesh as mesh_lib
from tests import toys
from tests.checkpoints import conftest

PYTHON = os.environ.get("PROMPTCOT_TRANSFORMERS_PYTHON", sys.executable)
SCRIPT = pathlib.Path(__file__).with_name("transformers_side.py")
TOKEN_IDS = np.random.default_rng(1).integers(256, size=(2, 12))
TURN = [{"role": "user", "content": "2 + 2?"}]


def has_transformers() -> bool:
    asked = subprocess.run([PYTHON, "-c", "import torch, transformers"], capture_output=True)
    return asked.returncode == 0


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The models, where they are, and what transformers read there."""
    if not has_transformers():
        pytest.skip(f"{PYTHON} has no torch and transformers")
    directory = tmp_path_factory.mktemp("exports")
    np.save(directory / "token_ids.npy", TOKEN_IDS)
    models = {
        family: conftest.toy_model(family, tie_embeddings="gemma" in family) for family in toys.FAMILIES
    }
    for family, model in models.items():
        tokenizer = dataclasses.replace(
            model.tokenizer, stop_ids=(256, 258), generation_defaults={"do_sample": True, "temperature": 0.7}
        )
        huggingface.save_hf(
            directory / family / "ours", model.lm, model.params, tokenizer, max_shard_bytes=30_000
        )
    run = subprocess.run([PYTHON, str(SCRIPT), str(directory)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return models, directory, json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("family", toys.FAMILIES)
def test_transformers_computes_the_same_from_our_files(exported, family):
    models, directory, read = exported
    model, facts = models[family], read[family]
    assert facts["problems"] == []
    ours = model.lm.unembed(model.params, jax.jit(model.lm.hidden_states)(model.params, TOKEN_IDS))
    np.testing.assert_allclose(np.load(directory / family / "logits.npy"), ours, atol=1e-4)
    assert facts["ids"] == model.tokenizer.encode("one 2\n")
    assert facts["chat"] == model.tokenizer.render_chat(TURN)
    assert (facts["end_ids"], facts["temperature"]) == ([256, 258], 0.7)


@pytest.mark.parametrize("family", toys.FAMILIES)
def test_what_transformers_saves_comes_back_bit_equal(exported, family):
    models, directory, _ = exported
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(fsdp=4, tensor=2))
    loaded = load.load_model(directory / family / "theirs", mesh=mesh)
    for a, b in zip(jax.tree.leaves(loaded.params), jax.tree.leaves(models[family].params), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    assert loaded.lm.config == models[family].lm.config
    assert loaded.tokenizer.stop_ids == (256, 258)
    assert loaded.tokenizer.generation_defaults["temperature"] == 0.7
    assert len(list((directory / family / "theirs").glob("*.safetensors"))) > 1
