"""Facts of program grading: what passes, what does not, and that nothing is left or reached outside."""

import asyncio
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time

import pytest

from promptcot_jax.core.records import AssertTest, CallTest, StdioTest
from promptcot_jax.verify import program_pool, programs, sandbox, sandbox_host
from tests.verify import sandbox_programs as suite

SHORT = {"time_limit_s": 1.0, "memory_mb": 256}


@pytest.fixture(autouse=True)
def isolation():
    """Skips where this machine allows no isolation."""
    try:
        return sandbox_host.find_host()
    except sandbox_host.SandboxUnavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def namespaces(monkeypatch):
    """The pid namespaces of the sandboxes that a test starts."""
    seen = set()
    enter = sandbox.Sandbox.__enter__

    def recording(self):
        entered = enter(self)
        seen.add(os.readlink(f"/proc/{self._root_pid}/ns/pid"))
        return entered

    monkeypatch.setattr(sandbox.Sandbox, "__enter__", recording)
    return seen


@pytest.fixture
def outside(monkeypatch):
    """What a program must not reach: a secret, a directory, a listener, a process, an environment variable."""
    monkeypatch.setenv("SANDBOX_TEST_SECRET", "secret")
    connections = []
    with tempfile.TemporaryDirectory() as directory, socket.create_server(("127.0.0.1", 0)) as listener:
        place = pathlib.Path(directory)
        place.chmod(0o777)
        (place / "secret").write_text("secret")

        def accept():
            while True:
                try:
                    connections.append(listener.accept())
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        identity = {"user": sandbox.UNPRIVILEGED_ID} if os.geteuid() == 0 else {}
        bystander = subprocess.Popen(["sleep", "1000"], **identity)
        yield {
            "SECRET_FILE": str(place / "secret"),
            "OUTSIDE_DIR": str(place),
            "LISTENER_PORT": str(listener.getsockname()[1]),
            "BYSTANDER_PID": str(bystander.pid),
        }
        listener.shutdown(socket.SHUT_RDWR)
        assert not connections
        assert bystander.poll() is None
        assert [path.name for path in place.iterdir()] == ["secret"]
        bystander.kill()
        bystander.wait()


def survivors(namespaces):
    """Processes of these pid namespaces, and children of this process that nobody has reaped."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if os.readlink(entry / "ns/pid") in namespaces or (state == "Z" and int(parent) == os.getpid()):
                found.append((entry.name, (entry / "cmdline").read_text()))
        except OSError:
            continue  # it has just ended, or is another user's
    return found


@pytest.mark.parametrize("name", suite.RIGHT)
def test_a_right_program_passes(name, namespaces):
    report = programs.run_tests(suite.RIGHT[name], suite.SUM_TESTS)
    assert report.passed, report
    assert [result.status for result in report.results] == ["passed"] * 3
    assert not survivors(namespaces)


@pytest.mark.parametrize("name", suite.RIGHT_FUNCTIONS)
def test_a_right_function_passes(name):
    report = programs.run_tests(suite.RIGHT_FUNCTIONS[name], (*suite.CALL_TESTS, *suite.ASSERT_TESTS))
    assert report.passed, report
    assert [result.is_lower_trust for result in report.results] == [False, False, True, True]


@pytest.mark.parametrize("name", suite.WRONG)
def test_a_wrong_program_fails_with_its_reason(name):
    program, status = suite.WRONG[name]
    report = programs.run_tests(program, suite.SUM_TESTS)
    assert (report.passed, report.status) == (False, status), report


@pytest.mark.parametrize("name", suite.ABUSE)
def test_abuse_ends_in_time_and_leaves_nothing(name, namespaces, monkeypatch):
    sizes = []
    resident_bytes = sandbox.Sandbox.resident_bytes

    def measured(self):
        sizes.append(resident_bytes(self))
        return sizes[-1]

    monkeypatch.setattr(sandbox.Sandbox, "resident_bytes", measured)
    program, status = suite.ABUSE[name]
    started = time.monotonic()
    report = programs.run_tests(program, suite.SUM_TESTS[:1], **SHORT)
    assert not report.passed
    assert status in (report.status, None), report
    assert time.monotonic() - started < 5
    assert max(sizes, default=0) < 2 * SHORT["memory_mb"] << 20
    assert not survivors(namespaces)


@pytest.mark.parametrize("name", suite.ESCAPES)
def test_nothing_outside_is_reached(name, outside, namespaces):
    program = suite.ESCAPES[name]
    for placeholder, value in outside.items():
        program = program.replace(placeholder, value)
    report = programs.run_tests(program, suite.SUM_TESTS[:1], **SHORT)
    assert not report.passed
    assert report.status in ("runtime_error", "timeout", "wrong_answer")
    assert not survivors(namespaces)


@pytest.mark.parametrize("tests", [suite.SUM_TESTS, suite.CALL_TESTS, suite.ASSERT_TESTS], ids=["io", "call", "assert"])
@pytest.mark.parametrize("name", suite.FAKES)
def test_a_fake_never_passes(name, tests, namespaces):
    report = programs.run_tests(suite.FAKES[name], tests, **SHORT)
    assert not report.passed, report
    assert report.status != "sandbox_error"
    assert not survivors(namespaces)
