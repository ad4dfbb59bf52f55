"""A small run that several tests go on from."""

from pathlib import Path

import pytest

from tests.run import killing
from tests.run.test_killing_em import SETTINGS

WRITER = [
    "--gin_file=runs/quickstart.gin",
    "--gin.FAMILIES=('arithmetic_series',)",
    "--gin.NUM_TRAIN=160",
    "--gin.NUM_HELDOUT=8",
    "--gin.NUM_NOVEL=4",
    "--gin.COLD_START_ROLES=('theta','phi')",
    "--gin.COLD_START_ROWS={'theta': 128, 'phi': 8}",
    "--gin.COLD_START_EPOCHS=3",
]


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Corpus, cold start and EM without a kill; q_phi ends its rationales."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    for stage in ("corpus", "cold_start", "em"):
        killing.run_to_end([stage, *SETTINGS, f"--workdir={workdir}"])
    return workdir


@pytest.fixture(scope="session")
def writing_settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """`synthesize` by promptcot-tiny after a short cold start: a third of its problems is kept."""
    workdir = tmp_path_factory.mktemp("writer")
    for stage in ("corpus", "cold_start"):
        killing.run_to_end([stage, *WRITER, f"--workdir={workdir}"])
    return [
        "synthesize",
        *WRITER,
        f"--gin.PROMPT_MODEL='{workdir / 'cold_start' / 'theta'}'",
        f"--gin.TRIPLES='{workdir / 'triples.jsonl'}'",
        "--gin.NUM_CONCEPT_SETS=0",
        "--gin.PROBLEM_TEMPERATURE=1.3",
        "--gin.NUM_SLOTS=16",
        "--gin.filters.FilterConfig.max_seed_similarity=None",
        "--gin.near_duplicates.DuplicateConfig.embedding_threshold=None",
    ]
