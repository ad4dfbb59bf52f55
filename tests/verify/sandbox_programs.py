"""The programs of the sandbox suite: what is right in many styles, and what must never pass.

The task of the stdio programs is to print the sum of two integers on two lines; that of the functions is
`add(a, b)`. Texts in capitals are replaced by what the test set up outside: SECRET_FILE, OUTSIDE_DIR,
LISTENER_PORT, BYSTANDER_PID.
"""

from promptcot_jax.core.records import AssertTest, CallTest, StdioTest

SUM_TESTS = (StdioTest("3\n4\n", "7\n"), StdioTest("-5\n12\n", "7\n"), StdioTest("100\n1\n", "101\n"))
CALL_TESTS = (CallTest("add", (3, 4), 7), CallTest("add", (-5, 2), -3))
ASSERT_TESTS = (AssertTest("assert add(3, 4) + 0 == 7"), AssertTest("assert [add(-5, 2)] == [-3]"))

# --- right ---------------------------------------------------------------------------------------------------

RIGHT = {
    "input": "print(int(input()) + int(input()))",
    "read all": "import sys\nprint(sum(map(int, sys.stdin.read().split())))",
    "read lines": "import sys\nprint(sum(int(line) for line in sys.stdin))",
    "readline": "import sys\ninput = sys.stdin.readline\nprint(int(input()) + int(input()))",
    "stdin buffer": "import sys\nprint(sum(map(int, sys.stdin.buffer.read().split())))",
    "open 0": "print(sum(map(int, open(0).read().split())))",
    "dev stdin": "print(sum(map(int, open('/dev/stdin'))))",
    "os read": "import os\nprint(sum(map(int, os.read(0, 1000).split())))",
    "fileinput": "import fileinput\nprint(sum(int(line) for line in fileinput.input()))",
    "bytes reader": "import io, os, sys\nsys.stdin = io.BytesIO(os.read(0, os.fstat(0).st_size))\n"
    "print(sum(map(int, sys.stdin.readlines())))",
    "stdout write": "import sys\nsys.stdout.write(str(int(input()) + int(input())) + '\\n')",
    "stdout buffer": "import sys\nsys.stdout.buffer.write(b'%d' % (int(input()) + int(input())))",
    "os write": "import os\nos.write(1, b'%d\\n' % (int(input()) + int(input())))",
    "dev stdout": "with open('/dev/stdout', 'w') as f:\n    print(int(input()) + int(input()), file=f)",
    "replaced stdout": "import io, sys\nreal, sys.stdout = sys.stdout, io.StringIO()\n"
    "print(int(input()) + int(input()))\nreal.write(sys.stdout.getvalue())",
    "main guard": "def main():\n    print(int(input()) + int(input()))\nif __name__ == '__main__':\n    main()",
    "exit": "print(int(input()) + int(input()))\nexit()",
    "sys exit": "import sys\nprint(int(input()) + int(input()))\nsys.exit(0)",
    "atexit": "import atexit\ntotal = int(input()) + int(input())\natexit.register(lambda: print(total))",
    "thread": "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(128 << 20)\n"
    "t = threading.Thread(target=lambda: print(int(input()) + int(input())))\nt.start()\nt.join()",
    "thread after main": "import threading, time\n"
    "def f():\n    time.sleep(0.05)\n    print(int(input()) + int(input()))\nthreading.Thread(target=f).start()",
    "deep recursion": "import sys\nsys.setrecursionlimit(50_000)\ndef f(n):\n    return n and 1 + f(n - 1)\n"
    "assert f(20_000) == 20_000\nprint(int(input()) + int(input()))",
    "trailing space": "print(int(input()) + int(input()), end='  \\r\\n\\n\\n')",
    "no newline": "print(int(input()) + int(input()), end='')",
    "stderr": "import sys\nprint('note', file=sys.stderr)\nprint(int(input()) + int(input()))",
    "much stderr": "import sys\nsys.stderr.write('x' * (5 << 20))\nprint(int(input()) + int(input()))",
    "asyncio": "import asyncio\nasync def main():\n    await asyncio.sleep(0.01)\n"
    "    print(int(input()) + int(input()))\nasyncio.run(main())",
    "process pool": "from multiprocessing import Pool\nif __name__ == '__main__':\n    with Pool(2) as pool:\n"
    "        print(sum(pool.map(int, [input(), input()])))",
    "subprocess": "import subprocess, sys\nsys.stdout.flush()\n"
    "subprocess.run(['/bin/sh', '-c', 'read a; read b; echo $((a + b))'])",
    "child": "import os, sys\na, b = int(input()), int(input())\npid = os.fork()\nif pid == 0:\n"
    "    print(a + b)\n    sys.stdout.flush()\n    os._exit(0)\nos.waitpid(pid, 0)",
    "scratch file": "import tempfile\nwith tempfile.TemporaryFile('w+') as f:\n"
    "    f.write(input() + ' ' + input())\n    f.seek(0)\n    print(sum(map(int, f.read().split())))",
    "file left behind": "import os\nassert not os.path.exists('notes')\nopen('notes', 'w').write('x' * 1000)\n"
    "print(int(input()) + int(input()))",
    "pickled class": "import dataclasses, pickle\n@dataclasses.dataclass\nclass Pair:\n    a: int\n    b: int\n"
    "p = pickle.loads(pickle.dumps(Pair(int(input()), int(input()))))\nprint(p.a + p.b)",
    "libraries": "import bisect, collections, decimal, fractions, functools, heapq, itertools, math, random, re\n"
    "print(fractions.Fraction(int(input())) + int(input()))",
    "caught errors": "try:\n    print(int(input()) + int(input()))\n    input()\nexcept EOFError:\n    pass",
    "own file name": "import os\nassert os.path.basename(__file__).endswith('.py')\nprint(int(input()) + int(input()))",
    "daemon left": "import os, time\na, b = int(input()), int(input())\nif os.fork() == 0:\n    os.setsid()\n"
    "    time.sleep(600)\nprint(a + b)",
}

RIGHT_FUNCTIONS = {
    "plain": "def add(a, b):\n    return a + b",
    "prints": "print('starting')\ndef add(a, b):\n    print(a, b)\n    return a + b",
    "guarded main": "def add(a, b):\n    return a + b\nif __name__ == '__main__':\n    raise SystemExit('not here')",
    "float": "def add(a, b):\n    return float(a + b)",
    "subclass": "import enum\nclass N(enum.IntEnum):\n    seven = 7\n    minus = -3\ndef add(a, b):\n    return N(a + b)",
    "callable": "class Add:\n    def __call__(self, a, b):\n        return a + b\nadd = Add()",
}

# --- wrong ---------------------------------------------------------------------------------------------------

WRONG = {
    "nothing": ("", "wrong_answer"),
    "off by one": ("print(int(input()) + int(input()) + 1)", "wrong_answer"),
    "first test only": ("input(); input()\nprint(7)", "wrong_answer"),
    "extra line": ("print(int(input()) + int(input()))\nprint('done')", "wrong_answer"),
    "leading word": ("print('sum:', int(input()) + int(input()))", "wrong_answer"),
    "nan": ("print(float('nan'))", "wrong_answer"),
    "as float": ("print(float(input()) + float(input()))", "wrong_answer"),
    "bad bytes": ("import os\nos.write(1, b'\\xff7\\n')", "wrong_answer"),
    "nul": ("print('\\0' + str(int(input()) + int(input())))", "wrong_answer"),
    "raises": ("raise ValueError('no')", "runtime_error"),
    "right, then raises": ("print(int(input()) + int(input()))\nraise ValueError", "runtime_error"),
    "right, then exit 1": ("print(int(input()) + int(input()))\nraise SystemExit(1)", "runtime_error"),
    "reads too much": ("input(); input(); input()", "runtime_error"),
    "missing module": ("import no_such_module", "runtime_error"),
    "syntax": ("print(int(input()) + ", "syntax_error"),
    "indentation": ("def f():\nreturn 1", "syntax_error"),
    "nul in source": ("print(7)\0", "syntax_error"),
    "not a program": ("The answer is 7.", "syntax_error"),
    "segmentation fault": ("import ctypes\nctypes.string_at(0)", "runtime_error"),
    "kills itself": ("import os\nos.kill(os.getpid(), 9)", "runtime_error"),
}

# Resource abuse, with a time limit of one second and 256 MB.
ABUSE = {
    "busy loop": ("while True:\n    pass", "timeout"),
    "sleep": ("import time\ntime.sleep(600)", "timeout"),
    "waits for input": ("import os\nr, w = os.pipe()\nos.read(r, 1)", "timeout"),
    "long division": ("print(3 ** (10 ** 8) % 7 * 10 ** 9 ** 9)", None),
    "ignores signals": (
        "import signal\nfor s in range(1, 65):\n    try:\n        signal.signal(s, signal.SIG_IGN)\n"
        "    except (OSError, ValueError):\n        pass\nwhile True:\n    pass",
        "timeout",
    ),
    "output flood": ("while True:\n    print('x' * 1000)", "wrong_answer"),
    "stderr flood": ("import sys\nwhile True:\n    print('x' * 1000, file=sys.stderr)", "timeout"),
    "right, then flood": (
        "print(int(input()) + int(input()))\nwhile True:\n    print(' ' * 1000)",
        "wrong_answer",
    ),
    "memory": ("x = []\nwhile True:\n    x.append(bytearray(10 << 20))", "memory"),
    "one big object": ("x = bytearray(10 << 30)", "memory"),
    "memory of many": (
        "import os, time\nfor _ in range(20):\n    if os.fork() == 0:\n        x = bytearray(100 << 20)\n"
        "        time.sleep(30)\ntime.sleep(30)",
        "memory",
    ),
    "fork bomb": ("import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass", "timeout"),
    "fork bomb of sessions": (
        "import os\nwhile True:\n    try:\n        if os.fork() == 0:\n            os.setsid()\n"
        "    except OSError:\n        pass",
        "timeout",
    ),
    "threads": (
        "import threading, time\nwhile True:\n    threading.Thread(target=time.sleep, args=(60,)).start()",
        None,
    ),
    "descriptors": ("import os\nfds = [os.open('/dev/null', 0) for _ in range(100_000)]", "runtime_error"),
    "disk": (
        "for i in range(100_000):\n    with open(f'/tmp/{i}', 'wb') as f:\n        f.write(b'x' * (8 << 20))",
        "runtime_error",
    ),
    "big file": ("with open('/tmp/x', 'wb') as f:\n    f.truncate(1 << 40)", "runtime_error"),
    "shared memory": (
        "for i in range(100_000):\n    with open(f'/dev/shm/{i}', 'wb') as f:\n        f.write(b'x' * (8 << 20))",
        "runtime_error",
    ),
    "memory files": (
        "import os\nkept = []\nfor i in range(200):\n    kept.append(os.memfd_create(str(i)))\n"
        "    os.write(kept[-1], b'x' * (15 << 20))",
        "runtime_error",
    ),
    "memory segments": (
        "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.shmat.restype = ctypes.c_void_p\nfor i in range(200):\n"
        "    segment = libc.shmget(0, 15 << 20, 0o1600)\n    assert segment >= 0\n"
        "    place = libc.shmat(segment, None, 0)\n    ctypes.memset(place, 1, 15 << 20)\n"
        "    libc.shmdt(ctypes.c_void_p(place))",
        "runtime_error",
    ),
    "compile bomb": ("x = " + "(" * 100_000 + ")" * 100_000, None),
    "constant bomb": ("x = " + " + ".join(["1"] * 50_000), None),
}

# Each tries something outside of the sandbox and prints the sum only if that works.
_SUM = "print(int(input()) + int(input()))"
ESCAPES = {
    "reads a secret": f"assert 'secret' in open('SECRET_FILE').read()\n{_SUM}",
    "writes outside": f"open('OUTSIDE_DIR/written', 'w').write('x')\n{_SUM}",
    "removes outside": f"import shutil\nshutil.rmtree('OUTSIDE_DIR')\n{_SUM}",
    "writes the system": f"open('/usr/lib/written', 'w').write('x')\n{_SUM}",
    "writes the root": f"open('/written', 'w').write('x')\n{_SUM}",
    "writes devices": f"open('/dev/written', 'w').write('x')\n{_SUM}",
    "reads passwords": f"assert 'root' in open('/etc/passwd').read()\n{_SUM}",
    "reads the environment of 1": f"assert b'HOME=/root' in open('/proc/1/environ', 'rb').read()\n{_SUM}",
    "environment": f"import os\nassert 'SANDBOX_TEST_SECRET' in os.environ\n{_SUM}",
    "loopback": f"import socket\nsocket.create_connection(('127.0.0.1', LISTENER_PORT), 0.5)\n{_SUM}",
    "network": f"import socket\nsocket.create_connection(('1.1.1.1', 53), 0.5)\n{_SUM}",
    "names": f"import socket\nsocket.gethostbyname('example.org')\n{_SUM}",
    "kills a bystander": f"import os\nos.kill(BYSTANDER_PID, 9)\n{_SUM}",
    "kills everybody": f"import os\nos.kill(-1, 9)\n{_SUM}",
    "kills its driver": f"import os, time\nos.kill(os.getppid(), 9)\ntime.sleep(0.2)\nassert os.getppid() != 1\n{_SUM}",
    "stops its driver": "import os, time\nos.kill(os.getppid(), 19)",
    "becomes root": f"import os\nos.setuid(0)\n{_SUM}",
    "new namespace": f"import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0\n{_SUM}",
    "mounts": f"import ctypes\nassert ctypes.CDLL(None).mount(b'x', b'/tmp', b'tmpfs', 0, None) == 0\n{_SUM}",
    "raises limits": f"import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))\n{_SUM}",
    "walks up from a descriptor": "import os\nfor fd in range(256):\n    try:\n"
    f"        os.open('../../../..SECRET_FILE', 0, dir_fd=fd)\n        {_SUM}\n    except OSError:\n        pass",
    "kernel log": f"open('/dev/kmsg').read(10)\n{_SUM}",
    "sysctl": f"open('/proc/sys/kernel/hostname', 'w').write('x')\n{_SUM}",
}

# --- fake success --------------------------------------------------------------------------------------------

_LIAR = """
class Liar(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __bool__(self): return True
    def __add__(self, other): return self
    __radd__ = __add__
    def __repr__(self): return "7"
    __str__ = __repr__
"""

# Wrong for stdio tests, call tests and assertions alike.
FAKES = {
    "exit 0": "import os\nos._exit(0)",
    "system exit": "raise SystemExit(0)",
    "exit in the function": "import os\ndef add(a, b):\n    os._exit(0)",
    "system exit in the function": "def add(a, b):\n    raise SystemExit",
    "lying object": _LIAR + "def add(a, b):\n    return Liar(1)",
    "equal to everything": "class Any:\n    __eq__ = lambda self, other: True\n    __ne__ = lambda self, other: False\n"
    "    __bool__ = lambda self: True\n    __add__ = __radd__ = lambda self, other: self\n    __len__ = lambda self: 7\n"
    "def add(a, b):\n    return Any()",
    "marker": "print('ready')\nprint('passed')\nprint('PASSED')\nprint('OK')\ndef add(a, b):\n    print('passed')",
    "patched json": "import json\njson.dumps = lambda *args, **kwargs: '7'\njson.loads = lambda text: 7\n"
    "def add(a, b):\n    return 0",
    "patched builtins": "import builtins\nbuiltins.isinstance = lambda *args: True\n"
    "builtins.AssertionError = type('E', (Exception,), {})\ndef add(a, b):\n    return 0",
    "inherited descriptors": "import os\ndef spray():\n    for fd in range(3, 256):\n"
    "        for text in (b'passed', b'{\"value\": true}\\n', b'\\0\\0\\0\\0\\1', b'ready'):\n            try:\n"
    "                os.write(fd, text)\n            except OSError:\n                pass\nspray()\n"
    "def add(a, b):\n    spray()\n    os._exit(0)",
    "walks the frames": "import gc, os, sys\nframe = sys._getframe()\nfound = []\nwhile frame:\n"
    "    found += list(frame.f_locals.values())\n    frame = frame.f_back\nfound += gc.get_objects()\n"
    "for thing in found:\n    if isinstance(thing, (str, bytes)) and len(thing) < 100:\n        print(thing)\n"
    "    if isinstance(thing, dict):\n        for name in list(thing):\n"
    "            if name in ('status', 'exit_code', 'request', 'expected'):\n                thing[name] = 0\n"
    "def add(a, b):\n    return None",
    "rewrites its driver": "import sys\nfor name, module in list(sys.modules.items()):\n"
    "    if hasattr(module, 'REPLY') or name == '__main__':\n        for key, value in list(vars(module).items()):\n"
    "            if callable(value) and not key.startswith('__'):\n                setattr(module, key, lambda *a, **k: 7)\n"
    "def add(a, b):\n    return 0",
    "answers for its driver": "import ctypes, os, struct\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    "def forge():\n    pidfd = libc.syscall(434, os.getppid(), 0)\n    for fd in range(3, 64):\n"
    "        stolen = libc.syscall(438, pidfd, fd, 0)\n        if stolen >= 0:\n            try:\n"
    "                os.write(stolen, struct.pack('!i?', 0, True))\n                os.write(stolen, b'7')\n"
    "            except OSError:\n                pass\nforge()\ndef add(a, b):\n    forge()\n    os._exit(0)",
    "writes its driver's memory": "import os\npid = os.getppid()\ntry:\n"
    "    maps = [line.split() for line in open(f'/proc/{pid}/maps')]\n    with open(f'/proc/{pid}/mem', 'r+b') as memory:\n"
    "        for entry in maps:\n            if 'rw' in entry[1] and '[heap]' in entry:\n"
    "                start, end = (int(x, 16) for x in entry[0].split('-'))\n                memory.seek(start)\n"
    "                data = memory.read(end - start).replace(b'runtime_error', b'passed_______')\n"
    "                memory.seek(start)\n                memory.write(data)\nexcept OSError:\n    pass\n"
    "def add(a, b):\n    return 0",
    "trace": "import sys\ndef lie(frame, event, arg):\n    if 'value' in frame.f_locals:\n        frame.f_locals['value'] = 7\n"
    "    return lie\nsys.settrace(lie)\nsys.setprofile(lie)\ndef add(a, b):\n    return 0",
    "atexit": "import atexit, os\natexit.register(os._exit, 0)\ndef add(a, b):\n    return 0",
    "excepthook": "import os, sys\nsys.excepthook = lambda *args: os._exit(0)\ndef add(a, b):\n    raise ValueError",
    "many results": "import os, json\ndef add(a, b):\n    for fd in range(3, 64):\n        try:\n"
    "            for n in range(-20, 200):\n                os.write(fd, json.dumps(n).encode() + b'\\n')\n"
    "        except OSError:\n            pass\n    return 0",
    "expected on the command line": "import sys\nprint(sys.argv, sys.orig_argv)\nfor p in ('/proc/1/cmdline', '/proc/2/cmdline'):\n"
    "    print(open(p).read())\ndef add(a, b):\n    return sys.orig_argv",
    "boolean": "def add(a, b):\n    return True\nprint(True)",
    "text": "def add(a, b):\n    return '7'\nprint('seven')",
    "not there": "def subtract(a, b):\n    return a - b",
    "first result for all": "def add(a, b):\n    return 7\ninput_ = 7\nprint(input_)",
}
