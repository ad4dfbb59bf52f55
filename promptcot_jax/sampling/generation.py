"""Completions of many prompts: sorted by length, cut into batches of few shapes, sampled, put back in order.

This is the static batch: a batch runs until its last row is done, G samples of a prompt are G rows that each prefill
it, and the cache is allocated for the whole prompt and budget at once. The memory of a batch is therefore
rows x (prompt bucket + budget bucket) cache slots, whatever the rows turn out to need.

Two rows with the same request id (and prompt) share their noise and come out alike; G samples of one prompt need G ids.
Tokens are a function of (parameters, prompt, key, request id, settings); over different batch *shapes* that holds up
to the rounding of the matrix products, within one shape exactly.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from promptcot_jax.core import errors
from promptcot_jax.core.arrays import Params
from promptcot_jax.models import causal_lm
from promptcot_jax.parallel import rules
from promptcot_jax.sampling import batching, decode_loop, token_choice

_STOP_PLACES = 8  # stop ids are padded to a multiple of this, so that few programs are compiled


@dataclasses.dataclass(frozen=True)
class Completion:
    """What a model wrote after a prompt, the end token included and scored."""

    token_ids: tuple[int, ...]
    log_probs: np.ndarray  # [n] float32, under the model at the sampling temperature (greedy: at 1)
    sampler_log_probs: np.ndarray  # [n] float32, under what top-k, top-p and min-p left
    finish_reason: Literal["stop", "length"]


def generate(
    lm: causal_lm.CausalLM,
    params: Params,
    prompts: Sequence[Sequence[int]],
    *,
    sampling: token_choice.SamplingConfig,
    stop_ids: Sequence[int],
    key: jax.Array,
    request_ids: Sequence[int] | None = None,
    batch_size: int = 32,
    pad_id: int = 0,
    is_decoding_layout: bool = False,
) -> list[Completion]:
    """One completion per prompt, in the order of the prompts.

    Args:
        key: of the stream, e.g. `prng.stream_key(seed, "propose", round_index)`.
        request_ids: name each row's noise; by default its place in `prompts`.
        batch_size: rows of a batch; the last one is filled up with rows that start done. A call with fewer prompts
            uses the next power of two instead, and a mesh rounds it up to a multiple of its data shards.
        is_decoding_layout: `params` have been through `lm.decoding_layout` already.

    Raises:
        WrongUse: an empty prompt, a token or stop id outside the vocabulary, a prompt and budget longer than the
            model's positions.
        ValueError: as many request ids as prompts are needed, each within 32 bits.
    """
    if not prompts:
        return []
    request_ids = range(len(prompts)) if request_ids is None else request_ids
    _check(lm, prompts, request_ids, sampling, stop_ids, batch_size)
    if not is_decoding_layout:
        params = _decoding_layout(lm, params)
    num_rows = batching.rows_of_batch(len(prompts), batch_size, lm.rules)
    num_slots = batching.bucket(sampling.max_new_tokens)
    stop_places = np.full(-(-max(len(stop_ids), 1) // _STOP_PLACES) * _STOP_PLACES, -1, np.int32)
    stop_places[: len(stop_ids)] = stop_ids

    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    completions: dict[int, Completion] = {}
    for start in range(0, len(by_length), num_rows):
        members = by_length[start : start + num_rows]
        width = batching.bucket(max(len(prompts[i]) for i in members))
        token_ids, is_prompt = batching.left_padded([prompts[i] for i in members], num_rows, width, pad_id)
        noise_ids = np.zeros(num_rows, np.uint32)
        noise_ids[: len(members)] = [request_ids[i] for i in members]
        sampled = decode_loop.sample_rows(
            lm,
            params,
            *batching.place_rows((token_ids, is_prompt, noise_ids), lm.rules),
            key,
            sampling.numbers(),
            stop_places,
            np.int32(pad_id),
            np.int32(sampling.max_new_tokens),
            num_slots=num_slots,
        )
        completions |= zip(members, _read(sampled, len(members)), strict=True)
    return [completions[i] for i in range(len(prompts))]
