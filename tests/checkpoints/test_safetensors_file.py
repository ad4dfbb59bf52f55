"""The safetensors format: the library's files are read, and what is written is the library's to the byte."""

import io
import json

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from etils import epath

from promptcot_jax.checkpoints import safetensors_file
from promptcot_jax.core.errors import WrongUse

SHAPES = {"b.weight": (3, 5), "a.weight": (7,), "c.é": (2, 3, 4), "d.empty": (0, 4)}


def tensors(dtype) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(0)
    return {name: noise.normal(size=shape).astype(dtype) for name, shape in SHAPES.items()}


def write(path, contents: dict[str, np.ndarray]) -> None:
    shapes = {name: tensor.shape for name, tensor in contents.items()}
    dtype = next(iter(contents.values())).dtype
    with safetensors_file.writing(epath.Path(path), shapes, dtype) as put:
        for name in sorted(contents):
            put(contents[name])


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_files_are_the_librarys_byte_for_byte(tmp_path, dtype):
    contents = tensors(dtype)
    write(tmp_path / "ours", contents)
    assert (tmp_path / "ours").read_bytes() == safetensors.numpy.save(contents, metadata={"format": "pt"})
    with safetensors.safe_open(tmp_path / "ours", framework="np") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.uint8])
def test_rows_are_those_of_the_tensors_that_the_library_wrote(tmp_path, dtype):
    contents = {name: (10 * tensor).astype(dtype) for name, tensor in tensors(np.float32).items()}
    safetensors.numpy.save_file(contents, tmp_path / "theirs")
    with safetensors_file.opened(epath.Path(tmp_path / "theirs")) as stored:
        assert stored.keys() == contents.keys()
        for name, tensor in contents.items():
            assert stored[name].shape == tensor.shape
            for rows in (slice(None), slice(1, 3), slice(0, 1), slice(2, 2), slice(None, None, 2)):
                assert stored[name][rows].dtype == tensor.dtype
                assert stored[name][rows].tobytes() == tensor[rows].tobytes()


def test_rows_are_read_alone(tmp_path, bucket):
    contents = {"w": np.arange(8000, dtype=np.float32).reshape(1000, 8)}
    write("gs://bucket/model", contents)
    with safetensors_file.opened(epath.Path("gs://bucket/model")) as stored:
        bucket.bytes_read = 0
        assert np.array_equal(stored["w"][40:50], contents["w"][40:50])
    assert bucket.bytes_read == 10 * 8 * 4


def test_tensors_out_of_turn_or_missing_leave_no_file(tmp_path):
    path = epath.Path(tmp_path / "m")
    shapes = {"a": (2,), "b": (3,)}
    with pytest.raises(ValueError, match=r"Tensor 'a': float32\(3,\), not F32\(2,\)"):
        with safetensors_file.writing(path, shapes, np.dtype(np.float32)) as put:
            put(np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="Tensor 'b' of .* was not written"):
        with safetensors_file.writing(path, shapes, np.dtype(np.float32)) as put:
            put(np.zeros(2, np.float32))
    assert list(tmp_path.iterdir()) == []


def with_header(header: dict, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
BAD_FILES = {
    "empty": b"",
    "short": b"\0\0\0",
    "endless header": (1 << 62).to_bytes(8, "little") + b"{}",
    "no JSON": (2).to_bytes(8, "little") + b"{x",
    "no object": with_header([]),
    "no offsets": with_header({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "another size": with_header({"a": ENTRY | {"shape": [3]}}, bytes(8)),
    "gap": with_header({"a": ENTRY | {"data_offsets": [4, 12]}}, bytes(12)),
    "overlap": with_header({"a": ENTRY, "b": ENTRY}, bytes(8)),
    "bytes behind": with_header({"a": ENTRY}, bytes(9)),
    "bytes missing": with_header({"a": ENTRY}, bytes(7)),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_file_that_is_none_is_named(tmp_path, kind):
    (tmp_path / "bad").write_bytes(BAD_FILES[kind])
    with pytest.raises(WrongUse, match=r"bad: truncated, or not a safetensors file"):
        with safetensors_file.opened(epath.Path(tmp_path / "bad")):
            pass


def test_a_file_that_shrinks_while_it_is_read_is_named():
    tensor = safetensors_file.StoredTensor("w", "F32", (4,), 0, 16, io.BytesIO(bytes(12)), "m")
    assert len(tensor[:3]) == 3
    with pytest.raises(WrongUse, match="ends inside tensor 'w'"):
        tensor[:]
