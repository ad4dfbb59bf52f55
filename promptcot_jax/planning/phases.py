"""The programs of a stage with the shapes and places of their arguments, ready to compile for other chips.

Nothing is loaded: a model's shape comes from the gin files, lengths from the settings. What a stage keeps on
the chips while a program runs, and what the program does not see, is listed beside it (`resident`): while
q_phi trains, p_theta's float32 parameters lie there too.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from promptcot_jax.checkpoints import huggingface
from promptcot_jax.core.arrays import Params
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data.packing import PackedBatch
from promptcot_jax.models import causal_lm, lora
from promptcot_jax.models.config import DecoderConfig, FloatType
from promptcot_jax.models.lora import LoraConfig
from promptcot_jax.objectives import token_log_probs
from promptcot_jax.parallel import rules
from promptcot_jax.planning import roofline
from promptcot_jax.sampling import batching, scoring, slots
from promptcot_jax.sampling import engine as engine_lib
from promptcot_jax.sources.model_source import FromScratch, ModelSource
from promptcot_jax.trainers import train_step
from promptcot_jax.trainers.loop import Fitter
from promptcot_jax.trainers.train_step import StepConfig

Tree = TypeVar("Tree")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """One compiled program of a stage.

    Attributes:
        lower: traces it for the chips that `mesh` consists of; called inside `jax.set_mesh(mesh)`.
        parts: its arguments by what they are: "parameters", "optimizer", "batch", "cache".
        resident: what lies on the chips besides.
        turns: of a loop whose number of turns is data, at most.
        work: what one call does, for the roofline estimate.
        settings: names of the settings that can make it smaller, in the order in which they are tried.
    """

    name: str
    mesh: Mesh
    lower: Callable[[], jax.stages.Lowered]
    parts: Mapping[str, Any]
    resident: Mapping[str, Any]
    turns: int
    work: roofline.Work
    settings: tuple[str, ...]


def language_model(
    source: ModelSource, *, dtype: FloatType | None = None, param_dtype: FloatType = "float32"
) -> causal_lm.CausalLM:
    """The model that a source would load, with the kernels of TPUs.

    Args:
        dtype: of computation, where a stage says it itself, and then `param_dtype` of parameters; None: both
            as the source says.

    Raises:
        WrongUse: the source states no shape, and no config.json is at its path.
    """
    if isinstance(source, FromScratch):
        if not isinstance(source.model, causal_lm.CausalLM):
            raise WrongUse(f"plan knows the decoders of configs/models/, not {type(source.model).__name__}.")
        config = source.model.config
    else:
        stated = source.expected or _shape_in(source.path)
        config = dataclasses.replace(stated, dtype=source.dtype, param_dtype=source.dtype)
    if dtype is not None:
        config = dataclasses.replace(config, dtype=dtype, param_dtype=param_dtype)
    return causal_lm.CausalLM(config, rules.DEFAULT_RULES, platform="tpu")


def _shape_in(path: str) -> DecoderConfig:
    try:
        return huggingface.read_config(epath.Path(path))
    except WrongUse as error:
        raise WrongUse(
            f"the model {path} has no stated shape: {error} Give a directory with its config.json, or one of "
            "the files of configs/models/ that set Pretrained.expected."
        ) from None


def placed(shapes: Tree, shardings: Any) -> Tree:
    """Shapes with their shardings, a tree of them or one for all."""
    if isinstance(shardings, Sharding):
        shardings = jax.tree.map(lambda _: shardings, shapes)
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=sharding), shapes, shardings
    )


def parameters(
    lm: causal_lm.CausalLM, mesh: Mesh, dtype: FloatType, adapter: LoraConfig | None = None
) -> Params:
    """A set of parameters of one type; with an adapter, that in float32 besides."""
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, dtype), lora.trained_shapes(lm, config=None)
    )
    base = placed(shapes, lora.trained_shardings(lm, None, mesh))
    return base if adapter is None else lora.join(base, adapter_of(lm, mesh, adapter))


def decoding_parameters(
    lm: causal_lm.CausalLM, mesh: Mesh, dtype: FloatType, adapter: LoraConfig | None = None
) -> Params:
    """The same, laid out for decoding."""
    params = parameters(lm, mesh, dtype, adapter)
    specs = lm.decoding_specs(params, mesh)
    return placed(params, jax.tree.map(functools.partial(NamedSharding, mesh), specs))


def adapter_of(lm: causal_lm.CausalLM, mesh: Mesh, config: LoraConfig) -> Params:
    """What an adapter adds to the parameters."""
    return placed(lora.adapter_shapes(lm, config), lora.adapter_shardings(lm, config, mesh))


def fit(
    name: str,
    lm: causal_lm.CausalLM,
    fitter: Fitter,
    loss: train_step.Loss,
    resident: Mapping[str, Any],
    values: tuple[str, ...] = (),
) -> Phase:
    """A training step of a fit.

    Args:
        values: names of the batch's numbers by token, of losses that take some.
    """
    return update(
        name,
        lm,
        fitter.mesh,
        fitter.step_config(loss),
        num_rows=fitter.fit.rows_per_batch,
        row_length=fitter.fit.row_length,
        resident=resident,
        values=values,
    )


def update(
    name: str,
    lm: causal_lm.CausalLM,
    mesh: Mesh,
    config: StepConfig,
    *,
    num_rows: int,
    row_length: int,
    resident: Mapping[str, Any],
    values: tuple[str, ...],
) -> Phase:
    """A training step on a batch of so many rows."""
    step, adapter = train_step.make_train_step(lm, config, mesh), config.adapter
    base_dtype = "float32" if adapter is None else lm.config.param_dtype
    trained, frozen = lora.split(parameters(lm, mesh, base_dtype, adapter))
    state = step.abstract_state
    whole = NamedSharding(mesh, PartitionSpec())
    batch = _batch(num_rows, row_length, values, step.batch_sharding)
    end = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
    rows_of_shard = num_rows // step.rows_multiple
    return Phase(
        name=name,
        mesh=mesh,
        lower=functools.partial(step.run.lower, state, batch, end, frozen),
        parts={"parameters": (state.params, frozen), "optimizer": state.opt_state, "batch": batch},
        resident=resident,
        turns=_head_pieces(rows_of_shard, row_length // rules.num_shards(mesh, "length", lm.rules)),
        work=roofline.of_training(
            lm.config,
            mesh,
            num_rows=num_rows,
            length=row_length,
            micro_batches=config.micro_batches,
            remat=config.remat,
            num_trained=sum(leaf.size for leaf in jax.tree.leaves(trained)),
            is_adapter=adapter is not None,
        ),
        settings=("micro_batches", "remat", "mesh"),
    )


def _batch(num_rows: int, length: int, values: tuple[str, ...], sharding: Sharding) -> PackedBatch:
    def array(dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((num_rows, length), dtype, sharding=sharding)

    # Past the checks of the fields, which are for arrays.
    arrays = (array(jnp.int32), array(jnp.int32), array(jnp.int32), array(jnp.bool_))
    return PackedBatch.tree_unflatten(None, (*arrays, {name: array(jnp.float32) for name in values}))


def _head_pieces(rows_of_shard: int, length: int) -> int:
    """Turns of a shard's loop over pieces of the head, where every token has a label."""
    width = min(length, max(1, token_log_probs.CHUNK_TOKENS // max(1, rows_of_shard)))
    return -(-length // width)


def score(
    name: str,
    lm: causal_lm.CausalLM,
    mesh: Mesh,
    *,
    dtype: FloatType,
    length: int,
    batch_tokens: int,
    resident: Mapping[str, Any],
    adapter: LoraConfig | None = None,
) -> Phase:
    """Teacher-forced scoring of rows of `length` tokens, all but one of them scored."""
    width = batching.bucket(length)
    shards = rules.num_shards(mesh, "batch", lm.rules)
    num_rows = -(-max(1, batch_tokens // width) // shards) * shards
    params = parameters(lm, mesh, dtype, adapter)
    with jax.set_mesh(mesh):
        turns = scoring.num_head_chunks(lm, num_rows, width)
    return Phase(
        name=name,
        mesh=mesh,
        lower=functools.partial(scoring.lower_rows, lm, params, num_rows, width),
        parts={"parameters": params},
        resident=resident,
        turns=turns,
        work=roofline.of_scoring(lm.config, mesh, num_rows=num_rows, length=width),
        settings=("score_tokens", "mesh"),
    )


def sampling(
    name: str,
    lm: causal_lm.CausalLM,
    mesh: Mesh,
    *,
    dtype: FloatType,
    config: engine_lib.EngineConfig,
    max_tokens: int,
    resident: Mapping[str, Any],
    adapter: LoraConfig | None = None,
) -> list[Phase]:
    """The engine's prefill and decode programs.

    Args:
        dtype: of the parameters as the engine reads them.
        max_tokens: of a request, prompt and completion together.
    """
    with jax.set_mesh(mesh):
        try:
            shapes = engine_lib.Engine(lm, config, max_tokens=max_tokens).shapes
        except ValueError as error:
            raise WrongUse(str(error)) from None
    sharding, whole = rules.batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
    params = decoding_parameters(lm, mesh, dtype, adapter)
    cache = _cache(lm, mesh, shapes.num_pages, config.page_size)
    num_blocks = config.prefill_blocks * shapes.num_schedulers
    blocks = placed(slots.no_blocks(num_blocks, config.page_size, shapes.width), sharding)
    rows = placed(slots.idle_slots(shapes.num_slots, shapes.width), sharding)
    key = placed(jax.eval_shape(lambda: jax.random.key(0)), whole)
    decode = functools.partial(
        slots.decode_burst.lower, lm, params, cache, rows, key, np.int32(1), np.int32(1)
    )
    share = functools.partial(
        Phase, mesh=mesh, resident=resident, turns=1, settings=("cache_tokens", "num_slots", "mesh")
    )
    return [
        share(
            name=f"{name}: prefill",
            lower=functools.partial(slots.read_blocks.lower, lm, params, cache, blocks),
            parts={"parameters": params, "batch": blocks, "cache": cache},
            work=roofline.of_prefill(lm.config, mesh, num_blocks=num_blocks, page_size=config.page_size),
        ),
        share(
            name=f"{name}: decode",
            lower=functools.partial(decode, max_steps=config.burst_steps),
            parts={"parameters": params, "batch": rows, "cache": cache},
            work=roofline.of_decoding(
                lm.config, mesh, num_slots=shapes.num_slots, context=max_tokens // 2, param_dtype=dtype
            ),
        ),
    ]


def _cache(lm: causal_lm.CausalLM, mesh: Mesh, num_pages: int, page_size: int) -> Any:
    unplaced = dataclasses.replace(lm, rules=())
    cache = jax.eval_shape(lambda: unplaced.init_cache(num_pages, page_size))
    keys: Any = jax.tree.leaves(cache)[0]
    spec = rules.partition_spec(mesh, cache.axes, keys.shape, lm.rules)
    return placed(cache, NamedSharding(mesh, spec))
