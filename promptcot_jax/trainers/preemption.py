"""PreemptionGuard before the end, with a checkpoint: when SIGTERM came, which is the notice before a
preemption, or a deadline is so near that what comes next would not be done by then.

A run asks at each of its boundaries: self-play between iterations, a fit at its rows of metrics. It then
saves and raises `Interrupted`. That is where it could have been killed as well, so it goes on to the same
bits. A cloud gives ten seconds or so: what saves long runs are frequent checkpoints, and this saves the rest
where there is time. Of several hosts the first decides; a slice that is taken away gives notice to all.
"""

import logging
import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from promptcot_jax.core.errors import Interrupted, WrongUse
from promptcot_jax.parallel import hosts
from promptcot_jax.trainers.watching import WatchConfig

log = logging.getLogger(__name__)


class PreemptionGuard:
    """A context manager that listens for SIGTERM, and says at a boundary whether it is the last."""

    def __init__(self, config: WatchConfig, *, unit: str):
        """Listens to nothing yet.

        Args:
            unit: what lies between two boundaries, for messages.
        """
        self._config, self._unit = config, unit
        self._was_told = False
        self._before: Any = None
        self._last, self._longest = time.monotonic(), 0.0

    def __enter__(self) -> "PreemptionGuard":
        """Begins to listen.

        Raises:
            WrongUse: the deadline had passed when the process began.
        """
        deadline = self._config.deadline_time
        if deadline is not None and deadline.timestamp() < time.time() - _process_age():
            raise WrongUse(f"The deadline {self._config.deadline} has passed; set a later one, or none.")
        if threading.current_thread() is threading.main_thread():  # no other may
            self._before = signal.signal(signal.SIGTERM, self._hear) or signal.SIG_DFL
        self._last = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Listens no more.

        Raises:
            Interrupted: SIGTERM came after the last boundary, and would be forgotten.
        """
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
        if kind is None and hosts.decided_by_first("notice", lambda: self._was_told):
            raise Interrupted("left for SIGTERM; the same command goes on")

    def reason(self) -> str:
        """Called at each boundary: why the run is to leave here, or ""; the same on all hosts."""
        now = time.monotonic()
        self._longest, self._last = max(self._longest, now - self._last), now
        return hosts.decided_by_first("whether to go on", self._why)

    def _why(self) -> str:
        if self._was_told:
            return "SIGTERM"
        left = self._seconds_left()
        if left < self._longest + self._config.margin_seconds:
            return (
                f"the deadline in {max(left, 0) / 60:.1f} minutes (the longest {self._unit} took "
                f"{self._longest / 60:.1f})"
            )
        return ""

    def _seconds_left(self) -> float:
        seconds, deadline = [float("inf")], self._config.deadline_time
        if deadline is not None:
            seconds.append(deadline.timestamp() - time.time())
        if self._config.deadline_minutes:
            seconds.append(60 * self._config.deadline_minutes - _process_age())
        return min(seconds)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._was_told = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        log.warning("SIGTERM: leaves with a checkpoint after this %s; a second one ends at once", self._unit)


def _process_age() -> float:
    """Seconds since this process began; since the first call where the system does not tell."""
    try:
        with open("/proc/self/stat") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return time.monotonic() - _first_asked.setdefault("time", time.monotonic())


_first_asked: dict[str, float] = {}
