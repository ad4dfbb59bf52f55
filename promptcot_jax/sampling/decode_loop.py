"""One compiled program per batch shape: prefill of the prompts, then a `lax.while_loop` over new tokens.

Everything that changes between calls (noise key, request ids, stop ids, temperature, truncation, token
budget) is an argument; only the model's definition and the buffer sizes are compiled in. No token visits the
host before the batch is done. The noise of a row's step is `fold_in(fold_in(key, request_id), step)`, so a
request's tokens do not depend on its place in the batch, its neighbours or their number of steps.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from promptcot_jax.core.arrays import Array, Bool, Float, Int, Params, UInt
from promptcot_jax.models import causal_lm
from promptcot_jax.sampling import token_choice


class SampledRows(NamedTuple):
    """New tokens of a batch; what lies beyond a row's `num_tokens` is padding."""

    token_ids: Int[Array, "B new"]
    log_probs: Float[Array, "B new"]
    sampler_log_probs: Float[Array, "B new"]
    num_tokens: Int[Array, " B"]  # the end token is one of them
    is_stopped: Bool[Array, " B"]  # ended by a stop id, not by the budget


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodeState:
    """What one step hands to the next."""

    step: Int[Array, ""]  # tokens chosen so far by every row that is not done
    last_ids: Int[Array, " B"]
    is_done: Bool[Array, " B"]
    rows: SampledRows
    cache: causal_lm.Cache


@functools.partial(jax.jit, static_argnames=("lm", "num_slots"))
def sample_rows(
    lm: causal_lm.CausalLM,
    params: Params,
    prompt_ids: Int[Array, "B P"],
    is_prompt: Bool[Array, "B P"],
    request_ids: UInt[Array, " B"],
    key: jax.Array,
    numbers: token_choice.ChoiceNumbers,
    stop_ids: Int[Array, " stop"],
    pad_id: Int[Array, ""],
    max_steps: Int[Array, ""],
    *,
    num_slots: int,
) -> SampledRows:
    """Samples a batch of left-padded prompts until every row has stopped or has `max_steps` tokens.

    Args:
        params: in the model's decoding layout.
        is_prompt: False marks padding; a row without a single token is a dummy that starts done.
        stop_ids: ids that end a row; -1 fills unused places.
        max_steps: at least 1 and at most `num_slots`.
        num_slots: size of the output buffers, compiled in.
    """
    num_rows, prompt_width = prompt_ids.shape
    request_keys = jax.vmap(lambda request_id: jax.random.fold_in(key, request_id))(request_ids)

    def keep_going(state: DecodeState) -> Bool[Array, ""]:
        return (state.step < max_steps) & ~jnp.all(state.is_done)

    def advance(state: DecodeState) -> DecodeState:
        is_live = ~state.is_done
        hidden, cache = lm.extend(params, state.last_ids[:, None], is_live[:, None], state.cache)
        step_keys = jax.vmap(lambda request_key: jax.random.fold_in(request_key, state.step))(request_keys)
        chosen = token_choice.choose_tokens(lm.unembed(params, hidden[:, 0]), step_keys, numbers)
        token_ids = jnp.where(is_live, chosen.token_ids, pad_id)
        stops = is_live & jnp.any(token_ids[:, None] == stop_ids, axis=-1)
        rows = SampledRows(
            state.rows.token_ids.at[:, state.step].set(token_ids),
            state.rows.log_probs.at[:, state.step].set(chosen.log_probs),
            state.rows.sampler_log_probs.at[:, state.step].set(chosen.sampler_log_probs),
            state.rows.num_tokens + is_live,
            state.rows.is_stopped | stops,
        )
        return DecodeState(state.step + 1, token_ids, state.is_done | stops, rows, cache)

    # The loop reads the prompts' last tokens, so that only its body holds a head and a choice of tokens.
    cache = lm.init_cache(num_rows, prompt_width - 1 + num_slots)
    _, cache = lm.extend(params, prompt_ids[:, :-1], is_prompt[:, :-1], cache)
    state = DecodeState(
        step=jnp.int32(0),
        last_ids=prompt_ids[:, -1],
        is_done=~is_prompt[:, -1],
        rows=SampledRows(
            token_ids=jnp.full((num_rows, num_slots), pad_id, jnp.int32),
            log_probs=jnp.zeros((num_rows, num_slots), jnp.float32),
            sampler_log_probs=jnp.zeros((num_rows, num_slots), jnp.float32),
            num_tokens=jnp.zeros(num_rows, jnp.int32),
            is_stopped=jnp.zeros(num_rows, jnp.bool_),
        ),
        cache=cache,
    )
    return lax.while_loop(keep_going, advance, state).rows
