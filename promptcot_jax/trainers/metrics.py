"""Metrics of a run: `metrics.jsonl`, one row per logged step whatever interruptions there were, and copies of
the rows elsewhere (`sinks`).

Local rows are appended and flushed to disk before the checkpoint of their step is written, so a resumed run
finds the rows up to its checkpoint complete; it drops those after it, which it will write again, once it has
a row of its own: until then they tell a further attempt what time was lost. An object store has no append:
there the whole file is written again with each row.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import IO, Any

from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.trainers import goodput, sinks, window
from promptcot_jax.trainers.watching import NOT_WATCHED, WatchConfig

FILE = "metrics.jsonl"
WALL_TIME_FIELDS = (*goodput.FIELDS, *window.SPEED_FIELDS)  # the only ones in which a resumed run may differ


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
        self._sinks: list[sinks.Sink] = []
        if writes:
            self._open_sinks(epath.Path(directory), tensorboard, watch, watch.table_columns or columns)

    def _open_sinks(
        self, directory: epath.Path, tensorboard: bool, watch: WatchConfig, columns: Sequence[str]
    ) -> None:
        if watch.wandb_project is not None:
            newest = self.newest
            step = None if newest is None else int(newest["step"])
            self._sinks.append(sinks.Wandb(directory, watch.wandb_project, newest_step=step))
        if tensorboard:
            self._sinks.append(sinks.TensorBoard(directory / "tensorboard"))
        if watch.table:
            self._sinks.append(sinks.Table(columns))

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
