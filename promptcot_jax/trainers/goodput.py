"""Where the wall time of a fit went, over all its attempts: named counters, kept in the rows of the metrics.

Productive are the seconds in which steps ran that still count; `CAUSES` says what takes the others. What is
neither (making the first state, opening files) is the rest of `seconds`. A fit begins with the call of
`loop.fit`: what its process does before that, and between attempts, is known to the manifest at most.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, get_args

import jax

Cause = Literal["compile", "restore", "checkpoint", "evaluation", "data", "profile", "repeated"]
CAUSES: tuple[Cause, ...] = get_args(Cause)
FIELDS = ("seconds", "step_seconds", "goodput", *(f"lost_seconds/{cause}" for cause in CAUSES))

_COMPILE_EVENTS = "/jax/core/compile/"  # of tracing, lowering, and of compiling or reading the cache


class Goodput:
    """The counters of one fit; as a context manager it hears what JAX compiles."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        """The fit begins now."""
        self.lost: dict[Cause, float] = dict.fromkeys(CAUSES, 0.0)
        self.step_seconds = 0.0
        self._clock = clock
        self._began = clock()
        self._seconds_before = 0.0
        self._compilations: list[tuple[float, float]] = []  # (began, seconds), one after the other
        self.open_window()

    def __enter__(self) -> "Goodput":
        jax.monitoring.register_event_duration_secs_listener(self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._hear)

    def go_on_from(self, kept: Mapping[str, Any] | None, newest: Mapping[str, Any] | None) -> None:
        """Takes up an earlier attempt: its steps after the checkpoint were in vain and are repeated now.

        Args:
            kept: the last row up to the checkpoint.
            newest: the last row that the attempt wrote.
        """
        kept, newest = kept or {}, newest or {}
        for cause in CAUSES:
            self.lost[cause] += newest.get(f"lost_seconds/{cause}", 0.0)
        self.lost["repeated"] += newest.get("step_seconds", 0.0) - kept.get("step_seconds", 0.0)
        self.step_seconds += kept.get("step_seconds", 0.0)
        self._seconds_before += newest.get("seconds", 0.0)

    @contextlib.contextmanager
    def spent_on(self, cause: Cause) -> Iterator[None]:
        """Counts the time of the block, without what inside it is counted under another cause."""
        began, lost = self._clock(), self._total_lost()
        try:
            yield
        finally:
            self.add(cause, self._clock() - began - (self._total_lost() - lost))

    def add(self, cause: Cause, seconds: float) -> None:
        """Counts seconds that the caller measured."""
        self.lost[cause] += seconds

    def open_window(self) -> None:
        """From now on time is that of steps, unless counted otherwise."""
        self._window_began, self._lost_before = self._clock(), dict(self.lost)

    def close_window(self) -> float:
        """Counts the window's steps; returns the seconds that they took, waiting for data included."""
        lost = {cause: self.lost[cause] - before for cause, before in self._lost_before.items()}
        elapsed = self._clock() - self._window_began
        self.step_seconds += elapsed - sum(lost.values())
        self.open_window()
        return elapsed - lost["compile"] - lost["profile"]

    @property
    def seconds(self) -> float:
        """Wall time so far, of all attempts."""
        return self._seconds_before + self._clock() - self._began

    def row(self) -> dict[str, float]:
        """`FIELDS` and their values."""
        seconds = self.seconds
        share = self.step_seconds / seconds if seconds else 0.0
        figures = {"seconds": seconds, "step_seconds": self.step_seconds}
        figures |= {f"lost_seconds/{cause}": self.lost[cause] for cause in CAUSES}
        return {name: round(value, 3) for name, value in figures.items()} | {"goodput": round(share, 4)}

    def text(self) -> str:
        """One line for the log."""
        shares = {"steps": self.step_seconds, **self.lost}
        seconds = max(self.seconds, 1e-9)
        parts = [f"{name} {100 * part / seconds:.1f} %" for name, part in shares.items() if part > 0.0]
        return f"{seconds:.1f} s, of these {', '.join(parts)}"

    def _total_lost(self) -> float:
        return sum(self.lost.values())

    def _hear(self, event: str, duration_secs: float, **_: str | int) -> None:
        """Counts what JAX spent on compiling. An inner function's tracing is told before its outer one's."""
        if not event.startswith(_COMPILE_EVENTS):
            return
        began = self._clock() - duration_secs
        while self._compilations and self._compilations[-1][0] >= began:
            self.add("compile", -self._compilations.pop()[1])
        self._compilations.append((began, duration_secs))
        self.add("compile", duration_secs)
