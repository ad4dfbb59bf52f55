"""The compiled programs of the rollout engine: read prompt blocks, decode a burst of steps, copy pages.

Each is compiled once for an engine's shapes. Everything that changes between calls is an argument: weights,
noise key, request ids, prompts, sampling settings, stop ids, budgets. A burst is a `lax.while_loop` over
steps of all slots; no token visits the host before it is over. The cache is donated and updated in place.

The noise of a request's step is `fold_in(fold_in(key, request_id), step)`, so its tokens do not depend on its
slot, its neighbours, or how its steps fall into bursts.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from promptcot_jax.core.arrays import Array, Bool, Float, HostOrDevice, Int, Params, UInt
from promptcot_jax.models import flops, language_model, paged_cache
from promptcot_jax.models.causal_lm import CausalLM
from promptcot_jax.parallel import launching, placing
from promptcot_jax.parallel import rules as rules_lib
from promptcot_jax.parallel.programs import Program
from promptcot_jax.sampling import batching, token_choice
from promptcot_jax.sampling.completions import Request

MOST_STOP_IDS = 16  # of a request; their number compiles nothing


class Shapes(NamedTuple):
    """What an engine's programs are compiled for; slots, pages and blocks are those of all data shards."""

    num_shards: int
    num_slots: int
    num_pages: int
    page_size: int
    width: int  # of page tables
    num_blocks: int  # of prompts, in one call
    burst_steps: int  # at most


class Slots(NamedTuple):
    """What the slots hold at the start of a burst; an idle slot has position 0 and page 0."""

    last_ids: Int[HostOrDevice, " B"]  # the token to read next
    positions: Int[HostOrDevice, " B"]  # its position
    steps: Int[HostOrDevice, " B"]  # tokens chosen so far
    budgets: Int[HostOrDevice, " B"]  # tokens to choose at most; 0: the slot is idle
    request_ids: UInt[HostOrDevice, " B"]
    numbers: token_choice.ChoiceNumbers  # each [B]
    stop_ids: Int[HostOrDevice, "B stop"]  # -1 fills unused entries
    page_table: Int[HostOrDevice, "B W"]


class Burst(NamedTuple):
    """The new tokens of a burst; what lies beyond a row's `num_new` means nothing."""

    token_ids: Int[Array, "B steps"]
    log_probs: Float[Array, "B steps"]
    sampler_log_probs: Float[Array, "B steps"]
    num_new: Int[Array, " B"]  # the end token is one of them
    is_stopped: Bool[Array, " B"]  # ended by a stop id, not by the budget
    num_steps: Int[Array, ""]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _State:
    """What one step hands to the next."""

    last_ids: Int[Array, " B"]
    is_live: Bool[Array, " B"]
    burst: Burst
    cache: paged_cache.PagedCache


@launching.serialized
@functools.partial(jax.jit, static_argnames=("lm", "max_steps"), donate_argnames="cache")
def decode_burst(
    lm: language_model.LanguageModel,
    params: Params,
    cache: paged_cache.PagedCache,
    slots: Slots,
    key: jax.Array,
    num_steps: Int[Array, ""] | np.int32,
    enough_done: Int[Array, ""] | np.int32,
    *,
    max_steps: int,
) -> tuple[Burst, paged_cache.PagedCache]:
    """Decodes until `num_steps` steps are done, `enough_done` rows have ended, or all have.

    Args:
        params: in either layout.
        num_steps: at most `max_steps`, the size of the output buffers.
    """
    num_slots = slots.last_ids.shape[0]
    request_keys = jax.vmap(lambda request_id: jax.random.fold_in(key, request_id))(slots.request_ids)
    was_live = jnp.asarray(slots.budgets) > 0

    def keep_going(state: _State) -> Bool[Array, ""]:
        num_ended = jnp.sum(was_live & ~state.is_live)
        return (state.burst.num_steps < num_steps) & (num_ended < enough_done) & jnp.any(state.is_live)

    def advance(state: _State) -> _State:
        burst, is_live = state.burst, state.is_live
        # A row that ended stays where it is: it goes on writing at its next position, which is its own.
        positions = paged_cache.CachePositions(slots.page_table, (slots.positions + burst.num_new)[:, None])
        hidden, cache = lm.extend(params, state.last_ids[:, None], positions, state.cache)
        chosen_before = slots.steps + burst.num_new
        step_keys = jax.vmap(jax.random.fold_in)(request_keys, chosen_before)
        chosen = token_choice.choose_tokens(lm.unembed(params, hidden[:, 0]), step_keys, slots.numbers)
        stops = is_live & jnp.any(chosen.token_ids[:, None] == slots.stop_ids, axis=-1)
        step = burst.num_steps
        burst = Burst(
            burst.token_ids.at[:, step].set(chosen.token_ids),
            burst.log_probs.at[:, step].set(chosen.log_probs),
            burst.sampler_log_probs.at[:, step].set(chosen.sampler_log_probs),
            burst.num_new + is_live,
            burst.is_stopped | stops,
            step + 1,
        )
        last_ids = jnp.where(is_live, chosen.token_ids, state.last_ids)
        return _State(last_ids, is_live & ~stops & (chosen_before + 1 < slots.budgets), burst, cache)

    nothing = Burst(
        token_ids=jnp.zeros((num_slots, max_steps), jnp.int32),
        log_probs=jnp.zeros((num_slots, max_steps), jnp.float32),
        sampler_log_probs=jnp.zeros((num_slots, max_steps), jnp.float32),
        num_new=jnp.zeros(num_slots, jnp.int32),
        is_stopped=jnp.zeros(num_slots, jnp.bool_),
        num_steps=jnp.int32(0),
    )
    state = lax.while_loop(keep_going, advance, _State(jnp.asarray(slots.last_ids), was_live, nothing, cache))
    return placing.for_hosts(state.burst), state.cache


class Blocks(NamedTuple):
    """Page-sized pieces of prompts; an unused entry has position 0 and page 0."""

    token_ids: Int[HostOrDevice, "R page"]
    first_positions: Int[HostOrDevice, " R"]
    page_table: Int[HostOrDevice, "R W"]


@launching.serialized
@functools.partial(jax.jit, static_argnames=("lm",), donate_argnames="cache")
def read_blocks(
    lm: language_model.LanguageModel, params: Params, cache: paged_cache.PagedCache, blocks: Blocks
) -> paged_cache.PagedCache:
    """Reads blocks into the cache; a block may follow another of the same call.

    Each layer writes all blocks' keys before any block attends, so it makes no difference into which calls
    the blocks of a prompt fall.
    """
    positions = blocks.first_positions[:, None] + jnp.arange(blocks.token_ids.shape[1])
    return lm.extend(
        params, blocks.token_ids, paged_cache.CachePositions(blocks.page_table, positions), cache
    )[1]


class Copies(NamedTuple):
    """Pages to copy, (0, 0) for none."""

    sources: Int[HostOrDevice, " B"]
    targets: Int[HostOrDevice, " B"]


@launching.serialized
@functools.partial(jax.jit, static_argnames=("lm",), donate_argnames="cache")
def copy_pages(
    lm: language_model.LanguageModel, cache: paged_cache.PagedCache, copies: Copies
) -> paged_cache.PagedCache:
    """Copies pages in all layers: a shared prompt's last, unfinished page, for a request to go on in."""
    return paged_cache.copy_pages(cache, *copies, num_layers=lm.config.num_layers, rules=lm.rules)


@launching.serialized
@functools.partial(jax.jit, static_argnames=("lm", "num_pages", "page_size"))
def empty_cache(lm: language_model.LanguageModel, num_pages: int, page_size: int) -> paged_cache.PagedCache:
    """A cache, laid out over the mesh by the model's rules; it never exists elsewhere."""
    return lm.init_cache(num_pages, page_size)


def no_blocks(num_blocks: int, page_size: int, width: int) -> Blocks:
    """Blocks that are not used."""
    return Blocks(
        np.zeros((num_blocks, page_size), np.int32),
        np.zeros(num_blocks, np.int32),
        np.zeros((num_blocks, width), np.int32),
    )


def no_copies(num_slots: int) -> Copies:
    """Nothing to copy."""
    return Copies(np.zeros(num_slots, np.int32), np.zeros(num_slots, np.int32))


def idle_slots(num_slots: int, width: int) -> Slots:
    """Idle slots; `enter`, `advance` and `leave` keep them up to date in place."""
    return Slots(
        last_ids=np.zeros(num_slots, np.int32),
        positions=np.zeros(num_slots, np.int32),
        steps=np.zeros(num_slots, np.int32),
        budgets=np.zeros(num_slots, np.int32),
        request_ids=np.zeros(num_slots, np.uint32),
        numbers=token_choice.ChoiceNumbers(
            temperature=np.ones(num_slots, np.float32),
            top_p=np.ones(num_slots, np.float32),
            top_k=np.zeros(num_slots, np.int32),
            min_p=np.zeros(num_slots, np.float32),
        ),
        stop_ids=np.full((num_slots, MOST_STOP_IDS), -1, np.int32),
        page_table=np.zeros((num_slots, width), np.int32),
    )


def enter(slots: Slots, slot: int, request: Request, last_id: int, position: int) -> None:
    """A request whose prompt has been read goes into a slot; its pages are entered by the caller."""
    slots.last_ids[slot], slots.positions[slot] = last_id, position
    slots.steps[slot] = len(request.partial.token_ids)
    slots.budgets[slot] = request.sampling.max_new_tokens
    slots.request_ids[slot] = request.id
    for of_slots, number in zip(slots.numbers, request.sampling.numbers(), strict=True):
        of_slots[slot] = number
    slots.stop_ids[slot, : len(request.stop_ids)] = request.stop_ids


def advance(slots: Slots, burst: Burst) -> None:
    """Every row goes on by what it decoded."""
    num_new = np.asarray(burst.num_new)
    newest = np.asarray(burst.token_ids)[np.arange(len(num_new)), num_new - 1]
    np.copyto(slots.last_ids, newest, where=num_new > 0)
    slots.positions[:] += num_new
    slots.steps[:] += num_new


def leave(slots: Slots, slot: int) -> None:
    """A slot becomes idle."""
    for array in jax.tree.leaves(slots):
        array[slot] = 0
    slots.stop_ids[slot] = -1
    slots.numbers.temperature[slot] = slots.numbers.top_p[slot] = 1.0


def programs(
    name: str,
    lm: CausalLM,
    mesh: Mesh,
    params: Params,
    shapes: Shapes,
    *,
    context: int,
    resident: Mapping[str, Any],
) -> list[Program]:
    """Reading prompts and decoding, as an engine of these shapes calls them, for the planner.

    Args:
        params: shapes with shardings, in `lm.decoding_layout`.
        context: tokens that a slot holds, for the roofline estimate.
    """
    blocks = no_blocks(shapes.num_blocks, shapes.page_size, shapes.width)
    with jax.set_mesh(mesh):
        blocks = batching.shapes_of_rows(blocks, lm.rules)
        rows = batching.shapes_of_rows(idle_slots(shapes.num_slots, shapes.width), lm.rules)
    cache = jax.eval_shape(
        lambda: dataclasses.replace(lm, rules=()).init_cache(shapes.num_pages, shapes.page_size)
    )
    keys: Array = jax.tree.leaves(cache)[0]
    spec = rules_lib.partition_spec(mesh, cache.axes, keys.shape, lm.rules)
    cache = placing.as_shapes(cache, NamedSharding(mesh, spec))
    key = placing.as_shapes(jax.eval_shape(lambda: jax.random.key(0)), NamedSharding(mesh, PartitionSpec()))
    decode = functools.partial(
        decode_burst.lower,
        lm,
        params,
        cache,
        rows,
        key,
        np.int32(1),
        np.int32(1),
        max_steps=shapes.burst_steps,
    )
    dtype = params["embed_tokens"]["embedding"].dtype.name
    program = functools.partial(
        Program, mesh=mesh, resident=resident, settings=("cache_tokens", "num_slots", "mesh")
    )
    return [
        program(
            name=f"{name}: prefill",
            lower=functools.partial(read_blocks.lower, lm, params, cache, blocks),
            parts={"parameters": params, "batch": blocks, "cache": cache},
            work=flops.prefill_work(
                lm.config, mesh, num_blocks=shapes.num_blocks, page_size=shapes.page_size
            ),
        ),
        program(
            name=f"{name}: decode",
            lower=decode,
            parts={"parameters": params, "batch": rows, "cache": cache},
            work=flops.decoding_work(
                lm.config, mesh, num_slots=shapes.num_slots, context=context, param_dtype=dtype
            ),
        ),
    ]
