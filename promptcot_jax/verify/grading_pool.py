"""Comparing expressions within a time limit, in workers (`grading_worker`); each process has its own."""

import atexit
import json
import logging
import os
import threading
from collections.abc import Sequence
from concurrent import futures
from typing import Literal

from promptcot_jax.verify import grading_worker
from promptcot_jax.verify.worker_pool import WorkerFailed, WorkerPool

Verdict = Literal["match", "mismatch", "timeout", "error"]

TIME_LIMIT_S = 2.0  # of processor time, so that a busy machine changes no verdict
MAX_WALL_FACTOR = 15.0  # by the clock, a worker may take this much longer: it is one of many, or hangs
MAX_PAIRS_A_WORKER = 1_000  # then a fresh one takes over: sympy and the parser cache what they have seen
_VERDICTS: dict[bytes | None, Verdict] = {b"true": "match", b"false": "mismatch"}


class GradingPool(WorkerPool):
    """As many workers as cores, each busy with one pair at a time.

    Args:
        size: most workers at once. None: the cores that this process may use.
        time_limit_s: for one pair, of processor time.
    """

    def __init__(self, size: int | None = None, time_limit_s: float = TIME_LIMIT_S):
        super().__init__(grading_worker.__name__, size, MAX_PAIRS_A_WORKER)
        self._time_limit_s = time_limit_s

    def compare(self, reference: str, candidate: str) -> Verdict:
        """Whether two normalised answers are the same; a worker that is slow, or ends, is a time-out.

        Where none can start, the verdict is "error": nothing is raised.
        """
        request = {"reference": reference, "candidate": candidate, "seconds": self._time_limit_s}
        try:
            reply = self.ask(json.dumps(request).encode(), MAX_WALL_FACTOR * self._time_limit_s)
        except (WorkerFailed, OSError) as failure:
            logging.error("No worker for math answers; %s", failure)
            return "error"
        return _VERDICTS.get(reply, "timeout")

    def compare_many(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """`compare` of each pair, in order, on all workers."""
        if len(pairs) <= 1:
            return [self.compare(*pair) for pair in pairs]
        with futures.ThreadPoolExecutor(min(self.size, len(pairs))) as threads:
            return list(threads.map(lambda pair: self.compare(*pair), pairs))


_pool: GradingPool | None = None
_pool_lock = threading.Lock()


def shared_pool() -> GradingPool:
    """This process's pool, made at the first call and closed at exit."""
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = GradingPool()
        return _pool


def _close_shared_pool() -> None:
    global _pool
    if _pool is not None:
        _pool.close()
        _pool = None


def _after_fork_in_child() -> None:
    global _pool, _pool_lock
    if _pool is not None:
        _pool.forget()
    _pool, _pool_lock = None, threading.Lock()


atexit.register(_close_shared_pool)
os.register_at_fork(after_in_child=_after_fork_in_child)
