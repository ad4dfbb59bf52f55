"""What a person sees of long work: a bar on a terminal, a plain line every ten seconds in logs and pipes."""

import sys
import time

from rich import console as rich_console
from rich import progress as rich_progress

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """A context manager that shows how much is done, the caller's figures, and the time left."""

    def __init__(
        self,
        name: str,
        *,
        unit: str,
        start: int,
        total: int | None,
        console: rich_console.Console | None = None,
    ):
        """Shows nothing before it is entered.

        Args:
            unit: of what is counted, e.g. "step".
            start: what an earlier attempt did; the time left is reckoned from here.
            total: None where it is not known beforehand: the rate is shown instead of the time left.
        """
        self._name, self._unit, self._start, self._total = name, unit, start, total
        self._console = console or rich_console.Console(file=sys.stderr)
        self._bar: rich_progress.Progress | None = None
        self._task = rich_progress.TaskID(0)
        self._began = self._last_line = time.monotonic()

    def __enter__(self) -> "Progress":
        self._began = self._last_line = time.monotonic()
        if self._console.is_terminal:
            self._bar = rich_progress.Progress(
                "{task.description}",
                rich_progress.BarColumn(),
                rich_progress.MofNCompleteColumn(),
                "{task.fields[figures]}",
                console=self._console,
            )
            self._task = self._bar.add_task(self._name, total=self._total, completed=self._start, figures="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, *figures: str | None) -> None:
        """What is done so far, and the newest figures ("loss 1.2345"), None where one is not known yet."""
        now = time.monotonic()
        text = ", ".join([*filter(None, figures), self._pace(done, now)])
        if self._bar is not None:
            self._bar.update(self._task, completed=done, figures=text)
        elif now - self._last_line >= SECONDS_BETWEEN_LINES or done == self._total:
            self._last_line = now
            of_total = "" if self._total is None else f"/{self._total}"
            line = f"{self._name}: {self._unit} {done}{of_total}, {text}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _pace(self, done: int, now: float) -> str:
        """The time left, or how many a second."""
        if self._total is None:
            return f"{(done - self._start) / max(now - self._began, 1e-9):,.0f} {self._unit}s/s"
        seconds_left = round((now - self._began) / max(done - self._start, 1) * (self._total - done))
        return f"{seconds_left // 60}:{seconds_left % 60:02d} left"
