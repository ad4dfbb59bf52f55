"""The local cache: a task's examples as token ids on disk, read by number without loading them.

One directory holds one task's tokens: `token_ids.bin` (int32, little-endian, prompt and completion of one
example after another), `lengths.bin` (two int32 an example) and `store.json`, which says what they were made
from. Its name is a digest of everything that changes the bytes. It appears whole, by one rename; of several
processes that want the same store one builds it and the others wait for it. A builder that was killed leaves
nothing that a later one would read.
"""

import dataclasses
import json
import logging
import os
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from promptcot_jax.core import building, jsonl, manifest
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.progress import Progress
from promptcot_jax.data.example_sets import ExampleSet
from promptcot_jax.data.examples import TokenExample

FORMAT = 1
_TOKEN_BYTES = 4
_TOKENS, _LENGTHS, _MARKER = "token_ids.bin", "lengths.bin", "store.json"

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Content:
    """What a store is to hold: how it is identified, and what makes it where it is not there."""

    name: str  # for people
    made_from: Mapping[str, Any]  # JSON values: everything that changes the bytes
    build: Callable[[], Iterator[list[TokenExample]]]  # fills `counts` until its end
    counts: Mapping[str, int]

    @property
    def key(self) -> str:
        """Name of the store's directory."""
        digest = manifest.text_digest(json.dumps([FORMAT, self.made_from], sort_keys=True))
        return f"{self.name.replace('/', '_')}-{digest}"


class TokenStore(ExampleSet):
    """Examples on disk; opening one reads their lengths only."""

    def __init__(self, directory: str):
        """Opens the store of a directory.

        Raises:
            WrongUse: it is damaged: a file is missing, cut off or not what it should be.
        """
        self._directory = directory
        try:
            description = jsonl.read_json(os.path.join(directory, _MARKER))
            self.counts: dict[str, int] = description["counts"]
            pairs = np.fromfile(os.path.join(directory, _LENGTHS), "<i4").reshape(-1, 2)
            self._tokens = os.open(os.path.join(directory, _TOKENS), os.O_RDONLY)
        except (WrongUse, KeyError, ValueError, FileNotFoundError) as error:
            raise self._damaged(error) from None
        weakref.finalize(self, os.close, self._tokens)
        self.prompt_lengths, self.completion_lengths = pairs.T
        self._ends = np.cumsum(pairs.sum(axis=1, dtype=np.int64))
        stated, there = description.get("num_examples"), os.fstat(self._tokens).st_size
        expected = _TOKEN_BYTES * self.num_tokens
        if len(self) != stated or there != expected:
            raise self._damaged(f"{len(self)} of {stated} examples, {there} of {expected} bytes")

    def _damaged(self, why: object) -> WrongUse:
        return WrongUse(
            f"{self._directory}: this token store is damaged ({why}); remove the directory, and it is built "
            "again."
        )

    @property
    def num_tokens(self) -> int:
        """Tokens of all examples."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> TokenExample:
        num_read, num_written = int(self.prompt_lengths[index]), int(self.completion_lengths[index])
        start = int(self._ends[index]) - num_read - num_written
        # Not a memory map: its pages would count as this process's memory, all of them after one epoch.
        found = os.pread(self._tokens, _TOKEN_BYTES * (num_read + num_written), _TOKEN_BYTES * start)
        if len(found) != _TOKEN_BYTES * (num_read + num_written):
            raise self._damaged(f"example {index} is cut off")
        ids = np.frombuffer(found, "<i4")
        return TokenExample(prompt_ids=ids[:num_read], completion_ids=ids[num_read:])


def open_or_build(
    cache_dir: str,
    content: Content,
    *,
    anew: bool = False,
    patience_seconds: float = building.PATIENCE_SECONDS,
) -> TokenStore:
    """The store of this content, built if nobody has.

    Args:
        anew: builds it in any case, in place of one that is there (whose readers keep what they read).

    Raises:
        TimeoutError: another process has held the store for `patience_seconds` without finishing it.
        WrongUse: the store is damaged.
    """
    directory = os.path.join(cache_dir, content.key)
    marker = os.path.join(directory, _MARKER)
    if anew or not os.path.exists(marker):
        with building.sole_builder(directory, content.name, patience_seconds):
            if anew or not os.path.exists(marker):
                _build(directory, content)
            return TokenStore(directory)  # before another process builds it anew
    return TokenStore(directory)


def _build(directory: str, content: Content) -> None:
    """Only the sole builder comes here."""
    started = time.monotonic()
    with building.whole_directory(directory) as aside:
        num_examples, num_tokens = _write(aside, content)
        description = {
            "name": content.name,
            "made_from": content.made_from,
            "num_examples": num_examples,
            "num_tokens": num_tokens,
            "counts": dict(content.counts),
        }
        jsonl.write_json(os.path.join(aside, _MARKER), description)
    log.info(
        "%s: %d examples, %d tokens, %.0f tokens/s",
        content.name,
        num_examples,
        num_tokens,
        num_tokens / (time.monotonic() - started),
    )


def _write(directory: str, content: Content) -> tuple[int, int]:
    """Streams the examples to the two files; memory holds one batch of them."""
    num_examples = num_tokens = 0
    with (
        open(os.path.join(directory, _TOKENS), "wb") as tokens,
        open(os.path.join(directory, _LENGTHS), "wb") as lengths,
        Progress(f"tokenize {content.name}", unit="example", start=0, total=None) as progress,
    ):
        for batch in content.build():
            parts = [part for example in batch for part in (example.prompt_ids, example.completion_ids)]
            for ids in parts:
                tokens.write(ids.astype("<i4", copy=False).data)
            counts = np.array([len(ids) for ids in parts], "<i4")
            lengths.write(counts.data)
            num_examples, num_tokens = num_examples + len(batch), num_tokens + int(counts.sum())
            progress.update(num_examples, f"{num_tokens:,} tokens")
    return num_examples, num_tokens
