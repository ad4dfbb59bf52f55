"""Work that hosts divide, and what all of them do: the hosts are threads here, their notes a dictionary."""

import concurrent.futures
import threading
import time

import jax
import pytest

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.parallel import hosts

HERE = threading.local()
NUM_HOSTS = 3


class Notes:
    """The coordinator's store."""

    def __init__(self):
        self.values = {}

    def key_value_set(self, key, text):
        assert key not in self.values
        self.values[key] = text

    def key_value_delete(self, key):
        del self.values[key]

    def key_value_dir_get(self, directory):
        return [(key, text) for key, text in self.values.items() if key.startswith(f"{directory}/")]

    def blocking_key_value_get(self, key, milliseconds):
        deadline = time.monotonic() + milliseconds / 1000
        while key not in self.values:
            if time.monotonic() > deadline:
                raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED")
            time.sleep(0.001)
        return self.values[key]


@pytest.fixture
def notes(monkeypatch):
    """Three hosts; the number of a decision is each thread's own, as it is each process's."""
    found = Notes()
    monkeypatch.setattr(hosts, "count", lambda: NUM_HOSTS)
    monkeypatch.setattr(hosts, "index", lambda: HERE.index)
    monkeypatch.setattr(hosts, "_notes", lambda: found)
    monkeypatch.setattr(hosts, "_wait_seconds", 5.0)
    monkeypatch.setattr(hosts, "_SECONDS_BETWEEN_LOOKS", 0.05)
    return found


def on_hosts(shared, act):
    """What `act(shared)` gives, or raises, on each host."""

    def run(index):
        HERE.index = index
        try:
            return act(shared)
        except (WrongUse, hosts.HostsMissing, ZeroDivisionError) as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(NUM_HOSTS) as threads:
        return [*threads.map(run, range(NUM_HOSTS))]


def test_each_part_is_done_once_by_its_host_and_the_first_has_them_all(notes):
    done = []

    def act(shared):
        def part(number):
            return shared.part(number, lambda: done.append((number, HERE.index)) or {"of": [number]})

        numbers = range(7) if HERE.index else reversed(range(7))  # in any order
        return {number: part(number) for number in numbers}

    first, *others = on_hosts(hosts.Shared("verdicts"), act)
    assert first == {number: {"of": [number]} for number in range(7)}
    assert sorted(done) == [(number, number % NUM_HOSTS) for number in range(7)]
    assert all(found == dict.fromkeys(range(7)) for found in others)
    assert not notes.values  # nothing is left with the coordinator


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (WrongUse("no bubblewrap"), WrongUse, "host 2: no bubblewrap"),
        (
            ZeroDivisionError("by 0"),
            hosts.HostsMissing,
            "host 2 failed in 'verdicts, part 5': ZeroDivisionError",
        ),
    ],
)
def test_what_fails_on_another_host_fails_on_the_first(notes, error, kind, text):
    def fails():
        raise error

    first, second, third = on_hosts(hosts.Shared("verdicts"), lambda shared: shared.part(5, fails))
    assert isinstance(first, kind)
    assert text in str(first)
    assert second is None
    assert third is error


def test_a_host_that_says_nothing_is_named(notes, monkeypatch):
    monkeypatch.setattr(hosts, "_wait_seconds", 0.1)
    first, *_ = on_hosts(
        hosts.Shared("verdicts"), lambda shared: None if HERE.index else shared.part(1, dict)
    )
    assert isinstance(first, hosts.HostsMissing)
    assert "has waited 0 s for host 1 to finish 'verdicts, part 1'" in str(first)


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (WrongUse("no space"), WrongUse, "host 2: no space"),
        (OSError("disk full"), hosts.HostsMissing, "host 2 failed in 'verdicts': OSError: disk full"),
    ],
)
def test_a_host_that_gives_up_is_not_waited_for(notes, monkeypatch, error, kind, text):
    """Whichever part the first waits for: the host that gave up may never have come to its own."""
    monkeypatch.setattr(hosts, "_wait_seconds", 600.0)
    ours, theirs = hosts.Shared("verdicts"), hosts.Shared("verdicts")
    theirs._prefix = ours._prefix  # made in step, each in a process of its own

    def act(shared):
        if HERE.index == 2:
            theirs.give_up(error)
        return None if HERE.index else ours.part(1, dict)

    first, *_ = on_hosts(None, act)
    assert isinstance(first, kind)
    assert text in str(first)


def test_the_first_stops_waiting_when_it_gives_up_itself(notes, monkeypatch):
    monkeypatch.setattr(hosts, "_wait_seconds", 600.0)
    shared = hosts.Shared("verdicts")
    timer = threading.Timer(0.1, lambda: (setattr(HERE, "index", 0), shared.give_up(OSError("disk full"))))
    timer.start()
    first, *_ = on_hosts(shared, lambda shared: None if HERE.index else shared.part(1, dict))
    timer.join()
    assert isinstance(first, hosts.HostsMissing)
    assert "'verdicts' was given up on this host" in str(first)
    assert not notes.values  # nobody waits for the first


def test_giving_up_when_the_first_has_gone_hides_no_error(notes, monkeypatch):
    """It is called while an error is on its way, whose place another must not take."""

    def gone(key, text):
        raise jax.errors.JaxRuntimeError("UNAVAILABLE")

    monkeypatch.setattr(notes, "key_value_set", gone)
    shared = hosts.Shared("verdicts")
    assert on_hosts(shared, lambda shared: shared.give_up(OSError("disk full"))) == [None] * NUM_HOSTS


def test_two_works_of_one_name_are_told_apart(notes):
    one, other = hosts.Shared("verdicts"), hosts.Shared("verdicts")
    found = on_hosts(None, lambda _: (one.part(1, lambda: "one"), other.part(1, lambda: "other")))
    assert found[0] == ("one", "other")


def test_what_all_do_fails_on_all_where_one_cannot(notes):
    def act(shared):
        def look():
            if HERE.index == 1:
                raise WrongUse("no bubblewrap")

        return shared.by_all(look)

    for found in on_hosts(hosts.Shared("sandbox"), act):
        assert isinstance(found, WrongUse)
        assert str(found).endswith("host 1: no bubblewrap")


def test_what_all_do_is_done_by_each_once_before_any_goes_on(notes):
    looked, went_on = [], []

    def act(shared):
        def look():
            time.sleep(0.05 * HERE.index)
            assert not went_on
            looked.append(HERE.index)

        shared.by_all(look)
        went_on.append(HERE.index)

    assert on_hosts(hosts.Shared("sandbox"), act) == [None] * NUM_HOSTS
    assert sorted(looked) == sorted(went_on) == [0, 1, 2]


def test_alone_a_host_does_every_part_itself(monkeypatch):
    monkeypatch.setattr(hosts, "_notes", lambda: pytest.fail("there is nobody to tell"))
    shared = hosts.Shared("verdicts")
    assert [shared.part(number, lambda number=number: (number,)) for number in range(3)] == [(0,), (1,), (2,)]
