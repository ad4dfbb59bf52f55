"""The TPU's compiler for scripts that run on a machine without a TPU, each in a process of its own."""

import functools
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

# The compiler asks for the machine that it is not on; to be set before JAX starts.
SETTINGS = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LOG_DIR": "disabled",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "JAX_PLATFORMS": "cpu",
}
_ROOT = pathlib.Path(__file__).parents[1]


@functools.cache
def facts(script: str, topology: str) -> Any:
    """What a script of `tests/` prints about the programs that it compiles for a topology, as JSON."""
    pytest.importorskip("libtpu")
    kept = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "PYTHONPATH")}
    finished = subprocess.run(
        [sys.executable, _ROOT / "tests" / script, topology],
        env=kept | SETTINGS | {"PYTHONPATH": str(_ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(finished.stdout)
