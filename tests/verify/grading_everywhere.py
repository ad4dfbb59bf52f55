"""Grades from the place that the argument names and prints what it got: run by `test_grading_pool`.

A program of its own, because the tests' process has JAX's threads, which forking does not agree with.
"""

import asyncio
import json
import multiprocessing
import os
import pathlib
import sys
import threading
from concurrent import futures

from promptcot_jax.verify import math_answers

# The last two need a worker.
PAIRS = [("1/2", "0.5"), ("2", "3"), ("x^2-1", "(x-1)(x+1)"), ("x^2-1", "(x-1)^2")]


def grade() -> list[bool]:
    return [grade.match for grade in math_answers.grade_many(PAIRS)]


def from_main() -> list[list[bool]]:
    return [grade()]


def from_threads() -> list[list[bool]]:
    with futures.ThreadPoolExecutor(8) as threads:
        return list(threads.map(lambda _: grade(), range(16)))


def from_thread_before_main() -> list[list[bool]]:
    """The pool is made by a thread that has ended when the main thread needs it."""
    found: list[list[bool]] = []
    thread = threading.Thread(target=lambda: found.append(grade()))
    thread.start()
    thread.join()
    return [*found, grade()]


def from_asyncio() -> list[list[bool]]:
    async def main() -> list[list[bool]]:
        here = grade()
        there = await asyncio.gather(*(asyncio.to_thread(grade) for _ in range(4)))
        return [here, *there]

    return asyncio.run(main())


def from_processes(start_method: str) -> list[list[bool]]:
    before = grade()  # a forked child inherits a pool in use
    context = multiprocessing.get_context(start_method)
    with context.Pool(2) as processes:
        return [before, *processes.starmap(grade, [()] * 4), grade()]


def from_fork() -> list[list[bool]]:
    return from_processes("fork")


def from_spawn() -> list[list[bool]]:
    return from_processes("spawn")


def num_zombies() -> int:
    """Children of this process that ended and were not waited for."""
    states = [
        path.read_text().rpartition(")")[2].split() for path in pathlib.Path("/proc").glob("[0-9]*/stat")
    ]
    return sum(state[0] == "Z" and int(state[1]) == os.getpid() for state in states)


if __name__ == "__main__":
    results = globals()[f"from_{sys.argv[1]}"]()
    print(json.dumps({"results": results, "num_zombies": num_zombies()}))
