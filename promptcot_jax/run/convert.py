"""`promptcot convert`: any model we can read, written as a Hugging Face directory or a checkpoint of our own.

Weights stream both ways, so the devices hold the model once and the host one tensor; a mesh, of a slice or of
simulated devices, takes models that one device does not. What was written is read again and its logits are
compared before the directory gets its name; in a bucket, where names do not change, it is taken back.
"""

import dataclasses
import functools
import logging
import os
from typing import Any, Literal

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from promptcot_jax.checkpoints import adapters, huggingface, load, store
from promptcot_jax.core import building
from promptcot_jax.core.arrays import Array, Float, Int, Params
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.workdir import InputPath, OutputPath
from promptcot_jax.models import lora
from promptcot_jax.models.causal_lm import CausalLM
from promptcot_jax.models.config import FloatType
from promptcot_jax.models.language_model import LanguageModel
from promptcot_jax.parallel import hosts, placing
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.run import stage

log = logging.getLogger(__name__)

OutputFormat = Literal["huggingface", "checkpoint"]
_ROWS, _LENGTH = 4, 32  # of the tokens that the comparison reads


class NotTheSame(RuntimeError):
    """What was written does not compute what was read."""


@dataclasses.dataclass(frozen=True)
class _Facts:
    """What of a model must come back from its files."""

    lm: LanguageModel
    tokenizer_digest: str
    logits: np.ndarray | None  # [B, T, V]; None: not looked at


def convert(
    *,
    workdir: str,
    source: InputPath,
    output: OutputPath,
    mesh: mesh_lib.MeshConfig,
    adapter: InputPath | None = None,
    output_format: OutputFormat = "huggingface",
    dtype: FloatType = "float32",
    verify: bool = True,
) -> stage.StageResult:
    """Reads `source`, writes the directory `output`.

    Args:
        source: what `load.load_model` reads; an adapter's checkpoint is merged with the base that it names.
        adapter: a checkpoint whose adapter belongs on `source`, where its base has moved.
        dtype: that the weights are stored in.
        verify: compare logits of the written model with the source's, both in `dtype`. They must be equal:
            the numbers are the same, and so is the program.

    Raises:
        WrongUse: the source is no model, or `output` is there already.
        NotTheSame: the written model differs; it is removed.
    """
    target = store.location(output)
    if hosts.decided_by_first("output exists", target.exists):
        raise WrongUse(f"{os.fspath(target)} exists already; remove it or set another OUTPUT.")
    devices = mesh_lib.make_mesh(mesh)
    unfinished = store.aside(target)
    hosts.wait_for_first("clear", lambda: _discard(unfinished))
    with jax.set_mesh(devices):
        facts, counts = _rewrite(source, adapter, unfinished, output_format, dtype, devices, verify)
        if output_format == "huggingface" and type(facts.lm) is not CausalLM:
            log.info("not compared: %s wrote a form that only it knows", type(facts.lm).__name__)
        elif verify:
            difference = _difference(facts, unfinished, dtype, devices)
            if difference:
                hosts.wait_for_first("discard", lambda: _discard(unfinished))
                raise NotTheSame(f"{os.fspath(target)} was not written: {difference}.")
    hosts.wait_for_first("name", lambda: _name(unfinished, target))
    return stage.StageResult(counts=counts)


def _rewrite(
    path: str,
    adapter: str | None,
    directory: epath.Path,
    output_format: OutputFormat,
    dtype: FloatType,
    mesh: Mesh,
    verify: bool,
) -> tuple[_Facts, dict[str, int]]:
    """Reads the source and writes it; nothing holds its parameters when this returns."""
    model = _read(path, adapter, dtype, mesh)
    facts = _facts(model, verify)
    if output_format == "huggingface":
        huggingface.save_hf(directory, model.lm, model.params, model.tokenizer)
    else:
        provenance = {"stage": "convert", "source": model.source, "dtype": dtype}
        store.save_model(directory, model.lm, model.params, model.tokenizer, provenance)
    arrays = jax.tree.leaves(model.params)
    return facts, {"arrays": len(arrays), "parameters": sum(array.size for array in arrays)}


def _read(path: str, adapter: str | None, dtype: FloatType, mesh: Mesh) -> load.LoadedModel:
    """The source, with an adapter merged into it."""
    model = load.load_model(path, dtype, mesh)
    if adapter is not None:
        directory = store.location(adapter)
        described = adapters.read(directory)
        if described is None or model.adapter is not None:
            raise WrongUse(
                f"ADAPTER={adapter} must be a checkpoint of an adapter, and SOURCE={path} a model that has "
                "none."
            )
        params = adapters.load_onto(directory, described, model.lm, model.params, mesh)
        model = dataclasses.replace(model, params=params)
    lora.merge_in_place(model.params)
    return dataclasses.replace(model, adapter=None)


def _facts(model: load.LoadedModel, verify: bool) -> _Facts:
    ids = np.random.default_rng(0).integers(model.lm.config.vocab_size, size=(_ROWS, _LENGTH), dtype=np.int32)
    logits = np.asarray(_logits(model.lm, model.params, ids)) if verify else None
    return _Facts(model.lm, model.tokenizer.digest, logits)


@functools.partial(jax.jit, static_argnums=0)
def _logits(lm: LanguageModel, params: Params, token_ids: Int[Array, "B T"]) -> Float[Array, "B T V"]:
    return placing.for_hosts(lm.unembed(params, lm.hidden_states(params, token_ids)))


def _difference(facts: _Facts, directory: epath.Path, dtype: FloatType, mesh: Mesh) -> str:
    """In what the written model is another than the source; empty where it is the same."""
    written = load.load_model(directory, dtype, mesh)
    if written.lm != facts.lm:
        configs: list[Any] = [facts.lm.config, written.lm.config]
        ours, theirs = map(dataclasses.asdict, configs)
        names = [name for name, value in ours.items() if theirs.get(name) != value]
        return f"{', '.join(names)} read back as {[theirs.get(name) for name in names]}"
    if written.tokenizer.digest != facts.tokenizer_digest:
        return "its tokenizer reads back as another"
    return _difference_of_logits(facts.logits, _facts(written, True).logits)


def _difference_of_logits(expected: Any, found: Any) -> str:
    is_other = ~((expected == found) | (np.isnan(expected) & np.isnan(found)))  # [B, T, V]
    if not is_other.any():
        log.info("%d logits of %d rows are equal", expected.size, len(expected))
        return ""
    row, position, _ = np.argwhere(is_other)[0]
    largest = np.abs(np.where(is_other, found.astype(np.float64) - expected, 0.0)).max()
    return (
        f"{np.mean(is_other):.2%} of its logits differ from the source's, by {largest:.3g} at most, first in "
        f"row {row} at position {position}"
    )


def _discard(directory: epath.Path) -> None:
    """Removes what was written, beginning with what makes it load."""
    huggingface.discard(directory)
    store.remove(directory)


def _name(unfinished: epath.Path, target: epath.Path) -> None:
    """The finished directory takes its name; in a bucket it has it."""
    if unfinished != target:
        os.rename(unfinished, target)
        building.flush_to_disk(target.parent)
