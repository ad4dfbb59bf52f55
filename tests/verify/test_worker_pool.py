"""Facts of the pool itself, by a worker that misbehaves: nothing holds up who asks, and closing ends all."""

import concurrent.futures
import threading
import time

import pytest

from promptcot_jax.verify.worker_pool import WorkerFailed, WorkerPool


@pytest.fixture
def pool():
    with WorkerPool("tests.verify.odd_worker", size=2) as pool:
        yield pool


@pytest.mark.parametrize("request_", [b"half a reply", b"slow", b"die"])
def test_a_worker_that_fails_gives_nothing_in_time_and_the_next_one_answers(pool, request_):
    began = time.monotonic()
    assert pool.ask(request_, 0.3) is None
    assert time.monotonic() - began < 10.0
    assert pool.ask(b"x" * 2_000_000, 5.0) == b"x" * 2_000_000


def test_closing_ends_all_workers_while_they_die(pool):
    threads = [threading.Thread(target=_ask_until_closed, args=(pool,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    workers = set(pool._workers)
    pool.close()
    for thread in threads:
        thread.join(timeout=10.0)
    assert not any(thread.is_alive() for thread in threads)
    assert all(worker._process.poll() is not None for worker in workers)


def test_a_closed_pool_is_asked_in_vain(pool):
    pool.close()
    with pytest.raises(WorkerFailed, match="closed"):
        pool.ask(b"x", 1.0)


def test_replies_go_to_who_asked(pool):
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        requests = [str(i).encode() for i in range(200)]
        assert list(threads.map(lambda request: pool.ask(request, 10.0), requests)) == requests


def _ask_until_closed(pool: WorkerPool) -> None:
    try:
        while True:
            pool.ask(b"die", 1.0)
    except WorkerFailed:
        return
