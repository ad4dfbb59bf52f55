"""Kills commands at named or random moments; compares what a resumed run left with an undisturbed one.

A command runs as its own process (`python -m promptcot_jax ...`), since only then does a kill take with it
everything that a real one would: threads that write checkpoints, half-written files, the lock.

A command that is killed five times starts six times. As at a user's, programs are kept from one start to the
next, for the time of one test run; else compiling them would be most of what these tests do.
"""

import functools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from promptcot_jax.core import manifest

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 600.0  # two hosts with shapes and types checked share two cores with other tests


@functools.cache
def _programs() -> tempfile.TemporaryDirectory:
    """Where the commands of this process keep compiled programs; it goes when the process does."""
    return tempfile.TemporaryDirectory(prefix="promptcot_programs_")


def environment(*, num_devices: int = 1, as_here: bool = False) -> dict[str, str]:
    """The environment of a command on simulated devices.

    Args:
        as_here: programs are compiled as this process compiles them, which in the tests is cheaply.
    """
    flags = [os.environ.get("XLA_FLAGS", "")] if as_here else []
    if as_here or num_devices > 1:  # of a flag that is given twice the last one counts
        flags.append(f"--xla_force_host_platform_device_count={num_devices}")
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "PYTHONFAULTHANDLER": "1",  # `outputs_of` asks for the stacks
        "XLA_FLAGS": " ".join(flags),
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": _programs().name,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def start(
    arguments: Sequence[str],
    *,
    num_devices: int = 1,
    module: str = "promptcot_jax",
    as_here: bool = False,
) -> subprocess.Popen:
    """Starts `promptcot ARGUMENTS`, or what else `module` makes of them, on simulated devices."""
    command = [sys.executable, "-m", module, *arguments]
    env = environment(num_devices=num_devices, as_here=as_here)
    return subprocess.Popen(command, env=env, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def run_to_end(arguments: Sequence[str], *, num_devices: int = 1, as_here: bool = False) -> None:
    """Runs a command; it must succeed."""
    process = start(arguments, num_devices=num_devices, as_here=as_here)
    [errors] = outputs_of([process])
    assert process.returncode == 0, errors


def outputs_of(processes: Sequence[subprocess.Popen]) -> list[str]:
    """What commands wrote to stderr until they ended; none may hang, and none outlives this call.

    One that hangs is told to abort, which makes Python write the stack of every thread.
    """
    deadline = time.monotonic() + DEADLINE_SECONDS
    outputs, num_hanging = [], 0
    for process in processes:
        try:
            outputs.append(process.communicate(timeout=max(0.0, deadline - time.monotonic()))[1])
        except subprocess.TimeoutExpired:
            num_hanging += 1
            process.send_signal(signal.SIGABRT)
            outputs.append(process.communicate()[1])
    assert not num_hanging, "\n\n".join(outputs)
    return outputs


def kill_when(arguments: Sequence[str], workdir: Path, pattern: str, *, count: int = 1) -> None:
    """Kills a command as soon as `count` paths in the workdir match `pattern`; it must not end before."""
    process = start(arguments)
    wait_for(workdir, pattern, count, [process])
    _kill(process)


def kill_at_replies(arguments: Sequence[str], workdir: Path, count: int) -> None:
    """Kills a command as soon as `count` replies that were paid for are on disk; it must not end before."""
    process = start(arguments)

    def replies() -> int:
        return sum(path.read_bytes().count(b"\n") for path in workdir.glob("paid_replies/*"))

    _wait_until(lambda: replies() >= count, f"{count} replies", [process])
    _kill(process)


def wait_for(workdir: Path, pattern: str, count: int, processes: Sequence[subprocess.Popen]) -> None:
    """Returns as soon as `count` paths in the workdir match; no process may end before."""
    _wait_until(lambda: len(list(workdir.glob(pattern))) >= count, pattern, processes)


def _wait_until(is_there: Callable[[], bool], what: str, processes: Sequence[subprocess.Popen]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not is_there():
        for process in processes:
            assert process.poll() is None, f"ended before {what} appeared: {process.communicate()[1]}"
        if time.monotonic() >= deadline:
            for process in processes:  # or it would go on beside the tests that follow
                _kill(process)
            raise AssertionError(f"{what} did not appear within {DEADLINE_SECONDS:.0f} s")
        time.sleep(0.002)


def _kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def kill_at_random(arguments: Sequence[str], *, longest_seconds: float, seed: int) -> bool:
    """Runs a command and kills it after a drawn time; False where it was done by then."""
    process = start(arguments)
    try:
        process.communicate(timeout=random.Random(seed).uniform(0.0, longest_seconds))
    except subprocess.TimeoutExpired:
        _kill(process)
        return True
    return False


def record_bytes(workdir: Path) -> dict[str, bytes]:
    """Every record file and JSON document below a workdir, but what tells times: manifest, metrics, logs."""
    return {
        str(path.relative_to(workdir)): path.read_bytes()
        for path in sorted(workdir.rglob("*"))
        if path.suffix in (".jsonl", ".json")
        and path.name not in ("manifest.json", "metrics.jsonl", "COMPLETE")
        and "params" not in path.parts
        and path.relative_to(workdir).parts[0] not in ("config", "logs")
    }


def assert_same_outcome(resumed: Path, undisturbed: Path) -> None:
    """The same files with the same bytes (parameters by the digest in their provenance), all complete."""
    one, other = record_bytes(resumed), record_bytes(undisturbed)
    assert sorted(one) == sorted(other)
    for name in one:
        assert one[name] == other[name], f"{name} differs"
    entries, expected = manifest.read(resumed), manifest.read(undisturbed)
    assert {name: entry.counts for name, entry in entries.items()} == {
        name: entry.counts for name, entry in expected.items()
    }
    assert all(entry.status == "complete" for entry in entries.values())
    leftovers = [path for path in resumed.rglob("*.part") if path.name != ".lock"]
    assert not [path for path in leftovers if path.is_dir()], "a half-written directory stayed behind"
