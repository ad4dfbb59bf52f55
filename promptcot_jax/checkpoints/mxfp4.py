"""gpt-oss's four-bit weights: blocks of 32 numbers that share a power of two (MXFP4 of OCP Microscaling).

A checkpoint keeps such a matrix as two tensors of bytes, `NAME_blocks` [..., groups, 16] with two numbers a
byte, the lower half first, and `NAME_scales` [..., groups], exponents with a bias of 127. Numbers run along
the input dimension, which our matrices (and the unpacked ones of transformers) have second to last.
"""

import dataclasses
from typing import Any

import ml_dtypes
import numpy as np

_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_VALUES = np.array([*_MAGNITUDES, *(-value for value in _MAGNITUDES)], np.float32)  # by four bits, sign first
_BLOCK = 32
BLOCKS, SCALES = "_blocks", "_scales"


def packed_shapes(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the two tensors that hold the matrices `name` of shape [..., in, out]."""
    *rest, inputs, outputs = shape
    groups = (*rest, outputs, inputs // _BLOCK)
    return {name + BLOCKS: (*groups, _BLOCK // 2), name + SCALES: groups}


def unpack(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The matrices [..., in, out] in bfloat16, which holds every one of these numbers exactly."""
    halves = np.stack([blocks & 0x0F, blocks >> 4], axis=-1)  # [..., groups, 16, 2]
    values = _VALUES[halves].reshape(*scales.shape, _BLOCK)
    values = np.ldexp(values, scales.astype(np.int32)[..., None] - 127).astype(ml_dtypes.bfloat16)
    return values.reshape(*scales.shape[:-1], -1).swapaxes(-1, -2)


@dataclasses.dataclass(frozen=True, eq=False)
class Packed:
    """Matrices [experts, in, out] whose rows are unpacked when they are asked for, one expert at a time.

    `blocks` and `scales` are arrays, or what reads rows of their first axis.
    """

    blocks: Any
    scales: Any

    @property
    def shape(self) -> tuple[int, ...]:
        experts, outputs, groups = self.scales.shape
        return (experts, groups * _BLOCK, outputs)

    def __getitem__(self, rows: slice) -> np.ndarray:
        blocks, scales = self.blocks[rows], self.scales[rows]
        matrices = np.empty((len(blocks), *self.shape[1:]), ml_dtypes.bfloat16)
        for matrix, *packed in zip(matrices, blocks, scales, strict=True):
            matrix[...] = unpack(*packed)
        return matrices
