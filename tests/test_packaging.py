"""What is shipped: the source archive builds, and its wheel holds weights, texts and gin files."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def _setup(directory: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "setup.py", "-q", *arguments], cwd=directory, check=True)


@pytest.mark.slow
def test_a_wheel_made_from_the_source_archive_holds_weights_texts_and_gin_files(tmp_path: Path):
    pytest.importorskip("setuptools")
    clone = tmp_path / "clone"  # a build leaves files beside its sources
    for folder in ("promptcot_jax", "configs"):
        shutil.copytree(ROOT / folder, clone / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "constraints.txt"):
        shutil.copyfile(ROOT / name, clone / name)
    _setup(clone, "sdist", f"--dist-dir={tmp_path}")
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    _setup(source, "bdist_wheel", f"--dist-dir={tmp_path}")
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        held = {name: packed.getinfo(name).file_size for name in packed.namelist()}
    wanted = {f"promptcot_jax/{file.relative_to(ROOT)}": file for file in (ROOT / "configs").rglob("*.gin")}
    for folder in ("packaged_models", "corpus/texts", "report"):
        files = [file for file in (ROOT / "promptcot_jax" / folder).rglob("*") if file.is_file()]
        wanted |= {str(file.relative_to(ROOT)): file for file in files if "__pycache__" not in file.parts}
    assert len(wanted) > 60
    assert {name: file.stat().st_size for name, file in wanted.items()}.items() <= held.items()
