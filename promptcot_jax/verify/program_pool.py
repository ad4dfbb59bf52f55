"""Many programs at once: workers, each of which runs one program at a time in sandboxes of its own."""

import concurrent.futures
import contextlib
import os
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from promptcot_jax.core.records import ProgramTest
from promptcot_jax.verify import programs, sandbox_host, worker_pool
from promptcot_jax.verify.programs import ProgramOutput, ProgramSettings, TestReport
from promptcot_jax.verify.sandbox import Host

Job = tuple[str, Sequence[ProgramTest]]  # a program and its tests
Trial = tuple[str, Sequence[str]]  # a program and inputs

MODULE = "promptcot_jax.verify.program_pool"  # what a worker runs; there its name is another
_WORKER_TRIES = 2
_SLACK_SECONDS = 120.0  # what starting sandboxes may add to the time of a program's tests


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

    def do(job: Any) -> Any:
        request = pickle.dumps((task, job, settings, host))
        for _ in range(_WORKER_TRIES):
            with contextlib.suppress(worker_pool.WorkerFailed):
                reply = pool.ask(request, settings.total_seconds + _SLACK_SECONDS)
                if reply is not None:
                    return pickle.loads(reply)  # noqa: S301 - a worker runs no program itself
        return None

    # The pool is left first: an interrupted call ends its workers, and that frees the threads.
    with (
        concurrent.futures.ThreadPoolExecutor(num_workers) as threads,
        worker_pool.WorkerPool(MODULE, num_workers) as pool,
    ):
        answers = list(threads.map(do, jobs))
    for answer in answers:
        if isinstance(answer, TypeError):
            raise answer
    return answers


_TASKS: Mapping[str, Callable[..., Any]] = {"grade": programs.grade_program, "run": programs.run_program}


def _answer(request: bytes) -> bytes:
    """What a worker makes of one program."""
    task, (program, given), settings, host = pickle.loads(request)  # noqa: S301 - from `_map`
    try:
        return pickle.dumps(_TASKS[task](program, given, settings, host))
    except TypeError as error:  # a test that cannot be put to a program
        return pickle.dumps(error)


if __name__ == "__main__":
    worker_pool.serve(_answer)
