"""The programs of the sandbox suite: what is right in many styles, and what must never pass.

The task of the stdio programs is to print the sum of two integers on two lines; that of the functions is
`add(a, b)`. Texts in capitals are replaced by what the test set up outside: SECRET_FILE, OUTSIDE_DIR,
LISTENER_PORT, BYSTANDER_PID.
"""

from promptcot_jax.core.records import AssertTest, CallTest, StdioTest

SUM_TESTS = (StdioTest("3\n4\n", "7\n"), StdioTest("-5\n12\n", "7\n"), StdioTest("100\n1\n", "101\n"))
CALL_TESTS = (CallTest("add", (3, 4), 7), CallTest("add", (-5, 2), -3))
ASSERT_TESTS = (AssertTest("assert add(3, 4) + 0 == 7"), AssertTest("assert [add(-5, 2)] == [-3]"))

# Programs that are right.
RIGHT = {
    "input": "print(int(input()) + int(input()))",
    "read all": """
import sys
print(sum(map(int, sys.stdin.read().split())))
""",
    "read lines": """
import sys
print(sum(int(line) for line in sys.stdin))
""",
    "readline": """
import sys
input = sys.stdin.readline
print(int(input()) + int(input()))
""",
    "stdin buffer": """
import sys
print(sum(map(int, sys.stdin.buffer.read().split())))
""",
    "open 0": "print(sum(map(int, open(0).read().split())))",
    "dev stdin": "print(sum(map(int, open('/dev/stdin'))))",
    "os read": """
import os
print(sum(map(int, os.read(0, 1000).split())))
""",
    "fileinput": """
import fileinput
print(sum(int(line) for line in fileinput.input()))
""",
    "bytes reader": """
import io, os, sys
sys.stdin = io.BytesIO(os.read(0, os.fstat(0).st_size))
print(sum(map(int, sys.stdin.readlines())))
""",
    "stdout write": r"""
import sys
sys.stdout.write(str(int(input()) + int(input())) + '\n')
""",
    "stdout buffer": """
import sys
sys.stdout.buffer.write(b'%d' % (int(input()) + int(input())))
""",
    "os write": r"""
import os
os.write(1, b'%d\n' % (int(input()) + int(input())))
""",
    "dev stdout": """
with open('/dev/stdout', 'w') as f:
    print(int(input()) + int(input()), file=f)
""",
    "replaced stdout": """
import io, sys
real, sys.stdout = sys.stdout, io.StringIO()
print(int(input()) + int(input()))
real.write(sys.stdout.getvalue())
""",
    "stream left open": r"""
out = open(1, 'w')
out.write(str(int(input()) + int(input())) + '\n')
""",
    "last words": """
class Last:
    def __del__(self):
        print(total)
total = int(input()) + int(input())
last = Last()
del last
""",
    "wrapped stdout": """
import io, sys
sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, 'w', closefd=False)))
print(int(input()) + int(input()))
""",
    "main guard": """
def main():
    print(int(input()) + int(input()))
if __name__ == '__main__':
    main()
""",
    "exit": """
print(int(input()) + int(input()))
exit()
""",
    "sys exit": """
import sys
print(int(input()) + int(input()))
sys.exit(0)
""",
    "atexit": """
import atexit
total = int(input()) + int(input())
atexit.register(lambda: print(total))
""",
    "thread": """
import sys, threading
sys.setrecursionlimit(10**6)
threading.stack_size(128 << 20)
t = threading.Thread(target=lambda: print(int(input()) + int(input())))
t.start()
t.join()
""",
    "thread after main": """
import threading, time
def f():
    time.sleep(0.05)
    print(int(input()) + int(input()))
threading.Thread(target=f).start()
""",
    "deep recursion": """
import sys
sys.setrecursionlimit(50_000)
def f(n):
    return n and 1 + f(n - 1)
assert f(20_000) == 20_000
print(int(input()) + int(input()))
""",
    "trailing space": "print(int(input()) + int(input()), end='  \\r\\n\\n\\n')",
    "no newline": "print(int(input()) + int(input()), end='')",
    "stderr": """
import sys
print('note', file=sys.stderr)
print(int(input()) + int(input()))
""",
    "much stderr": """
import sys
sys.stderr.write('x' * (5 << 20))
print(int(input()) + int(input()))
""",
    "asyncio": """
import asyncio
async def main():
    await asyncio.sleep(0.01)
    print(int(input()) + int(input()))
asyncio.run(main())
""",
    "process pool": """
from multiprocessing import Pool
if __name__ == '__main__':
    with Pool(2) as pool:
        print(sum(pool.map(int, [input(), input()])))
""",
    "subprocess": """
import subprocess, sys
sys.stdout.flush()
subprocess.run(['/bin/sh', '-c', 'read a; read b; echo $((a + b))'])
""",
    "child": """
import os, sys
a, b = int(input()), int(input())
pid = os.fork()
if pid == 0:
    print(a + b)
    sys.stdout.flush()
    os._exit(0)
os.waitpid(pid, 0)
""",
    "scratch file": """
import tempfile
with tempfile.TemporaryFile('w+') as f:
    f.write(input() + ' ' + input())
    f.seek(0)
    print(sum(map(int, f.read().split())))
""",
    "file left behind": """
import os
assert not os.path.exists('notes')
open('notes', 'w').write('x' * 1000)
print(int(input()) + int(input()))
""",
    "pickled class": """
import dataclasses, pickle
@dataclasses.dataclass
class Pair:
    a: int
    b: int
p = pickle.loads(pickle.dumps(Pair(int(input()), int(input()))))
print(p.a + p.b)
""",
    "libraries": """
import bisect, collections, decimal, fractions, functools, heapq, itertools, math, random, re
print(fractions.Fraction(int(input())) + int(input()))
""",
    "caught errors": """
try:
    print(int(input()) + int(input()))
    input()
except EOFError:
    pass
""",
    "own file name": """
import os
assert os.path.basename(__file__).endswith('.py')
print(int(input()) + int(input()))
""",
    "daemon left": """
import os, time
a, b = int(input()), int(input())
if os.fork() == 0:
    os.setsid()
    time.sleep(600)
print(a + b)
""",
}

# Functions that are right.
RIGHT_FUNCTIONS = {
    "plain": """
def add(a, b):
    return a + b
""",
    "prints": """
print('starting')
def add(a, b):
    print(a, b)
    return a + b
""",
    "guarded main": """
def add(a, b):
    return a + b
if __name__ == '__main__':
    raise SystemExit('not here')
""",
    "float": """
def add(a, b):
    return float(a + b)
""",
    "subclass": """
import enum
class N(enum.IntEnum):
    seven = 7
    minus = -3
def add(a, b):
    return N(a + b)
""",
    "callable": """
class Add:
    def __call__(self, a, b):
        return a + b
add = Add()
""",
}

# Programs that are wrong, and the status they must get.
WRONG = {
    "nothing": ("", "wrong_answer"),
    "off by one": ("print(int(input()) + int(input()) + 1)", "wrong_answer"),
    "first test only": (
        """
input(); input()
print(7)
""",
        "wrong_answer",
    ),
    "extra line": (
        """
print(int(input()) + int(input()))
print('done')
""",
        "wrong_answer",
    ),
    "leading word": ("print('sum:', int(input()) + int(input()))", "wrong_answer"),
    "nan": ("print(float('nan'))", "wrong_answer"),
    "as float": ("print(float(input()) + float(input()))", "wrong_answer"),
    "bad bytes": (
        r"""
import os
os.write(1, b'\xff7\n')
""",
        "wrong_answer",
    ),
    "nul": ("print('\\0' + str(int(input()) + int(input())))", "wrong_answer"),
    "raises": ("raise ValueError('no')", "runtime_error"),
    "right, then raises": (
        """
print(int(input()) + int(input()))
raise ValueError
""",
        "runtime_error",
    ),
    "right, then exit 1": (
        """
print(int(input()) + int(input()))
raise SystemExit(1)
""",
        "runtime_error",
    ),
    "reads too much": ("input(); input(); input()", "runtime_error"),
    "missing module": ("import no_such_module", "runtime_error"),
    "syntax": ("print(int(input()) + ", "syntax_error"),
    "indentation": (
        """
def f():
return 1
""",
        "syntax_error",
    ),
    "nul in source": ("print(7)\0", "syntax_error"),
    "not a program": ("The answer is 7.", "syntax_error"),
    "segmentation fault": (
        """
import ctypes
ctypes.string_at(0)
""",
        "runtime_error",
    ),
    "kills itself": (
        """
import os
os.kill(os.getpid(), 9)
""",
        "runtime_error",
    ),
}

# Resource abuse, for short limits: the status, or None where several are fair.
ABUSE = {
    "busy loop": (
        """
while True:
    pass
""",
        "timeout",
    ),
    "sleep": (
        """
import time
time.sleep(600)
""",
        "timeout",
    ),
    "waits for input": (
        """
import os
r, w = os.pipe()
os.read(r, 1)
""",
        "timeout",
    ),
    "long division": ("print(3 ** (10 ** 8) % 7 * 10 ** 9 ** 9)", None),
    "ignores signals": (
        """
import signal
for s in range(1, 65):
    try:
        signal.signal(s, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    pass
""",
        "timeout",
    ),
    "output flood": (
        """
while True:
    print('x' * 1000)
""",
        "wrong_answer",
    ),
    "stderr flood": (
        """
import sys
while True:
    print('x' * 1000, file=sys.stderr)
""",
        "timeout",
    ),
    "right, then flood": (
        """
print(int(input()) + int(input()))
while True:
    print(' ' * 1000)
""",
        "wrong_answer",
    ),
    "memory": (
        """
x = []
while True:
    x.append(bytearray(10 << 20))
""",
        "memory",
    ),
    "one big object": ("x = bytearray(10 << 30)", "memory"),
    "memory of many": (
        """
import os, time
for _ in range(8):
    if os.fork() == 0:
        x = bytearray(64 << 20)
        time.sleep(30)
time.sleep(30)
""",
        "memory",
    ),
    "fork bomb": (
        """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
""",
        "timeout",
    ),
    "fork bomb of sessions": (
        """
import os
while True:
    try:
        if os.fork() == 0:
            os.setsid()
    except OSError:
        pass
""",
        "timeout",
    ),
    "threads": (
        """
import threading, time
while True:
    threading.Thread(target=time.sleep, args=(60,)).start()
""",
        None,
    ),
    "descriptors": (
        """
import os
fds = [os.open('/dev/null', 0) for _ in range(100_000)]
""",
        "runtime_error",
    ),
    "disk": (
        """
for i in range(100_000):
    with open(f'/tmp/{i}', 'wb') as f:
        f.write(b'x' * (8 << 20))
""",
        "runtime_error",
    ),
    "big file": (
        """
with open('/tmp/x', 'wb') as f:
    f.truncate(1 << 40)
""",
        "runtime_error",
    ),
    "shared memory": (
        """
for i in range(100_000):
    with open(f'/dev/shm/{i}', 'wb') as f:
        f.write(b'x' * (8 << 20))
""",
        "runtime_error",
    ),
    "memory files": (
        """
import os
kept = []
for i in range(200):
    kept.append(os.memfd_create(str(i)))
    os.write(kept[-1], b'x' * (15 << 20))
""",
        "runtime_error",
    ),
    "memory segments": (
        """
import ctypes
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
for i in range(200):
    segment = libc.shmget(0, 15 << 20, 0o1600)
    assert segment >= 0
    place = libc.shmat(segment, None, 0)
    ctypes.memset(place, 1, 15 << 20)
    libc.shmdt(ctypes.c_void_p(place))
""",
        "runtime_error",
    ),
    "compile bomb": ("x = " + "(" * 100_000 + ")" * 100_000, None),
    "constant bomb": ("x = " + " + ".join(["1"] * 50_000), None),
}

# Each tries something outside of the sandbox and prints the sum only if that works.
ESCAPES = {
    "reads a secret": """
assert 'secret' in open('SECRET_FILE').read()
print(int(input()) + int(input()))
""",
    "writes outside": """
open('OUTSIDE_DIR/written', 'w').write('x')
print(int(input()) + int(input()))
""",
    "removes outside": """
import shutil
shutil.rmtree('OUTSIDE_DIR')
print(int(input()) + int(input()))
""",
    "writes the system": """
open('/usr/lib/written', 'w').write('x')
print(int(input()) + int(input()))
""",
    "writes the root": """
open('/written', 'w').write('x')
print(int(input()) + int(input()))
""",
    "writes devices": """
open('/dev/written', 'w').write('x')
print(int(input()) + int(input()))
""",
    "reads passwords": """
assert 'root' in open('/etc/passwd').read()
print(int(input()) + int(input()))
""",
    "reads the environment of 1": """
assert b'HOME=/root' in open('/proc/1/environ', 'rb').read()
print(int(input()) + int(input()))
""",
    "environment": """
import os
assert 'SANDBOX_TEST_SECRET' in os.environ
print(int(input()) + int(input()))
""",
    "loopback": """
import socket
socket.create_connection(('127.0.0.1', LISTENER_PORT), 0.5)
print(int(input()) + int(input()))
""",
    "network": """
import socket
socket.create_connection(('1.1.1.1', 53), 0.5)
print(int(input()) + int(input()))
""",
    "names": """
import socket
socket.gethostbyname('example.org')
print(int(input()) + int(input()))
""",
    "kills a bystander": """
import os
os.kill(BYSTANDER_PID, 9)
print(int(input()) + int(input()))
""",
    "kills everybody": """
import os
os.kill(-1, 9)
print(int(input()) + int(input()))
""",
    "kills its driver": """
import os, time
os.kill(os.getppid(), 9)
time.sleep(0.2)
assert os.getppid() != 1
print(int(input()) + int(input()))
""",
    "stops its driver": """
import os, time
os.kill(os.getppid(), 19)
""",
    "becomes root": """
import os
os.setuid(0)
print(int(input()) + int(input()))
""",
    "new namespace": """
import ctypes
assert ctypes.CDLL(None).unshare(0x10000000) == 0
print(int(input()) + int(input()))
""",
    "mounts": """
import ctypes
assert ctypes.CDLL(None).mount(b'x', b'/tmp', b'tmpfs', 0, None) == 0
print(int(input()) + int(input()))
""",
    "raises limits": """
import resource
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
print(int(input()) + int(input()))
""",
    "walks up from a descriptor": """
import os
for fd in range(256):
    try:
        os.open('../../../..SECRET_FILE', 0, dir_fd=fd)
        print(int(input()) + int(input()))
    except OSError:
        pass
""",
    "kernel log": """
open('/dev/kmsg').read(10)
print(int(input()) + int(input()))
""",
    "sysctl": """
open('/proc/sys/kernel/hostname', 'w').write('x')
print(int(input()) + int(input()))
""",
}

# Wrong for stdio tests, call tests and assertions alike, and trying to look right.
FAKES = {
    "exit 0": """
import os
os._exit(0)
""",
    "system exit": "raise SystemExit(0)",
    "exit in the function": """
import os
def add(a, b):
    os._exit(0)
""",
    "system exit in the function": """
def add(a, b):
    raise SystemExit
""",
    "lying object": """
class Liar(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __bool__(self): return True
    def __add__(self, other): return self
    __radd__ = __add__
    def __repr__(self): return "7"
    __str__ = __repr__
def add(a, b):
    return Liar(1)
""",
    "equal to everything": """
class Any:
    __eq__ = lambda self, other: True
    __ne__ = lambda self, other: False
    __bool__ = lambda self: True
    __add__ = __radd__ = lambda self, other: self
    __len__ = lambda self: 7
def add(a, b):
    return Any()
""",
    "marker": """
print('ready')
print('passed')
print('PASSED')
print('OK')
def add(a, b):
    print('passed')
""",
    "patched json": """
import json
json.dumps = lambda *args, **kwargs: '7'
json.loads = lambda text: 7
def add(a, b):
    return 0
""",
    "patched builtins": """
import builtins
builtins.isinstance = lambda *args: True
builtins.AssertionError = type('E', (Exception,), {})
def add(a, b):
    return 0
""",
    "inherited descriptors": r"""
import os
def spray():
    for fd in range(3, 256):
        for text in (b'passed', b'{"value": true}\n', b'\0\0\0\0\1', b'ready'):
            try:
                os.write(fd, text)
            except OSError:
                pass
spray()
def add(a, b):
    spray()
    os._exit(0)
""",
    "walks the frames": """
import gc, os, sys
frame = sys._getframe()
found = []
while frame:
    found += list(frame.f_locals.values())
    frame = frame.f_back
found += gc.get_objects()
for thing in found:
    if isinstance(thing, (str, bytes)) and len(thing) < 100:
        print(thing)
    if isinstance(thing, dict):
        for name in list(thing):
            if name in ('status', 'exit_code', 'request', 'expected'):
                thing[name] = 0
def add(a, b):
    return None
""",
    "rewrites its driver": """
import sys
for name, module in list(sys.modules.items()):
    if hasattr(module, 'REPLY') or name == '__main__':
        for key, value in list(vars(module).items()):
            if callable(value) and not key.startswith('__'):
                setattr(module, key, lambda *a, **k: 7)
def add(a, b):
    return 0
""",
    "answers for its driver": """
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
def forge():
    pidfd = libc.syscall(434, os.getppid(), 0)
    for fd in range(3, 64):
        stolen = libc.syscall(438, pidfd, fd, 0)
        if stolen >= 0:
            try:
                os.write(stolen, struct.pack('!i?', 0, True))
                os.write(stolen, b'7')
            except OSError:
                pass
forge()
def add(a, b):
    forge()
    os._exit(0)
""",
    "writes its driver's memory": """
import os
pid = os.getppid()
try:
    maps = [line.split() for line in open(f'/proc/{pid}/maps')]
    with open(f'/proc/{pid}/mem', 'r+b') as memory:
        for entry in maps:
            if 'rw' in entry[1] and '[heap]' in entry:
                start, end = (int(x, 16) for x in entry[0].split('-'))
                memory.seek(start)
                data = memory.read(end - start).replace(b'runtime_error', b'passed_______')
                memory.seek(start)
                memory.write(data)
except OSError:
    pass
def add(a, b):
    return 0
""",
    "trace": """
import sys
def lie(frame, event, arg):
    if 'value' in frame.f_locals:
        frame.f_locals['value'] = 7
    return lie
sys.settrace(lie)
sys.setprofile(lie)
def add(a, b):
    return 0
""",
    "atexit": """
import atexit, os
atexit.register(os._exit, 0)
def add(a, b):
    return 0
""",
    "excepthook": """
import os, sys
sys.excepthook = lambda *args: os._exit(0)
def add(a, b):
    raise ValueError
""",
    "many results": r"""
import os, json
def add(a, b):
    for fd in range(3, 64):
        try:
            for n in range(-20, 200):
                os.write(fd, json.dumps(n).encode() + b'\n')
        except OSError:
            pass
    return 0
""",
    "expected on the command line": """
import sys
print(sys.argv, sys.orig_argv)
for p in ('/proc/1/cmdline', '/proc/2/cmdline'):
    print(open(p).read())
def add(a, b):
    return sys.orig_argv
""",
    "boolean": """
def add(a, b):
    return True
print(True)
""",
    "text": """
def add(a, b):
    return '7'
print('seven')
""",
    "not there": """
def subtract(a, b):
    return a - b
""",
    "first result for all": """
def add(a, b):
    return 7
input_ = 7
print(input_)
""",
}
