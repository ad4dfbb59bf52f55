"""Checkpoints within an iteration's updates, for iterations of so many that none may be made again.

Offline DPO is such: one iteration whose updates take the whole run (`docs/self_play.md`). A resumed run goes
on after the update of the newest checkpoint, with the numbers that the updates so far reported. Old and
reference log-probabilities are of a policy that it no longer has, so the iteration's units are stored with
them.
"""

import functools
import logging
import re
import zipfile
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from etils import epath

from promptcot_jax.checkpoints import store
from promptcot_jax.checkpoints.training import TrainingCheckpoints
from promptcot_jax.core import jsonl
from promptcot_jax.data.examples import TokenExample
from promptcot_jax.parallel import hosts
from promptcot_jax.trainers.algorithm import Unit

log = logging.getLogger(__name__)

State = TypeVar("State")
Reported = Sequence[Any]  # leaves of an update's metrics, on the host

CHECKPOINTS = "checkpoints"
_ITERATION = re.compile(r"^iteration_(\d{5})$")
_VALUES = "values/"


class UpdateCheckpoints:
    """Those of one iteration: `iteration_WWWWW/` with its units, checkpoints and what updates reported.

    Of several hosts the first writes and removes files.
    """

    def __init__(self, directory: epath.Path, iteration: int):
        self.iteration = iteration
        self._all, self._directory = directory, directory / _name(iteration)
        self._checkpoints = TrainingCheckpoints(self._directory / CHECKPOINTS, keep=1)

    @classmethod
    def newest(cls, directory: epath.Path) -> "UpdateCheckpoints | None":
        """Those of the newest iteration that has a complete one, under a run's directory for them.

        What is damaged is passed over with a warning: then more updates are made again.
        """
        iteration = hosts.decided_by_first("updates under way", functools.partial(_newest_whole, directory))
        return cls(directory, iteration) if iteration >= 0 else None

    def is_whole(self) -> bool:
        """Whether there is a complete checkpoint, with its files as they were written; warns where not."""
        steps = self._checkpoints.complete_steps()
        if not steps:
            return False
        step = self._directory / CHECKPOINTS / f"step_{steps[-1]:08d}"
        damaged = store.damaged_file(step)
        if damaged is None:
            files = (self._units_path, self._reported_path(steps[-1]))
            damaged = next((path for path in files if not _is_readable(path)), None)
        if damaged is not None:
            log.warning("%s: damaged; goes on from an earlier checkpoint", damaged)
        return damaged is None

    def begin(self, units: Sequence[Unit]) -> None:
        """Writes the units, and removes all but the newest checkpoint of an iteration before."""

        def act() -> None:
            newest = _newest_whole(self._all)
            _remove_all(self._all, but=newest if newest < self.iteration else -1)
            _write_units(self._units_path, units)

        hosts.wait_for_first(f"begin the updates of iteration {self.iteration}", act)

    def save(self, state: Any, reported: Sequence[Reported]) -> None:
        """A checkpoint of the run after so many updates of the iteration as have reported."""
        if hosts.is_first():
            of_leaves = {f"{i:03d}": np.stack(leaf) for i, leaf in enumerate(zip(*reported, strict=True))}
            _write(self._reported_path(len(reported)), of_leaves)
            for path in sorted(self._directory.glob("reported_*.npz"))[:-2]:
                path.unlink()
        self._checkpoints.save(len(reported), state)

    def restore(self, like: State) -> tuple[State, list[Unit], list[Reported]]:
        """The state of the newest checkpoint, the units, and what the updates before it reported."""
        found = self._checkpoints.restore_latest(like)
        assert found is not None, "newest() gives none without a checkpoint"
        num_done, state = found
        of_leaves = _read(self._reported_path(num_done))
        reported = [*zip(*(of_leaves[name] for name in sorted(of_leaves)), strict=True)]
        return state, _read_units(self._units_path), [*reported]

    def close(self) -> None:
        """Waits for a save under way, and ends the threads."""
        self._checkpoints.close()

    @property
    def _units_path(self) -> epath.Path:
        return self._directory / "units.npz"

    def _reported_path(self, num_done: int) -> epath.Path:
        return self._directory / f"reported_{num_done:05d}.npz"


def remove(directory: epath.Path) -> None:
    """Removes those of all iterations."""
    hosts.wait_for_first(
        "remove the checkpoints within iterations", functools.partial(_remove_all, directory)
    )


def _remove_all(directory: epath.Path, but: int = -1) -> None:
    """Checkpoints first, each with its marker first: a kill leaves none that looks whole."""
    for path in _entries(directory):
        if but < 0 or path.name != _name(but):
            for step in _entries(path / CHECKPOINTS):
                store.remove(step)
            path.rmtree()
    if directory.exists() and not _entries(directory):
        directory.rmdir()


def _name(iteration: int) -> str:
    return f"iteration_{iteration:05d}"


def _newest_whole(directory: epath.Path) -> int:
    """The newest iteration with a complete checkpoint whose files are as they were written; -1: none."""
    found = [match for path in _entries(directory) if (match := _ITERATION.match(path.name))]
    for iteration in sorted((int(match[1]) for match in found), reverse=True):
        if UpdateCheckpoints(directory, iteration).is_whole():
            return iteration
    return -1


def _entries(directory: epath.Path) -> list[epath.Path]:
    return [*directory.iterdir()] if directory.exists() else []


def _write_units(path: epath.Path, units: Sequence[Unit]) -> None:
    examples = [example for unit in units for example in unit]
    arrays = {"unit_sizes": np.array([len(unit) for unit in units], np.int32)}
    for name in ("prompt_ids", "completion_ids"):
        parts = [getattr(example, name) for example in examples]
        arrays |= {name: np.concatenate(parts), f"{name}_sizes": np.array([*map(len, parts)], np.int32)}
    for name in examples[0].token_values:
        arrays[_VALUES + name] = np.concatenate([example.token_values[name] for example in examples])
    _write(path, arrays)


def _read_units(path: epath.Path) -> list[Unit]:
    arrays = _read(path)

    def of_each(name: str, part: str) -> list[np.ndarray]:
        return np.split(arrays[name], np.cumsum(arrays[f"{part}_sizes"])[:-1])

    values = {
        name.removeprefix(_VALUES): of_each(name, "completion_ids")
        for name in arrays
        if name.startswith(_VALUES)
    }
    prompts, completions = (of_each(part, part) for part in ("prompt_ids", "completion_ids"))
    examples = iter(
        TokenExample(
            prompt_ids=prompt,
            completion_ids=completion,
            token_values={name: values_of[i] for name, values_of in values.items()},
        )
        for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
    )
    return [tuple(next(examples) for _ in range(size)) for size in arrays["unit_sizes"]]


def _is_readable(path: epath.Path) -> bool:
    """By the checksums of its arrays."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as arrays:
            return arrays.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def _write(path: epath.Path, arrays: dict[str, np.ndarray]) -> None:
    with jsonl.atomic_stream(path) as file:
        functools.partial(np.savez, **arrays)(file)


def _read(path: epath.Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file, np.load(file) as arrays:
        return dict(arrays)
