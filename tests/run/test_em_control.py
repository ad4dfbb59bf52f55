"""The control world through the stages: its rows, rows by role, all arms from one cold start."""

import json

import jax
import numpy as np
import pytest

from promptcot_jax.checkpoints import load
from promptcot_jax.core import jsonl, records
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.corpus import plans
from promptcot_jax.run.stage import run_stage

FILES = ("runs/em_control.gin",)
SMALL = (
    "plans.PlansConfig.num_annotated=96",
    "plans.PlansConfig.num_others=24",
    "plans.PlansConfig.num_heldout=8",
    "VOCAB_SIZE=400",
    "COLD_START_ROWS={'theta': 96, 'phi': 40}",
    "COLD_START_EPOCHS=40",
    "COLD_START_BATCH=2",
    "EM_FIRST_TRIPLE=96",
    "EM_PAIRS_PER_ROUND=12",
    "MAX_ROUNDS=1",
    "HELD_OUT_PAIRS=8",
    "HELD_OUT_BOUND_PAIRS=4",
    "HELD_OUT_SAMPLES=6",
    "EM_GROUP_SIZE=3",
)


def test_the_corpus_of_plans_has_two_splits_and_a_tokenizer_that_writes_letters_whole(tmp_path):
    run_stage("corpus", FILES, SMALL, tmp_path)
    rows = jsonl.read_records(tmp_path / "triples.jsonl", records.Triple)
    config = plans.PlansConfig(num_annotated=96, num_others=24, num_heldout=8)
    assert (rows, jsonl.read_records(tmp_path / "triples_heldout.jsonl", records.Triple)) == plans.generate(
        config
    )
    assert not (tmp_path / "triples_novel.jsonl").exists()
    assert (tmp_path / "tokenizer").is_dir()


@pytest.mark.parametrize(
    ("stage", "binding", "message"),
    [
        ("cold_start", "COLD_START_ROWS={'direct': 5}", "names \\['direct'\\], which is not among roles"),
        ("cold_start", "COLD_START_ROWS={'phi': -1}", "must be 0 \\(all\\) or more"),
        ("em", "EM_ARMS=('fixed', 'fixed')", "must name each arm once"),
        ("em", "EM_ARMS=('e_step',)", "not 'e_step', the run's own"),
    ],
)
def test_rows_and_arms_that_cannot_be_are_refused(tmp_path, stage, binding, message):
    run_stage("corpus", FILES, SMALL, tmp_path)
    for role in ("theta", "phi") if stage == "em" else ():  # the stage asks for its inputs first
        (tmp_path / "cold_start" / role).mkdir(parents=True)
    with pytest.raises(WrongUse, match=message):
        run_stage(stage, FILES, (*SMALL, binding), tmp_path)


@pytest.mark.slow
def test_all_arms_start_from_one_cold_start_and_each_leaves_its_rounds(tmp_path):
    for stage in ("corpus", "cold_start", "em"):
        run_stage(stage, FILES, SMALL, tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert "'theta_rows': 96" in str(manifest)
    assert "'phi_rows': 40" in str(manifest)
    arms = {
        "e_step": tmp_path / "em",
        **{
            arm: tmp_path / "em" / arm
            for arm in ("self_training", "fixed_sampled", "fixed", "given", "reward_weighted")
        },
    }
    cold = [json.loads((directory / "cold_start.json").read_text()) for directory in arms.values()]
    assert all(figures == cold[0] for figures in cold)
    models = {}
    for arm, directory in arms.items():
        rows = [row for _, _, row in jsonl.iter_rows(directory / "nll.jsonl")]
        assert [(row["variant"], row["round"]) for row in rows] == [(arm, -1), (arm, 0)]
        models[arm] = [
            jax.tree.map(np.asarray, load.load_model(directory / "round_000" / role).params)
            for role in ("theta", "phi")
        ]
    samples = {
        arm: len(jsonl.read_records(arms[arm] / "round_000" / "candidates.jsonl", records.Candidate))
        for arm in ("e_step", "self_training", "reward_weighted")
    }
    assert samples == {"e_step": 36, "self_training": 12, "reward_weighted": 36}
    cold_phi = jax.tree.map(np.asarray, load.load_model(tmp_path / "cold_start" / "phi").params)
    for arm in ("fixed", "fixed_sampled", "given"):
        jax.tree.map(np.testing.assert_array_equal, models[arm][1], cold_phi)
    embeddings = [theta["embed_tokens"]["embedding"] for theta, _ in models.values()]
    assert len({array.tobytes() for array in embeddings}) == len(arms)  # each was fitted to something else
