"""Directories that appear whole, made by one of several processes that want them; on local disks."""

import contextlib
import fcntl
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator

PATIENCE_SECONDS = 6 * 3600.0  # a builder that takes longer than this is taken to hang
_SECONDS_BETWEEN_LOOKS = 0.2

log = logging.getLogger(__name__)


@contextlib.contextmanager
def sole_builder(directory: str, name: str, patience_seconds: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Held by one process at a time for each directory; the system frees it when its holder dies.

    Args:
        directory: need not be there; the lock is a file beside it. In a bucket there is no lock.
        name: what is built, for messages.

    Raises:
        TimeoutError: another process has held it for `patience_seconds`.
    """
    if "://" in directory:
        yield
        return
    lock = f"{directory}.lock"
    os.makedirs(os.path.dirname(os.path.abspath(directory)), exist_ok=True)
    with open(lock, "a+") as file:
        deadline, said = time.monotonic() + patience_seconds, False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not said:
                    log.info("%s: another process is making it; waiting", name)
                    said = True
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"{lock}: another process has been making '{name}' for {patience_seconds:.0f} s; see "
                        "whether it hangs, and end it."
                    ) from None
                time.sleep(_SECONDS_BETWEEN_LOOKS)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


@contextlib.contextmanager
def whole_directory(directory: str) -> Iterator[str]:
    """An empty directory that takes the place of `directory` when the block ends, and goes if it raises.

    Only for the sole builder: what builders that were killed have left is removed. Its files are on the disk
    before the rename, which a power cut would else survive without them.
    """
    parent, stem = os.path.split(directory)
    for left in os.listdir(parent or "."):
        if re.fullmatch(rf"{re.escape(stem)}\.[0-9a-f]{{32}}\.part", left):
            shutil.rmtree(os.path.join(parent, left), ignore_errors=True)
    aside, retired = (f"{directory}.{uuid.uuid4().hex}.part" for _ in range(2))
    os.makedirs(aside)
    try:
        yield aside
        for folder, _, files in os.walk(aside):
            for file in files:
                flush_to_disk(os.path.join(folder, file))
            flush_to_disk(folder)
        if os.path.exists(directory):
            os.rename(directory, retired)  # first: removed in place it would be there in part for a while
        os.rename(aside, directory)
        flush_to_disk(parent or ".")
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(retired, ignore_errors=True)


def flush_to_disk(path: os.PathLike[str] | str) -> None:
    """fsync of a local file, or of a directory's entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
