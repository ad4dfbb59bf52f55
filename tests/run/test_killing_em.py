"""kill -9 in cold start, E-step, both fits and M-step: the outcome is an undisturbed run's, bit for bit."""

import shutil
from pathlib import Path

import pytest

from tests.run import killing

SETTINGS = [
    "--gin_file=runs/from_scratch.gin",
    "--gin.FAMILIES=('arithmetic_series',)",
    "--gin.NUM_TRAIN=96",
    "--gin.NUM_HELDOUT=8",
    "--gin.NUM_NOVEL=4",
    "--gin.VOCAB_SIZE=512",
    "--gin.config.DecoderConfig.embed_dim=48",
    "--gin.config.DecoderConfig.mlp_dim=64",
    "--gin.config.DecoderConfig.num_layers=2",
    "--gin.ROW_LENGTH=384",
    "--gin.COLD_START_ROWS=64",
    "--gin.COLD_START_EPOCHS=20",
    "--gin.COLD_START_BATCH=8",
    "--gin.COLD_START_ROLES=('theta','phi')",
    "--gin.loop.LoopConfig.checkpoint_every=3",
    "--gin.EM_FIRST_TRIPLE=64",
    "--gin.EM_PAIRS_PER_ROUND=24",
    "--gin.MAX_ROUNDS=2",
    "--gin.EM_GROUP_SIZE=2",
    "--gin.MAX_RATIONALE_TOKENS=160",
    "--gin.HELD_OUT_PAIRS=4",
    "--gin.HELD_OUT_SAMPLES=12",
    "--gin.settings.EmConfig.pairs_per_shard=8",
    "--gin.EM_BATCH=4",
]
COLD_START_MOMENTS = (
    ("cold_start/theta_training/checkpoints/step_*", 2),
    ("cold_start/phi_training/*", 2),
)
EM_MOMENTS = (
    ("em/round_000/candidates-*.jsonl", 2),  # in the E-step
    ("em/round_000/phi_training/checkpoints/step_*", 1),  # in the fit of phi
    ("em/round_000/rationales-*.jsonl", 1),  # in the M-step
    ("em/round_000/theta_training/checkpoints/step_*", 1),  # in the fit of theta
    ("em/round_001/candidates-*.jsonl", 1),
    ("em/round_001/theta.part", 1),  # while a model is written
)


@pytest.mark.slow
def test_cold_start_and_em(undisturbed: Path, tmp_path: Path):
    killed = tmp_path / "killed"
    killing.run_to_end(["corpus", *SETTINGS, f"--workdir={killed}"])
    cold_start = ["cold_start", *SETTINGS, f"--workdir={killed}"]
    for pattern, count in COLD_START_MOMENTS:
        killing.kill_when(cold_start, killed, pattern, count=count)
    killing.run_to_end(cold_start)
    for pattern, count in EM_MOMENTS:
        killing.kill_when(["em", *SETTINGS, f"--workdir={killed}"], killed, pattern, count=count)
    killing.run_to_end(["em", *SETTINGS, f"--workdir={killed}"])
    killing.assert_same_outcome(killed, undisturbed)


@pytest.mark.slow
def test_a_changed_setting_is_refused_and_nothing_is_lost(undisturbed: Path, tmp_path: Path):
    workdir = tmp_path / "copy"
    shutil.copytree(undisturbed, workdir)
    before = killing.record_bytes(workdir)
    process = killing.start(["em", *SETTINGS, "--gin.EM_GROUP_SIZE=3", f"--workdir={workdir}"])
    [errors] = killing.outputs_of([process])
    assert process.returncode == 2
    assert "group_size was 2, now 3" in errors
    assert "Traceback" not in errors
    assert killing.record_bytes(workdir) == before
