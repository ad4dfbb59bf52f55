"""Checkpoints of a training run in progress: asynchronous, the newest few kept, none taken for whole early.

Step directories `step_00000120/` hold the state's leaves by name (`state/`, written by Orbax) and, last,
`COMPLETE`. A state is any pytree: only its leaves are stored, and their shardings come from the `like` of
`restore_latest`, so that optimizer states of named tuples come back as what they were.

A kill at any moment leaves the earlier steps as they were: the marker of a step appears after all its bytes
are on disk, a deletion begins by taking the marker away, and older steps are deleted only once the new one
has its marker.
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
from promptcot_jax.parallel import hosts

State = TypeVar("State")

_STEP = re.compile(r"^step_(\d{8})$")
_STATE = "state"
_SAVE_SECONDS = 3600  # that hosts wait for each other to write a step


class TrainingCheckpoints:
    """The checkpoints of one run under `directory`; one run at a time (the workdir's lock sees to it).

    Of several hosts each writes and reads its part of the arrays; the first decides and marks.
    """

    def __init__(self, directory: epath.PathLike, keep: int = 2):
        """Nothing is read or written yet.

        Args:
            keep: how many of the newest complete steps stay.
        """
        if keep < 1:
            raise ValueError(f"keep must be at least 1, or the only checkpoint would be deleted; got {keep}.")
        self._directory = store.location(directory)
        self._keep = keep
        self._checkpointer: ocp.AsyncCheckpointer | None = None
        self._finisher = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="finish_checkpoint")
        self._pending: concurrent.futures.Future[None] | None = None
        self._own_steps: set[int] = set()  # saved or restored by this object
        self._unreadable_steps: set[int] = set()  # whole by their marker, yet restoring failed

    def complete_steps(self) -> list[int]:
        """Steps that were finished, ascending."""
        if not self._directory.exists():
            return []
        steps = [int(match[1]) for entry in self._directory.iterdir() if (match := _STEP.match(entry.name))]
        return sorted(step for step in steps if store.is_complete(self._path(step)))

    def save(self, step: int, state: Any) -> None:
        """Copies the state off the devices and returns; the files are written in the background.

        The caller may donate the state's buffers at once. A save still under way is waited for first, and
        raised here if it failed. Saving again a step that this object saved or restored does nothing.

        Raises:
            WrongUse: the directory holds this step of a run that was not resumed.
        """
        self.wait()
        if step in self._own_steps:
            return
        path = self._path(step)
        hosts.wait_for_first(f"begin step {step}", lambda: self._begin(step))
        if self._checkpointer is None:
            self._checkpointer = ocp.AsyncCheckpointer(
                ocp.PyTreeCheckpointHandler(), timeout_secs=_SAVE_SECONDS
            )
        self._checkpointer.save(path / _STATE, args=ocp.args.PyTreeSave(store.named_leaves(state)))
        self._pending = self._finisher.submit(self._finish, self._checkpointer, step)

    def _begin(self, step: int) -> None:
        """An empty directory for a step, by the first host."""
        path = self._path(step)
        if step not in self._unreadable_steps and store.is_complete(path):
            raise WrongUse(
                f"{os.fspath(path)}: step {step} was saved by a run that this one did not resume; "
                "choose another directory, or delete this one to start anew."
            )
        if self._checkpointer is None:
            self._remove_unfinished()
        store.remove(path)
        path.mkdir(parents=True)

    def restore_latest(self, like: State) -> tuple[int, State] | None:
        """The newest complete step and its state, or None where no step was ever finished.

        Args:
            like: a state of the same structure, of arrays or `jax.ShapeDtypeStruct`s; shapes must agree,
                shardings are taken from it.

        Raises:
            WrongUse: the newest step holds a state of another structure, or no finished step can be read.
            RuntimeError: one of several hosts cannot read the newest step.
        """
        self.wait()
        steps = hosts.decided_by_first("complete steps", self.complete_steps)
        failure = ""
        for step in reversed(steps):
            try:
                state = self._restore(step, like)
            except (ValueError, OSError, KeyError, TypeError) as error:  # Orbax, over damaged files
                if hosts.count() > 1:  # the others may have read it, and would go on from another step
                    raise RuntimeError(
                        f"{os.fspath(self._path(step))}: cannot be read on host {hosts.index()}: {error}; "
                        "start again, or delete this step on all hosts to go on from the one before."
                    ) from error
                failure = f"step {step}: {error}"
                logging.warning(
                    "%s: cannot be read, trying an older step: %s", os.fspath(self._path(step)), error
                )
                self._unreadable_steps.add(step)
                continue
            self._own_steps.add(step)
            return step, state
        if steps:
            raise WrongUse(
                f"{os.fspath(self._directory)}: none of the finished steps {steps} can be read ({failure}); "
                "delete the directory to start anew."
            )
        return None

    def wait(self) -> None:
        """Returns once the save under way is complete on disk; raises what made it fail."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def close(self) -> None:
        """Waits, then ends the background threads."""
        try:
            self.wait()
        finally:
            self._finisher.shutdown()
            if self._checkpointer is not None:
                self._checkpointer.close()
                self._checkpointer = None

    def remove(self) -> None:
        """Deletes the whole directory (the result is stored elsewhere by now); `close` comes first."""

        def act() -> None:
            for step in self.complete_steps():
                store.remove(self._path(step))
            if self._directory.exists():
                self._directory.rmtree()

        hosts.wait_for_first(f"remove {self._directory.name}", act)

    def _path(self, step: int) -> epath.Path:
        return self._directory / f"step_{step:08d}"

    def _restore(self, step: int, like: State) -> State:
        path = self._path(step)
        if damaged := store.damaged_file(path):
            raise OSError(f"{damaged.name} is damaged")
        stored = store.stored_leaves(path / _STATE)
        wanted = store.named_leaves(like)
        expected = {name: (tuple(leaf.shape), str(leaf.dtype)) for name, leaf in wanted.items()}
        for name in sorted(stored.keys() | expected.keys()):
            if stored.get(name) != expected.get(name):
                raise WrongUse(
                    f"{os.fspath(path)}: '{name}' is {_leaf_text(stored.get(name))} there and "
                    f"{_leaf_text(expected.get(name))} in this run; the model or the optimizer was changed. "
                    "Undo the change, or choose another workdir."
                )
        leaves = store.restore_arrays(path / _STATE, wanted)
        return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in wanted])

    def _finish(self, checkpointer: ocp.AsyncCheckpointer, step: int) -> None:
        """In the background: waits for Orbax, marks the step, then deletes all but the newest steps."""
        checkpointer.wait_until_finished()  # of all hosts
        if hosts.is_first():
            store.mark_complete(self._path(step))
        self._own_steps.add(step)
        if not hosts.is_first():
            return
        # Newer steps are of a future that was lost (unreadable); they are overwritten when the run gets
        # there.
        for old in [old for old in self.complete_steps() if old <= step][: -self._keep]:
            store.remove(self._path(old))

    def _remove_unfinished(self) -> None:
        """Clears what a killed run left half-written."""
        if not self._directory.exists():
            return
        for entry in self._directory.iterdir():
            if _STEP.match(entry.name) and not store.is_complete(entry):
                store.remove(entry)


def _leaf_text(leaf: tuple[tuple[int, ...], str] | None) -> str:
    return "absent" if leaf is None else f"{leaf[1]}{list(leaf[0])}"
