"""Work on many independent requests that survives being killed: finished shards are kept.

The requests are cut into fixed consecutive shards. A shard's records are written whole or not at all; when
all are there they become one file and the shards go. What comes out is therefore the same bytes however often
the work was killed, as long as a request's records depend on nothing but the request and its shard.

Several hosts may share the work through one directory: each does the shards of its number, and the first
puts the file together. Nobody waits for ever: a host that has seen no new shard for a while says which are
missing.
"""

import dataclasses
import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse

Request = TypeVar("Request")
Record = TypeVar("Record")

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Share:
    """Which of several hosts this one is, and how long it waits for a sign of the others."""

    host: int = 0
    num_hosts: int = 1
    patience_seconds: float = 3600.0  # without a new shard
    seconds_between_looks: float = 2.0


ALONE = Share()


class ShardedRecords(Generic[Record]):
    """The records of numbered requests, written shard by shard to `path` (ending in `.jsonl`)."""

    def __init__(
        self,
        path: epath.PathLike,
        num_requests: int,
        record_type: type[Record],
        *,
        shard_size: int,
        name: str,
        share: Share = ALONE,
    ):
        """Looks at what is there.

        Args:
            name: of the work, for the log.

        Raises:
            WrongUse: shards of another number of requests or another shard size are in the way.
        """
        self._path = epath.Path(path)
        self._record_type, self._name, self._share = record_type, name, share
        self._num_requests, self._shard_size = num_requests, shard_size
        num_shards = max(-(-num_requests // shard_size), 1)
        stem = self._path.name.removesuffix(".jsonl")
        names = [f"{stem}-{i:05d}-of-{num_shards:05d}.jsonl" for i in range(num_shards)]
        self._files = [self._path.parent / name for name in names]
        if self.is_whole or not self._path.parent.exists():
            return
        found = self._path.parent.glob(f"{stem}-?????-of-?????.jsonl")
        if foreign := sorted(file.name for file in found if file.name not in names):
            raise WrongUse(
                f"{os.fspath(self._path.parent / foreign[0])}: a shard of other settings ({num_shards} "
                f"shards are expected now); remove the shards of {self._path.name}, or go back to the "
                "settings they came from."
            )

    @property
    def is_whole(self) -> bool:
        """Whether all records are there, in one file."""
        return self._path.exists()

    def to_do(self) -> list[int]:
        """The shards of this host's share that are not there."""
        if self.is_whole:
            return []
        own = range(self._share.host, len(self._files), self._share.num_hosts)
        return [i for i in own if not self._files[i].exists()]

    def requests_of(self, shard: int) -> range:
        """The numbers of a shard's requests."""
        start = shard * self._shard_size
        return range(start, min(start + self._shard_size, self._num_requests))

    def write(self, shard: int, records: Sequence[Record]) -> None:
        """Writes a shard whole."""
        data = "".join(jsonl.to_line(record) + "\n" for record in records)
        jsonl.write_atomically(self._files[shard], data.encode())
        log.info("%s: shard %d of %d", self._name, shard + 1, len(self._files))

    def gather(self) -> list[Record]:
        """All records, in order: from the one file, which the first host puts together.

        Raises:
            TimeoutError: another host has not done its share.
        """
        if not self.is_whole:
            if self._share.host == 0:
                self._wait(lambda: [file.name for file in self._files if not file.exists()])
                records = [
                    record for file in self._files for record in jsonl.read_file(file, self._record_type)
                ]
                jsonl.write_records(self._path, records)  # and removes the shards
            else:
                self._wait(lambda: [] if self.is_whole else [self._path.name])
        if self._share.host == 0:
            for file in self._files:  # killed between writing the whole file and removing its shards
                file.unlink(missing_ok=True)
        # Read back, never kept: a resumed run and an uninterrupted one must go on from the same values. Only
        # the one file: the first host may still be removing the shards when another comes by.
        return jsonl.read_file(self._path, self._record_type)

    def _wait(self, missing: Callable[[], list[str]]) -> None:
        """Until nothing is missing, as long as there is less and less of it."""
        last_change, before = time.monotonic(), None
        while names := missing():
            # Others' shards on the way to a file that is still missing are a sign of life too.
            there = (names, sum(file.exists() for file in self._files))
            if there != before:
                last_change, before = time.monotonic(), there
            elif time.monotonic() - last_change > self._share.patience_seconds:
                raise TimeoutError(
                    f"{self._name}: host {self._share.host} of {self._share.num_hosts} has waited "
                    f"{self._share.patience_seconds:.0f} s for {len(names)} files in "
                    f"{os.fspath(self._path.parent)}, e.g. {names[0]}, without a sign of the others; see "
                    "whether they run, and start the stage again: what is there is kept."
                )
            time.sleep(self._share.seconds_between_looks)


def map_in_shards(
    path: epath.PathLike,
    requests: Sequence[Request],
    work: Callable[[Sequence[Request]], Sequence[Record]],
    record_type: type[Record],
    *,
    shard_size: int,
    name: str,
) -> list[Record]:
    """The records of all requests, in order, also written to `path` (ending in `.jsonl`).

    Args:
        work: makes the records of one shard's requests, any number of them.
        name: of the work, for the log.

    Raises:
        WrongUse: shards of another number of requests or another shard size are in the way.
    """
    sharded = ShardedRecords(path, len(requests), record_type, shard_size=shard_size, name=name)
    for shard in sharded.to_do():
        sharded.write(shard, work([requests[i] for i in sharded.requests_of(shard)]))
    return sharded.gather()
