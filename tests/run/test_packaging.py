"""What ships: the configs inside a built package, the licence, the shell scripts' syntax."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "script", [".ci/run", *(f"tpu_scripts/{p.name}" for p in (ROOT / "tpu_scripts").glob("*.sh"))]
)
def test_shell_scripts_parse(script: str):
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True)


def test_licence_is_the_apache_text():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


@pytest.mark.slow
def test_an_installed_package_finds_its_configs(tmp_path: Path):
    build = [sys.executable, "setup.py", "--quiet", "build", f"--build-base={tmp_path / 'build'}"]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    installed = next((tmp_path / "build").glob("lib*"))
    code = "from promptcot_jax.run import configuration; print(configuration.packaged_configs())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=installed, capture_output=True, text=True, check=True
    )
    configs = Path(done.stdout.strip())
    assert configs.is_relative_to(installed)
    assert (configs / "runs" / "quickstart.gin").exists()
