"""Two slices, as the TPU's compiler sees them: nothing here needs a TPU, but `libtpu`."""

import json
import os
import pathlib
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_train_step_compiles_for_two_slices_with_rows_alone_across_them():
    pytest.importorskip("libtpu")
    script = pathlib.Path(__file__).with_name("compile_for_slices.py")
    settings = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "PYTHONPATH")}
    finished = subprocess.run(
        [sys.executable, script, "v5p:2x2x1"],
        env=settings | {"PYTHONPATH": str(script.parents[2]), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(finished.stdout)
    assert found["slices"] == [[0], [1]]  # `data` is the outermost axis, and the only one between slices
    assert found["alias_bytes"] >= found["state_bytes"]  # donated; in whole tiles, for small arrays more
