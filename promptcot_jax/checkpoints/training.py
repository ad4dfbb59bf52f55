"""Checkpoints of a training run in progress: asynchronous, the newest few kept, none of them ever taken for whole
before it is.

Step directories `step_00000120/` hold the state's leaves by name (`state/`, written by Orbax) and, last, `COMPLETE`.
A state is any pytree: only its leaves are stored, and their places come from the `like` of `restore_latest`, so that
optimizer states of named tuples come back as what they were.

A kill at any moment leaves the earlier steps as they were: the marker of a step appears after all its bytes are on
disk, a deletion begins by taking the marker away, and older steps are deleted only once the new one has its marker.
"""

import concurrent.futures
import os
import re
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from promptcot_jax.checkpoints import store
from promptcot_jax.core.errors import WrongUse

State = TypeVar("State")

_STEP = re.compile(r"^step_(\d{8})$")
_STATE = "state"


class TrainingCheckpoints:
    """The checkpoints of one run under `directory`; one writer at a time (the workdir's lock sees to it)."""

    def __init__(self, directory: epath.PathLike, keep: int = 2):
        """Nothing is read or written yet.

        Args:
            keep: complete steps that stay, the newest ones.
        """
        if keep < 1:
            raise ValueError(f"keep must be at least 1, or the last checkpoint would be deleted; got {keep}.")
        self._directory = store.location(directory)
        self._keep = keep
        self._checkpointer: ocp.AsyncCheckpointer | None = None
        self._finisher = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="finish_checkpoint")
        self._pending: concurrent.futures.Future[None] | None = None
        self._own_steps: set[int] = set()  # saved or restored by this object

    def complete_steps(self) -> list[int]:
        """Steps that were finished, ascending."""
        if not self._directory.exists():
            return []
        steps = [int(match[1]) for entry in self._directory.iterdir() if (match := _STEP.match(entry.name))]
        return sorted(step for step in steps if store.is_complete(self._path(step)))

    def save(self, step: int, state: Any) -> None:
        """Copies the state off the devices and returns; the files are written behind the caller's back.

        The caller may donate the state's buffers at once. A save still under way is waited for first, and its failure
        raised here. Saving a step once more that this object has saved or restored does nothing.

        Raises:
            WrongUse: the directory holds this step of another run.
        """
        self.wait()
        if step in self._own_steps:
            return
        path = self._path(step)
        if store.is_complete(path):
            if not self._is_unreadable(step):
                raise WrongUse(
                    f"{os.fspath(path)} was saved by another run; resume from it or choose another directory."
                )
        if self._checkpointer is None:
            self._checkpointer = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler())
            self._remove_leftovers()
        store.remove(path)
        path.mkdir(parents=True)
        self._checkpointer.save(path / _STATE, args=ocp.args.PyTreeSave(store.named_leaves(state)))
        self._pending = self._finisher.submit(self._finish, self._checkpointer, step)
        self._own_steps.add(step)
