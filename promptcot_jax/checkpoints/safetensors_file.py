"""The safetensors format, a tensor at a time: eight bytes of length, a JSON header, then the tensors' bytes.

Own code for both directions, where the library would be preferred, for two reasons. The library opens local
files only, and a checkpoint in a bucket must be read without a copy of it on disk; here rows of a tensor are
a ranged read, the same for both. And it writes a file from tensors that are all in memory, which for shards
of the usual 5 GB is 5 GB of the host's; here one tensor is. Files are the library's, byte for byte.
"""

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse

DTYPES: dict[str, Any] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "U8": np.dtype("u1"),
}
_MAX_HEADER_BYTES = 100_000_000  # the library's limit
_METADATA = "__metadata__"


@dataclasses.dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor of an open file; `tensor[a:b]` reads rows of its first axis, in its own number format."""

    name: str
    dtype: str  # the format's name, which may be one that is not read here
    shape: tuple[int, ...]
    begin: int  # of its bytes in the file
    num_bytes: int
    file: Any  # with `seek` and `read`: what opens a bucket's objects is not an `io` class
    path: str

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, step = rows.indices(self.shape[0]) if self.shape else (0, 1, 1)
        row_bytes = self.num_bytes // max(self.shape[0], 1) if self.shape else self.num_bytes
        size = row_bytes * max(stop - start, 0)
        self.file.seek(self.begin + row_bytes * start)
        data = self.file.read(size)
        if len(data) != size:
            raise WrongUse(f"{self.path}: ends inside tensor '{self.name}'; it was cut while being read.")
        shape = (-1, *self.shape[1:]) if size else (0, *self.shape[1:])
        return np.frombuffer(data, DTYPES[self.dtype]).reshape(shape)[::step]


@contextlib.contextmanager
def opened(path: epath.Path) -> Iterator[dict[str, StoredTensor]]:
    """The tensors of a file by name, local or in a bucket; they can be read until the block ends.

    Raises:
        WrongUse: the file does not hold exactly the bytes that its header announces.
    """
    with path.open("rb") as file:
        try:
            tensors = _tensors(file, os.fspath(path), path.stat().length)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise WrongUse(f"{os.fspath(path)}: truncated, or not a safetensors file ({error}).") from None
        yield tensors


def _tensors(file: Any, path: str, file_bytes: int) -> dict[str, StoredTensor]:
    """Reads and checks the header."""
    length = int.from_bytes(file.read(8), "little")
    if file_bytes < 8 or length > min(_MAX_HEADER_BYTES, file_bytes - 8):
        raise ValueError(f"a header of {length} bytes in a file of {file_bytes}")
    header = json.loads(file.read(length))
    header.pop(_METADATA, None)
    tensors, end = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, stop = entry["data_offsets"]
        dtype, shape = entry["dtype"], tuple(entry["shape"])
        size = math.prod(shape) * DTYPES[dtype].itemsize if dtype in DTYPES else stop - begin
        if begin != end or stop - begin != size:
            raise ValueError(f"tensor '{name}' of {size} bytes lies at [{begin}, {stop}) after byte {end}")
        tensors[name] = StoredTensor(name, dtype, shape, 8 + length + begin, size, file, path)
        end = stop
    if 8 + length + end != file_bytes:
        raise ValueError(f"{file_bytes} bytes, where its header announces {8 + length + end}")
    return tensors


@contextlib.contextmanager
def writing(
    path: epath.Path, shapes: Mapping[str, tuple[int, ...]], dtype: np.dtype
) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that takes the tensors one after the other, by ascending name; then the file appears.

    Args:
        dtype: the number format of all.
    """
    code = next(name for name, known in DTYPES.items() if known == dtype)
    header: dict[str, Any] = {_METADATA: {"format": "pt"}}
    end, left = 0, sorted(shapes, reverse=True)
    for name in sorted(shapes):
        begin, end = end, end + math.prod(shapes[name]) * DTYPES[code].itemsize
        header[name] = {"dtype": code, "shape": list(shapes[name]), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with jsonl.atomic_stream(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)

        def write(tensor: np.ndarray) -> None:
            name = left.pop()
            if tensor.shape != tuple(shapes[name]) or tensor.dtype != DTYPES[code]:
                raise ValueError(f"Tensor '{name}': {tensor.dtype}{tensor.shape}, not {code}{shapes[name]}.")
            file.write(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)

        yield write
        if left:
            raise ValueError(f"Tensor '{left[-1]}' of {os.fspath(path)} was not written.")
