"""A model of one's own through gin alone: the worked example of `docs/models.md` in cold start and EM."""

import subprocess
import sys
from pathlib import Path

import gin
import pytest

from promptcot_jax.checkpoints import load
from promptcot_jax.core import jsonl, records
from promptcot_jax.run import configuration
from promptcot_jax.sources import model_source
from tests.run import killing

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
FILES = ["--gin_file=runs/from_scratch.gin", "--gin_file=t5x_decoder.gin"]
SMALL = [
    "--gin.FAMILIES=('arithmetic_series',)",
    "--gin.NUM_TRAIN=96",
    "--gin.NUM_HELDOUT=8",
    "--gin.NUM_NOVEL=4",
    "--gin.VOCAB_SIZE=512",
    "--gin.t5x_decoder.T5xConfig.emb_dim=48",
    "--gin.t5x_decoder.T5xConfig.mlp_dim=64",
    "--gin.ROW_LENGTH=384",
    "--gin.COLD_START_ROWS=64",
    "--gin.COLD_START_EPOCHS=10",
    "--gin.COLD_START_BATCH=2",  # many small steps: q_phi must learn to end its rationales
    "--gin.COLD_START_ROLES=('theta','phi')",
    "--gin.EM_FIRST_TRIPLE=64",
    "--gin.EM_PAIRS_PER_ROUND=16",
    "--gin.MAX_ROUNDS=1",
    "--gin.EM_GROUP_SIZE=2",
    "--gin.MAX_RATIONALE_TOKENS=160",
    "--gin.HELD_OUT_PAIRS=4",
    "--gin.HELD_OUT_SAMPLES=12",
    "--gin.EM_BATCH=4",
]

NO_MODEL = """
from __gin__ import dynamic_registration
import t5x_decoder
from promptcot_jax.sources import model_source

model_source.FromScratch.model = @t5x_decoder.T5xConfig()
"""


def promptcot(*arguments: str, directory: Path = EXAMPLES) -> subprocess.CompletedProcess:
    """As the installed command runs: without the current directory on Python's path (-P)."""
    code = "import sys; from promptcot_jax.run import cli; sys.exit(cli.main(sys.argv[1:]))"
    command = [sys.executable, "-P", "-c", code, *arguments]
    return subprocess.run(command, cwd=directory, env=killing.environment(), capture_output=True, text=True)


def test_the_gin_file_builds_the_model_of_its_class(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(EXAMPLES)
    configuration.load(["runs/from_scratch.gin", "t5x_decoder.gin"])
    model = gin.get_configurable(model_source.FromScratch)().model
    assert (type(model).__module__, type(model).__qualname__) == ("t5x_decoder", "T5xDecoder")
    assert model.config.vocab_size == 1024


@pytest.mark.slow
def test_what_is_no_model_is_refused_before_the_stage_begins(tmp_path: Path):
    (tmp_path / "mine.gin").write_text(NO_MODEL)
    done = promptcot("cold_start", *FILES, f"--gin_file={tmp_path / 'mine.gin'}", f"--workdir={tmp_path}")
    assert done.returncode == 2
    assert "T5xConfig is no language model: it lacks config, rules, axis_rules, init" in done.stderr
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.slow
def test_a_module_that_is_nowhere_is_named_with_the_places(tmp_path: Path):
    (tmp_path / "mine.gin").write_text("from __gin__ import dynamic_registration\nimport not_there_at_all\n")
    done = promptcot("em", "--gin_file=mine.gin", "--workdir=run", directory=tmp_path)
    assert done.returncode == 2
    assert "No module named 'not_there_at_all'" in done.stderr
    assert "must be in the current directory, on PYTHONPATH, or installed" in done.stderr


@pytest.mark.slow
def test_cold_start_and_em_through_gin_alone(tmp_path: Path):
    for stage in ("corpus", "cold_start", "em"):
        done = promptcot(stage, *FILES, *SMALL, f"--workdir={tmp_path}")
        assert done.returncode == 0, done.stderr
    for place in ("cold_start/theta", "em/round_000/theta", "em/round_000/phi"):
        model = load.load_model(tmp_path / place)
        assert type(model.lm).__name__ == "T5xDecoder"
    candidates = jsonl.read_records(tmp_path / "em/round_000/candidates.jsonl", records.Candidate)
    assert len(candidates) == 16 * 2
    assert any(candidate.won for candidate in candidates)
    rows = [row for _, _, row in jsonl.iter_rows(tmp_path / "em" / "nll.jsonl")]
    assert [row["round"] for row in rows] == [-1, 0]
