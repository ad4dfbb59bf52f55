"""The quickstart in small: every stage of it, and the pages that it ends in."""

import json
from pathlib import Path

import pytest

from promptcot_jax.run import cli

SMALL = {
    "FAMILIES": "('arithmetic_series',)",
    "NUM_TRAIN": 96,
    "NUM_HELDOUT": 8,
    "NUM_NOVEL": 4,
    "VOCAB_SIZE": 512,
    "ROW_LENGTH": 384,
    "COLD_START_ROWS": 64,
    "EM_FIRST_TRIPLE": 64,
    "COLD_START_EPOCHS": 12,  # q_phi must learn to end its rationales
    "EM_PAIRS_PER_ROUND": 16,
    "HELD_OUT_PAIRS": 4,
    "HELD_OUT_SAMPLES": 12,
    "EM_GROUP_SIZE": 2,
    "MAX_RATIONALE_TOKENS": 160,
    "NUM_CONCEPT_SETS": 8,
    "SFT_EPOCHS": 1,
    "MAX_SOLUTION_TOKENS": 64,
}


@pytest.mark.slow
def test_every_stage_runs_and_the_pages_are_there(tmp_path: Path):
    settings = [f"--gin.{name}={value}" for name, value in SMALL.items()]
    assert cli.main(["run", "--gin_file=runs/quickstart.gin", *settings, f"--workdir={tmp_path}"]) == 0
    index = json.loads((tmp_path / "analyses" / "index.json").read_text())
    made = {one["name"] for entry in index["analyses"].values() for one in entry["made"]}
    assert {"em_study_nll_bound", "em_study_rounds", "difficulty", "case_studies"} <= made
    report = (tmp_path / "report.html").read_text()
    assert 'id="analyses"' in report
    assert "This part could not be made" not in report
    assert (tmp_path / "export" / "browse.html").exists()
