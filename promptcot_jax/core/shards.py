"""Work on many independent requests that survives being killed: finished shards are kept.

The requests are cut into fixed consecutive shards. A shard's records are written whole or not at all; when
all are there they become one file and the shards go. What comes out is therefore the same bytes however often
the work was killed, as long as a request's records depend on nothing but the request and its shard.
"""

import logging
import os
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse

Request = TypeVar("Request")
Record = TypeVar("Record")

log = logging.getLogger(__name__)


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
    ):
        """Looks at what is there.

        Args:
            name: of the work, for the log.

        Raises:
            WrongUse: shards of another number of requests or another shard size are in the way.
        """
        self._path = epath.Path(path)
        self._record_type, self._name = record_type, name
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

    @property
    def num_shards(self) -> int:
        """Of all requests."""
        return len(self._files)

    def to_do(self) -> list[int]:
        """The shards that are not there."""
        if self.is_whole:
            return []
        return [i for i, file in enumerate(self._files) if not file.exists()]

    def requests_of(self, shard: int) -> range:
        """The numbers of a shard's requests."""
        start = shard * self._shard_size
        return range(start, min(start + self._shard_size, self._num_requests))

    def write(self, shard: int, records: Sequence[Record]) -> None:
        """Writes a shard whole."""
        data = "".join(jsonl.to_line(record) + "\n" for record in records)
        jsonl.write_atomically(self._files[shard], data.encode())
        log.info("%s: shard %d of %d", self._name, shard + 1, len(self._files))

    def read_shard(self, shard: int) -> list[Record]:
        """The records of a shard that is there."""
        return jsonl.read_file(self._files[shard], self._record_type)

    def put_together(self, num_requests: int | None = None) -> None:
        """Makes one file of the shards, which must all be there, and removes them.

        Args:
            num_requests: of the first ones only, at the end of a shard; the others were never begun.
        """
        if not self.is_whole:
            count = self._num_requests if num_requests is None else num_requests
            num_shards = max(-(-count // self._shard_size), 1)
            records = [record for shard in range(num_shards) for record in self.read_shard(shard)]
            jsonl.write_records(self._path, records)  # and removes the shards
        for file in self._files:  # killed between writing the whole file and removing its shards
            file.unlink(missing_ok=True)

    def read(self) -> list[Record]:
        """All records, in order, from the one file.

        Read back, never kept: a resumed run and an uninterrupted one must go on from the same values.
        """
        return jsonl.read_file(self._path, self._record_type)


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
    sharded.put_together()
    return sharded.read()
