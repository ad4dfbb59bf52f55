"""Batches of work on several processes, results in order; with one process just a loop."""

import collections
import concurrent.futures
import itertools
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Batch = TypeVar("Batch")
Result = TypeVar("Result")


class BatchWorkers:
    """Processes that start with the first batch and end with the block in which this is used."""

    def __init__(self, num_processes: int = 1):
        self._num_processes = num_processes
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None

    def __enter__(self) -> "BatchWorkers":
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def map(self, work: Callable[[Batch], Result], batches: Iterable[Batch]) -> Iterator[Result]:
        """The results of all batches; few are under way at a time, since each is a copy of its texts."""
        if self._num_processes == 1:
            yield from map(work, batches)
            return
        if self._pool is None:
            # Spawned, since JAX has threads.
            context = multiprocessing.get_context("spawn")
            self._pool = concurrent.futures.ProcessPoolExecutor(self._num_processes, mp_context=context)
        rest = iter(batches)
        first = itertools.islice(rest, self._num_processes + 1)
        under_way = collections.deque(self._pool.submit(work, batch) for batch in first)
        while under_way:
            yield under_way.popleft().result()
            under_way.extend(self._pool.submit(work, batch) for batch in itertools.islice(rest, 1))
