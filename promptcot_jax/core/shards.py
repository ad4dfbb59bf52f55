"""Work on many independent requests that survives being killed: finished shards are kept, missing ones are done.

The requests are cut into fixed consecutive shards. A shard's records are written whole or not at all; when all are
there they become one file and the shards go. What comes out is therefore the same bytes however often the work was
killed, as long as a request's records depend on nothing but the request and its shard.
"""

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse

Request = TypeVar("Request")
Record = TypeVar("Record")


def work_in_shards(
    path: epath.PathLike,
    requests: Sequence[Request],
    work: Callable[[Sequence[Request]], Sequence[Record]],
    record_type: type[Record],
    *,
    requests_per_shard: int,
    after_shard: Callable[[int, int], None] = lambda done, total: None,
) -> list[Record]:
    """The records of all requests, in order, also written to `path` (ending in `.jsonl`).

    Args:
        work: makes the records of one shard's requests, any number of them.
        after_shard: told how many shards are there, of how many.

    Raises:
        WrongUse: shards of another number of requests or another shard size are in the way.
    """
    path = epath.Path(path)
    num_shards = max(-(-len(requests) // requests_per_shard), 1)
    stem = path.name.removesuffix(".jsonl")
    # The two names of one-shard work differ as well: `path` itself says that everything is there.
    names = [f"{stem}-{i:05d}-of-{num_shards:05d}.jsonl" for i in range(num_shards)]
    if path.exists():
        for name in names:  # killed between writing the whole file and removing its shards
            (path.parent / name).unlink(missing_ok=True)
        return jsonl.read_records(path, record_type)
    if path.parent.exists():
        foreign = sorted(p.name for p in path.parent.glob(f"{stem}-?????-of-?????.jsonl") if p.name not in names)
        if foreign:
            raise WrongUse(
                f"{os.fspath(path.parent / foreign[0])}: a shard of other settings ({num_shards} shards are expected "
                f"now); remove the shards of {path.name}, or go back to the settings they were made under."
            )
    for i, name in enumerate(names):
        if not (path.parent / name).exists():
            records = work(requests[i * requests_per_shard : (i + 1) * requests_per_shard])
            data = "".join(jsonl.to_line(record) + "\n" for record in records)
            jsonl.write_atomically(path.parent / name, data.encode())
        after_shard(i + 1, num_shards)
    # Read back, never kept: a resumed run and an uninterrupted one must go on from the same values.
    everything = [record for name in names for record in jsonl.read_records(path.parent / name, record_type)]
    jsonl.write_records(path, everything)
    for name in names:
        (path.parent / name).unlink(missing_ok=True)
    return everything
