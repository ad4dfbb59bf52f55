"""Work on many independent requests that survives being killed: finished shards are kept.

The requests are cut into fixed consecutive shards. A shard's records are written whole or not at all; when
all are there they become one file and the shards go. What comes out is therefore the same bytes however often
the work was killed, as long as a request's records depend on nothing but the request and its shard.
"""

import logging
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse

Request = TypeVar("Request")
Record = TypeVar("Record")

log = logging.getLogger(__name__)


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
    path = epath.Path(path)
    num_shards = max(-(-len(requests) // shard_size), 1)
    stem = path.name.removesuffix(".jsonl")
    file_names = [f"{stem}-{i:05d}-of-{num_shards:05d}.jsonl" for i in range(num_shards)]
    if path.exists():
        for file_name in file_names:  # killed between writing the whole file and removing its shards
            (path.parent / file_name).unlink(missing_ok=True)
        return jsonl.read_records(path, record_type)
    if path.parent.exists():
        foreign = sorted(
            p.name for p in path.parent.glob(f"{stem}-?????-of-?????.jsonl") if p.name not in file_names
        )
        if foreign:
            raise WrongUse(
                f"{os.fspath(path.parent / foreign[0])}: a shard of other settings ({num_shards} shards are "
                f"expected now); remove the shards of {path.name}, or go back to the settings they came from."
            )
    for i, file_name in enumerate(file_names):
        if not (path.parent / file_name).exists():
            records = work(requests[i * shard_size : (i + 1) * shard_size])
            data = "".join(jsonl.to_line(record) + "\n" for record in records)
            jsonl.write_atomically(path.parent / file_name, data.encode())
            log.info("%s: shard %d of %d", name, i + 1, num_shards)
    # Read back, never kept: a resumed run and an uninterrupted one must go on from the same values.
    everything = [
        record
        for file_name in file_names
        for record in jsonl.read_records(path.parent / file_name, record_type)
    ]
    jsonl.write_records(path, everything)  # and removes the shards
    return everything
