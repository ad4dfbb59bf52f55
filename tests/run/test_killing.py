"""kill -9 at any moment, the same command again: the outcome is that of an undisturbed run, bit for bit."""

from pathlib import Path

import pytest

from promptcot_jax.core import jsonl, records
from tests.run import killing

SMALL_SOLVER = [
    "--gin_file=stages/corpus.gin",
    "--gin_file=stages/sft.gin",
    "--gin_file=models/tiny.gin",
    "--gin.NUM_TRAIN=64",
    "--gin.NUM_HELDOUT=8",
    "--gin.NUM_NOVEL=8",
    "--gin.SFT_BATCH=4",
    "--gin.SFT_WARMUP=2",
    "--gin.SFT_EPOCHS=4",
    "--gin.SFT_ROW_LENGTH=512",
    "--gin.sft/loop.LoopConfig.checkpoint_every=2",
    "--gin.sft/loop.LoopConfig.tensorboard=False",
]
EVALUATE = [
    "evaluate",
    "--gin_file=stages/evaluate.gin",
    "--gin.MAX_SOLUTION_TOKENS=48",
    "--gin.evaluate/rollouts.RolloutConfig.requests_per_shard=4",
    "--gin.NUM_SLOTS=4",
]
CORPUS = [
    "corpus",
    "--gin_file=stages/corpus.gin",
    "--gin.NUM_TRAIN=64",
    "--gin.NUM_HELDOUT=8",
    "--gin.NUM_NOVEL=8",
]


@pytest.mark.slow
def test_corpus(tmp_path: Path):
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    for seed in range(2):
        killing.kill_at_random([*CORPUS, f"--workdir={killed}"], longest_seconds=5.0, seed=seed)
    killing.kill_when([*CORPUS, f"--workdir={killed}"], killed, "triples.jsonl")
    killing.run_to_end([*CORPUS, f"--workdir={killed}"])
    killing.run_to_end([*CORPUS, f"--workdir={undisturbed}"])
    killing.assert_same_outcome(killed, undisturbed)


@pytest.mark.slow
def test_synthesize(writing_settings: list[str], tmp_path: Path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    settings = [
        *writing_settings,
        "--gin.TARGET=24",  # of which this model keeps some: two iterations, of 12 lists and of the other 8
        "--gin.MAX_CONCEPT_SETS=20",
        "--gin.SAMPLES_PER_SET=4",
        "--gin.synthesize/rollouts.RolloutConfig.requests_per_shard=8",
    ]
    for iteration, shards in ((0, 1), (0, 4), (1, 2)):
        pattern = f"synthesize/drafts_{iteration:03d}-*.jsonl"
        killing.kill_when([*settings, f"--workdir={killed}"], killed, pattern, count=shards)
    killing.run_to_end([*settings, f"--workdir={killed}"])
    killing.run_to_end([*settings, f"--workdir={whole}"])
    killing.assert_same_outcome(killed, whole)
    assert jsonl.read_records(killed / "problems.jsonl", records.Problem)


@pytest.mark.slow
def test_sft_and_evaluate(tmp_path: Path):
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    for workdir in (killed, undisturbed):
        killing.run_to_end([*CORPUS, f"--workdir={workdir}"])
    sft = ["sft", *SMALL_SOLVER]
    killing.kill_when([*sft, f"--workdir={killed}"], killed, "sft/checkpoints/*/COMPLETE")
    killing.kill_when([*sft, f"--workdir={killed}"], killed, "policy*")
    for shards in (1, 3):
        if shards == 1:
            killing.run_to_end([*sft, f"--workdir={killed}"])
        killing.kill_when(
            [*EVALUATE, f"--workdir={killed}"], killed, "evaluate/replies-*.jsonl", count=shards
        )
    killing.run_to_end([*EVALUATE, f"--workdir={killed}"])
    for command in (sft, EVALUATE):
        killing.run_to_end([*command, f"--workdir={undisturbed}"])
    killing.assert_same_outcome(killed, undisturbed)
    assert not list(killed.glob("sft/checkpoints/*"))
