"""The files of rows in a directory as `datasets` or the Hub leaves it, without either of them.

| what | looks like |
| --- | --- |
| `Dataset.save_to_disk` | `data-00000-of-00002.arrow` ..., `state.json` |
| `DatasetDict.save_to_disk` | one such directory for each split, `dataset_dict.json` |
| a clone or a snapshot of a repository on the Hub | `data/` or `CONFIG/`, `test-00000-of-00002.parquet` ... |
| the Hub's cache | `snapshots/REVISION/`, `refs/main`, and in the revision what a snapshot holds |

Of several splits `test` is taken. Where the choice is anyone's guess it is refused, never made.
"""

import os
import re
from collections.abc import Mapping, Sequence

from etils import epath

from promptcot_jax.core.errors import WrongUse

EXTENSIONS = (".parquet", ".jsonl", ".jsonl.gz", ".json", ".json.gz", ".arrow")

_DESCRIPTIONS = frozenset(
    ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json")
)
_NAME = re.compile(
    r"(?P<stem>.+?)(?:-(?P<number>\d{5})-of-(?P<total>\d{5})(?:-[0-9a-f]+)?)?(?:\.\w+?)(?:\.gz)?"
)
_SPLIT = re.compile(r"(?P<prefix>|.*[-_.])(?P<split>train|test|validation|valid|val|dev)\d*")

_Group = tuple[str, str, str, str]  # folder, what stands before the split in files' names, split, extension


def files_of(directory: epath.PathLike, *, config: str = "", stems: Sequence[str] = ()) -> list[epath.Path]:
    """The files of one split, in order: at least one.

    Args:
        config: the folder to take where files lie in several; where it is not there it is not missed.
        stems: names without extension; where all of these files are there they are the set, in this order.

    Raises:
        WrongUse: there are no files of rows, a shard is missing, or what lies there are several sets.
    """
    root = _revision(epath.Path(directory))
    files = [file for file in _walk(root) if _is_of_rows(file)]
    if not files:
        raise WrongUse(
            f"{os.fspath(directory)}: there are no rows in this directory (no file with an extension "
            f"{', '.join(EXTENSIONS)}); download the data set into it, or name another."
        )
    by_stem = {_stem(file): file for file in files if not _total(file)}
    if stems and all(stem in by_stem for stem in stems):
        return [by_stem[stem] for stem in stems]
    groups: dict[_Group, list[epath.Path]] = {}
    for file in files:
        groups.setdefault(_group_of(file, root), []).append(file)
    own = groups[_chosen(groups, config, os.fspath(directory))]
    _check_complete(own, os.fspath(directory))
    return sorted(own, key=lambda file: (len(_stem(file)), file.name))  # test, test2, ..., test10


def _revision(directory: epath.Path) -> epath.Path:
    """The directory itself, or its snapshot where it is the Hub's cache of a repository.

    Raises:
        WrongUse: there are several snapshots, and none is the main one.
    """
    if not (directory / "snapshots").is_dir():
        return directory
    revisions = sorted((directory / "snapshots").iterdir())
    main = directory / "refs" / "main"
    name = main.read_text().strip() if main.exists() else ""
    chosen = [revision for revision in revisions if revision.name == name] or revisions
    if len(chosen) != 1:
        raise WrongUse(
            f"{os.fspath(directory)}: there are {len(revisions)} snapshots; name one of the directories in "
            f"{os.fspath(directory / 'snapshots')}."
        )
    return chosen[0]


def _walk(directory: epath.Path) -> list[epath.Path]:
    """All files below, none that are hidden."""
    found = []
    for entry in sorted(directory.iterdir()):
        if entry.name.startswith((".", "_")):
            continue
        found += _walk(entry) if entry.is_dir() else [entry]
    return found


def _is_of_rows(file: epath.Path) -> bool:
    is_index = file.name.startswith("cache-") and file.name.endswith(".arrow")  # of `datasets`: no rows
    return file.name.endswith(EXTENSIONS) and file.name not in _DESCRIPTIONS and not is_index


def _stem(file: epath.Path) -> str:
    name = _NAME.fullmatch(file.name)
    return name["stem"] if name else file.name


def _total(file: epath.Path) -> int:
    """How many shards the name says that there are; 0 where it is none."""
    name = _NAME.fullmatch(file.name)
    return int(name["total"] or 0) if name else 0


def _group_of(file: epath.Path, root: epath.Path) -> _Group:
    """Which set a file is of: its folder, and the split that its name, or that of a saved split, says."""
    folders = file.relative_to(root).parts[:-1]
    stem, extension = _stem(file), file.name.removesuffix(".gz").rpartition(".")[2]
    if stem == "data" and extension == "arrow":  # the folder is the split
        return "/".join(folders[:-1]), "", folders[-1] if folders else "", extension
    folder = "/".join(folders[:-1] if folders[-1:] == ("data",) else folders)
    form = _SPLIT.fullmatch(stem)
    return (folder, form["prefix"], form["split"], extension) if form else (folder, "", stem, extension)


def _chosen(groups: Mapping[_Group, Sequence[epath.Path]], config: str, where: str) -> _Group:
    """The one set that is meant."""
    candidates = [group for group in groups if group[0].rpartition("/")[2] == config] if config else []
    candidates = candidates or list(groups)
    tested = {group[:2] for group in candidates if group[2] == "test"}
    candidates = [group for group in candidates if group[2] == "test" or group[:2] not in tested]
    if len(candidates) > 1:
        found = ", ".join(
            "/".join(filter(None, (folder, f"{prefix}{split}.{extension}")))
            for folder, prefix, split, extension in sorted(candidates)
        )
        raise WrongUse(
            f"{where}: there are several sets in this directory ({found}); name the directory, a file or a "
            f"pattern of one, such as {groups[candidates[0]][0]}."
        )
    return candidates[0]


def _check_complete(files: Sequence[epath.Path], where: str) -> None:
    """Refuses a set of numbered shards of which one is missing."""
    numbered = [file for file in files if _total(file)]
    totals = {(_stem(file), _total(file)) for file in numbered}
    if len(numbered) != sum(total for _, total in totals):
        raise WrongUse(
            f"{where}: the shards of '{_stem(numbered[0])}' are incomplete ({len(numbered)} found); download "
            "them again."
        )
