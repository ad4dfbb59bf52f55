"""Paths of a stage's inputs and outputs; "{workdir}" at the beginning of one stands for the run's directory.

The runner fills it in before it calls a stage (`run/configuration.filled_in`): no other code sees it.
"""

from typing import Annotated

# A stage's setting of this type is a file or directory that the stage reads: its digest is in the manifest.
InputPath = Annotated[str, "input path"]
OutputPath = Annotated[str, "output path"]  # one that it writes, outside the fixed files of a workdir

_WORKDIR = "{workdir}"


class _FilledIn(str):
    """A path in the workdir that remembers how it was given."""

    given: str


def in_workdir(path: str, workdir: str) -> str:
    """`path` with a leading "{workdir}" filled in."""
    if not path.startswith(_WORKDIR):
        return path
    filled = _FilledIn(workdir + path.removeprefix(_WORKDIR))
    filled.given = path
    return filled


def as_given(path: str) -> str:
    """A path as the settings have it: what rows and records say, wherever the workdir is."""
    return path.given if isinstance(path, _FilledIn) else path
