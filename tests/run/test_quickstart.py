"""The quickstart in small: every stage of it, and the pages that it ends in."""

import json
from pathlib import Path

import pytest

from promptcot_jax.run import cli

SMALL = {
    "FAMILIES": "('border_area', 'vieta')",
    "NUM_TRAIN": 160,
    "NUM_HELDOUT": 8,
    "NUM_NOVEL": 4,
    "COLD_START_ROWS": 128,
    "COLD_START_BATCH": 1,  # steps enough to learn the markers
    "COLD_START_EPOCHS": 4,
    "EM_FIRST_TRIPLE": 128,
    "EM_PAIRS_PER_ROUND": 16,
    "HELD_OUT_PAIRS": 4,
    "HELD_OUT_BOUND_PAIRS": 2,
    "HELD_OUT_SAMPLES": 12,
    "EM_GROUP_SIZE": 2,
    "NUM_CONCEPT_SETS": 16,
    "VOTE_GROUP_SIZE": 4,
    "MIN_AGREEMENT": 0.5,
    "NUM_ITERATIONS": 2,
    "PROMPTS_PER_ITERATION": 2,
    "GROUP_SIZE": 4,
    "EVAL_SAMPLES": 2,
}


@pytest.mark.slow
def test_every_stage_runs_and_the_pages_are_there(tmp_path: Path):
    settings = [f"--gin.{name}={value}" for name, value in SMALL.items()]
    assert cli.main(["run", "--gin_file=runs/quickstart.gin", *settings, f"--workdir={tmp_path}"]) == 0
    index = json.loads((tmp_path / "analyses" / "index.json").read_text())
    made = {one["name"] for entry in index["analyses"].values() for one in entry["made"]}
    assert {"em_study_nll_bound", "em_study_rounds", "difficulty", "case_studies", "well_posed"} <= made
    report = (tmp_path / "report.html").read_text()
    assert 'id="analyses"' in report
    assert "This part could not be made" not in report
    first_screen = report.partition('id="in-short"')[2].partition("</section>")[0]
    for told in ("new problem", "well-posed", "verified answer", "before self-play", "surprise"):
        assert told in first_screen
    assert (tmp_path / "export" / "browse.html").exists()
