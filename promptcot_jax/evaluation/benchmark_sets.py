"""The evaluation sets of the paper and a few more by short names, and where their files are looked for.

The texts of contests are not this project's to ship: a user downloads a set once, in whatever form the Hub or
`datasets` gives it, into one directory of benchmarks, and names it there by its short name.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence

from etils import epath

from promptcot_jax.core import file_sets, tfds_sets
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import set_directories

Window = Sequence[str]  # two ISO dates: the first day, and the last moment at its midnight

_EXTENSIONS = (
    "",
    ".jsonl",
    ".json",
    ".parquet",
    ".jsonl.gz",
    ".json.gz",
    ".arrow",
    ".tfrecord",
    ".array_record",
)


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
class Place:
    """Where a set is.

    Attributes:
        name: for ids and tables.
        paths: that `data.rows` reads, in order.
        known: None for a user's own set.
    """

    name: str
    paths: tuple[str, ...]
    known: KnownSet | None


def find(path: epath.PathLike, benchmarks_dir: epath.PathLike | None = None) -> Place:
    """The files of a set, by a path that `data.rows` reads, by a directory, or by a short name.

    Args:
        benchmarks_dir: where sets are looked for by their short names.

    Raises:
        WrongUse: there is nothing of the name, or the directory does not hold just one set.
    """
    path = os.fspath(path)
    known = KNOWN.get(path)
    place = epath.Path(path)
    if known is not None and (benchmarks_dir or not place.exists()):
        place = _place_of(path, known, benchmarks_dir)
    if known is None and path.isidentifier() and not place.exists():
        raise WrongUse(f"'{path}' is no file and no set that is known by name; those are {', '.join(KNOWN)}.")
    if not tfds_sets.is_named_by(path) and place.is_dir():
        stems, config = (known.stems, known.config) if known else ((), "")
        files = set_directories.files_of(place, config=config, stems=stems)
    else:
        files = [path if known is None else place]
    paths = tuple(os.fspath(file) for file in files)
    return Place(name=path if known else name_of(path), paths=paths, known=known)


def name_of(path: epath.PathLike) -> str:
    """A name for the set at a path: its short name, or what the file's or the directory's name tells."""
    path = os.fspath(path).removeprefix(tfds_sets.PREFIX).rstrip("/")
    folders = path.split("/")
    if len(folders) > 2 and folders[-2] == "snapshots":  # of the Hub's cache: the last is a commit
        folders = folders[:-2]
    name = folders[-1].removeprefix("datasets--").replace("--", "_")
    return name.partition(".")[0].partition(":")[0]


def _place_of(name: str, known: KnownSet, benchmarks_dir: epath.PathLike | None) -> epath.Path:
    """The first of a known set's names that is in the directory of benchmarks.

    Raises:
        WrongUse: none is, or no directory is set.
    """
    of_hub = [
        part for hub in known.hub for part in (hub.partition("/")[2], f"datasets--{hub.replace('/', '--')}")
    ]
    names = list(dict.fromkeys((name, *known.aliases, *of_hub)))
    for candidate in (f"{name}{extension}" for name in names for extension in _EXTENSIONS):
        if benchmarks_dir and file_sets.files_named(place := epath.Path(benchmarks_dir) / candidate):
            return place
    where = f"in {os.fspath(benchmarks_dir)}" if benchmarks_dir else "as BENCHMARKS_DIR is not set"
    raise WrongUse(
        f"The evaluation set '{name}' is not there: nothing is called {', '.join(names)} (a directory, or a "
        f"file with {', '.join(_EXTENSIONS[1:])}) {where}. Its texts are not shipped; download it, "
        f"for instance with 'hf download {known.hub[0]} --repo-type=dataset --local-dir=DIR/{name}', and set "
        f"BENCHMARKS_DIR=DIR. Sets on the Hub that hold it: {', '.join(known.hub)}. docs/evaluate.md has the "
        "layouts that are read."
    )
