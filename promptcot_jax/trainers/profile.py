"""A trace of a few steps a little after the start, for XProf: on by default, and never a run's end.

On a CPU it is off unless asked for: a trace there holds every operation of every thread, which slows the
steps down it should show, and shows nothing of an accelerator. Python's own calls are left out everywhere.
"""

import logging
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import jax
from etils import epath

from promptcot_jax.trainers.goodput import Goodput
from promptcot_jax.trainers.nonfinite_batches import STEPS_IN_FLIGHT

logger = logging.getLogger(__name__)

DIRECTORY = "profile"


class Profiler:
    """Traces the steps from `first` on, `num_steps` of them, into `directory/profile`, once in a fit's life.

    The trace ends when its last step is known to be done without waiting for it, so it holds a little more.
    """

    def __init__(
        self,
        directory: epath.PathLike,
        goodput: Goodput,
        *,
        first: int,
        num_steps: int,
        next_step: int,
    ):
        """Nothing is traced yet.

        Args:
            next_step: the step an attempt begins with. One that begins after `first` traces nothing, nor does
                one that finds a trace.
        """
        self._goodput = goodput
        self._directory = epath.Path(directory) / DIRECTORY
        self._first, self._end = first, first + num_steps + STEPS_IN_FLIGHT
        self._is_wanted = num_steps > 0 and next_step <= first
        self._is_tracing = False
        self._local: Any = None  # the directory where the trace is made: the profiler writes to no bucket

    def before(self, step: int) -> None:
        """To be called before a step is dispatched."""
        if self._is_wanted and step == self._first:
            self._try(self._start)
        elif step == self._end:
            self.close()

    def close(self) -> None:
        """Ends the trace, if one is running."""
        if self._is_tracing:
            self._is_tracing = False
            self._try(self._stop)

    def _start(self) -> None:
        if self._directory.exists():
            return
        options: Any = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0
        local = tempfile.TemporaryDirectory(prefix="promptcot_profile_")
        try:
            jax.profiler.start_trace(local.name, profiler_options=options)
        except BaseException:
            local.cleanup()
            raise
        self._local, self._is_tracing = local, True

    def _stop(self) -> None:
        with self._local as local:
            jax.profiler.stop_trace()
            _copy_files(pathlib.Path(local), self._directory)
        logger.info("profile of %d steps in %s", self._end - self._first, os.fspath(self._directory))

    def _try(self, action: Callable[[], None]) -> None:
        with self._goodput.spent_on("profile"):
            try:
                action()
            except Exception as error:  # whatever a profiler does, the training goes on
                logger.warning("no profile, the run goes on: %s: %s", type(error).__name__, error)


def _copy_files(source: pathlib.Path, target: epath.Path) -> None:
    for file in sorted(source.rglob("*")):
        if file.is_file():
            copy = target / file.relative_to(source).as_posix()
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
