"""Finished completions on disk before their shard is: what an interrupted run need not draw again.

Parts appear whole, a few dozen completions or half a minute's work each, and go when the shards of all their
completions are written. Log-probabilities are stored as their very bits.
"""

import base64
import dataclasses
import time
from collections.abc import Collection, Mapping
from typing import Any, Literal

import numpy as np
from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.sampling.completions import Completion, PartialCompletion

_COMPLETIONS_PER_PART = 64
_SECONDS_PER_PART = 30.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class JournalRow:
    """One completion, or (finish_reason "none") as much as there is of it."""

    index: int
    token_ids: tuple[int, ...]
    log_probs: str  # see `float_text`
    sampler_log_probs: str
    finish_reason: Literal["stop", "length", "none"]
    has_end: bool = False
    num_continued: int = 0


class Journal:
    """The completions of one file's unfinished shards, in a directory beside it."""

    def __init__(self, directory: epath.PathLike):
        """Reads what earlier attempts left."""
        self._directory = epath.Path(directory)
        self._rows: list[JournalRow] = []  # not written yet
        self._last_written = time.monotonic()
        self._parts: dict[epath.Path, set[int]] = {}  # and the completions in them that are still needed
        self.completions: dict[int, Completion] = {}
        self.partial: dict[int, PartialCompletion] = {}
        if self._directory.exists():
            for path in sorted(self._directory.glob("*.jsonl")):
                self._read(path)
        self._next_part = max((int(path.stem[-6:]) for path in self._parts), default=-1) + 1

    def _read(self, path: epath.Path) -> None:
        rows = jsonl.read_records(path, JournalRow)
        for row in rows:
            arrays = (row.token_ids, floats_of(row.log_probs), floats_of(row.sampler_log_probs))
            if row.finish_reason == "none":
                self.partial[row.index] = PartialCompletion(*arrays)
            else:
                self.completions[row.index] = Completion(
                    *arrays, row.finish_reason, row.has_end, row.num_continued
                )
        if not path.name.startswith("begun"):
            self._parts[path] = {row.index for row in rows}

    def add(self, index: int, completion: Completion) -> None:
        """Takes a completion in."""
        self._rows.append(
            _row(
                index,
                completion,
                finish_reason=completion.finish_reason,
                has_end=completion.has_end,
                num_continued=completion.num_continued,
            )
        )

    def is_due(self) -> bool:
        """Whether enough was taken in, or enough time has gone by, to write it."""
        is_time = time.monotonic() - self._last_written > _SECONDS_PER_PART
        return is_time or len(self._rows) >= _COMPLETIONS_PER_PART

    def flush(self, under_way: Mapping[int, PartialCompletion] | None = None) -> None:
        """Writes what is not written yet.

        Args:
            under_way: how far the unfinished completions are; takes the place of what was written before.
        """
        self._last_written = time.monotonic()
        if self._rows:
            path = self._directory / f"part-{self._next_part:06d}.jsonl"
            self._next_part += 1
            jsonl.write_records(path, self._rows)
            self._parts[path] = {row.index for row in self._rows}
            self._rows = []
        if under_way is not None:
            rows = [_row(index, partial, finish_reason="none") for index, partial in under_way.items()]
            jsonl.write_records(self._directory / "begun.jsonl", rows)

    def forget(self, indices: Collection[int]) -> None:
        """These completions are in a finished shard; parts without any other go."""
        gone = set(indices)
        self._rows = [row for row in self._rows if row.index not in gone]
        for path, needed in list(self._parts.items()):
            needed -= gone
            if not needed:
                path.unlink(missing_ok=True)
                del self._parts[path]


def _row(index: int, drawn: Completion | PartialCompletion, **facts: Any) -> JournalRow:
    return JournalRow(
        index=index,
        token_ids=drawn.token_ids,
        log_probs=float_text(drawn.log_probs),
        sampler_log_probs=float_text(drawn.sampler_log_probs),
        **facts,
    )


def remove(directory: epath.PathLike) -> None:
    """Deletes a journal of whose completions all are in finished shards."""
    directory = epath.Path(directory)
    if directory.exists():
        for path in directory.glob("*.jsonl"):
            path.unlink(missing_ok=True)
        directory.rmdir()


def float_text(values: np.ndarray) -> str:
    """The very bits of float32 numbers: little-endian, in base64."""
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()


def floats_of(text: str) -> np.ndarray:
    """What `float_text` wrote."""
    return np.frombuffer(base64.b64decode(text), "<f4").astype(np.float32)
