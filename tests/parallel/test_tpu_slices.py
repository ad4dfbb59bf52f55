"""Two slices, as the TPU's compiler sees them: nothing here needs a TPU, but `libtpu`."""

import pytest

from tests import tpu_compiler


@pytest.mark.slow
def test_the_train_step_compiles_for_two_slices_with_rows_alone_across_them():
    found = tpu_compiler.facts("parallel/compile_for_slices.py", "v5p:2x2x1")
    assert found["slices"] == [[0], [1]]  # `data` is the outermost axis, and the only one between slices
    assert found["alias_bytes"] >= found["state_bytes"]  # donated; in whole tiles, for small arrays more
