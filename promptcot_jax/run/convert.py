"""`promptcot convert`: any model we can read, written as a Hugging Face directory."""

import os

import jax

from promptcot_jax.checkpoints import huggingface, load
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.models.config import FloatType
from promptcot_jax.run import configuration, stage


def convert(
    *, workdir: str, source: configuration.InputPath, output: str, dtype: FloatType = "float32"
) -> stage.StageResult:
    """Reads `source`, writes the directory `output` (safetensors, config, tokenizer).

    Raises:
        WrongUse: the source is no model, or `output` is there already.
    """
    target = configuration.in_workdir(output, workdir)
    if os.path.exists(target):
        raise WrongUse(f"{target} exists already; remove it or set another OUTPUT.")
    model = load.load_model(configuration.in_workdir(source, workdir), dtype=dtype)
    partial = f"{target}.part"  # a killed conversion never leaves a directory that looks whole
    huggingface.save_hf(partial, model.lm, model.params, model.tokenizer)
    os.rename(partial, target)
    arrays = jax.tree.leaves(model.params)
    return stage.StageResult(
        counts={"arrays": len(arrays), "parameters": sum(array.size for array in arrays)}
    )
