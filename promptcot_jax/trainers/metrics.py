"""Metrics of a run: `metrics.jsonl`, one row per logged step whatever interruptions there were, and copies of
the rows elsewhere: TensorBoard, Weights & Biases, a table on the terminal.

Local rows are flushed to disk before the checkpoint of their step is written, so a resumed run finds the rows
up to its checkpoint complete. It drops those after it with its own first row: until then they tell a further
attempt what time was lost. In an object store, without append, the file is written anew with each row.

A copy is for the eye and written after the row is on disk. TensorBoard keeps what lost steps wrote; a resumed
run goes on in the same W&B run, and sends no step twice.
"""

import importlib
import json
import math
import os
import secrets
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import IO, Any, Protocol

from etils import epath
from rich import console as rich_console
from rich import table

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.trainers import goodput
from promptcot_jax.trainers.watching import NOT_WATCHED, WatchConfig

FILE = "metrics.jsonl"
WALL_TIME_FIELDS = (*goodput.FIELDS, *goodput.SPEED_FIELDS)  # the only ones in which a resumed run may differ
WANDB_FILE = "wandb_run.json"
_HEADER_EVERY = 20  # lines


class MetricsLog:
    """The metrics of one run under `directory`."""

    def __init__(
        self,
        directory: epath.PathLike,
        *,
        resume_step: int,
        tensorboard: bool,
        writes: bool = True,
        watch: WatchConfig = NOT_WATCHED,
        columns: Sequence[str] = ("loss",),
    ):
        """Takes up the rows up to `resume_step`; later ones are dropped with the first row written.

        Args:
            tensorboard: also write event files under `directory/tensorboard` (imports TensorFlow: seconds).
            writes: False on all hosts of a run but one; there nothing is written.
            watch: where else rows go.
            columns: of the table, where `watch` names none.

        Raises:
            WrongUse: Weights & Biases is asked for, and not there.
        """
        self._path = epath.Path(directory) / FILE
        before = self._read()
        self._lines = [line for line in before if json.loads(line)["step"] <= resume_step]
        self._before, self._kept = before[-1:], self._lines[-1:]
        self._is_local = "://" not in os.fspath(self._path)
        self._file: IO[bytes] | None = None
        self._writes = writes
        self._sinks: list[Sink] = []
        if writes:
            self._open_sinks(epath.Path(directory), tensorboard, watch, watch.table_columns or columns)

    def _open_sinks(
        self, directory: epath.Path, tensorboard: bool, watch: WatchConfig, columns: Sequence[str]
    ) -> None:
        if watch.wandb_project is not None:
            newest = self.newest
            step = None if newest is None else int(newest["step"])
            self._sinks.append(Wandb(directory, watch.wandb_project, newest_step=step))
        if tensorboard:
            self._sinks.append(TensorBoard(directory / "tensorboard"))
        if watch.table:
            self._sinks.append(Table(columns))

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the files."""
        if self._file is not None:
            self._file.close()
        for sink in self._sinks:
            sink.close(failed=kind is not None)

    @property
    def kept(self) -> dict[str, Any] | None:
        """The last row that an earlier attempt wrote up to `resume_step`."""
        return json.loads(self._kept[0]) if self._kept else None

    @property
    def newest(self) -> dict[str, Any] | None:
        """The last row that an earlier attempt wrote, later ones included."""
        return json.loads(self._before[0]) if self._before else None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one row; numbers that are not finite become null."""
        if not self._writes:
            return
        row = {"step": step} | {
            name: value if math.isfinite(value) else None for name, value in values.items()
        }
        line = jsonl.to_line(row) + "\n"
        self._lines.append(line)
        if self._file is not None:
            self._file.write(line.encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        else:
            jsonl.write_atomically(self._path, "".join(self._lines).encode())
            self._file = open(self._path, "ab") if self._is_local else None
        for sink in self._sinks:
            sink.write(step, values)

    def _read(self) -> list[str]:
        """Whole lines of the file; a kill can leave half a line at the end."""
        if not self._path.exists():
            return []
        lines = self._path.read_bytes().decode(errors="replace").splitlines(keepends=True)
        return [line for line in lines if line.endswith("\n")]


class Sink(Protocol):
    """Takes rows in the order of their steps."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Takes one row."""

    def close(self, *, failed: bool) -> None:
        """The attempt is over."""


class TensorBoard:
    """Event files in a directory; importing TensorFlow takes seconds."""

    def __init__(self, directory: epath.Path):
        # Else TensorFlow reports at length which GPUs it does not find.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        from clu.metric_writers.tf import summary_writer  # late: it imports TensorFlow

        # Else it would take the memory that JAX needs.
        summary_writer.tf.config.set_visible_devices([], "GPU")
        self._writer = summary_writer.SummaryWriter(os.fspath(directory))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes scalars."""
        self._writer.write_scalars(step, dict(values))

    def close(self, *, failed: bool) -> None:
        """Closes the file."""
        self._writer.close()


class Wandb:
    """A run of Weights & Biases, whose id lies in the directory; `WANDB_MODE=offline` keeps it there."""

    def __init__(self, directory: epath.Path, project: str, *, newest_step: int | None):
        """Begins or goes on with the run.

        Args:
            newest_step: the last that an earlier attempt wrote a row of.

        Raises:
            WrongUse: wandb is not installed, or refuses the run.
        """
        try:
            wandb = importlib.import_module("wandb")  # late: an extra, and it takes seconds
        except ImportError:
            raise WrongUse(
                "WANDB_PROJECT is set and wandb is not installed: pip install 'promptcot_jax[wandb]', or pip "
                "install 'wandb>=0.31,<0.40'; without it set WANDB_PROJECT to None."
            ) from None
        path = os.fspath(directory)
        is_local = "://" not in path
        if is_local:
            directory.mkdir(parents=True, exist_ok=True)
        try:
            self._run = wandb.init(
                project=project,
                id=_run_id(directory / WANDB_FILE, project),
                name="/".join(directory.parts[-2:]),
                resume="allow",
                dir=path if is_local else None,
                settings=wandb.Settings(console="off"),  # the terminal has a progress bar
            )
        except (wandb.Error, ValueError) as error:
            raise WrongUse(
                f"wandb does not begin a run of project '{project}': {str(error).rstrip('.')}. Log in with "
                "'wandb login', set WANDB_MODE=offline, or set WANDB_PROJECT to None."
            ) from None
        self._newest_step = -1 if newest_step is None else newest_step

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Sends a row, unless an earlier attempt did."""
        if step > self._newest_step:
            self._run.log(dict(values), step=step, commit=True)

    def close(self, *, failed: bool) -> None:
        """Ends the run there, as failed or not."""
        self._run.finish(exit_code=int(failed))


def _run_id(path: epath.Path, project: str) -> str:
    """Id of the run that belongs to a directory; another project has another run."""
    if path.exists() and (found := jsonl.read_json(path))["project"] == project:
        return found["id"]
    run = {"project": project, "id": secrets.token_hex(4)}
    jsonl.write_json(path, run)
    return run["id"]


class Table:
    """A line of a table for each row, the head again now and then; no escape codes in pipes and files."""

    def __init__(self, columns: Sequence[str], console: rich_console.Console | None = None):
        """Prints nothing yet.

        Args:
            columns: metrics; one that a row lacks is "-" in it. What has no room on a terminal is left out.
        """
        self._widths = {name: max(len(name), 8) for name in ("step", *columns)}
        self._console = console or rich_console.Console(stderr=True)
        self._num_lines = 0

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Prints a row."""
        has_head = self._num_lines % _HEADER_EVERY == 0
        lines = table.Table(box=None, show_header=has_head, pad_edge=False)
        shown = self._shown()
        for name in shown:
            lines.add_column(name, width=self._widths[name], justify="right", no_wrap=True)
        row = {"step": step, **values}
        lines.add_row(*(_number(row.get(name)) for name in shown))
        self._console.print(lines, highlight=False)
        self._num_lines += 1

    def close(self, *, failed: bool) -> None:
        """There is nothing to close."""

    def _shown(self) -> list[str]:
        """The columns that there is room for; a file has room for all."""
        room = sum(self._widths.values()) + 2 * len(self._widths)
        if not self._console.is_terminal:
            self._console.width = room
        shown, used = [], 0
        for name, width in self._widths.items():
            used += width + 2
            if used <= self._console.width:
                shown.append(name)
        return shown


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4g}"
