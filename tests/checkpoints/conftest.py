"""A tiny model to write and read in every format."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
