"""What ships: the configs inside a built package, the licence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_licence_is_the_apache_text():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


@pytest.mark.slow
def test_an_installed_package_finds_its_configs(tmp_path: Path):
    build = [sys.executable, "setup.py", "--quiet", "build", f"--build-base={tmp_path / 'build'}"]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    installed = next((tmp_path / "build").glob("lib*"))
    code = (
        "from promptcot_jax.run import configuration, gin_files; print(gin_files.packaged_configs());"
        "configuration.load(['configs/runs/quickstart.gin', 'meshes/fsdp.gin'])"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=elsewhere,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    configs = Path(done.stdout.strip())
    assert configs.is_relative_to(installed)
    assert (configs / "runs" / "quickstart.gin").exists()
    assert (installed / "promptcot_jax" / "report" / "assets" / "browse.js").exists()
    assert (installed / "promptcot_jax" / "report" / "templates" / "sections" / "flow.html").exists()
