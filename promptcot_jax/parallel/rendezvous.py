"""Whether all hosts of a run are there, found out before JAX connects them.

JAX ends a process without a Python error when another host does not come, and on some machines waits for
ever. So the first host listens where JAX's coordinator will, reads one line of JSON from each of the others,
and sends all of them the outcome; then the port is JAX's.
"""

import contextlib
import dataclasses
import json
import socket
import time
from collections.abc import Collection
from typing import Any

from promptcot_jax.core.errors import WrongUse

_SECONDS_BETWEEN_TRIES = 0.2
_SECONDS_FOR_A_LINE = 10.0
_LONGEST_LINE = 1 << 16


class HostsMissing(RuntimeError):
    """Not all hosts of the run answered in time."""


@dataclasses.dataclass(frozen=True)
class Host:
    """One host among the `count` of a run."""

    address: str  # HOST:PORT of the first, an IPv6 address in brackets
    count: int
    index: int

    @property
    def host_and_port(self) -> tuple[str, int]:
        host, _, port = self.address.rpartition(":")
        return host.strip("[]"), int(port)


@dataclasses.dataclass(frozen=True)
class _Outcome:
    """What the first host sends to the others; without text, all is well."""

    text: str = ""
    is_wrong_use: bool = False

    def raise_if_bad(self) -> None:
        if self.text:
            raise WrongUse(self.text) if self.is_wrong_use else HostsMissing(self.text)


def meet(this: Host, run_signature: str, seconds: float) -> None:
    """Returns on each host once all are there with the same run_signature.

    Args:
        run_signature: what this host is about to do.
        seconds: deadline.

    Raises:
        HostsMissing: names the hosts that did not come.
        WrongUse: two hosts have the same index, or were started to do different things.
    """
    if this.index == 0:
        _listen(this, run_signature, seconds).raise_if_bad()
    else:
        _answer(this, run_signature, seconds).raise_if_bad()


def _listen(this: Host, run_signature: str, seconds: float) -> _Outcome:
    """The first host's part."""
    deadline = time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        try:
            host, port = this.host_and_port
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            server = stack.enter_context(socket.create_server(("", port), family=family))
        except OSError as error:
            raise HostsMissing(f"the first host cannot listen at {this.address}: {error}") from None
        there: set[int] = set()
        connections, outcome = [], _Outcome()
        while len(there) < this.count - 1 and not outcome.text:
            server.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                connection, (name, *_) = server.accept()
            except TimeoutError:
                outcome = _missing(this, there, seconds)
                break
            connections.append(stack.enter_context(connection))
            line = _read_line(connection)
            if line is not None:  # else none of ours: whatever looks for open ports
                outcome = _objection(this, run_signature, line, name, there)
                there.add(line["index"])
        for connection in connections:
            _send_line(connection, dataclasses.asdict(outcome))
    return outcome


def _missing(this: Host, there: Collection[int], seconds: float) -> _Outcome:
    missing = ", ".join(str(i) for i in range(1, this.count) if i not in there)
    return _Outcome(
        f"{len(there) + 1} of {this.count} hosts were there after {seconds:.0f} s; missing: {missing}. "
        "Start the same command on all hosts of the slice (--worker=all), and see the logs of the missing."
    )


def _objection(
    this: Host, run_signature: str, line: dict[str, Any], name: str, there: Collection[int]
) -> _Outcome:
    """What is wrong with one host's line."""
    index = line["index"]
    if index in there or not 0 < index < this.count:
        return _Outcome(
            f"host {index} ({name}) has come twice, or is none of the {this.count} hosts; end what is left "
            "of an earlier run on it, and give each host its own --process_index.",
            is_wrong_use=True,
        )
    if line["run_signature"] != run_signature:
        return _Outcome(
            f"host {index} ({name}) was started otherwise than the first: {line['run_signature']!r} there, "
            f"{run_signature!r} here; give all hosts the same version, command and files.",
            is_wrong_use=True,
        )
    return _Outcome()


def _answer(this: Host, run_signature: str, seconds: float) -> _Outcome:
    """The others' part."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with socket.create_connection(this.host_and_port, timeout=_SECONDS_FOR_A_LINE) as connection:
                _send_line(connection, {"index": this.index, "run_signature": run_signature})
                # The first host waits for all of them, and a little longer than this one began to.
                heard = _read_line(connection, deadline - time.monotonic() + _SECONDS_FOR_A_LINE)
                if heard is not None:
                    return _Outcome(**heard)
        except OSError:
            pass  # it is not there yet, or not yet with its predecessor's port
        if time.monotonic() > deadline:
            return _Outcome(
                f"host {this.index}: the first host did not answer at {this.address} within {seconds:.0f} "
                "s; see whether the command runs on it, and whether the port is open between the hosts."
            )
        time.sleep(_SECONDS_BETWEEN_TRIES)


def _send_line(connection: socket.socket, value: dict[str, Any]) -> None:
    try:
        connection.sendall(json.dumps(value).encode() + b"\n")
    except OSError:
        pass  # it has gone; JAX's own connection will miss it


def _read_line(connection: socket.socket, seconds: float = _SECONDS_FOR_A_LINE) -> dict[str, Any] | None:
    """One JSON object, or None where something else comes, or nothing."""
    connection.settimeout(max(seconds, 0.001))
    try:
        with connection.makefile("rb") as stream:
            value = json.loads(stream.readline(_LONGEST_LINE))
    except (OSError, ValueError):
        return None
    is_ours = isinstance(value, dict) and (
        {"index", "run_signature"} <= value.keys() or "is_wrong_use" in value
    )
    return value if is_ours else None
