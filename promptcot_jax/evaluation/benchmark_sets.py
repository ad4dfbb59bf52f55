"""The evaluation sets of the paper and a few more by short names, and where the files of a set are.

The texts of contests are not this project's to ship: a user downloads a set once, in whatever form the Hub or
`datasets` gives it, into one directory of benchmarks, and names it there by its short name. Directories are
read without the Hub's libraries:

| what | looks like |
| --- | --- |
| `Dataset.save_to_disk` | `data-00000-of-00002.arrow` ..., `state.json` |
| `DatasetDict.save_to_disk` | one such directory for each split, `dataset_dict.json` |
| a clone or a snapshot of a repository on the Hub | `data/` or `CONFIG/`, `test-00000-of-00002.parquet` ... |
| the Hub's cache | `snapshots/REVISION/`, `refs/main`, and in the revision what a snapshot holds |

Of several splits `test` is taken. Where the choice is anyone's guess it is refused, never made.
"""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence

from etils import epath

from promptcot_jax.core import file_sets, tfds_sets
from promptcot_jax.core.errors import WrongUse

Window = Sequence[str]  # two ISO dates: the first day, and the last moment at its midnight

# Endings of a set in the directory of benchmarks; "" for a directory.
_IN_BENCHMARKS = ("", ".jsonl", ".json", ".parquet", ".jsonl.gz", ".json.gz", ".arrow")
_IN_BENCHMARKS += (".tfrecord", ".array_record")
_OF_ROWS = (".parquet", ".jsonl", ".jsonl.gz", ".json", ".json.gz", ".arrow")

_DESCRIPTIONS = frozenset(
    ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json")
)
_NAME = re.compile(
    r"(?P<stem>.+?)(?:-(?P<number>\d{5})-of-(?P<total>\d{5})(?:-[0-9a-f]+)?)?(?:\.\w+?)(?:\.gz)?"
)
_SPLIT = re.compile(r"(?P<prefix>|.*[-_.])(?P<split>train|test|validation|valid|val|dev)\d*")

_Group = tuple[str, str, str, str]  # folder, what stands before the split in files' names, split, extension


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnownSet:
    """A public evaluation set.

    Attributes:
        hub: the data sets on the Hub that hold it, any of which does.
        num_problems: what papers count, for a warning where a file has another number.
        aliases: further names that its file or directory may have.
        config: the folder that is meant where the set has several.
        stems: its files by name, where a directory holds more, or several that are one set.
        window: of contest dates; None where the problems have none.
    """

    hub: tuple[str, ...]
    num_problems: int
    aliases: tuple[str, ...] = ()
    config: str = ""
    stems: tuple[str, ...] = ()
    window: Window | None = None


_LIVECODEBENCH = ("livecodebench/code_generation_lite", "livecodebench/code_generation")
KNOWN: Mapping[str, KnownSet] = {
    "aime24": KnownSet(
        hub=("Maxwell-Jia/AIME_2024", "math-ai/aime24", "HuggingFaceH4/aime_2024"),
        num_problems=30,
        aliases=("aime2024",),
    ),
    "aime25": KnownSet(
        hub=("math-ai/aime25", "opencompass/AIME2025", "MathArena/aime_2025"),
        num_problems=30,
        aliases=("aime2025",),
        stems=("aime2025-I", "aime2025-II"),
    ),
    "hmmt_feb25": KnownSet(
        hub=("MathArena/hmmt_feb_2025",), num_problems=30, aliases=("hmmt_feb_25", "hmmt25")
    ),
    "math500": KnownSet(hub=("HuggingFaceH4/MATH-500",), num_problems=500, aliases=("math_500",)),
    "gsm8k": KnownSet(hub=("openai/gsm8k",), num_problems=1319, aliases=("gsm8k_test",), config="main"),
    # The 279 problems are those of the release of that name, the first five files: January 2025 grew later.
    "livecodebench_v5": KnownSet(
        hub=_LIVECODEBENCH,
        num_problems=279,
        aliases=("livecodebench", "lcb"),
        stems=("test", "test2", "test3", "test4", "test5"),
        window=("2024-08-01", "2025-02-01"),
    ),
    "livecodebench_v6": KnownSet(
        hub=_LIVECODEBENCH,
        num_problems=131,
        aliases=("livecodebench", "lcb"),
        window=("2025-02-01", "2025-05-01"),
    ),
    "humaneval": KnownSet(hub=("openai/openai_humaneval",), num_problems=164, aliases=("HumanEval",)),
    "mbpp": KnownSet(
        hub=("google-research-datasets/mbpp",), num_problems=500, aliases=("mbpp_test",), config="full"
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SetFiles:
    """A set and its files.

    Attributes:
        name: for ids and tables.
        paths: that `data.rows` reads, in order.
        known: None for a user's own set.
    """

    name: str
    paths: tuple[str, ...]
    known: KnownSet | None


def find(path: epath.PathLike, benchmarks_dir: epath.PathLike | None = None) -> SetFiles:
    """The files of a set, by a path that `data.rows` reads, by a directory, or by a short name.

    Args:
        benchmarks_dir: where sets are looked for by their short names.

    Raises:
        WrongUse: there is nothing of the name, or the directory does not hold just one set.
    """
    path = os.fspath(path)
    known = KNOWN.get(path)
    location = epath.Path(path)
    if known is not None and (benchmarks_dir or not location.exists()):
        location = _path_of(path, known, benchmarks_dir)
    if known is None and path.isidentifier() and not location.exists():
        raise WrongUse(f"'{path}' is no file and no set that is known by name; those are {', '.join(KNOWN)}.")
    if not tfds_sets.is_named_by(path) and location.is_dir():
        stems, config = (known.stems, known.config) if known else ((), "")
        files = files_of(location, config=config, stems=stems)
    else:
        files = [path if known is None else location]
    paths = tuple(os.fspath(file) for file in files)
    return SetFiles(name=path if known else name_of(path), paths=paths, known=known)


def name_of(path: epath.PathLike) -> str:
    """A name for the set at a path: its short name, or what the file's or the directory's name tells."""
    path = os.fspath(path).removeprefix(tfds_sets.PREFIX).rstrip("/")
    folders = path.split("/")
    if len(folders) > 2 and folders[-2] == "snapshots":  # of the Hub's cache: the last is a commit
        folders = folders[:-2]
    name = folders[-1].removeprefix("datasets--").replace("--", "_")
    return name.partition(".")[0].partition(":")[0]


def _path_of(name: str, known: KnownSet, benchmarks_dir: epath.PathLike | None) -> epath.Path:
    """The first of a known set's names that is in the directory of benchmarks."""
    of_hub = [
        part for hub in known.hub for part in (hub.partition("/")[2], f"datasets--{hub.replace('/', '--')}")
    ]
    names = list(dict.fromkeys((name, *known.aliases, *of_hub)))
    for candidate in (f"{name}{extension}" for name in names for extension in _IN_BENCHMARKS):
        if benchmarks_dir and file_sets.files_named(found := epath.Path(benchmarks_dir) / candidate):
            return found
    where = f"in {os.fspath(benchmarks_dir)}" if benchmarks_dir else "as BENCHMARKS_DIR is not set"
    raise WrongUse(
        f"The evaluation set '{name}' is not there: nothing is called {', '.join(names)} (a directory, or a "
        f"file with {', '.join(_IN_BENCHMARKS[1:])}) {where}. Its texts are not shipped; download it, "
        f"for instance with 'hf download {known.hub[0]} --repo-type=dataset --local-dir=DIR/{name}', and set "
        f"BENCHMARKS_DIR=DIR. Sets on the Hub that hold it: {', '.join(known.hub)}. docs/evaluate.md has the "
        "layouts that are read."
    )


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
            f"{', '.join(_OF_ROWS)}); download the data set into it, or name another."
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
    """The directory itself, or its main or only snapshot where it is the Hub's cache of a repository."""
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
    return file.name.endswith(_OF_ROWS) and file.name not in _DESCRIPTIONS and not is_index


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
