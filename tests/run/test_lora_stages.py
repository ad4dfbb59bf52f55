"""LoRA from the command line: adapters of one base through cold start and EM, merged and taken home."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from promptcot_jax.checkpoints import load
from promptcot_jax.models import lora
from tests.run import killing
from tests.run.test_killing_em import SETTINGS

GIN = """
from __gin__ import dynamic_registration
from promptcot_jax.sources import model_source
MODEL_PATH = %gin.REQUIRED
MODEL = @model_source.Pretrained()
model_source.Pretrained.path = %MODEL_PATH
"""


@pytest.mark.slow
def test_cold_start_em_and_convert_with_adapters(undisturbed: Path, tmp_path: Path):
    base, adapted = undisturbed, tmp_path / "adapted"
    (tmp_path / "base.gin").write_text(GIN)
    settings = [
        *SETTINGS,
        f"--gin_file={tmp_path / 'base.gin'}",
        "--gin_file=models/lora.gin",
        f"--gin.MODEL_PATH='{base / 'cold_start' / 'phi'}'",
        f"--gin.TRIPLES='{base / 'triples.jsonl'}'",
        f"--gin.TRIPLES_HELDOUT='{base / 'triples_heldout.jsonl'}'",
        "--gin.COLD_START_EPOCHS=3",
        "--gin.COLD_START_LEARNING_RATE=1e-2",
        "--gin.LORA_RANK=4",
        "--gin.MAX_ROUNDS=1",
        f"--workdir={adapted}",
    ]
    for stage in ("cold_start", "em"):
        killing.run_to_end([stage, *settings])
    record = json.loads((adapted / "em/round_000/phi/adapter.json").read_text())
    assert record["base"] == str(base / "cold_start" / "phi")
    phi = load.load_model(adapted / "em/round_000/phi")
    frozen = load.load_model(base / "cold_start" / "phi")
    jax.tree.map(np.testing.assert_array_equal, lora.base_of(phi.params), frozen.params)

    convert = ["convert", "--gin_file=stages/convert.gin", f"--gin.SOURCE='{adapted}/em/round_000/phi'"]
    killing.run_to_end([*convert, "--gin.OUTPUT='{workdir}/hf'", f"--workdir={adapted}"])
    merged = load.load_model(adapted / "hf")
    assert not lora.is_adapted(merged.params)
    ids = jax.random.randint(jax.random.key(0), (2, 30), 0, 500)
    np.testing.assert_allclose(
        phi.lm.hidden_states(phi.params, ids), merged.lm.hidden_states(merged.params, ids), atol=1e-4
    )
    assert (
        np.abs(
            np.asarray(phi.lm.hidden_states(phi.params, ids))
            - np.asarray(frozen.lm.hidden_states(frozen.params, ids))
        ).max()
        > 1e-2
    )


@pytest.mark.slow
def test_an_adapter_on_new_weights_is_refused(tmp_path: Path):
    killing.run_to_end(["corpus", *SETTINGS, f"--workdir={tmp_path}"])
    process = killing.start(["cold_start", *SETTINGS, "--gin_file=models/lora.gin", f"--workdir={tmp_path}"])
    [errors] = killing.outputs_of([process])
    assert process.returncode == 2
    assert "set MODEL to a pretrained one" in errors
