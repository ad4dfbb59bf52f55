"""Where a stage's model comes from: new weights of a stated shape, or weights that are there already.

Stage functions take a `ModelSource`; gin says which: `@model_source.FromScratch()` or
`@model_source.Pretrained()`.
"""

import dataclasses

import jax
from jax.sharding import Mesh

from promptcot_jax.checkpoints import load
from promptcot_jax.core import prng
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.settings import settings
from promptcot_jax.core.workdir import InputPath
from promptcot_jax.data import tokenizer as tokenizer_lib
from promptcot_jax.models import causal_lm, language_model, own_model
from promptcot_jax.models import config as model_config
from promptcot_jax.models.language_model import LanguageModel
from promptcot_jax.models.lora import LoraConfig

# What a checkpoint may have otherwise than its gin file says: number formats, and a recorded length that
# differs between releases of the same model.
_FREE = ("dtype", "param_dtype", "max_positions")
SHAPE = tuple(
    field.name for field in dataclasses.fields(model_config.DecoderConfig) if field.name not in _FREE
)


@settings
class FromScratch:
    """New weights drawn from the stage's seed, for a tokenizer's vocabulary."""

    model: LanguageModel  # `CausalLM`, or a model of the user's own (docs/models.md)
    tokenizer: InputPath = "{workdir}/tokenizer"

    def __post_init__(self):
        own_model.check_members(self.model)

    def load(self, *, seed: int, mesh: Mesh, index: int = 0) -> load.LoadedModel:
        """Draws the model; `index` tells apart several models of one stage and seed.

        Raises:
            WrongUse: the tokenizer has more tokens than the model, or one of the model's functions does not
                keep the protocol.
        """
        tokenizer = tokenizer_lib.Tokenizer.from_directory(self.tokenizer)
        if tokenizer.vocab_size > self.model.config.vocab_size:
            raise WrongUse(
                f"{self.tokenizer} has {tokenizer.vocab_size} tokens, the model's vocab_size is "
                f"{self.model.config.vocab_size}; raise vocab_size to at least that."
            )
        if type(self.model) is not causal_lm.CausalLM:  # whose functions have tests
            own_model.check_programs(self.model)
        lm = language_model.on_mesh(self.model)
        key = prng.stream_key(seed, "init", index)
        with jax.set_mesh(mesh):
            params = jax.jit(lm.init, out_shardings=language_model.param_shardings(lm, mesh))(key)
        return load.LoadedModel(
            lm=lm, params=params, tokenizer=tokenizer, source=f"new weights of seed {seed}"
        )


@settings
class Pretrained:
    """A Hugging Face directory, a GGUF file, one of our checkpoints, or "smollm2-135m"."""

    path: InputPath
    dtype: model_config.FloatType = "float32"
    # The shape that the weights must have, so that a path to another model is noticed.
    expected: model_config.DecoderConfig | None = None

    def load(self, *, seed: int, mesh: Mesh, index: int = 0) -> load.LoadedModel:
        """Reads the weights; `seed` and `index` play no part.

        Raises:
            WrongUse: they are no model, or not of the expected shape.
        """
        path, model = self.path, load.load_model(self.path, dtype=self.dtype, mesh=mesh)
        if self.expected is not None and not isinstance(model.lm.config, model_config.DecoderConfig):
            raise WrongUse(
                f"{path} holds a {type(model.lm).__name__}, not the decoder that the gin file describes; "
                "correct the path, or leave `expected` at None."
            )
        for name in SHAPE if self.expected is not None else ():
            wanted, found = getattr(self.expected, name), getattr(model.lm.config, name)
            if wanted != found:
                raise WrongUse(
                    f"{path} is another model than the gin file describes: {name} is {found}, not {wanted}; "
                    "correct the path or the DecoderConfig."
                )
        return model


ModelSource = FromScratch | Pretrained


def check_adapter(model: ModelSource, lora: LoraConfig | None) -> None:
    """Refuses an adapter on weights that no file holds: it could not be loaded again.

    Raises:
        WrongUse: says what to set.
    """
    if lora is not None and isinstance(model, FromScratch):
        raise WrongUse("LORA trains an adapter of weights that are there: set MODEL to a pretrained one.")
