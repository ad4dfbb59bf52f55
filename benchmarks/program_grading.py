"""What grading a program costs over starting a bare interpreter, and how many programs a second it makes.

    python benchmarks/program_grading.py

One program with `--tests` stdio tests, a sandbox started anew for each program. The bare interpreter is the
one that the sandbox uses, so the difference is the price of isolation, of a process for each test and of the
verdict.
"""

import argparse
import statistics
import subprocess
import time

from promptcot_jax.core.records import StdioTest
from promptcot_jax.verify import program_pool, programs, sandbox_host
from promptcot_jax.verify.sandbox import Limits, Sandbox

PROGRAM = "import sys\nprint(sum(map(int, sys.stdin.read().split())))"


def milliseconds(work, repeats: int) -> str:
    """Median and upper quartile of single calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - start))
    _, median, upper = statistics.quantiles(times, n=4)
    return f"{median:7.1f} ms (upper quartile {upper:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--tests", type=int, default=10)
    parser.add_argument("--programs", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    host = sandbox_host.find_host()
    tests = [StdioTest(f"{n} 1\n", f"{n + 1}\n") for n in range(options.tests)]

    def start_only() -> None:
        with Sandbox(host, PROGRAM, Limits()):
            pass

    print(f"{host.bwrap} with {host.python}; one program at a time, {options.repeats} repeats")
    for name, work in (
        ("python3 -c pass", lambda: subprocess.run([host.python, "-c", "pass"], check=True)),
        ("an empty sandbox", start_only),
        ("1 test", lambda: programs.run_tests(PROGRAM, tests[:1])),
        (f"{options.tests} tests", lambda: programs.run_tests(PROGRAM, tests)),
    ):
        print(f"{name:20s} {milliseconds(work, options.repeats)}")
    for num_tests in (1, options.tests):
        start = time.perf_counter()
        jobs = [(PROGRAM, tests[:num_tests])] * options.programs
        reports = program_pool.run_many(jobs, num_workers=options.workers)
        seconds = time.perf_counter() - start
        assert all(report.passed for report in reports)
        rate = options.programs / seconds
        print(
            f"{options.programs} programs of {num_tests} tests, {options.workers} workers: "
            f"{rate:.1f} programs/s, {rate * num_tests:.0f} tests/s"
        )


if __name__ == "__main__":
    main()
