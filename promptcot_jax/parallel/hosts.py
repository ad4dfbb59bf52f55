"""The hosts of one run: who they are, that all are there, and what the first of them decides.

Every host of a TPU slice runs the same command. After the rendezvous they run in step: each takes the same
decisions from the same values, or has them from the first host (`decided_by_first`), which alone writes what
they share. Every wait has a deadline.
"""

import contextlib
import dataclasses
import json
import logging
import re
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import jax
from jax._src import cloud_tpu_init, clusters, distributed  # who this host is has no public name

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.parallel import rendezvous
from promptcot_jax.parallel.rendezvous import HostsMissing

Value = TypeVar("Value")

log = logging.getLogger(__name__)

DEFAULT_PORT = 8476
# HOST or HOST:PORT; an IPv6 address has colons of its own, hence its brackets.
_ADDRESS = re.compile(r"(?:[^\s:\[\]/]+|\[[^\s\[\]/]+\])(?::(?P<port>\d{1,5}))?")
_SECONDS_BETWEEN_MESSAGES = 60.0
_SECONDS_BETWEEN_LOOKS = 1.0  # whether a host that divides work with others has given it up
_SHUTDOWN_SECONDS = 60  # that a host waits at its end for the others; JAX's own default is five minutes


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostsConfig:
    """How the hosts of a run find each other; on a Cloud TPU slice they know it, and nothing need be set.

    Attributes:
        coordinator_address: HOST or HOST:PORT of the first host, an IPv6 address in brackets; the port must
            be open between the hosts.
        process_count: hosts that must be there.
        process_index: this one, from 0.
        start_seconds: deadline for all to be there.
        wait_seconds: deadline for what one host does for others, such as writing a file or grading a group.
    """

    coordinator_address: str | None = None
    process_count: int | None = None
    process_index: int | None = None
    start_seconds: float = 600.0
    wait_seconds: float = 3600.0

    def __post_init__(self):
        if self.coordinator_address is not None:
            found = _ADDRESS.fullmatch(self.coordinator_address)
            if found is None or not 0 < int(found["port"] or DEFAULT_PORT) < 1 << 16:
                raise WrongUse(
                    f"--coordinator_address={self.coordinator_address} must be HOST or HOST:PORT, with an "
                    "IPv6 address in brackets: [ADDRESS]:PORT."
                )
        if self.process_count is not None and self.process_count < 1:
            raise WrongUse(f"--process_count must be at least 1, got {self.process_count}.")
        if self.process_index is not None and not 0 <= self.process_index < (self.process_count or 1):
            raise WrongUse(
                f"--process_index={self.process_index} must lie in [0, --process_count), with "
                f"--process_count={self.process_count}."
            )
        if min(self.start_seconds, self.wait_seconds) <= 0:
            raise WrongUse("--start_seconds and --wait_seconds must be positive.")


_wait_seconds = HostsConfig().wait_seconds
_num_decisions = 0  # of this process; hosts run in step, so it numbers the same decision on each


def start(config: HostsConfig, run_signature: str) -> None:
    """Connects the hosts of the run; does nothing where there is one. Comes before JAX looks for devices.

    Args:
        run_signature: what this host is about to do; must be the same on all.

    Raises:
        HostsMissing: not all were there in time; says which.
        WrongUse: the settings do not say enough, contradict the machine, or hosts were started differently.
    """
    global _wait_seconds
    _wait_seconds = config.wait_seconds
    this = _this_host(config)
    if this is None or this.count == 1:
        return
    log.info("host %d of %d: waiting for the others", this.index, this.count)
    rendezvous.meet(this, run_signature, config.start_seconds)
    # It keeps SIGTERM to itself, for loops that ask it; ours listen themselves (`trainers.watching`).
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        this.address, this.count, this.index, shutdown_timeout_seconds=_SHUTDOWN_SECONDS
    )
    log.info(
        "all %d hosts are here, with %d devices (%d on this one)",
        this.count,
        jax.device_count(),
        jax.local_device_count(),
    )


def _this_host(config: HostsConfig) -> rendezvous.Host | None:
    """This host by the settings, and for what they leave open by the machine; None: it is alone."""
    given = (config.coordinator_address, config.process_count, config.process_index)
    found: tuple[Any, ...] = (None, None, None)
    if None in given and config.process_count != 1 and cloud_tpu_init.running_in_cloud_tpu_vm:
        found = clusters.ClusterEnv.auto_detect_unset_distributed_params(
            given[0], given[1], given[2], None, None, int(config.start_seconds)
        )
    address = config.coordinator_address if given[0] is not None else found[0]
    num_hosts = config.process_count if given[1] is not None else found[1]
    number = config.process_index if given[2] is not None else found[2]
    if config.process_count is not None and found[1] not in (None, config.process_count):
        raise WrongUse(f"--process_count={config.process_count}, but the slice has {found[1]} hosts.")
    if num_hosts == 1 or (address, num_hosts, number) == (None, None, None):
        return None
    if address is None or num_hosts is None or number is None:
        raise WrongUse(
            "a run of several hosts needs --coordinator_address=HOST:PORT, --process_count=N and "
            f"--process_index=I on each; here they are {address}, {num_hosts} and {number}."
        )
    has_port = ":" in address and not address.endswith("]")
    return rendezvous.Host(address if has_port else f"{address}:{DEFAULT_PORT}", num_hosts, number)


def count() -> int:
    """How many hosts the run has. Unlike JAX's own count it does not start the devices."""
    return distributed.global_state.num_processes or 1


def index() -> int:
    """Which of them this is."""
    return distributed.global_state.process_id or 0


def is_first() -> bool:
    """Whether this host writes what all hosts share."""
    return index() == 0


def decided_by_first(name: str, decide: Callable[[], Value]) -> Value:
    """What `decide` gives on the first host, on every host; and how the others wait for what it writes.

    With one host just a call. All hosts must make the same calls in the same order, none of them from a
    thread of its own.

    Args:
        name: of the decision, for messages.
        decide: called on the first host only; gives what JSON holds.

    Raises:
        WrongUse: `decide` raised it; then it is raised on all hosts.
        HostsMissing: `decide` failed otherwise on the first host, or took longer than `wait_seconds`.
    """
    global _num_decisions
    if count() == 1:
        return decide()
    _num_decisions += 1
    key = f"promptcot/{_num_decisions}/{name}"
    return _told(key, decide) if is_first() else _heard(name, key)


class Shared:
    """Work of a thread that the hosts divide, each part done by one of them for the first.

    Made on all hosts in step, as `decided_by_first` is called; its parts may be done in any thread and order.
    """

    def __init__(self, name: str):
        """Says what the work is, for messages."""
        global _num_decisions
        _num_decisions += 1
        self._name, self._prefix = name, f"promptcot/{_num_decisions}/{name}"
        self._is_given_up = threading.Event()

    def part(self, number: int, do: Callable[[], Value]) -> Value | None:
        """What `do` gives on the host whose part this is: on the first host, and nothing on the others.

        Args:
            number: of the part, once each; they go round the hosts.
            do: called on that host only; gives what JSON holds.

        Raises:
            WrongUse: `do` raised it; then it is raised there and on the first host.
            HostsMissing: as `decided_by_first`, of the host whose part it is; or a host has given up.
        """
        host, key = number % count(), f"{self._prefix}/{number}"
        if host == 0:
            return do() if is_first() else None
        if index() == host:
            _told(key, do)
        if not is_first():
            return None
        found = _heard(f"{self._name}, part {number}", key, host, look=self._look)
        _notes().key_value_delete(key)
        return found

    def give_up(self, error: BaseException) -> None:
        """This host does no more parts, for an error elsewhere; who waits for one of any host stops waiting.

        To be called before waiting for the thread that does the parts.
        """
        self._is_given_up.set()
        if not is_first():
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # the first may have gone; `error` says why
                _notes().key_value_set(f"{self._prefix}/given_up/{index()}", _as_error(error))

    def _look(self) -> None:
        """Raises where this or another host has given up."""
        if self._is_given_up.is_set():
            raise HostsMissing(f"'{self._name}' was given up on this host.")
        for key, text in _notes().key_value_dir_get(f"{self._prefix}/given_up"):
            _raise_error(json.loads(text), int(key.rpartition("/")[2]), self._name)

    def by_all(self, act: Callable[[], Any]) -> None:
        """Each host does `act`, and all of them wait for it.

        Raises:
            WrongUse: `act` raised it on some host; then it is raised on all.
            HostsMissing: as `decided_by_first`, of any host.
        """

        def done() -> None:
            act()

        def parts() -> None:
            for host in range(count()):
                self.part(host, done)

        outcome = f"{self._prefix}/outcome"
        if is_first():
            _told(outcome, parts) if count() > 1 else parts()
            return
        try:
            parts()
        finally:
            _heard(self._name, outcome)


def _told(key: str, find: Callable[[], Value]) -> Value:
    """What this host finds, once those who wait for it can have it."""
    try:
        text = json.dumps({"value": find()})
    except BaseException as error:
        _notes().key_value_set(key, _as_error(error))
        raise
    _notes().key_value_set(key, text)
    return json.loads(text)["value"]  # as the others have it: a tuple is a list


def _as_error(error: BaseException) -> str:
    """What the others are told of an error here; `_raise_error` raises it there."""
    kind = "WrongUse" if isinstance(error, WrongUse) else type(error).__name__
    return json.dumps({"error": str(error), "kind": kind})


def _raise_error(message: dict[str, str], host: int, name: str) -> NoReturn:
    """Raises what `_as_error` told of another host."""
    if message["kind"] == "WrongUse":
        raise WrongUse(f"host {host}: {message['error']}" if host else message["error"])
    raise HostsMissing(f"{_who(host)} failed in '{name}': {message['kind']}: {message['error']}")


def _who(host: int) -> str:
    return f"host {host}" if host else "the first host"


def barrier(name: str) -> None:
    """Returns on every host when all have come here; as `decided_by_first`, from no other thread.

    Raises:
        HostsMissing: not all did within `wait_seconds`; names them.
    """
    global _num_decisions
    if count() == 1:
        return
    _num_decisions += 1
    try:
        _notes().wait_at_barrier(f"promptcot/{_num_decisions}/{name}", int(_wait_seconds * 1000))
    except jax.errors.JaxRuntimeError as error:
        missing = re.findall(r"^(?:.*task:)?(\d+)$", str(error), re.MULTILINE)
        who = f"hosts {', '.join(missing)} did not come" if missing else "not all hosts came"
        raise HostsMissing(
            f"'{name}': {who} within {_wait_seconds:.0f} s; see their logs. ({str(error).splitlines()[0]})"
        ) from None


def wait_for_first(name: str, act: Callable[[], Any] = lambda: None) -> None:
    """Returns on every host when the first has done `act` alone; as `decided_by_first`."""

    def done() -> None:
        act()

    decided_by_first(name, done)


def _heard(name: str, key: str, host: int = 0, *, look: Callable[[], None] | None = None) -> Any:
    """What another host, by default the first, has found.

    Args:
        look: called while it waits; what it raises ends the wait.
    """
    who, began, last_message = _who(host), time.monotonic(), time.monotonic()
    while True:
        left = began + _wait_seconds - time.monotonic()
        if left <= 0:
            raise HostsMissing(
                f"host {index()} has waited {_wait_seconds:.0f} s for {who} to finish "
                f"'{name}'; see its log, and raise --wait_seconds if it was still at work."
            )
        seconds = min(_SECONDS_BETWEEN_MESSAGES if look is None else _SECONDS_BETWEEN_LOOKS, left)
        try:
            message = json.loads(_notes().blocking_key_value_get(key, int(seconds * 1000) + 1))
            break
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise HostsMissing(f"{who} has gone during '{name}': {error}") from None
        if look is not None:
            look()
        if time.monotonic() - last_message >= _SECONDS_BETWEEN_MESSAGES:
            last_message = time.monotonic()
            log.info("waiting for %s: %s", who, name)
    if "value" not in message:
        _raise_error(message, host, name)
    return message["value"]


def _notes() -> Any:
    """The key-value store that the first host keeps for all."""
    return distributed.global_state.client
