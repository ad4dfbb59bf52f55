"""Worker processes that compare expressions within a time limit, for any thread of any process.

The clock is the parent's: a worker that has not answered in time is killed, and a new one starts at once in
its place. There is no signal, no asyncio and no multiprocessing in it, so that it works from the main thread
and others, inside a running event loop, and in a process that was forked or spawned; each process has its own
workers, started when first needed.
"""

import atexit
import json
import logging
import os
import pathlib
import select
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent import futures
from typing import Literal

from promptcot_jax.verify import grading_worker

Verdict = Literal["match", "mismatch", "timeout", "error"]

TIME_LIMIT_S = 3.0
START_LIMIT_S = 60.0  # importing sympy takes about one second, and a busy machine its time
_VERDICTS: dict[bytes, Verdict] = {b"true\n": "match", b"false\n": "mismatch"}
MAX_PAIRS_A_WORKER = 1_000  # then a fresh one takes over: sympy and the parser cache what they have seen


class GradingPool:
    """As many workers as cores, each busy with one pair at a time.

    Args:
        size: most workers at once. None: the cores that this process may use.
        time_limit_s: for one pair, by the clock on the wall.
    """

    def __init__(self, size: int | None = None, time_limit_s: float = TIME_LIMIT_S):
        self.size = size or len(os.sched_getaffinity(0))
        self._time_limit_s = time_limit_s
        self._vacancies = threading.BoundedSemaphore(self.size)
        self._idle: list[_Worker] = []
        self._workers: set[_Worker] = set()

    def compare(self, reference: str, candidate: str) -> Verdict:
        """Whether two normalised answers are the same; waits for a free worker."""
        with self._vacancies:
            try:
                worker = self._idle.pop()
            except IndexError:
                worker = self._start()
            verdict: Verdict = "timeout"
            try:
                verdict = worker.compare(reference, candidate, self._time_limit_s)
            finally:  # an interrupt leaves the worker amid a pair
                if verdict in ("timeout", "error") or worker.num_pairs >= MAX_PAIRS_A_WORKER:
                    worker.kill()
                    self._workers.discard(worker)
                    worker = self._start()  # ready when the next pair comes
                self._idle.append(worker)
            return verdict

    def compare_many(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """`compare` of each pair, in order, on all workers."""
        if len(pairs) <= 1:
            return [self.compare(*pair) for pair in pairs]
        with futures.ThreadPoolExecutor(min(self.size, len(pairs))) as threads:
            return list(threads.map(lambda pair: self.compare(*pair), pairs))

    def close(self) -> None:
        """Ends the workers."""
        for worker in list(self._workers):
            worker.kill()
        self._workers.clear()
        self._idle.clear()

    def forget(self) -> None:
        """Leaves the workers to the parent process, in a child that was forked off it."""
        for worker in self._workers:
            worker.forget()

    def _start(self) -> "_Worker":
        worker = _Worker()
        self._workers.add(worker)
        return worker


class _Worker:
    """One worker process, started by the constructor, which does not wait for it."""

    def __init__(self):
        self.num_pairs = 0
        self._is_ready = False
        # Imports come from where this process has them, but never from the working directory.
        package_root = str(pathlib.Path(__file__).parents[2])
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", grading_worker.__name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([package_root, *filter(None, sys.path)])},
            start_new_session=True,  # Ctrl-C is for the parent, which then ends its workers
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._replies = self._process.stdin, self._process.stdout

    def compare(self, reference: str, candidate: str, time_limit_s: float) -> Verdict:
        """A worker that could not start is an error; one that is slow, or ends, a time-out."""
        if not self._is_ready:
            if self._reply(START_LIMIT_S) != grading_worker.READY:
                logging.error("No worker for math answers; `python -m %s` says why.", grading_worker.__name__)
                return "error"
            self._is_ready = True
        self.num_pairs += 1
        request = {"reference": reference, "candidate": candidate, "seconds": time_limit_s}
        try:
            # Shorter than the buffer of a pipe (the texts are capped), so that it never waits.
            self._requests.write(json.dumps(request).encode() + b"\n")
        except BrokenPipeError:
            return "timeout"
        return _VERDICTS.get(self._reply(time_limit_s), "timeout")

    def kill(self) -> None:
        """Ends the process, whatever it does, and leaves no zombie."""
        self._process.kill()
        self._process.wait()
        self._close_pipes()

    def forget(self) -> None:
        """In a forked child: closes this end of the pipes, so that the worker ends with the parent."""
        self._process.returncode = 0  # nothing to wait for here
        self._close_pipes()

    def _reply(self, time_limit_s: float) -> bytes:
        """The next line, or what there is of it when the time is up or the worker ends."""
        deadline = time.monotonic() + time_limit_s
        descriptor = self._replies.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        line = b""
        while not line.endswith(b"\n") and (rest := deadline - time.monotonic()) > 0:
            if poll.poll(1_000 * rest):
                part = os.read(descriptor, 4_096)
                if not part:
                    break
                line += part
        return line

    def _close_pipes(self) -> None:
        self._requests.close()
        self._replies.close()


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
