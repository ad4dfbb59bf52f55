"""One run at a time in a workdir.

The lock is the kernel's, on `WORKDIR/.lock`: it goes with its process, however that dies, so nothing stale
can block. The file's text only names the holder for whoever is refused. In a bucket (`gs://`) there is no
such lock; the user is told so.
"""

import contextlib
import fcntl
import json
import logging
import os
import pathlib
import socket
import time
import uuid
from collections.abc import Iterator

from promptcot_jax.core.errors import WrongUse

logger = logging.getLogger(__name__)

_held: set[str] = set()  # POSIX locks do not exclude a second holder inside one process


@contextlib.contextmanager
def hold(workdir: str, stage: str) -> Iterator[str]:
    """Holds the workdir's lock and yields the run id.

    Raises:
        WrongUse: another run holds it, or the workdir is no directory, or cannot be made or written.
    """
    run_id = uuid.uuid4().hex[:12]
    if "://" in workdir:
        logger.warning("%s is no local directory: see yourself that only one run uses it at a time.", workdir)
        yield run_id
        return
    try:
        os.makedirs(workdir, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise WrongUse(f"{workdir} is, or lies below, a file; give a directory as --workdir.") from None
    except OSError as error:
        raise WrongUse(
            f"{workdir} cannot be made ({error.strerror}); give a directory that can be written as --workdir."
        ) from None
    if not os.access(workdir, os.W_OK):
        raise WrongUse(f"{workdir} cannot be written; give another directory as --workdir.")
    path = os.path.join(os.path.realpath(workdir), ".lock")
    if path in _held:
        raise WrongUse(f"{workdir} is in use by another run of this process; use another --workdir.")
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise WrongUse(
                f"{workdir} is in use by {_holder(file.read())}; wait for it, or use another --workdir."
            ) from None
        _held.add(path)
        try:
            file.truncate(0)
            started = time.strftime("%Y-%m-%d %H:%M:%S")
            holder = {"run_id": run_id, "stage": stage, "pid": os.getpid(), "host": socket.gethostname()}
            file.write(json.dumps(holder | {"started": started}) + "\n")
            file.flush()
            yield run_id
        finally:
            _held.discard(path)  # closing the file gives the kernel's lock back


def check_is_shared(workdir: str, run_id: str) -> None:
    """Refuses a workdir in which this host does not see the lock that the run's first host holds.

    Not for the first host: to close the file would give its lock back.

    Raises:
        WrongUse: it is a directory of this host alone.
    """
    if "://" in workdir:
        return
    path = os.path.join(os.path.realpath(workdir), ".lock")
    if not os.path.exists(path) or run_id not in pathlib.Path(path).read_text(encoding="utf-8"):
        raise WrongUse(
            f"{workdir} is not the directory that the first host of this run uses; several hosts need one "
            "that all of them see: a bucket (gs://...) or a network file system."
        )


def _holder(text: str) -> str:
    """The holder of a lock as a phrase, from the lock file's text (which may be half written)."""
    try:
        return "run {run_id} ('promptcot {stage}', process {pid} on {host}, since {started})".format(
            **json.loads(text)
        )
    except (ValueError, KeyError):
        return "another run"
