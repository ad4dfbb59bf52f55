"""Reading a workdir for the report: what is there, samples of what is long, rows looked up by id.

Long files are read as streams, up to a limit of rows and of bytes, and only what is shown is kept of them.
"""

import collections
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from promptcot_jax.core import file_sets, jsonl
from promptcot_jax.core.errors import WrongUse

Row = Mapping[str, Any]
Placed = tuple[str, dict[str, Any]]  # a row after "file:line"
NUM_ROWS_SCANNED = 200_000  # of one file at most, and so many bytes: 2 to 4 seconds of one core
NUM_BYTES_SCANNED = 256 << 20


class Missing(WrongUse):
    """A file that a section of the report needs is not there, or has nothing to show."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """Some rows of a file, evenly spread, and what was counted on the way.

    Attributes:
        rows: with file and line; those of note (`sample`'s `is_of_note`) among them; in order, each once.
        tallies: field -> its values with their counts, of all rows read.
    """

    rows: tuple[Placed, ...]
    num_read: int
    num_of_note: int
    is_whole: bool  # False: the file goes on where the limits ended the reading
    tallies: Mapping[str, Mapping[str, int]]


class _Spread:
    """Evenly spread items of a stream of unknown length: each `stride`-th, of which half go when full."""

    def __init__(self, limit: int):
        self._limit, self._stride, self._seen = limit, 1, 0
        self.items: list[tuple[int, Placed]] = []

    def offer(self, position: int, placed: Placed) -> None:
        if self._limit and self._seen % self._stride == 0:
            if len(self.items) == 2 * self._limit:
                self.items = self.items[::2]
                self._stride *= 2
            if self._seen % self._stride == 0:
                self.items.append((position, placed))
        self._seen += 1

    def chosen(self) -> list[tuple[int, Placed]]:
        return spread(self.items, self._limit)


def sample(
    path: epath.Path,
    count: int,
    *,
    is_of_note: Callable[[Row], bool] = lambda row: False,
    num_of_note: int = 0,
    tally: Sequence[str] = (),
) -> Sample:
    """Reads records as a stream and keeps `count` of them, and so many more that are of note.

    Raises:
        WrongUse: a line is damaged; the message names file and line.
    """
    every, noted = _Spread(count), _Spread(num_of_note)
    counters = {field: collections.Counter[str]() for field in tally}
    num_read, num_noted, is_whole = 0, 0, True
    for position, placed in enumerate(_limited(path)):
        if placed is None:
            is_whole = False
            break
        row = placed[1]
        num_read += 1
        every.offer(position, placed)
        if is_of_note(row):
            num_noted += 1
            noted.offer(position, placed)
        for field, counter in counters.items():
            counter[_as_text(row.get(field, ""))] += 1
    chosen = dict(every.chosen()) | dict(noted.chosen())
    return Sample(
        rows=tuple(chosen[position] for position in sorted(chosen)),
        num_read=num_read,
        num_of_note=num_noted,
        is_whole=is_whole,
        tallies=counters,
    )


def _limited(path: epath.Path) -> Iterator[Placed | None]:
    """The rows of a file, and None where the limits leave some of it out."""
    num_bytes = 0
    for number, (file, line, row, size) in enumerate(jsonl.iter_sized_rows(path)):
        num_bytes += size
        if number >= NUM_ROWS_SCANNED or num_bytes > NUM_BYTES_SCANNED:
            yield None
            return
        yield f"{file}:{line}", row


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def exists(path: epath.Path) -> bool:
    """Whether records of that name are there, whole or in shards."""
    try:
        return bool(file_sets.files_of(path))
    except WrongUse:
        if path.exists():
            raise
        return False


def exists_or_is_damaged(path: epath.Path) -> bool:
    """As `exists`; of shards of two writes too, which reading will name."""
    try:
        return exists(path)
    except WrongUse:
        return True


def candidate_files(workdir: epath.Path) -> dict[int, epath.Path]:
    """The E-step's candidates by EM round."""
    em = workdir / "em"
    rounds = sorted(em.glob("round_*")) if em.exists() else []
    paths = {int(one.name.removeprefix("round_")): one / "candidates.jsonl" for one in rounds}
    return {number: path for number, path in paths.items() if exists_or_is_damaged(path)}


def count_rows(path: epath.Path) -> int:
    """Lines of a file or its shards, not read as rows; a last one without line break counts."""
    count = 0
    for file in file_sets.files_of(path):
        last = b"\n"
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                count += block.count(b"\n")
                last = block[-1:]
        count += last != b"\n"
    return count


def rows(path: epath.Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines; none where there is no file."""
    return [row for _, _, row in jsonl.iter_rows(path)] if exists(path) else []


def document(path: epath.Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file.

    Raises:
        WrongUse: the file holds something else.
    """
    found = jsonl.read_json(path) if path.exists() else {}
    if not isinstance(found, dict):
        raise WrongUse(f"{os.fspath(path)}: expected a JSON object, got {type(found).__name__}.")
    return found


def settings(workdir: epath.Path, stage: str) -> dict[str, Any]:
    """Every setting of a stage by its dotted name; empty where the stage has not run here."""
    return document(workdir / "config" / f"{stage}.settings.json")


def results(workdir: epath.Path) -> dict[str, dict[str, Any]]:
    """The entries of `results.json` by data set.

    Raises:
        WrongUse: it holds no such entries.
    """
    results = document(workdir / "results.json").get("results", {})
    if not isinstance(results, dict):
        raise WrongUse(f"{os.fspath(workdir)}/results.json: field 'results' must be an object.")
    return {name: result for name, result in results.items() if isinstance(result, dict)}


def rows_by_id(paths: Sequence[epath.Path], wanted: set[str]) -> dict[str, dict[str, Any]]:
    """Rows of files by id, the first of each, until all wanted ones are found or to the limits."""
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        if not exists(path):
            continue
        for placed in _limited(path):
            if placed is None or len(found) == len(wanted):
                break
            where, row = placed
            row_id = str(row.get("id") or os.path.basename(where))
            if row_id in wanted:
                found.setdefault(row_id, row)
    return found


def metrics_files(directory: epath.Path, depth: int = 4) -> list[epath.Path]:
    """Every metrics.jsonl below a directory, in order of path."""
    found = []
    for entry in sorted(directory.iterdir()) if depth and directory.exists() else []:
        if entry.name == "metrics.jsonl":
            found.append(entry)
        elif entry.is_dir() and not entry.name.startswith("."):
            found += metrics_files(entry, depth - 1)
    return found


def spread(values: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of the values, evenly spaced."""
    if len(values) <= count:
        return list(values)
    return [values[i * len(values) // count] for i in range(count)]
