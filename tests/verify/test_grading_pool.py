"""Facts of the worker pool: its clock catches everything, from anywhere, and nothing is left behind."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from promptcot_jax.verify import grading_pool, grading_worker, math_answers
from tests.cases import some_fast
from tests.verify import grading_everywhere

ENDLESS = r"\sum_{a=1}^{900}\sum_{b=1}^{900}\sum_{c=1}^{900}\frac{1}{a+b+c}"


@pytest.fixture
def pool():
    grading_pool._close_shared_pool()  # of earlier tests, whose workers would be counted too
    pool = grading_pool.GradingPool(size=2, time_limit_s=2.0)
    yield pool
    pool.close()


def worker_ids() -> list[int]:
    """The processes of workers that this process started."""
    ids = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            name = grading_worker.__name__.encode()
            if parent == os.getpid() and name in (process / "cmdline").read_bytes():
                ids.append(int(process.name))
    return ids


@pytest.mark.slow
def test_a_stuck_worker_is_killed_and_replaced(pool):
    assert pool.compare("x", "x+0") == "match"
    before = worker_ids()
    start = time.monotonic()
    assert pool.compare("x+1", ENDLESS) == "timeout"
    assert time.monotonic() - start < 15.0
    assert pool.compare("x", "x+0") == "match"
    assert set(before) != set(worker_ids())
    assert len(worker_ids()) == len(before)


@pytest.mark.slow
def test_a_dead_worker_is_replaced_and_its_pair_a_timeout(pool):
    assert pool.compare("x", "x+0") == "match"
    (worker,) = worker_ids()
    killer = threading.Timer(0.2, os.kill, (worker, signal.SIGKILL))
    killer.start()
    assert pool.compare("x+1", ENDLESS) == "timeout"
    killer.join()
    assert pool.compare("x", "x+0") == "match"


def test_a_worker_that_died_idle_is_replaced(pool):
    assert pool.compare("x", "x+0") == "match"
    os.kill(worker_ids()[0], signal.SIGKILL)
    assert pool.compare("x", "x+0") in ("timeout", "match")
    assert pool.compare("x", "x+0") == "match"


def test_results_come_in_order_though_some_time_out(pool):
    pairs = [("x+1", ENDLESS), ("x", "x+0"), ("x", "x+1"), ("x+1", ENDLESS), ("x", "2x-x"), ("x", "2x")]
    verdicts = pool.compare_many(pairs)
    assert verdicts == ["timeout", "match", "mismatch", "timeout", "match", "mismatch"]
    assert len(worker_ids()) == pool.size


def test_a_worker_is_changed_after_its_share_of_pairs(pool):
    pool.max_requests = 2
    assert pool.compare("x", "x+0") == "match"
    (first,) = worker_ids()
    assert pool.compare("x", "x+0") == "match"
    assert pool.compare("x", "x+0") == "match"
    assert first not in worker_ids()


def test_a_worker_has_its_limits(pool):
    assert pool.compare("x", "x+0") == "match"
    limits = pathlib.Path(f"/proc/{worker_ids()[0]}/limits").read_text()
    soft = {line[:26].strip(): line[26:].split()[0] for line in limits.splitlines()}
    assert int(soft["Max address space"]) == grading_worker.MEMORY_LIMIT < 2**30
    assert soft["Max file size"] == "0"
    assert soft["Max core file size"] == "0"


def test_only_processor_time_counts(pool):
    """A worker that waits for the processor far longer than its time limit still gives its verdict."""
    assert pool.compare("x", "x+0") == "match"
    (worker,) = worker_ids()
    os.kill(worker, signal.SIGSTOP)
    going_on = threading.Timer(2 * pool._time_limit_s, os.kill, (worker, signal.SIGCONT))
    going_on.start()
    assert pool.compare("x^2-1", "(x-1)(x+1)") == "match"
    going_on.join()


def test_a_worker_that_cannot_start_is_an_error(pool, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert pool.compare("x", "x+0") == "error"
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with grading_pool.GradingPool(size=1) as another:
        assert another.compare("x", "x+0") == "error"
    monkeypatch.undo()
    with grading_pool.GradingPool(size=1) as another:
        assert another.compare("x", "x+0") == "match"


def test_closing_ends_the_workers_and_leaves_no_zombie(pool):
    pool.compare_many([("x", "x+0"), ("x", "x+1")] * 4)
    before = worker_ids()
    assert before
    pool.close()
    assert not worker_ids()
    assert grading_everywhere.num_zombies() == 0
    for worker in before:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def test_workers_end_with_a_parent_that_is_killed():
    program = (
        "import os, signal; from promptcot_jax.verify import grading_pool; "
        "pool = grading_pool.shared_pool(); pool.compare('x', 'x+0'); "
        "print(*(w._process.pid for w in pool._workers), flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=_environment())
    worker = pathlib.Path(f"/proc/{int(run.stdout)}/cmdline")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and worker.exists() and worker.read_bytes():
        time.sleep(0.05)
    assert not worker.exists() or not worker.read_bytes()


@pytest.mark.parametrize(
    "place", some_fast(["main", "threads", "thread_before_main", "asyncio", "fork", "spawn"], fast=(0, 4))
)
def test_grades_are_the_same_from_everywhere(place):
    run = subprocess.run(
        [sys.executable, grading_everywhere.__file__, place],
        capture_output=True, text=True, env=_environment(), timeout=120,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["results"] == [[True, False, True, False]] * len(found["results"])
    assert found["num_zombies"] == 0
    assert not run.stderr


@pytest.mark.slow
def test_ten_thousand_grades_leave_nothing_behind():
    def resident_mb() -> float:
        status = pathlib.Path("/proc/self/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1_024

    pairs = [(f"x+{i}", f"{i}+x" if i % 2 else f"{i}-x") for i in range(100)]
    expected = ["match" if i % 2 else "mismatch" for i in range(100)]
    math_answers.grade_many(pairs)
    descriptors, memory = len(os.listdir("/proc/self/fd")), resident_mb()
    for _ in range(100):
        assert [grade.status for grade in math_answers.grade_many(pairs)] == expected
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 2
    assert resident_mb() - memory < 20
    assert len(worker_ids()) <= grading_pool.shared_pool().size
    assert grading_everywhere.num_zombies() == 0


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
