"""Whether a program passes its tests: the reward's programming half (the paper's u(x, y): all tests, or 0).

A test is run in a sandbox (`sandbox.py`) and judged here, from bytes: expected outputs and values never enter
the sandbox of the program, and neither an exit code nor anything that the program says of itself makes it
pass. Tests of one program share a started interpreter as long as each leaves it clean, each in a forked
process of its own.

An `AssertTest` has its expectation in its source, so that runs in a second sandbox, which holds no program
and asks the first one for the values of its calls. One that only says `f(literals) == literal` is done as the
call test that it is. The others are of lower trust, and their results say so: an assertion may hold for more
than the right value.

Where no isolation works, grading is refused unless `allow_weak_sandbox` accepts less; the report then says
so.
"""

import ast
import contextlib
import dataclasses
import json
import signal
import socket
import time
from collections.abc import Sequence
from typing import Annotated, Literal

from promptcot_jax.core.records import AssertTest, CallTest, ProgramTest, StdioTest
from promptcot_jax.core.settings import Range, settings
from promptcot_jax.verify import output_match, sandbox_driver, sandbox_host
from promptcot_jax.verify.sandbox import Host, Limits, Outcome, Sandbox, SandboxFailed

Status = Literal[
    "passed",
    "wrong_answer",
    "timeout",
    "memory",
    "runtime_error",
    "syntax_error",
    "no_tests",
    "sandbox_error",
]

_JUDGE_MODULES = (
    "string re datetime collections heapq bisect copy math random statistics itertools functools operator io "
    "sys json"
).split()
# What LiveCodeBench's judge has before a program: the names of these modules, and the modules themselves.
JUDGE_PRELUDE = "".join(
    [
        *(f"from {module} import *\n" for module in (*_JUDGE_MODULES, "builtins", "typing")),
        *(f"import {module}\n" for module in _JUDGE_MODULES),
        "sys.setrecursionlimit(50000)\n",
    ]
)

SANDBOX_TRIES = 3
TESTS_IN_TOTAL_TIME = 10  # the time of a program's tests together, in time limits of one
_PAUSE_SECONDS = 0.5  # before another try
_DETAIL_CHARACTERS = 2_000
_EXIT_STATUSES: dict[int, Status] = {
    sandbox_driver.EXIT_SYNTAX_ERROR: "syntax_error",
    sandbox_driver.EXIT_MEMORY: "memory",
    sandbox_driver.EXIT_WRONG_ANSWER: "wrong_answer",
    -signal.SIGXCPU: "timeout",
}
_END_STATUSES: dict[str, Status] = {
    "timeout": "timeout",
    "memory": "memory",
    "output": "wrong_answer",
    "died": "runtime_error",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TestResult:
    """How one test came out."""

    status: Status
    seconds: float = 0.0
    detail: str = ""  # the end of standard error, or what went wrong
    is_lower_trust: bool = False  # judged by an assertion

    __test__ = False  # not a test case of pytest's


@dataclasses.dataclass(frozen=True, kw_only=True)
class TestReport:
    """The verdict on a program; `status` is that of the first test that did not pass."""

    passed: bool
    status: Status
    results: tuple[TestResult, ...]  # of the tests that were run, in order
    is_weak_sandbox: bool = False

    __test__ = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgramOutput:
    """What a program printed for an input."""

    failure: Status | None = None  # why its output does not count; None: it ended by itself and without error
    output: str = ""


@settings
class ProgramSettings(Limits):
    """How programs are graded; the first three settings are those of each test."""

    # Relative beyond 1, absolute below; None compares exactly.
    float_tolerance: Annotated[int | float, Range(at_least=0)] | None = None
    # Of a program's tests together; None: ten times that of one.
    total_time_limit_s: Annotated[int | float, Range(above=0)] | None = None
    stop_at_first_failure: bool = False
    # Programs of call tests without a prelude of their own stand behind JUDGE_PRELUDE, since a class in
    # LeetCode's form says `List[int]` without an import.
    call_prelude: bool = True
    allow_weak_sandbox: bool = False  # where bubblewrap does not work, a separate uid (as root) and limits do

    @property
    def total_seconds(self) -> float:
        """Time of all tests of a program together."""
        if self.total_time_limit_s is None:
            return float(TESTS_IN_TOTAL_TIME * self.time_limit_s)
        return float(self.total_time_limit_s)


def run_tests(
    program: str,
    tests: Sequence[ProgramTest],
    time_limit_s: int | float = 6.0,
    memory_mb: int = 512,
    output_kb: int = 1024,
    float_tolerance: int | float | None = None,
    allow_weak_sandbox: bool = False,
    *,
    total_time_limit_s: int | float | None = None,
    stop_at_first_failure: bool = False,
) -> TestReport:
    """Runs a Python program against its tests, one after the other.

    Args:
        time_limit_s: of each test, by the clock on the wall.
        memory_mb: of each process of a test, and of all of them together.
        output_kb: of standard output, or of a returned value; a longer expectation raises it.
        float_tolerance: see `output_match`; None compares exactly.
        allow_weak_sandbox: where bubblewrap does not work, run with a separate uid (as root) and limits only.
        total_time_limit_s: of all tests together, None: ten times that of one; a test not begun by then is a
            timeout.

    Raises:
        SandboxUnavailable: isolation does not work here, and `allow_weak_sandbox` is false.
        ValueError: a limit is not positive, or a tolerance negative.
        TypeError: an argument or expected value of a call test has no typed JSON.
    """
    settings = ProgramSettings(
        time_limit_s=time_limit_s,
        memory_mb=memory_mb,
        output_kb=output_kb,
        float_tolerance=float_tolerance,
        allow_weak_sandbox=allow_weak_sandbox,
        total_time_limit_s=total_time_limit_s,
        stop_at_first_failure=stop_at_first_failure,
    )
    return grade_program(program, tests, settings, sandbox_host.find_host(allow_weak_sandbox))


def grade_program(
    program: str, tests: Sequence[ProgramTest], settings: ProgramSettings, host: Host
) -> TestReport:
    """`run_tests` with a host that was found before."""
    results: list[TestResult] = []
    has_calls = settings.call_prelude and any(isinstance(test, CallTest) for test in tests)
    if has_calls and sandbox_driver.PRELUDE_END not in program:
        program = with_prelude(JUDGE_PRELUDE, program)
    with _Grader(host, program, settings) as grader:
        for test in tests:
            results.append(grader.grade(test))
            status = results[-1].status
            if status == "sandbox_error" or (settings.stop_at_first_failure and status != "passed"):
                break
    status = _status_of(results)
    return TestReport(
        passed=status == "passed", status=status, results=tuple(results), is_weak_sandbox=host.is_weak
    )


def run_program(
    program: str, inputs: Sequence[str], settings: ProgramSettings, host: Host
) -> list[ProgramOutput]:
    """What a program prints for each input, where nobody knows what it should; under the limits of a test."""
    with _Grader(host, program, settings) as grader:
        return [grader.run(text) for text in inputs]


def _status_of(results: Sequence[TestResult]) -> Status:
    """A test that failed decides; one that could not be run leaves the program undecided."""
    if not results:
        return "no_tests"
    failures: list[Status] = [result.status for result in results if result.status != "passed"]
    for status in failures:
        if status != "sandbox_error":
            return status
    return failures[0] if failures else "passed"


def with_prelude(prelude: str, program: str) -> str:
    """A program behind what its judge puts before it, whose names are there for it, and are not its own."""
    return f"{prelude.rstrip()}\n{sandbox_driver.PRELUDE_END}{program}" if prelude else program


def call_test_of(test: AssertTest) -> CallTest | None:
    """The call test that an assertion `f(literals) == literal` is; None for any other."""
    try:
        [statement] = ast.parse(test.source.strip()).body
    except (SyntaxError, ValueError):  # ValueError: not exactly one statement
        return None
    if not isinstance(statement, ast.Assert) or not isinstance(statement.test, ast.Compare):
        return None
    call, operators, values = statement.test.left, statement.test.ops, statement.test.comparators
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.keywords):
        return None
    if len(operators) != 1 or not isinstance(operators[0], ast.Eq):
        return None
    try:
        args = tuple(ast.literal_eval(argument) for argument in call.args)
        expected = ast.literal_eval(values[0])
        sandbox_driver.encode([args, expected])
    except (ValueError, TypeError):  # not literals, or `...`
        return None
    return CallTest(call.func.id, args, expected)


class _Grader:
    """Runs tests of one program in sandboxes that it starts when needed."""

    def __init__(self, host: Host, program: str, settings: ProgramSettings):
        self._settings = settings
        self._end_of_time = time.monotonic() + settings.total_seconds
        self._program = _KeptSandbox(host, program, settings)
        self._judge = _KeptSandbox(host, "", settings)  # for assertions

    def __enter__(self) -> "_Grader":
        return self

    def __exit__(self, *_: object) -> None:
        self._program.close()
        self._judge.close()

    def grade(self, test: ProgramTest) -> TestResult:
        """The verdict on one test."""
        if time.monotonic() >= self._end_of_time:
            return TestResult(status="timeout", detail="the time of all tests together was over")
        try:
            if isinstance(test, AssertTest):
                call_test = call_test_of(test)
                if call_test is None:
                    return self._grade_assertion(test)
                return self._grade_call(call_test, as_python=True)
            return self._grade_stdio(test) if isinstance(test, StdioTest) else self._grade_call(test)
        except (SandboxFailed, OSError) as failure:  # OSError: this process is out of descriptors or the like
            return TestResult(status="sandbox_error", detail=str(failure))

    def run(self, text: str) -> ProgramOutput:
        """What the program prints for an input."""
        if time.monotonic() >= self._end_of_time:
            return ProgramOutput(failure="timeout")
        try:
            outcome = self._outcome(text, self._output_bytes(0))
            return ProgramOutput(failure=_failure(outcome), output=outcome.stdout.decode())
        except (SandboxFailed, OSError):  # as in `grade`
            return ProgramOutput(failure="sandbox_error")
        except UnicodeDecodeError:  # which no expectation can hold
            return ProgramOutput(failure="wrong_answer")

    def _outcome(self, text: str, output_bytes: int) -> Outcome:
        sandbox = self._program.get()
        sandbox.start({"kind": "stdio"}, text.encode(errors="surrogatepass"))
        return sandbox.finish(deadline=self._deadline(), output_bytes=output_bytes)

    def _grade_stdio(self, test: StdioTest) -> TestResult:
        outcome = self._outcome(test.input, self._output_bytes(len(test.output.encode())))
        return _result(
            outcome, output_match.outputs_match(test.output, outcome.stdout, self._settings.float_tolerance)
        )

    def _grade_call(self, test: CallTest, *, as_python: bool = False) -> TestResult:
        """The verdict on a call.

        Args:
            as_python: whether it was an assertion, whose `==` is Python's.
        """
        args = [sandbox_driver.encode(argument) for argument in test.args]
        expected = sandbox_driver.encode(test.expected)
        sandbox = self._program.get()
        sandbox.start({"kind": "call", "function": test.function, "args": args})
        outcome = sandbox.finish(
            deadline=self._deadline(), output_bytes=self._output_bytes(len(json.dumps(expected)))
        )
        matches = output_match.value_matches(
            expected, outcome.result, self._settings.float_tolerance, as_python=as_python
        )
        return _result(outcome, matches)

    def _grade_assertion(self, test: AssertTest) -> TestResult:
        server, judge = self._program.get(), self._judge.get()
        for_server, for_judge = socket.socketpair()
        with for_server, for_judge:
            server.start({"kind": "serve"}, channel=for_server)
            judge.start({"kind": "assert", "source": test.source}, channel=for_judge)
        deadline = self._deadline()
        verdict = judge.finish(deadline=deadline, output_bytes=self._output_bytes(0), watched=(server,))
        service = server.finish(deadline=deadline, output_bytes=self._output_bytes(0))
        result = _result(verdict, verdict.result == sandbox_driver.PASSED)
        if result.status != "passed" and (cause := _failure(service)):
            result = dataclasses.replace(result, status=cause)
        return dataclasses.replace(result, is_lower_trust=True)

    def _deadline(self) -> float:
        return min(time.monotonic() + self._settings.time_limit_s, self._end_of_time)

    def _output_bytes(self, expected: int) -> int:
        return max(self._settings.output_kb << 10, 2 * expected)


class _KeptSandbox:
    """A sandbox that is started when needed, kept while it is clean, and replaced when it is not."""

    def __init__(self, host: Host, program: str, limits: Limits):
        self._new = lambda: Sandbox(host, program, limits)
        self._sandbox: Sandbox | None = None

    def get(self) -> Sandbox:
        """A sandbox that can be given a test.

        Raises:
            SandboxFailed: it did not start, though tried several times.
        """
        if self._sandbox is not None and self._sandbox.is_usable:
            return self._sandbox
        self.close()
        for _ in range(SANDBOX_TRIES - 1):
            with contextlib.suppress(SandboxFailed):
                return self._started()
            time.sleep(_PAUSE_SECONDS)
        return self._started()

    def _started(self) -> Sandbox:
        self._sandbox = self._new().__enter__()
        return self._sandbox

    def close(self) -> None:
        """Ends the sandbox, if there is one."""
        if self._sandbox is not None:
            self._sandbox.__exit__(None, None, None)
            self._sandbox = None


def _result(outcome: Outcome, matches: bool) -> TestResult:
    status = _failure(outcome) or ("passed" if matches else "wrong_answer")
    detail = "" if status == "passed" else outcome.stderr.decode(errors="replace")[-_DETAIL_CHARACTERS:]
    return TestResult(status=status, seconds=outcome.seconds, detail=detail)


def _failure(outcome: Outcome) -> Status | None:
    """Why a test failed whatever it wrote; None if what it wrote decides."""
    if outcome.end == "exited":
        return None if outcome.exit_code == 0 else _EXIT_STATUSES.get(outcome.exit_code, "runtime_error")
    return _END_STATUSES[outcome.end]
