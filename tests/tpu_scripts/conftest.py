"""A played cloud for each test."""

import pathlib
import subprocess

import pytest

from tests.tpu_scripts.played import BIN, SETTINGS, UV, Cloud


@pytest.fixture
def cloud(tmp_path: pathlib.Path):
    cloud = Cloud(tmp_path, dict(SETTINGS))
    (tmp_path / "bin").mkdir()
    for name, text in BIN.items():
        cloud.write(f"bin/{name}", text)
    cloud.write("uv", UV)
    (tmp_path / "bucket_location").write_text("US-EAST1")
    cloud.program('echo "$WORKER $*" >> "$FAKE_CLOUD/said"')
    (tmp_path / "package-1.0-py3-none-any.whl").write_text("a wheel")
    cloud.settings["SOURCE"] = str(tmp_path / "package-1.0-py3-none-any.whl")
    yield cloud
    for pid_file in tmp_path.glob("machines/*/*/promptcot/run/pid"):
        subprocess.run(["pkill", "-KILL", "-s", pid_file.read_text().strip()], check=False)
