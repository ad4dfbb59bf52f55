"""Log-probabilities under the reference, scored once an iteration and kept until a checkpoint has passed it.

An iteration whose updates are made again, after a kill, takes DPO's reference and the one of GRPO's KL term
from here. `self_play/reference/iteration_WWWWW.npz` holds the float32 bits, with a digest of the parameters
that scored them, the temperature and a digest of the sequences. A file that says otherwise than the run is
refused, never used and never silently replaced: something was changed that a resumed run must not change.
Only where the run goes on on other devices, whose updates round otherwise, is a file scored again, and the
log says so.

Of several hosts the first decides and writes; all read the same file, or all score.
"""

import dataclasses
import hashlib
import io
import json
import logging
import os
import zipfile
from collections.abc import Callable, Sequence

import jax
import numpy as np
from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.core.arrays import Float
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data.examples import TokenExample
from promptcot_jax.parallel import hosts

DIRECTORY = "reference"

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoredBy:
    """All that log-probabilities are a function of."""

    reference: str  # `store.params_digest` of the parameters
    temperature: float
    sequences: str  # `digest_of` the rows
    devices: str  # `devices_of_mesh`


def digest_of(rows: Sequence[TokenExample]) -> str:
    """Digest of the sequences in their order, each parted into prompt and completion."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(np.array([len(row.prompt_ids), len(row.completion_ids)], "<i8").tobytes())
        digest.update(np.asarray([*row.prompt_ids, *row.completion_ids], "<i4").tobytes())
    return digest.hexdigest()[:16]


def devices_of_mesh() -> str:
    """Kind of the devices, and shape of the mesh that is entered."""
    return f"{jax.devices()[0].device_kind} {dict(jax.sharding.get_abstract_mesh().shape)}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReferenceCache:
    """The files of one run.

    Attributes:
        directory: of the files.
        keep: of how many iterations, the newest: as many as a resumed run may make again.
    """

    directory: epath.Path
    keep: int

    def scores(
        self,
        iteration: int,
        scored_by: ScoredBy,
        lengths: Sequence[int],
        score: Callable[[], Sequence[Float[np.ndarray, " _"]]],
    ) -> list[Float[np.ndarray, " _"]]:
        """What the iteration's file holds, or what `score` gives, which is then stored.

        Args:
            lengths: of the completions.

        Raises:
            WrongUse: the file was scored by other parameters, at another temperature or for other sequences,
                or cannot be read.
        """
        path = self.directory / f"iteration_{iteration:05d}.npz"
        if hosts.decided_by_first(f"reference of iteration {iteration}", lambda: _is_there(path, scored_by)):
            return np.split(_read(path)[1], np.cumsum(lengths)[:-1])
        found = [np.asarray(values, np.float32) for values in score()]

        def write() -> None:
            self._remove_before(iteration - self.keep + 1)
            _write(path, scored_by, found)

        hosts.wait_for_first(f"reference of iteration {iteration} written", write)
        return found

    def _remove_before(self, iteration: int) -> None:
        for path in self.directory.glob("iteration_?????.npz") if self.directory.exists() else ():
            if int(path.stem.removeprefix("iteration_")) < iteration:
                path.unlink(missing_ok=True)


def remove(directory: epath.PathLike) -> None:
    """Deletes the files of a finished run, of whose directory this is a part."""
    own = epath.Path(directory) / DIRECTORY
    hosts.wait_for_first("remove references", lambda: own.exists() and own.rmtree())


def _is_there(path: epath.Path, scored_by: ScoredBy) -> bool:
    """Whether there is a file, which then is of what is asked for."""
    if not path.exists():
        return False
    stored, _ = _read(path)
    wanted = dataclasses.asdict(scored_by)
    if stored.get("devices") != scored_by.devices:
        log.info("%s: of other devices (%s); scored again", os.fspath(path), stored.get("devices"))
        return False
    if changed := sorted(name for name in wanted if stored.get(name) != wanted[name]):
        raise WrongUse(
            f"{os.fspath(path)}: these log-probabilities are stale: since they were scored "
            f"{', '.join(changed)} changed ({stored.get(changed[0])}, now {wanted[changed[0]]}). Undo the "
            "change, or delete the file to have them scored again."
        )
    return True


def _read(path: epath.Path) -> tuple[dict[str, object], Float[np.ndarray, " _"]]:
    try:
        with np.load(io.BytesIO(path.read_bytes())) as file:
            return json.loads(str(file["scored_by"])), file["log_probs"].astype(np.float32)
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise WrongUse(
            f"{os.fspath(path)}: cannot be read ({error}); delete the file to have it scored again."
        ) from None


def _write(path: epath.Path, scored_by: ScoredBy, log_probs: Sequence[Float[np.ndarray, " _"]]) -> None:
    data = io.BytesIO()
    whole = np.concatenate([np.zeros(0, np.float32), *log_probs]).astype("<f4")
    np.savez(data, scored_by=np.array(json.dumps(dataclasses.asdict(scored_by))), log_probs=whole)
    jsonl.write_atomically(path, data.getvalue())
