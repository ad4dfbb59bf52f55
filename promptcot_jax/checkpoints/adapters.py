"""Checkpoints of adapted models: the adapter's own arrays, and which base they belong to (`adapter.json`)."""

import dataclasses
import os

import jax
from etils import epath
from jax.sharding import Mesh

from promptcot_jax.checkpoints import store
from promptcot_jax.core import jsonl
from promptcot_jax.core.arrays import Params
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.models import lora
from promptcot_jax.models.language_model import LanguageModel
from promptcot_jax.models.lora import LoraConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapter:
    """What an adapter is, and of which model.

    Attributes:
        base: where the base was loaded from.
        base_digest: of its parameters in `base_dtype`, the type that they were loaded in.
    """

    config: LoraConfig
    base: str
    base_digest: str
    base_dtype: str


def after_fit(
    before: Adapter | None, trained: LoraConfig | None, base: str, params: Params
) -> Adapter | None:
    """The record of what a fit has trained: the model's own adapter, or a new one on what was a base.

    Args:
        trained: what the fit was asked to train; None: all parameters.
        params: of the model that the fit began with.
    """
    if before is not None or trained is None:
        return before
    dtype = str(jax.tree.leaves(params)[0].dtype)
    base = os.path.abspath(base) if os.path.exists(base) else base  # else a bucket's, or a package's name
    return Adapter(config=trained, base=base, base_digest=store.params_digest(params), base_dtype=dtype)


def read(directory: epath.Path) -> Adapter | None:
    """The record in a checkpoint; None where it is a whole model."""
    path = directory / store.ADAPTER
    if not path.exists():
        return None
    fields = jsonl.read_json(path)
    try:
        config = fields.pop("config")
        return Adapter(config=LoraConfig(**config | {"targets": tuple(config["targets"])}), **fields)
    except (TypeError, KeyError, ValueError) as error:
        raise WrongUse(
            f"{os.fspath(path)}: not an adapter's description of this version ({error})."
        ) from None


def load_onto(
    directory: epath.Path, adapter: Adapter, lm: LanguageModel, base: Params, mesh: Mesh | None
) -> Params:
    """The base with the checkpoint's adapter beside it, whose arrays are in float32.

    Raises:
        WrongUse: the base is not the one that the adapter was trained on, or the checkpoint is damaged.
    """
    is_comparable = str(jax.tree.leaves(base)[0].dtype) == adapter.base_dtype
    if is_comparable and store.params_digest(base) != adapter.base_digest:
        raise WrongUse(
            f"{os.fspath(directory)}: its adapter was trained on other weights than {adapter.base} now "
            "holds; put the old ones back, or train the adapter anew."
        )
    shapes = lora.abstract_adapter(lm, adapter.config, mesh)
    return lora.join(store.load_params(directory, shapes), base)
