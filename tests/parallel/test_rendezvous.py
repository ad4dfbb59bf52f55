"""The rendezvous: who is missing, who is too many, who was started otherwise."""

import concurrent.futures
import socket

import pytest

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.parallel import hosts, rendezvous
from promptcot_jax.parallel.rendezvous import Host, HostsMissing


def _free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def _held(places_and_greetings, seconds):
    """What the rendezvous does on each host: None, or the error it raises."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(rendezvous.meet, place, text, seconds) for place, text in places_and_greetings]
        return [future.exception() for future in futures]


def test_all_hosts_are_there():
    address = _free_address()
    assert _held([(Host(address, 3, i), "em") for i in (2, 0, 1)], 20.0) == [None] * 3


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="the machine has no IPv6")
def test_hosts_meet_at_an_ipv6_address():
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        address = f"[::1]:{server.getsockname()[1]}"
    assert _held([(Host(address, 2, i), "em") for i in (1, 0)], 20.0) == [None] * 2


@pytest.mark.parametrize(
    "address",
    ["host:x", "::1", "fe80::1:8476", "[::1", "host:", ":8476", "host:0", "host:65536", "http://host", ""],
)
def test_an_address_that_is_none_is_wrong_use(address: str):
    with pytest.raises(WrongUse, match="--coordinator_address="):
        hosts.HostsConfig(coordinator_address=address, process_count=2, process_index=0)


@pytest.mark.parametrize(
    ("given", "address", "host_and_port"),
    [
        ("host", "host:8476", ("host", 8476)),
        ("10.0.0.1:99", "10.0.0.1:99", ("10.0.0.1", 99)),
        ("[::1]", "[::1]:8476", ("::1", 8476)),
        ("[::1]:99", "[::1]:99", ("::1", 99)),
    ],
)
def test_an_address_without_a_port_gets_the_default(given: str, address: str, host_and_port):
    host = hosts._this_host(hosts.HostsConfig(coordinator_address=given, process_count=2, process_index=0))
    assert host == Host(address, 2, 0)
    assert host.host_and_port == host_and_port


def test_missing_hosts_are_named_on_those_that_are_there():
    address = _free_address()
    errors = _held([(Host(address, 4, i), "em") for i in (0, 2)], 1.0)
    for error in errors:
        assert isinstance(error, HostsMissing)
        assert "2 of 4 hosts were there after 1 s; missing: 1, 3" in str(error)


def test_a_missing_first_host_is_named():
    (error,) = _held([(Host(_free_address(), 2, 1), "em")], 0.5)
    assert isinstance(error, HostsMissing)
    assert "host 1: the first host did not answer at 127.0.0.1:" in str(error)


def test_hosts_started_otherwise_are_refused_on_all():
    address = _free_address()
    errors = _held([(Host(address, 3, 0), "em 1"), (Host(address, 3, 1), "em 2")], 20.0)
    for error in errors:
        assert isinstance(error, WrongUse)
        assert "host 1 (127.0.0.1) was started otherwise" in str(error)
        assert "'em 2' there, 'em 1' here" in str(error)


def test_a_host_that_comes_twice_is_refused():
    address = _free_address()
    errors = _held([(Host(address, 3, i), "em") for i in (0, 1, 1)], 5.0)
    assert isinstance(errors[0], WrongUse)
    assert "host 1 (127.0.0.1) has come twice" in str(errors[0])


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n\r\n", b'{"index": "x"}\n', b""])
def test_strangers_at_the_port_are_passed_over(noise):
    address = _free_address()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(rendezvous.meet, Host(address, 2, 0), "em", 20.0)
        while not first.done():
            try:
                stranger = socket.create_connection(Host(address, 2, 0).host_and_port, timeout=1)
                break
            except ConnectionRefusedError:
                continue
        with stranger:
            stranger.sendall(noise)
        second = pool.submit(rendezvous.meet, Host(address, 2, 1), "em", 20.0)
        assert (first.exception(), second.exception()) == (None, None)
