"""Many programs at once: worker processes, each of which runs one program at a time.

A worker is a bare interpreter that imports this room and nothing else: forking a trainer that holds gigabytes
and a hundred threads, once for each sandbox, would be slow and is not safe. It never runs a program itself.
"""

import concurrent.futures
import contextlib
import multiprocessing
import os
import pathlib
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from promptcot_jax.core.records import ProgramTest
from promptcot_jax.verify import programs, sandbox_host
from promptcot_jax.verify.programs import ProgramOutput, ProgramSettings, TestReport
from promptcot_jax.verify.sandbox import Host

Job = tuple[str, Sequence[ProgramTest]]  # a program and its tests
Trial = tuple[str, Sequence[str]]  # a program and inputs

_WORKER_TRIES = 2
_SLACK_SECONDS = 120.0  # what starting sandboxes may add to the time of a program's tests
_SOURCE_ROOT = pathlib.Path(__file__).parents[2]
_WORKER = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from promptcot_jax.verify import program_pool; program_pool.serve(int(sys.argv[2]))"
)


def run_many(
    jobs: Iterable[Job], settings: ProgramSettings | None = None, *, num_workers: int | None = None
) -> list[TestReport]:
    """Grades programs in parallel; reports in the order of the jobs.

    Args:
        num_workers: None: one for each core that this process may use. More would let programs time out
            because they wait for each other.

    Raises:
        SandboxUnavailable: isolation does not work here, and the settings do not accept less.
        TypeError: an argument or expected value of a call test has no typed JSON.
    """
    jobs, settings = list(jobs), settings or ProgramSettings()
    host = sandbox_host.find_host(settings.allow_weak_sandbox)
    lost = TestReport(passed=False, status="sandbox_error", results=(), is_weak_sandbox=host.is_weak)
    reports = _map("grade", jobs, settings, host, num_workers)
    return [lost if report is None else report for report in reports]


def outputs_of_many(
    trials: Iterable[Trial], settings: ProgramSettings | None = None, *, num_workers: int | None = None
) -> list[list[ProgramOutput]]:
    """What programs print for inputs, in parallel; in the order of the trials. See `run_many`.

    Raises:
        SandboxUnavailable: as `run_many`.
    """
    trials, settings = list(trials), settings or ProgramSettings()
    host = sandbox_host.find_host(settings.allow_weak_sandbox)
    lost = ProgramOutput(failure="sandbox_error")
    outputs = _map("run", trials, settings, host, num_workers)
    return [
        [lost] * len(inputs) if own is None else own for (_, inputs), own in zip(trials, outputs, strict=True)
    ]


def _map(
    task: str, jobs: Sequence[Any], settings: ProgramSettings, host: Host, num_workers: int | None
) -> list[Any]:
    """What workers make of the jobs, in order; None where worker after worker is lost over one."""
    if not jobs:
        return []
    num_workers = min(num_workers or len(os.sched_getaffinity(0)), len(jobs))
    with contextlib.ExitStack() as stack:
        threads = stack.enter_context(concurrent.futures.ThreadPoolExecutor(num_workers))
        # Left before the threads: an interrupted call ends its workers, and that frees the threads.
        workers = [stack.enter_context(_Worker(host, settings)) for _ in range(num_workers)]
        idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in workers:
            idle.put(worker)

        def do(job: Any) -> Any:
            worker = idle.get()
            try:
                return worker.do(task, job)
            finally:
                idle.put(worker)

        return list(threads.map(do, jobs))


class _Worker:
    """A worker process, replaced when it dies or does not answer."""

    def __init__(self, host: Host, settings: ProgramSettings):
        self._host, self._settings = host, settings
        self._lock = threading.Lock()  # one thread grades, another may close
        self._is_closed = False

    def __enter__(self) -> "_Worker":
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._is_closed = True
            self._end()

    def _start(self) -> None:
        self._connection, theirs = multiprocessing.Pipe()
        command = [sys.executable, "-S", "-c", _WORKER, os.fspath(_SOURCE_ROOT), str(theirs.fileno())]
        self._process = subprocess.Popen(
            command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        theirs.close()

    def _end(self) -> None:
        self._process.kill()  # its sandboxes go with it
        self._process.wait()
        self._connection.close()

    def _replace(self) -> None:
        with self._lock:
            if not self._is_closed:
                self._end()
                self._start()

    def do(self, task: str, job: Any) -> Any:
        """What comes of one program; None where worker after worker is lost over it."""
        for _ in range(_WORKER_TRIES):
            with contextlib.suppress(OSError, EOFError):
                self._connection.send((task, self._host, self._settings, job))
                if self._connection.poll(self._settings.total_seconds + _SLACK_SECONDS):
                    answer = self._connection.recv()
                    if isinstance(answer, TypeError):
                        raise answer
                    return answer
            self._replace()
        return None


_TASKS: Mapping[str, Callable[..., Any]] = {"grade": programs.grade_program, "run": programs.run_program}


def serve(descriptor: int) -> None:
    """What a worker does: runs programs until its parent is gone."""
    with Connection(descriptor) as connection, contextlib.suppress(EOFError, OSError):
        while True:
            task, host, settings, (program, given) = connection.recv()
            try:
                answer = _TASKS[task](program, given, settings, host)
            except TypeError as error:  # a test that cannot be put to a program
                answer = error
            connection.send(answer)
