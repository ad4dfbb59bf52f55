"""Where a prepared TFDS data set lies, by its name: read from the layout on disk, without TFDS.

`tfds:NAME[/CONFIG][:VERSION][:SPLIT]`, such as `tfds:gsm8k`, `tfds:promptcot/triples:1.0.0:train[:10%]`, is
`NAME/CONFIG/VERSION/` of TFDS's data directory: `TFDS_DATA_DIR`, or `~/tensorflow_datasets`. Without a config
it is the one that TFDS noted as the default; the highest version wins, also of those that `1.*.*` fits;
the split is `train`, or whatever TFDS's slicing says. Nothing is ever downloaded.
"""

import dataclasses
import fnmatch
import os
import re
from typing import Any

from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse

PREFIX = "tfds:"
INFO, FEATURES = "dataset_info.json", "features.json"

_FORM = re.compile(
    r"tfds:(?P<name>\w+)(?:/(?P<config>[^:/]+))?"
    r"(?::(?P<version>(?:\d+|\*)\.(?:\d+|\*)\.(?:\d+|\*)))?(?::(?P<split>[^:].*))?"
)
_PART = re.compile(r"([\w-]+)(?:\[[^\[\]]*\])?")  # of a split: `train`, `train[:10%]`
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedSet:
    """A data set on disk, and the splits that a path asks for."""

    path: str  # as given
    directory: epath.Path  # of one version
    file_format: str  # "tfrecord", "array_record", ...
    split: str  # with its slices, as TFDS writes it
    files: tuple[epath.Path, ...]  # all shards of the splits that it names


def is_named_by(path: epath.PathLike) -> bool:
    """Whether a path is the name of a TFDS data set."""
    return os.fspath(path).startswith(PREFIX)


def data_dir() -> epath.Path:
    """The directory of prepared data sets, as TFDS chooses it."""
    return epath.Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def find(path: epath.PathLike) -> PreparedSet:
    """The prepared data set that a path names.

    Raises:
        WrongUse: the path has another form; the data set, its config, version or split is not there; or
            something of it is missing or damaged.
    """
    path = os.fspath(path)
    if not (form := _FORM.fullmatch(path)):
        raise WrongUse(f"{path}: a TFDS data set is named tfds:NAME[/CONFIG][:VERSION][:SPLIT].")
    split = (form["split"] or "train").strip()
    directory = _version_dir(path, form["name"], form["config"], form["version"])
    info = jsonl.read_json(directory / INFO)
    try:
        shards = {part["name"]: _files_of_split(info, part) for part in info.get("splits", [])}
        file_format = str(info.get("fileFormat") or "tfrecord")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, directory, f"{INFO} does not describe it: {error!r}") from None
    names = [name for part in split.split("+") for name in _splits_of(path, part.strip(), list(shards))]
    files = [directory / file for name in dict.fromkeys(names) for file in shards[name]]
    if missing := [file.name for file in (directory / FEATURES, *files) if not file.exists()]:
        raise _damaged(path, directory, f"it lacks {missing[0]}")
    return PreparedSet(
        path=path, directory=directory, file_format=file_format, split=split, files=tuple(files)
    )


def _version_dir(path: str, name: str, config: str | None, version: str | None) -> epath.Path:
    """The directory of the highest version that fits."""
    base = data_dir() / name
    if not base.exists():
        raise WrongUse(
            f"{path}: the data set '{name}' is not prepared in {os.fspath(data_dir())}, and nothing is "
            f"downloaded here; prepare it where there is a network, by 'tfds build {name}' or "
            f"tfds.builder('{name}').download_and_prepare(), or say with --tfds_data_dir=DIR where it is."
        )
    if config is None and not _versions_in(base):
        noted = base / ".config" / "metadata.json"
        config = jsonl.read_json(noted).get("default_config_name") if noted.exists() else None
    directory = base / config if config else base
    versions = _versions_in(directory)
    fitting = [found for found in versions if fnmatch.fnmatch(found, version or "*")]
    if fitting:
        return directory / fitting[-1]
    if versions:
        raise WrongUse(
            f"{path}: there is no version {version} in {os.fspath(directory)}; it has {', '.join(versions)}."
        )
    configs = sorted(entry.name for entry in base.iterdir() if _versions_in(entry))
    what = f"no config '{config}'" if config else "no version, and no config is given"
    raise WrongUse(
        f"{path}: there is {what} in {os.fspath(base)}; its configs are {', '.join(configs) or '(none)'}; "
        f"prepare what is missing by 'tfds build', or say with --tfds_data_dir=DIR where it is."
    )


def _versions_in(directory: epath.Path) -> list[str]:
    """The versions prepared in a directory, the highest last."""
    entries = list(directory.iterdir()) if directory.is_dir() else []
    names = [e.name for e in entries if _VERSION.fullmatch(e.name) and (e / INFO).exists()]
    return sorted(names, key=lambda name: [int(number) for number in name.split(".")])


def _files_of_split(info: dict[str, Any], split: dict[str, Any]) -> list[str]:
    """The names of a split's shards."""
    total = len(split.get("shardLengths", []))
    fields = {"DATASET": info["name"], "SPLIT": split["name"], "NUM_SHARDS": f"{total:05d}"}
    fields["FILEFORMAT"] = info.get("fileFormat") or "tfrecord"
    return [
        (split.get("filepathTemplate") or _TEMPLATE).format(
            **fields, SHARD_INDEX=f"{i:05d}", SHARD_X_OF_Y=f"{i:05d}-of-{total:05d}"
        )
        for i in range(total)
    ]


def _splits_of(path: str, part: str, known: list[str]) -> list[str]:
    """The split that a part of a sum names; `all` is all of them."""
    if part == "all":
        return known
    name = _PART.fullmatch(part)
    if not name or name[1] not in known:
        raise WrongUse(f"{path}: there is no split '{part}'; there are {', '.join(known) or 'none'}.")
    return [name[1]]


def _damaged(path: str, directory: epath.Path, what: str) -> WrongUse:
    return WrongUse(f"{path}: the data set in {os.fspath(directory)} is damaged ({what}); prepare it again.")
