import io

import pytest
from rich import console as rich_console

from promptcot_jax.core import progress


class Clock:
    """Time that passes when told to."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def _console(*, terminal):
    return rich_console.Console(file=io.StringIO(), force_terminal=terminal, width=120)


def test_elsewhere_than_on_a_terminal_a_line_every_ten_seconds_and_one_at_the_end(clock):
    console = _console(terminal=False)
    with progress.Progress("EM 0 [phi]", unit="step", start=0, total=30, console=console) as shown:
        for step in range(1, 31):
            clock.now += 1.0
            shown.update(step, None if step < 5 else "loss 2.5000", None if step < 5 else "5,321 tokens/s")
    assert console.file.getvalue().splitlines() == [
        "EM 0 [phi]: step 10/30, loss 2.5000, 5,321 tokens/s, 0:20 left",
        "EM 0 [phi]: step 20/30, loss 2.5000, 5,321 tokens/s, 0:10 left",
        "EM 0 [phi]: step 30/30, loss 2.5000, 5,321 tokens/s, 0:00 left",
    ]


def test_without_a_total_the_rate_stands_for_the_time_left(clock):
    console = _console(terminal=False)
    with progress.Progress("read", unit="row", start=0, total=None, console=console) as shown:
        for row in (5_000, 25_000):
            clock.now += 5.0
            shown.update(row, "3 dropped")
    assert console.file.getvalue().splitlines() == ["read: row 25000, 3 dropped, 2,500 rows/s"]


def test_time_left_is_reckoned_from_the_resumed_step(clock):
    console = _console(terminal=False)
    with progress.Progress("fit", unit="step", start=90, total=100, console=console) as shown:
        clock.now += 20.0
        shown.update(92, "loss 1.0000")
    assert "1:20 left" in console.file.getvalue()


def test_on_a_terminal_a_bar_with_the_figures():
    console = _console(terminal=True)
    with progress.Progress("fit", unit="step", start=0, total=10, console=console) as shown:
        shown.update(10, "loss 1.2500", "2,000 tokens/s")
    assert "10/10" in console.file.getvalue()
    assert "loss 1.2500, 2,000 tokens/s, 0:00 left" in console.file.getvalue()
