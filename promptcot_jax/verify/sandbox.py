"""A sandbox for programs that a model wrote: unprivileged uid, then bubblewrap, then limits inside.

`Sandbox` is one started interpreter (`sandbox_driver.py`) with one program. It does tests one after the
other, each in a process of its own, and hands back what came out, as bytes. What a program can reach is a
read-only system without /etc and homes, an empty network, its own processes, a small /tmp and the pipes that
end here. Killing the first process of its pid namespace ends everything in it, whatever it has forked or
detached.

Memory is limited twice: each process by RLIMIT_AS, and the whole tree by a look at its resident size every
`_WATCH_SECONDS`, since not every user has a cgroup.

The time limit is by the clock on the wall, but for the time that a program was kept waiting for a processor:
a crowded machine makes no time-outs, up to twice the limit.

Linux only. `SandboxFailed` is raised for what went wrong before a program was started, and for nothing that a
program can bring about.
"""

import contextlib
import dataclasses
import fcntl
import functools
import inspect
import json
import math
import os
import pathlib
import selectors
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from promptcot_jax.core.settings import PositiveInt, Range, settings
from promptcot_jax.verify import sandbox_driver, system_calls

UNPRIVILEGED_ID = 65534  # nobody: where this process is root, its programs are not
MAX_PROCESSES = 64  # threads count
_MAX_OPEN_FILES = 256
_MAX_FILE_BYTES = 16 << 20
_SCRATCH_BYTES = 64 << 20  # of /tmp, and of /dev/shm
_STDERR_BYTES = 8 << 10  # its end is kept, the rest is read and dropped
_START_SECONDS = 20.0
_WATCH_SECONDS = 0.05
_KILL_SECONDS = 5.0
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
_SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/tmp",
    "PYTHONUTF8": "1",
    "PYTHONHASHSEED": "0",  # the same program gets the same verdict
    "PYTHONDONTWRITEBYTECODE": "1",
    "MALLOC_ARENA_MAX": "2",  # glibc reserves 128 MB of address space for each thread's arena otherwise
}
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
# Which streams of a request are read; the others go to /dev/null.
_CAPTURED = {
    "stdio": ("stdout", "stderr"),
    "call": ("stderr", "result"),
    "assert": ("stderr", "result"),
    "serve": (),
}

End = Literal["exited", "timeout", "memory", "output", "died"]


class SandboxFailed(Exception):
    """A sandbox did not start; says nothing about the program."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Host:
    """What a machine runs programs with; `sandbox_host.find_host` finds it."""

    bwrap: str  # empty: no isolation beyond uid and limits
    python: str
    prefix: str  # where that interpreter's library is

    @property
    def is_weak(self) -> bool:
        """Whether programs see the machine's files, network and processes."""
        return not self.bwrap


@settings
class Limits:
    """What one test of a program may use."""

    time_limit_s: Annotated[int | float, Range(above=0)] = 6.0
    memory_mb: PositiveInt = 512
    output_kb: PositiveInt = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one test's process ended, and what it wrote."""

    end: End  # "output": more than the limit; "died": the driver went down under the program
    exit_code: int = 0  # of "exited"; negative: the signal
    stdout: bytes = b""
    stderr: bytes = b""
    result: bytes = b""
    seconds: float = 0.0


class Sandbox:
    """One started sandbox with one program; leaving it leaves no process behind.

    Raises:
        SandboxFailed: on entering, if it does not start.
    """

    def __init__(self, host: Host, program: str, limits: Limits):
        self._host, self._program, self._limits = host, program, limits
        self._cleanup = contextlib.ExitStack()
        self._root_pid = 0
        self._root: int | None = None  # pidfd of the first process of the pid namespace
        self._pipes: dict[int, bytearray] = {}  # read end -> where its bytes go, while a test runs
        self.is_usable = False  # whether it can be given a test

    def __enter__(self) -> "Sandbox":
        with self._cleanup:  # undoes what was done if starting fails
            self._start()
            self._cleanup = self._cleanup.pop_all()
        self.is_usable = True
        return self

    def __exit__(self, *_: object) -> None:
        self.is_usable = False
        self._cleanup.close()

    def _start(self) -> None:
        undo = self._cleanup
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        undo.enter_context(self._control)
        messages = undo.enter_context(os.fdopen(os.memfd_create("messages"), "w+b"))
        info, info_end = os.pipe()
        undo.callback(os.close, info)
        program = _sealed_file(self._program.encode(errors="surrogatepass"))
        refused_calls = _sealed_file(system_calls.filter_program())
        directory = "/"
        if self._host.is_weak:
            directory = undo.enter_context(tempfile.TemporaryDirectory(prefix="promptcot-program-"))
            os.chmod(directory, 0o777)
        is_root = os.geteuid() == 0
        isolation = _isolation(self._host, info_end, refused_calls)
        command = [*isolation, *self._driver_command(theirs.fileno(), program)]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=messages,
                pass_fds=(theirs.fileno(), info_end, program, refused_calls),
                cwd=directory,
                env=_ENVIRONMENT,
                start_new_session=True,
                user=UNPRIVILEGED_ID if is_root else None,
                group=UNPRIVILEGED_ID if is_root else None,
                extra_groups=[] if is_root else None,
            )
        except OSError as error:
            raise SandboxFailed(str(error)) from None
        finally:
            theirs.close()
            os.close(info_end)
            os.close(program)
            os.close(refused_calls)
        undo.callback(self._close_pipes)
        undo.callback(self._kill)
        self._root_pid = self._process.pid
        self._control.settimeout(_START_SECONDS)
        try:
            is_ready = self._control.recv(64) == sandbox_driver.READY
        except OSError:
            is_ready = False
        if not is_ready:
            messages.seek(0)
            said = messages.read().decode(errors="replace").strip().splitlines()
            raise SandboxFailed(said[-1] if said else "the interpreter gave no sign of life")
        if not self._host.is_weak:
            self._root_pid = json.loads(os.read(info, 4096))["child-pid"]
            self._root = os.pidfd_open(self._root_pid)

    def _driver_command(self, control: int, program: int) -> list[str]:
        limits = {
            "RLIMIT_AS": self._limits.memory_mb << 20,
            "RLIMIT_NOFILE": _MAX_OPEN_FILES,
            "RLIMIT_FSIZE": _MAX_FILE_BYTES,
            "RLIMIT_CORE": 0,
        }
        if not self._host.is_weak or os.geteuid() == 0:  # elsewhere all processes of the user would count
            limits["RLIMIT_NPROC"] = MAX_PROCESSES
        settings = {
            "control_fd": control,
            "program_fd": program,
            "isolated": not self._host.is_weak,
            # For what the parent's clock would miss; it comes first, and threads may use two processors.
            "cpu_seconds": 2 * math.ceil(self._limits.time_limit_s) + 1,
            "limits": limits,
        }
        return [self._host.python, "-s", "-S", "-c", _driver_text(), json.dumps(settings)]

    def start(
        self, request: Mapping[str, Any], stdin: bytes = b"", *, channel: socket.socket | None = None
    ) -> None:
        """Gives the driver one request; `finish` must follow.

        Args:
            channel: what the request's process talks over, to a process of another sandbox.
        """
        self._started = time.monotonic()
        self._captured = {name: bytearray() for name in _CAPTURED[request["kind"]]}
        with contextlib.ExitStack() as theirs:
            given = []

            def give(descriptor: int) -> None:
                theirs.callback(os.close, descriptor)
                given.append(descriptor)

            give(_sealed_file(json.dumps(request).encode()))
            give(_sealed_file(stdin))
            for name in ("stdout", "stderr", "result"):
                if name in self._captured:
                    read_end, write_end = os.pipe()
                    os.fchmod(write_end, 0o666)  # so that the program may open /dev/stdout
                    self._pipes[read_end] = self._captured[name]
                    give(write_end)
                else:
                    give(os.open(os.devnull, os.O_WRONLY))
            if channel is not None:
                given.append(channel.fileno())
            with contextlib.suppress(OSError):  # `finish` finds a dead driver
                socket.send_fds(self._control, [b"t"], given)

    def finish(self, *, deadline: float, output_bytes: int, watched: Sequence["Sandbox"] = ()) -> Outcome:
        """Reads what the request's process writes until it has ended, or ends it.

        Args:
            deadline: on the monotonic clock, of a process that never waits for a processor.
            output_bytes: more than that on standard output or as a result ends the process.
            watched: sandboxes that the process talks to, whose memory counts as well.
        """
        exit_code = 0
        end: End = "died"
        try:
            exit_code, end = self._collect(deadline, output_bytes, (self, *watched))
        finally:
            self._close_pipes()
            if end != "exited":
                self.is_usable = False
                self._kill()
        return Outcome(
            end=end,
            exit_code=exit_code,
            seconds=time.monotonic() - self._started,
            **{name: bytes(data) for name, data in self._captured.items()},
        )

    def _close_pipes(self) -> None:
        for descriptor in self._pipes:
            os.close(descriptor)
        self._pipes.clear()

    def _collect(self, deadline: float, output_bytes: int, watched: Sequence["Sandbox"]) -> tuple[int, End]:
        exit_code = None
        time_up, next_watch = deadline, self._started + _WATCH_SECONDS
        with selectors.DefaultSelector() as selector:
            for descriptor in (self._control.fileno(), *self._pipes):
                selector.register(descriptor, selectors.EVENT_READ)
            while exit_code is None or self._pipes:
                now = time.monotonic()
                if now >= time_up:
                    waited = max(map(Sandbox.seconds_in_queue, watched))
                    time_up = deadline + min(waited, deadline - self._started)
                    if now >= time_up:
                        return 0, "timeout"
                if now >= next_watch:
                    if sum(map(Sandbox.resident_bytes, watched)) > self._limits.memory_mb << 20:
                        return 0, "memory"
                    next_watch = now + _WATCH_SECONDS
                for key, _ in selector.select(max(0.0, min(time_up, next_watch) - now)):
                    if key.fd == self._control.fileno():
                        selector.unregister(key.fd)
                        exit_code = self._read_reply()
                        if exit_code is None:
                            return 0, "died"
                    elif not self._read_pipe(key.fd):
                        selector.unregister(key.fd)
                        os.close(key.fd)
                        del self._pipes[key.fd]
                if any(len(self._captured.get(name, b"")) > output_bytes for name in ("stdout", "result")):
                    return 0, "output"
        return exit_code, "exited"

    def _read_reply(self) -> int | None:
        """Exit code of the test's process; None if what came is not the driver's reply."""
        try:
            reply = self._control.recv(64)
        except OSError:
            return None
        if len(reply) != sandbox_driver.REPLY.size:
            return None
        exit_code, is_clean = sandbox_driver.REPLY.unpack(reply)
        if not is_clean:
            self.is_usable = False
            self._kill()  # what holds the pipes open must not be waited for
        return exit_code

    def _read_pipe(self, descriptor: int) -> bool:
        """Takes over what is there; False at the end."""
        data = os.read(descriptor, 1 << 16)
        buffer = self._pipes[descriptor]
        buffer += data
        if buffer is self._captured["stderr"]:
            del buffer[:-_STDERR_BYTES]
        return bool(data)

    def resident_bytes(self) -> int:
        """Memory of everything inside; a page shared by several processes counts once."""
        total = 0
        for process in self._processes():
            with contextlib.suppress(OSError), open(f"{process}/smaps_rollup") as lines:
                total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
        return total

    def seconds_in_queue(self) -> float:
        """The longest time that a process of the running test was ready but had no processor."""
        longest = 0
        for process in self._processes()[1:]:  # the first is the driver
            with contextlib.suppress(OSError), open(f"{process}/schedstat") as numbers:
                longest = max(longest, int(numbers.read().split()[1]))
        return longest / 1e9

    def _processes(self) -> list[str]:
        """Directories in /proc of everything inside, the driver's first."""
        found, pids = [], [self._root_pid]
        while pids:
            process = f"/proc/{pids.pop()}"
            found.append(process)
            with contextlib.suppress(OSError):  # it has just ended
                for task in os.listdir(f"{process}/task"):
                    with open(f"{process}/task/{task}/children") as children:
                        pids += map(int, children.read().split())
        return found

    def _kill(self) -> None:
        """Ends everything inside and reaps what is this process's to reap.

        bubblewrap's own process is left to see its child die: were it killed first, the child's reaping would
        fall to the first process of the machine or container, which does not always do it.
        """
        if self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if self._root is not None:
                signal.pidfd_send_signal(self._root, signal.SIGKILL)
            else:
                os.killpg(self._process.pid, signal.SIGKILL)
        try:
            self._process.wait(_KILL_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._root is not None:
            os.close(self._root)
            self._root = None


@functools.cache
def _driver_text() -> str:
    return inspect.getsource(sandbox_driver)


def _sealed_file(content: bytes) -> int:
    """A file in memory that nobody can change; a program's input is one, so nobody has to feed it."""
    descriptor = os.memfd_create("content", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    return descriptor


def _isolation(host: Host, info: int, refused_calls: int) -> list[str]:
    """bubblewrap's part of the command line."""
    if host.is_weak:
        return []
    command = [host.bwrap, "--die-with-parent", "--new-session", "--info-fd", str(info)]
    # The driver is the namespace's first process: out of reach of signals from inside, and the end of all.
    command += [
        "--as-pid-1",
        "--unshare-user",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-ipc",
        "--unshare-uts",
    ]
    # Inside a user namespace of its own a program could mount file systems of any size.
    command += ["--unshare-cgroup-try", "--disable-userns", "--cap-drop", "ALL", "--hostname", "sandbox"]
    if system_calls.filter_program():
        command += ["--seccomp", str(refused_calls)]
    for path in _SYSTEM:
        if os.path.islink(path):
            command += ["--symlink", os.readlink(path), path]
        else:
            command += ["--ro-bind-try", path, path]
    for path in _SYSTEM_FILES:
        command += ["--ro-bind-try", path, path]
    command += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
    for path in ("/dev/shm", "/tmp"):
        command += ["--perms", "1777", "--size", str(_SCRATCH_BYTES), "--tmpfs", path]
    prefix = pathlib.PurePath(host.prefix)
    if not any(prefix.is_relative_to(path) for path in _SYSTEM):  # last, since it may lie below /tmp
        command += ["--ro-bind", host.prefix, host.prefix]
    return [*command, "--remount-ro", "/", "--chdir", "/tmp", "--"]
