"""`manifest.json` of a workdir: for each stage, what it was made from and what came of it.

An entry appears with status `running` when a stage starts and turns `complete` as the stage's last act. A
stage that starts again under another configuration than the one recorded is refused: half of its files would
be of the old one. So is a manifest of another format, for every stage: settings and files have other names.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from etils import epath

from promptcot_jax.core import file_sets, jsonl, tfds_sets
from promptcot_jax.core.errors import WrongUse

FORMAT = 2  # of manifest and workdir; version 0.1 wrote none, which is 1

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


Unit = Literal["chip", "GPU", "processor"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceUse:
    """Devices that the process of a stage held, and how long, over all attempts on the same ones.

    Held is what is paid for: devices that the stage's mesh left out count, and so does the time in which
    they waited.
    """

    kind: str  # as JAX names it: "TPU v5 lite", "cpu"
    unit: Unit  # what `count` counts; a TPU chip may be two devices to JAX
    count: int  # of all hosts
    hosts: int
    wall_seconds: float

    @property
    def hours(self) -> float:
        """Chip-hours, GPU-hours or processor-hours, as the unit says."""
        return self.count * self.wall_seconds / 3600.0

    def is_alike(self, other: "DeviceUse") -> bool:
        """Whether both are of the same devices."""
        return dataclasses.replace(self, wall_seconds=0.0) == dataclasses.replace(other, wall_seconds=0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageEntry:
    """What one stage says of its run; `counts` holds rows in, out and dropped by reason.

    An attempt that is killed outright cannot put down how long it took: `attempts` counts those that began,
    `timed_attempts` those whose time is in `wall_seconds` and `devices`.
    """

    stage: str
    status: Literal["running", "complete"]
    config_digest: str
    seed: int
    inputs: Mapping[str, str]  # path as given -> digest of the content
    counts: Mapping[str, int]
    versions: Mapping[str, str]
    wall_seconds: float  # of all attempts together
    devices: tuple[DeviceUse, ...] = ()  # empty: the stage held none
    attempts: int = 0
    timed_attempts: int = 0


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
    files = sorted(file_sets.files_below(path)) if path.is_dir() else file_sets.files_of(path)
    for file in files:
        relative = os.path.relpath(os.fspath(file), os.fspath(path)) if path.is_dir() else ""
        digest.update(relative.encode())
        _update(digest, file)
    return digest.hexdigest()[:16]


def _update(digest: Any, file: epath.Path) -> None:
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)


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
    """The entries of a workdir's manifest by stage; empty where there is none yet.

    Raises:
        WrongUse: it is of another format, or damaged.
    """
    path = epath.Path(workdir) / "manifest.json"
    if not path.exists():
        return {}
    document = jsonl.read_json(path)
    found = document.get("format", 1) if isinstance(document, dict) else None
    if found != FORMAT:
        raise WrongUse(_other_format(os.fspath(path), document, found))
    return {
        stage: entry_from_json(entry, where=f"{os.fspath(path)}: stage '{stage}'")
        for stage, entry in document["stages"].items()
    }


def _other_format(path: str, document: Any, found: Any) -> str:
    """Says which version wrote a manifest that this one does not read, and what to do."""
    try:
        versions = {entry["versions"]["promptcot_jax"] for entry in document["stages"].values()}
    except (TypeError, AttributeError, KeyError):
        return f"{path} is no manifest; use another --workdir."
    writer = (
        f"promptcot_jax {' and '.join(sorted(versions))}" if versions else "another version of promptcot_jax"
    )
    return (
        f"{path} was written by {writer} (format {found}; this version has format {FORMAT}): use "
        "a new --workdir, or go on in this one with the version that began it."
    )


def entry_from_json(entry: dict[str, Any], *, where: str) -> StageEntry:
    """One entry from its JSON object.

    Raises:
        WrongUse: it has other fields, or is damaged.
    """
    try:
        devices = tuple(DeviceUse(**use) for use in entry.get("devices", ()))
        fields: dict[str, Any] = entry | {"devices": devices}
        return StageEntry(**fields)
    except TypeError as error:
        raise WrongUse(f"{where}: not a manifest entry of this version ({error}).") from None


def with_use(devices: Sequence[DeviceUse], use: DeviceUse | None) -> tuple[DeviceUse, ...]:
    """The devices of earlier attempts with those of another one."""
    if use is None:
        return tuple(devices)
    before = sum(other.wall_seconds for other in devices if other.is_alike(use))
    others = [other for other in devices if not other.is_alike(use)]
    return (*others, dataclasses.replace(use, wall_seconds=round(before + use.wall_seconds, 3)))


def record(workdir: epath.PathLike, entry: StageEntry) -> None:
    """Puts one stage's entry into the workdir's manifest, atomically; the others stay."""
    entries = read(workdir) | {entry.stage: entry}
    document = {"format": FORMAT, "stages": {stage: dataclasses.asdict(e) for stage, e in entries.items()}}
    jsonl.write_json(epath.Path(workdir) / "manifest.json", json.loads(json.dumps(document)))
