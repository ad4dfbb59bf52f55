"""`manifest.json` of a workdir: for each stage, what it was made from and what came of it.

An entry appears with status `running` when a stage starts and turns `complete` as the stage's last act. A
stage that starts again under another configuration than the one recorded is refused: half of its files would
be of the old one.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from etils import epath

from promptcot_jax.core import file_sets, jsonl, tfds_sets
from promptcot_jax.core.errors import WrongUse

# A stage argument or dataclass field that names a file or model which the stage reads. Before the stage
# starts its content is digested for the manifest. "{workdir}" at its beginning stands for the stage's
# workdir.
InputPath = Annotated[str, "input path"]

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "tokenizers",
    "seqio",
    "numpy",
    "datasketch",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageEntry:
    """What one stage says of its run; `counts` holds rows in, out and dropped by reason."""

    stage: str
    status: Literal["running", "complete"]
    config_digest: str
    seed: int
    inputs: Mapping[str, str]  # path as given -> digest of the content
    counts: Mapping[str, int]
    versions: Mapping[str, str]
    wall_seconds: float  # of all attempts together


def text_digest(text: str) -> str:
    """Short stable digest of a text (a config, a tokenizer)."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path: epath.PathLike) -> str:
    """Digest of a file, its shards, a pattern's matches, or a directory's files: names and bytes.

    That of a TFDS data set (`tfds:NAME`) is of its description, the shards, and which part of them it is.

    Raises:
        WrongUse: there is no such file.
    """
    digest = hashlib.sha256()
    if tfds_sets.is_named_by(path):
        found = tfds_sets.find(path)
        digest.update(found.split.encode())
        for file in (found.directory / tfds_sets.INFO, found.directory / tfds_sets.FEATURES, *found.files):
            digest.update(file.name.encode())
            _update(digest, file)
        return digest.hexdigest()[:16]
    path = epath.Path(path)
    if path.is_dir():
        files = sorted(p for p in _walk(path))
    else:
        files = file_sets.files_of(path)
    for file in files:
        relative = os.path.relpath(os.fspath(file), os.fspath(path)) if path.is_dir() else ""
        digest.update(relative.encode())
        _update(digest, file)
    return digest.hexdigest()[:16]


def _update(digest: Any, file: epath.Path) -> None:
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)


def _walk(directory: epath.Path):
    for entry in directory.iterdir():
        if entry.is_dir():
            yield from _walk(entry)
        else:
            yield entry


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result's bits."""
    found = {"python": platform.python_version()}
    for name in ("promptcot_jax", *PACKAGES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def read(workdir: epath.PathLike) -> dict[str, StageEntry]:
    """The entries of a workdir's manifest by stage; empty where there is none yet."""
    path = epath.Path(workdir) / "manifest.json"
    if not path.exists():
        return {}
    return {
        stage: _entry_from_json(entry, where=f"{os.fspath(path)}: stage '{stage}'")
        for stage, entry in jsonl.read_json(path)["stages"].items()
    }


def _entry_from_json(entry: dict[str, Any], *, where: str) -> StageEntry:
    """One entry from its JSON object."""
    try:
        return StageEntry(**entry)
    except TypeError as error:
        raise WrongUse(f"{where}: not a manifest entry of this version ({error}).") from None


def record(workdir: epath.PathLike, entry: StageEntry) -> None:
    """Puts one stage's entry into the workdir's manifest, atomically; the others stay."""
    entries = read(workdir) | {entry.stage: entry}
    document = {"stages": {stage: dataclasses.asdict(e) for stage, e in entries.items()}}
    jsonl.write_json(epath.Path(workdir) / "manifest.json", json.loads(json.dumps(document)))
