"""What a person sees of a fit: a bar on a terminal, a plain line every ten seconds in logs and pipes."""

import sys
import time

from rich import console as rich_console
from rich import progress as rich_progress

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """A context manager that shows the last known loss, tokens per second and the time left of one fit."""

    def __init__(self, name: str, *, start: int, num_steps: int, console: rich_console.Console | None = None):
        """Shows nothing before it is entered.

        Args:
            start: steps that an earlier attempt did; speed and time left are reckoned from here.
        """
        self._name = name
        self._start = start
        self._num_steps = num_steps
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
            self._task = self._bar.add_task(
                self._name, total=self._num_steps, completed=self._start, figures=""
            )
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, *, loss: float | None, tokens_per_second: float | None) -> None:
        """Steps done so far, and the newest figures known on the host."""
        now = time.monotonic()
        seconds_left = (now - self._began) / max(step - self._start, 1) * (self._num_steps - step)
        figures = figures_text(loss, tokens_per_second, seconds_left)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, figures=figures)
        elif now - self._last_line >= SECONDS_BETWEEN_LINES or step == self._num_steps:
            self._last_line = now
            line = f"{self._name}: step {step}/{self._num_steps}, {figures}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def figures_text(loss: float | None, tokens_per_second: float | None, seconds_left: float) -> str:
    """`loss 1.2345, 5,321 tokens/s, 2:05 left`, without what is not known yet."""
    minutes, seconds = divmod(round(seconds_left), 60)
    parts = [
        None if loss is None else f"loss {loss:.4f}",
        None if tokens_per_second is None else f"{tokens_per_second:,.0f} tokens/s",
        f"{minutes}:{seconds:02d} left",
    ]
    return ", ".join(part for part in parts if part)
