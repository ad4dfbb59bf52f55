"""How a run is watched, and when it leaves before its end; none of this changes what comes out.

A run leaves when SIGTERM came, which is the notice before a preemption, or when a deadline is so near that
what comes next would not be done by then. It asks at each of its boundaries: self-play between iterations, a
fit at its rows of metrics. It then saves and raises `Interrupted`. It could have been killed there as well,
so it goes on to the same bits. A cloud gives ten seconds or so: frequent checkpoints save long runs, and this
saves the rest where there is time. Of several hosts the first decides; a slice that is taken away gives
notice to all.
"""

import datetime
import logging
import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, ClassVar

from promptcot_jax.core.errors import Interrupted, WrongUse
from promptcot_jax.core.settings import NonNegativeFloat, settings
from promptcot_jax.parallel import hosts

log = logging.getLogger(__name__)


@settings
class WatchConfig:
    """Where metrics go beside `metrics.jsonl` and TensorBoard, and until when a run may last."""

    EXECUTION_ONLY: ClassVar = frozenset(
        {"wandb_project", "table", "table_columns", "deadline_minutes", "deadline", "margin_seconds"}
    )

    wandb_project: str | None = None  # of Weights & Biases; None: nothing is sent there
    table: bool = False  # print the newest metrics as a line of a table
    table_columns: tuple[str, ...] = ()  # the metrics in it; (): those that the kind of run picks
    deadline_minutes: NonNegativeFloat = 0.0  # after the process's start; 0: none
    # A time such as '2026-05-01T12:00+02:00'; None: none. The earlier of the two counts.
    deadline: str | None = None
    margin_seconds: NonNegativeFloat = 60.0  # before the deadline, for the last checkpoint to be written

    def __post_init__(self):
        _ = self.deadline_time

    @property
    def deadline_time(self) -> datetime.datetime | None:
        """The deadline as a time, with its zone."""
        if self.deadline is None:
            return None
        try:
            found = datetime.datetime.fromisoformat(self.deadline)
        except ValueError:
            found = None
        if found is None or found.tzinfo is None:
            raise ValueError(
                f"deadline must be a time with its zone, such as '2026-05-01T12:00+02:00', got "
                f"{self.deadline!r}."
            )
        return found


NOT_WATCHED = WatchConfig()


class PreemptionGuard:
    """A context manager that listens for SIGTERM, and says at a boundary whether it is the last."""

    def __init__(self, config: WatchConfig, *, unit: str):
        """Listens to nothing yet.

        Args:
            unit: what lies between two boundaries, for messages.
        """
        self._config, self._unit = config, unit
        self._is_notified = False
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
            self._before = signal.signal(signal.SIGTERM, self._on_sigterm) or signal.SIG_DFL
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
        if kind is None and hosts.decided_by_first("notice", lambda: self._is_notified):
            raise Interrupted("left for SIGTERM; the same command goes on")

    def reason(self) -> str:
        """Called at each boundary: why the run is to leave here, or ""; the same on all hosts."""
        now = time.monotonic()
        self._longest, self._last = max(self._longest, now - self._last), now
        return hosts.decided_by_first("whether to go on", self._why)

    def _why(self) -> str:
        if self._is_notified:
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

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        self._is_notified = True
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
