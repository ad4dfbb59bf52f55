"""Worker processes for what may hang, outgrow its memory or die, for any thread of any process.

The clock is the parent's: a worker that has not answered in time is killed, and a new one starts at once in
its place. There is no signal and no asyncio in it, so that it works from the main thread and others, inside a
running event loop, and in a process that was forked or spawned. Nothing is forked: a trainer holds gigabytes
and a hundred threads. Requests and replies are bytes; what they hold is the caller's to say.
"""

import contextlib
import multiprocessing
import os
import pathlib
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection

READY = b"ready"
START_LIMIT_S = 60.0  # importing sympy takes about one second, and a busy machine its time


class WorkerFailed(Exception):
    """A worker could not start."""


class WorkerPool:
    """At most `size` workers, started when first needed, each busy with one request at a time.

    Args:
        module: what a worker runs (`python -m`); it calls `serve`.
        size: None: the cores that this process may use.
        max_requests: of a worker; then a fresh one takes over.
    """

    def __init__(self, module: str, size: int | None = None, max_requests: int | None = None):
        self.module, self.max_requests = module, max_requests
        self.size = size or len(os.sched_getaffinity(0))
        self._vacancies = threading.BoundedSemaphore(self.size)
        self._idle: list[_Worker] = []
        self._workers: set[_Worker] = set()
        self._lock = threading.Lock()  # one thread may close the pool while others ask
        self._is_closed = False

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, request: bytes, seconds: float) -> bytes | None:
        """What a worker replies, once one is free; None where it is slow, or ends.

        Raises:
            WorkerFailed: it could not start, or the pool is closed.
        """
        with self._vacancies:
            try:
                worker = self._idle.pop()
            except IndexError:
                worker = self._start()
            reply = None
            try:
                reply = worker.ask(request, seconds)
                return reply
            finally:  # an interrupt leaves the worker amid a request
                if reply is None or worker.num_requests == self.max_requests:
                    worker.kill()
                    self._workers.discard(worker)
                    with contextlib.suppress(WorkerFailed, OSError):
                        self._idle.append(self._start())  # ready when the next request comes
                else:
                    self._idle.append(worker)

    def close(self) -> None:
        """Ends the workers for good."""
        with self._lock:
            self._is_closed = True
            for worker in tuple(self._workers):  # a thread whose worker ends takes it out meanwhile
                worker.kill()
            self._workers.clear()
            self._idle.clear()

    def forget(self) -> None:
        """Leaves the workers to the parent process, in a child that was forked off it."""
        for worker in self._workers:
            worker.forget()

    def _start(self) -> "_Worker":
        with self._lock:
            if self._is_closed:
                raise WorkerFailed("The pool is closed.")
            worker = _Worker(self.module)
            self._workers.add(worker)
            return worker


class _Worker:
    """One worker process, started by the constructor, which does not wait for it."""

    def __init__(self, module: str):
        self._module, self.num_requests = module, 0
        self._is_ready = False
        self._connection, theirs = multiprocessing.Pipe()
        # Imports come from where this process has them, but never from the working directory.
        package_root = str(pathlib.Path(__file__).parents[2])
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            env={**os.environ, "PYTHONPATH": os.pathsep.join([package_root, *filter(None, sys.path)])},
            start_new_session=True,  # Ctrl-C is for the parent, which then ends its workers
        )
        theirs.close()

    def ask(self, request: bytes, seconds: float) -> bytes | None:
        """See `WorkerPool.ask`."""
        if not self._is_ready:
            if self._reply(START_LIMIT_S) != READY:
                raise WorkerFailed(
                    f'a worker did not start; `python -c "import {self._module}"` may say why.'
                )
            self._is_ready = True
        self.num_requests += 1
        # A request that is not taken, or half a reply, would hold up this thread for good.
        stuck = threading.Timer(seconds + 1.0, self._process.kill)
        stuck.daemon = True
        stuck.start()
        try:
            self._connection.send_bytes(request)
            return self._reply(seconds)
        except OSError:
            return None
        finally:
            stuck.cancel()

    def kill(self) -> None:
        """Ends the process, whatever it does, and leaves no zombie; a thread that waits for it goes on."""
        self._process.kill()
        self._process.wait()

    def forget(self) -> None:
        """In a forked child: closes this end of the pipe, so that the worker ends with the parent."""
        self._process.returncode = 0  # nothing to wait for here
        self._connection.close()

    def _reply(self, seconds: float) -> bytes | None:
        with contextlib.suppress(OSError, EOFError):
            if self._connection.poll(seconds):
                return self._connection.recv_bytes()
        return None


def serve(answer: Callable[[bytes], bytes]) -> None:
    """What a worker does: answers requests until its parent is gone."""
    with Connection(int(sys.argv[1])) as connection, contextlib.suppress(EOFError, OSError):
        connection.send_bytes(READY)
        while True:
            connection.send_bytes(answer(connection.recv_bytes()))
