"""A small run that several tests go on from."""

from pathlib import Path

import pytest

from tests.run import killing
from tests.run.test_killing_em import SETTINGS


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Corpus, cold start and EM without a kill; q_phi ends its rationales."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    for stage in ("corpus", "cold_start", "em"):
        killing.run_to_end([stage, *SETTINGS, f"--workdir={workdir}"])
    return workdir
