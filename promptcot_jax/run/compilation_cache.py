"""Compiled programs outlive their process: JAX's persistent compilation cache, on unless switched off.

JAX keeps what took more than a second to compile, under a key of the program, its options, the devices, and
the versions of XLA. The key does not hold the features of a host's processor, and a program compiled for a
richer one may die of an illegal instruction (jax-ml/jax#38445 tells of the check that XLA makes, and of its
false alarms). So the default directory is one of its own for each kind of processor; backends are not looked
at, since asking for them would take a TPU that a stage may not need. A directory that the user names is used
as it is: a bucket's serves all hosts of a slice, and the next slice after a preemption.
"""

import hashlib
import logging
import os
import platform
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from promptcot_jax.core.errors import WrongUse

logger = logging.getLogger(__name__)

OFF = ("", "off")
_CONFIG: Any = jax.config  # its settings are attributes that a type checker does not see


def switch_on(directory: str | None = None) -> None:
    """Lets JAX keep compiled programs in a directory from now on.

    Args:
        directory: local or `gs://`; "" or "off" switches the cache off. None: what JAX was told already
            (JAX_COMPILATION_CACHE_DIR), else `default_directory()`.

    Raises:
        WrongUse: the directory that is named cannot be made.
    """
    if directory is None:
        if _CONFIG.jax_compilation_cache_dir or not _CONFIG.jax_enable_compilation_cache:
            return
        try:
            directory = str(default_directory())
        except RuntimeError:  # a user id without a home
            return
        if not _is_writable(directory):
            logger.warning("%s cannot be written: compiled programs are not kept.", directory)
            return
    elif directory not in OFF and not _is_writable(directory):
        raise WrongUse(
            f"--compilation_cache_dir={directory} cannot be made or written; name another, or off."
        )
    wanted = None if directory in OFF else directory
    if wanted != _CONFIG.jax_compilation_cache_dir:
        _CONFIG.update("jax_compilation_cache_dir", wanted)
        compilation_cache.reset_cache()  # else JAX stays with the directory of its first compilation


def default_directory() -> Path:
    """In the user's cache directory, one for each kind of processor."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "promptcot_jax" / "compilation" / _processor_digest()


def _processor_digest() -> str:
    """Stands for the processor's model and the instructions it knows."""
    wanted = ("model name", "flags", "CPU implementer", "CPU part", "Features")  # x86; Arm
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        first = ""
    lines = [line for line in first.splitlines() if line.partition(":")[0].strip() in wanted]
    told = [platform.machine(), platform.processor(), *lines]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:12]


def _is_writable(directory: str) -> bool:
    if "://" in directory:
        return True
    try:
        os.makedirs(directory, exist_ok=True)
    except OSError:
        return False
    return os.access(directory, os.W_OK)
