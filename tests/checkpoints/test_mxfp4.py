"""Four-bit numbers by hand."""

import ml_dtypes
import numpy as np

from promptcot_jax.checkpoints import mxfp4


def test_numbers_of_two_blocks_by_hand():
    # One matrix of two outputs and 64 inputs: two blocks an output, two numbers a byte.
    blocks = np.zeros((1, 2, 2, 16), np.uint8)
    scales = np.full((1, 2, 2), 127, np.uint8)
    blocks[0, 1, 0, 0] = 0x7F  # -6 in the lower half, 6 in the upper
    blocks[0, 1, 1, 15] = 0x21  # 0.5, then 1, at the very end
    scales[0, 1, 1] = 130  # times 8
    scales[0, 0, 0] = 254  # of zeros
    expected = np.zeros((1, 64, 2), np.float32)
    expected[0, [0, 1, 62, 63], 1] = [-6.0, 6.0, 4.0, 8.0]
    unpacked = mxfp4.unpack(blocks, scales)
    assert unpacked.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(unpacked.astype(np.float32), expected)
    assert mxfp4.packed_shapes("w", (1, 64, 2)) == {"w_blocks": blocks.shape, "w_scales": scales.shape}
