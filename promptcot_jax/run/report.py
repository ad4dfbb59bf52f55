"""`promptcot report`: one self-contained HTML page of what the workdir holds."""

from promptcot_jax.core import manifest
from promptcot_jax.report import report as report_lib
from promptcot_jax.run import stage


def report(*, workdir: str) -> stage.StageResult:
    """Writes `report.html` from the manifest and the stages' records."""
    report_lib.write_report(workdir)
    return stage.StageResult(counts={"stages": len(manifest.read(workdir)) - 1})  # itself left out
