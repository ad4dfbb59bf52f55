"""A tiny model to write and read in every format."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fsspec.implementations import memory

from promptcot_jax.core.arrays import Params
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.models.causal_lm import CausalLM
from tests import toys

CHAT = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[a]{% endif %}"
)


@dataclasses.dataclass(frozen=True)
class ToyModel:
    """What a loader must give back."""

    lm: CausalLM
    params: Params
    tokenizer: Tokenizer


def toy_model(family: str = "llama", **changes) -> ToyModel:
    """A random model of one family; no two of its parameters are alike, scales and biases included."""
    lm = CausalLM(toys.toy_config(family, **changes))
    noise = np.random.default_rng(0)
    shapes = jax.eval_shape(lm.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.asarray(0.2 * noise.normal(size=leaf.shape), leaf.dtype), shapes)
    return ToyModel(lm, params, toys.byte_tokenizer(CHAT))


@pytest.fixture(scope="session")
def llama() -> ToyModel:
    return toy_model("llama")


class Bucket(memory.MemoryFileSystem):
    """Objects in memory under `gs://`; counts what is read."""

    protocol = ("gs", "gcs")

    def __init__(self):
        super().__init__(global_store=False, skip_instance_cache=True)
        self.bytes_read = 0

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).replace("gs://", "memory://"))

    def open(self, path, mode="rb", **options):
        file = super().open(path, mode, **options)
        if mode == "rb":
            read = file.read

            def counted(size=-1):
                data = read(size)
                self.bytes_read += len(data)
                return data

            file.read = counted
        return file


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """What `gs://` paths lead to, through the file system layer that is used where TensorFlow is absent."""
    fake = Bucket()
    monkeypatch.setattr("etils.epath.gpath._is_tf_installed", lambda: False)  # or it asks Google
    monkeypatch.setattr("etils.epath.backend._FileSystemSpecBackend._get_filesystem", lambda self, name: fake)
    return fake
