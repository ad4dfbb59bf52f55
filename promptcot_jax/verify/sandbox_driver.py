"""Runs inside the sandbox: forks once for each test and runs the program there.

The parent (`sandbox.py`) hands this file's text to a bare interpreter, so it uses the standard library alone
and imports nothing of the package. A test comes over the control socket as a set of descriptors: the request,
the program's standard input, output and error, and for some kinds a result pipe and a channel. Everything
that a test writes goes straight into the parent's pipes.

Nothing here is trusted after the first test has started: the program has the same uid and may rewrite this
process. That gains it nothing, since what passes is decided in the parent by comparing bytes with an
expectation that was never in this sandbox.

Values of call tests cross as typed JSON: None, booleans, numbers, texts and lists are themselves, everything
else is an object with one key that names the type.
"""

import _sitebuiltins
import atexit
import builtins
import gc
import importlib
import json
import os
import resource
import signal
import socket
import struct
import sys
import types
from collections.abc import Callable
from typing import Any, NoReturn

READY = b"ready"
REPLY = struct.Struct("!i?")  # exit code of the test's process, whether the sandbox can serve another test
PASSED = b"passed"  # what the judge of an assertion writes when it holds
# Exit codes for what the parent tells apart; a program that chooses one itself only mislabels its failure.
EXIT_SYNTAX_ERROR = 112
EXIT_MEMORY = 113
EXIT_WRONG_ANSWER = 114
# What stands before the first such line is the judge's: its names are there for the program as builtins are,
# and are none of the program's own.
PRELUDE_END = "# end of the judge's prelude\n"

_MAX_DESCRIPTORS = 6
_JSON_INTEGER_BITS = 63  # beyond them an integer travels in hexadecimal, which has no digit limit


class Opaque:
    """What the judge of an assertion cannot see: a program's value without typed JSON, or a name of it.

    Every comparison and truth test is refused, so that no assertion holds because of it.
    """

    def _refuse(self, *_: object) -> NoReturn:
        raise TypeError("the assertion compares a value of the program that has no typed JSON")

    __bool__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __len__ = __iter__ = __contains__ = (
        _refuse
    )
    __hash__ = None  # type: ignore[assignment]


class Kept(Opaque):
    """A value that stayed in the program's process."""

    def __init__(self, number: int):
        self.number = number


def encode(value: Any, other: Callable[[Any], Any] | None = None) -> Any:
    """Typed JSON of a value.

    Args:
        other: gives the typed JSON of what has none of its own.

    Raises:
        TypeError: a value has no typed JSON, and `other` is None.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        value = int(value)
        return value if value.bit_length() <= _JSON_INTEGER_BITS else {"int": hex(value)}
    if isinstance(value, float):
        value = float(value)
        return value if value - value == 0 else {"float": repr(value)}
    if isinstance(value, complex):
        return {"complex": [encode(value.real), encode(value.imag)]}
    if isinstance(value, bytes | bytearray):
        return {"bytes": value.hex()}
    if isinstance(value, dict):
        return {"dict": [[encode(k, other), encode(v, other)] for k, v in value.items()]}
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            items = [encode(item, other) for item in value]
            return items if kind is list else {kind.__name__: items}
    if isinstance(value, type) and getattr(builtins, value.__name__, None) is value:
        return {"type": value.__name__}
    if other is None:
        raise TypeError(f"a value of type {type(value).__name__} has no typed JSON")
    return other(value)


def decode(typed: Any, other: Callable[[int], Any] | None = None) -> Any:
    """The value of typed JSON; `other` gives what `{"kept": number}` stands for."""
    if isinstance(typed, list):
        return [decode(item, other) for item in typed]
    if not isinstance(typed, dict):
        return typed
    [(tag, content)] = typed.items()
    if tag in ("tuple", "set", "frozenset"):
        return getattr(builtins, tag)(decode(item, other) for item in content)
    if tag == "dict":
        return {decode(k, other): decode(v, other) for k, v in content}
    if tag == "int":
        return int(content, 16)
    if tag == "float":
        return float(content)
    if tag == "complex":
        return complex(*(decode(part) for part in content))
    if tag == "bytes":
        return bytes.fromhex(content)
    if tag == "type":
        return getattr(builtins, content)
    if tag == "kept" and other is not None:
        return other(content)
    raise ValueError(f"{tag!r} is no tag of typed JSON")


def main() -> None:
    """Serves tests until the parent closes the control socket."""
    settings = json.loads(sys.argv[1])
    del sys.argv[1:]
    control = socket.socket(fileno=settings["control_fd"])
    with open(settings["program_fd"], "rb") as file:
        prelude, end, program = file.read().partition(PRELUDE_END.encode())
    if not end:
        prelude, program = b"", prelude
    for name, value in settings["limits"].items():
        _limit(getattr(resource, name), value)
    # Started without site-packages, so that no verdict depends on what is installed; programs do use these.
    builtins.exit = builtins.quit = _sitebuiltins.Quitter("exit", "Ctrl-D")
    # The first process of a namespace gets only those signals from inside that it handles: this was the one.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.freeze()  # a collection in a test's process need not touch what is the driver's
    _import_before_forks(prelude)
    control.send(READY)
    while True:
        _, descriptors, _, _ = socket.recv_fds(control, 1, _MAX_DESCRIPTORS)
        if not descriptors:
            return
        child = os.fork()
        if child == 0:
            control.close()
            _limit(resource.RLIMIT_CPU, settings["cpu_seconds"])
            _leave_after(_run_test, prelude, program, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        status = _wait_for(child)
        is_clean = settings["isolated"] and _sweep()
        control.send(REPLY.pack(os.waitstatus_to_exitcode(status), is_clean))


def _limit(which: int, value: int) -> None:
    """Lowers a limit for good, or leaves it where it is lower already."""
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def _wait_for(child: int) -> int:
    """Wait status of a test's process; orphans that come to this process, the first one here, are reaped."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            return status


def _sweep() -> bool:
    """Kills what a test left running; whether it left no files either."""
    if os.getpid() != 1:  # only the first process of a pid namespace may signal everyone in it
        return False
    try:
        os.kill(-1, signal.SIGKILL)
        while True:
            os.waitpid(-1, 0)
    except (ProcessLookupError, ChildProcessError):
        pass  # nothing is left
    return not os.listdir("/tmp") and not os.listdir("/dev/shm")


def _leave_after(work: Callable[..., None], *args: Any) -> NoReturn:
    """Calls `work` and ends this process as the interpreter would, but for taking itself apart.

    That would touch, and so copy, all memory that the fork shares with the driver: 8 ms after a fork of 1 ms.
    """
    code = 0
    try:
        work(*args)
    except SystemExit as leaving:
        if isinstance(leaving.code, int):
            code = leaving.code
        elif leaving.code is not None:
            print(leaving.code, file=sys.stderr)
            code = 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    try:
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()  # waits for the threads that are no daemons
        atexit._run_exitfuncs()
        sys.stdout.flush()
        if "program" in sys.modules:  # files that it has left open are written when they go
            vars(sys.modules["program"]).clear()
            gc.collect()
        for stream in (sys.__stdout__, sys.stderr):
            if stream is not None:
                stream.flush()
    except BaseException:
        code = code or 1
    os._exit(code & 0xFF)


def _import_before_forks(prelude: bytes) -> None:
    """Imports what the judge's prelude does, so that tests find it there."""
    for line in prelude.decode(errors="replace").splitlines():
        module = line.partition(" import *")[0].removeprefix("from ").removeprefix("import ").strip()
        if module in sys.stdlib_module_names:
            importlib.import_module(module)


def _run_test(prelude: bytes, program: bytes, descriptors: list[int]) -> None:
    """Becomes the test's process."""
    request_fd, *standard = descriptors[:4]
    rest = descriptors[4:]  # result pipe, channel
    with open(request_fd, "rb") as file:
        request = json.loads(file.read())
    for target, descriptor in enumerate(standard):
        os.dup2(descriptor, target)
        os.close(descriptor)
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)
    sys.stderr = sys.__stderr__ = open(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)
    try:
        if request["kind"] == "assert":
            _judge(request["source"], result_fd=rest[0], channel_fd=rest[1])
            return
        namespace, given = _load(prelude, program, "__main__" if request["kind"] == "stdio" else "program")
        if request["kind"] == "call":
            target = _resolve(namespace, request["function"])
            value = target(*[decode(argument) for argument in request["args"]])
            try:
                result = json.dumps(encode(value)).encode()
            except (TypeError, RecursionError) as error:  # no value that a test can expect
                print(error, file=sys.stderr)
                sys.exit(EXIT_WRONG_ANSWER)
            _write_all(rest[0], result)
        elif request["kind"] == "serve":
            os.close(rest[0])
            _serve({**given, **namespace}, channel_fd=rest[1])
    except MemoryError:
        sys.exit(EXIT_MEMORY)


def _load(prelude: bytes, program: bytes, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Runs the program's text as the module `name`; its names, and those that the prelude gave it."""
    sys.argv[:] = ["program.py"]
    module, judge = types.ModuleType(name), types.ModuleType("prelude")
    module.__file__ = "program.py"
    try:
        first = compile(prelude, "prelude.py", "exec", dont_inherit=True)
        code = compile(program, "program.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, OverflowError, RecursionError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(EXIT_SYNTAX_ERROR)
    sys.modules[name] = sys.modules["program"] = module
    own = _keep_own_modules(module)
    exec(first, vars(judge))
    given = {key: value for key, value in vars(judge).items() if not key.startswith("__")}
    vars(own).update(given)
    exec(code, module.__dict__)
    return module.__dict__, given


def _keep_own_modules(program: types.ModuleType) -> types.ModuleType:
    """Gives the program its own `builtins`, `json` and `__main__`: to patch them changes no result.

    Its `builtins` come back.
    """
    for name in [name for name in sys.modules if name.partition(".")[0] == "json"]:
        del sys.modules[name]  # imported anew by a program that wants it
    sys.modules["__main__"] = program
    own = types.ModuleType("builtins", builtins.__doc__)
    vars(own).update(vars(builtins))
    sys.modules["builtins"] = vars(program)["__builtins__"] = own
    return own


def _resolve(namespace: dict[str, Any], name: str) -> Any:
    """What a dotted name stands for; a class in front of a dot stands for a new instance of it.

    A single name is looked for in the program's class Solution first, where some judges want it: an import of
    the program's may have it too, such as `search` and `merge`.
    """
    first, *attributes = name.split(".")
    solution = namespace.get("Solution")
    if isinstance(solution, type) and not attributes and (first not in namespace or hasattr(solution, first)):
        first, attributes = "Solution", [first, *attributes]
    target = namespace[first]
    for attribute in attributes:
        target = getattr(target() if isinstance(target, type) else target, attribute)
    return target


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _serve(namespace: dict[str, Any], channel_fd: int) -> None:
    """Answers the judge's calls until it closes the channel."""
    kept: list[Any] = []

    def keep(value: Any) -> Any:
        kept.append(value)
        return {"kept": len(kept) - 1}

    with socket.socket(fileno=channel_fd) as channel, channel.makefile("rw") as lines:
        for line in lines:
            call = json.loads(line)
            try:
                args = [decode(argument, kept.__getitem__) for argument in call["args"]]
                kwargs = {name: decode(value, kept.__getitem__) for name, value in call["kwargs"].items()}
                reply = {"value": encode(_resolve(namespace, call["name"])(*args, **kwargs), keep)}
            except Exception as error:
                reply = {"raised": type(error).__name__, "text": str(error)}
            lines.write(json.dumps(reply) + "\n")
            lines.flush()


def _exception_type(name: str) -> type[Exception]:
    """The builtin exception of that name; an AssertionError of the program's is not the assertion's."""
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception) and kind is not AssertionError:
        return kind
    return RuntimeError


def _judge(source: str, result_fd: int, channel_fd: int) -> None:
    """Runs an assertion in this process, which never sees the program's text, and says whether it held.

    A name that the assertion does not define is the program's: calling it asks the process that serves it,
    and what comes back is a plain value. So neither an `__eq__` of the program's nor a patched module is ever
    at work where the comparison is made.
    """
    with socket.socket(fileno=channel_fd) as channel, channel.makefile("rw") as lines:

        def number_of(value: Any) -> Any:
            if isinstance(value, Kept):
                return {"kept": value.number}
            raise TypeError(f"an argument of type {type(value).__name__} has no typed JSON")

        class Remote(Opaque):
            """A name of the program's."""

            def __init__(self, name: str):
                self.name = name

            def __getattr__(self, attribute: str) -> Any:
                if self.name in sys.stdlib_module_names:
                    return getattr(importlib.import_module(self.name), attribute)
                return Remote(f"{self.name}.{attribute}")

            def __call__(self, *args: Any, **kwargs: Any) -> Any:
                call = {
                    "name": self.name,
                    "args": [encode(argument, number_of) for argument in args],
                    "kwargs": {name: encode(value, number_of) for name, value in kwargs.items()},
                }
                lines.write(json.dumps(call) + "\n")
                lines.flush()
                reply = json.loads(lines.readline())
                if "value" in reply:
                    return decode(reply["value"], Kept)
                raise _exception_type(reply["raised"])(reply["text"])

        class Names(dict):
            """The assertion's own names; others are builtins, or the program's."""

            def __missing__(self, name: str) -> Any:
                if hasattr(builtins, name):
                    raise KeyError(name)
                return Remote(name)

        try:
            exec(compile(source, "test.py", "exec", dont_inherit=True), Names(__name__="test"))
        except AssertionError:
            sys.exit(EXIT_WRONG_ANSWER)
        _write_all(result_fd, PASSED)


if __name__ == "__main__":
    main()
