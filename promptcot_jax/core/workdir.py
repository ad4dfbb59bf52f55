"""Paths of a stage's inputs; "{workdir}" at the beginning of one stands for the run's directory."""

from typing import Annotated

# A stage's setting of this type is a file or directory that the stage reads: its digest is in the manifest.
InputPath = Annotated[str, "input path"]


def in_workdir(path: str, workdir: str) -> str:
    """`path` with a leading "{workdir}" filled in."""
    return workdir + path.removeprefix("{workdir}") if path.startswith("{workdir}") else path
