"""System calls that sandboxed programs do without: a seccomp filter for bubblewrap's `--seccomp`.

Most of them give out memory that belongs to no process, so that neither RLIMIT_AS nor the watch over resident
sizes would see it; the others reach into other processes or open much of the kernel to attack. A call made in
another architecture's numbering is refused too.
"""

import errno
import platform
import struct

# (x86_64, aarch64), from the kernel's tables.
_REFUSED = {
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "io_uring_setup": (425, 425),
    "userfaultfd": (323, 282),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
}
_AUDIT_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_CALLS = 0x40000000  # the first number of x86_64's second numbering

_LOAD, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # classic BPF
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET = 0, 4  # in struct seccomp_data
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000


def filter_program() -> bytes:
    """The filter for this machine; empty where its numbering is not known here."""
    machine = platform.machine()
    if machine not in _AUDIT_ARCHITECTURES:
        return b""
    numbers = [pair[machine == "aarch64"] for pair in _REFUSED.values()]
    tests = [(_IF_EQUAL, number) for number in numbers]
    if machine == "x86_64":
        tests.append((_IF_AT_LEAST, _X32_CALLS))
    # A jump counts the instructions to skip; after the tests come "allow" and "refuse".
    code = [
        (_LOAD, 0, 0, _ARCHITECTURE_OFFSET),
        (_IF_EQUAL, 0, len(tests) + 2, _AUDIT_ARCHITECTURES[machine]),
        (_LOAD, 0, 0, _NUMBER_OFFSET),
        *((test, len(tests) - i, 0, number) for i, (test, number) in enumerate(tests)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERROR | errno.EPERM),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
