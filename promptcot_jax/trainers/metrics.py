"""Metrics of a run: `metrics.jsonl`, one row per logged step whatever interruptions there were, and
TensorBoard.

Local rows are appended and flushed to disk before the checkpoint of their step is written, so a resumed run
finds the rows up to its checkpoint complete; it drops those after it, which it will write again, once it has
a row of its own: until then they tell a further attempt what time was lost. An object store has no append:
there the whole file is written again with each row. TensorBoard keeps what the lost steps wrote.
"""

import json
import math
import os
from collections.abc import Mapping
from typing import IO, Any

from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.trainers import goodput, window

FILE = "metrics.jsonl"
WALL_TIME_FIELDS = (*goodput.FIELDS, *window.SPEED_FIELDS)  # the only ones in which a resumed run may differ


class MetricsLog:
    """The metrics of one run under `directory`."""

    def __init__(
        self, directory: epath.PathLike, *, resume_step: int, tensorboard: bool, writes: bool = True
    ):
        """Takes up the rows up to `resume_step`; later ones are dropped with the first row written.

        Args:
            tensorboard: also write event files under `directory/tensorboard` (imports TensorFlow: seconds).
            writes: False on all hosts of a run but one; there nothing is written.
        """
        self._path = epath.Path(directory) / FILE
        before = self._read()
        self._lines = [line for line in before if json.loads(line)["step"] <= resume_step]
        self._before, self._kept = before[-1:], self._lines[-1:]
        self._is_local = "://" not in os.fspath(self._path)
        self._file: IO[bytes] | None = None
        self._writes = writes
        wants_events = tensorboard and writes
        self._writer = _tensorboard_writer(epath.Path(directory) / "tensorboard") if wants_events else None

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the files."""
        if self._file is not None:
            self._file.close()
        if self._writer is not None:
            self._writer.close()

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
        if self._writer is not None:
            self._writer.write_scalars(step, dict(values))

    def _read(self) -> list[str]:
        """Whole lines of the file; a kill can leave half a line at the end."""
        if not self._path.exists():
            return []
        lines = self._path.read_bytes().decode(errors="replace").splitlines(keepends=True)
        return [line for line in lines if line.endswith("\n")]


def _tensorboard_writer(directory: epath.Path) -> Any:
    # Else TensorFlow reports at length which GPUs it does not find.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from clu.metric_writers.tf import summary_writer  # late: it imports TensorFlow

    summary_writer.tf.config.set_visible_devices([], "GPU")  # else it would take the memory that JAX needs
    return summary_writer.SummaryWriter(os.fspath(directory))
