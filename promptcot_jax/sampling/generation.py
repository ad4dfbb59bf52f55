"""Completions of many prompts: sorted by length, cut into batches of few shapes, sampled, put back in order.

This is the static batch: a batch runs until its last row is done, G samples of a prompt are G rows that each
prefill it, and the cache is allocated for prompt and budget in full, rows x (prompt bucket + budget bucket)
slots, each step attending over all of them, whatever the rows turn out to need.

Tokens are a function of parameters, prompt, key, request id and settings. Within one batch shape that holds
exactly, across shapes up to the rounding of the matrix products.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

import jax
import numpy as np

from promptcot_jax.core.arrays import Params
from promptcot_jax.models import causal_lm
from promptcot_jax.sampling import batching, decode_loop, token_choice

_STOP_PLACES = 8  # stop ids are padded to a multiple of this, so that their number compiles nothing


@dataclasses.dataclass(frozen=True)
class Completion:
    """What a model wrote after a prompt; an end token that it wrote is part of it, and scored."""

    token_ids: tuple[int, ...]
    log_probs: np.ndarray  # [n] float32, under the model at the sampling temperature (greedy: at 1)
    sampler_log_probs: np.ndarray  # [n] float32, under what top-k, top-p and min-p left of it
    finish_reason: Literal["stop", "length"]

    @property
    def ids_without_end(self) -> tuple[int, ...]:
        """The ids of what was written, without the end token."""
        return self.token_ids[:-1] if self.finish_reason == "stop" else self.token_ids


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
        key: of a stream and step, e.g. `prng.stream_key(seed, "propose", round_index)`.
        request_ids: whose noise each row draws; by default its place in `prompts`. Rows that share an id
            share their noise, so G samples of one prompt need G ids.
        batch_size: rows of a batch (see `batching.rows_of_batch`); the last one is filled up with rows that
            start done.
        is_decoding_layout: `params` have been through `lm.decoding_layout` already.

    Raises:
        ValueError: an empty prompt, ids outside the vocabulary, a prompt and budget that exceed the model's
            positions, request ids that do not match the prompts or 32 bits.
    """
    request_ids = range(len(prompts)) if request_ids is None else request_ids
    _check(lm, prompts, request_ids, sampling, stop_ids, batch_size)
    if not prompts:
        return []
    if not is_decoding_layout:
        params = _decoding_layout(lm, params)
    num_rows = batching.rows_of_batch(len(prompts), batch_size, lm.rules)
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    completions: dict[int, Completion] = {}
    for start in range(0, len(by_length), num_rows):
        members = by_length[start : start + num_rows]
        # The last token is read by the decode loop.
        width = batching.bucket(len(prompts[members[-1]]) - 1) + 1
        token_ids, is_prompt = batching.left_padded([prompts[i] for i in members], num_rows, width, pad_id)
        noise_ids = np.zeros(num_rows, np.uint32)
        noise_ids[: len(members)] = [request_ids[i] for i in members]
        sampled = decode_loop.sample_rows(
            lm,
            params,
            *batching.place_rows((token_ids, is_prompt, noise_ids), lm.rules),
            key,
            sampling.numbers(),
            _stop_places(stop_ids),
            np.int32(pad_id),
            np.int32(sampling.max_new_tokens),
            num_slots=batching.bucket(sampling.max_new_tokens),
        )
        completions |= zip(members, _completions(jax.device_get(sampled)), strict=False)  # dummies come last
    return [completions[i] for i in range(len(prompts))]


@functools.partial(jax.jit, static_argnums=0)
def _decoding_layout(lm: causal_lm.CausalLM, params: Params) -> Params:
    return lm.decoding_layout(params)


def _stop_places(stop_ids: Sequence[int]) -> np.ndarray:
    num_places = -(-max(len(stop_ids), 1) // _STOP_PLACES) * _STOP_PLACES
    places = np.full(num_places, -1, np.int32)  # no token has id -1
    places[: len(stop_ids)] = stop_ids
    return places


def _completions(sampled: decode_loop.SampledRows) -> list[Completion]:
    return [
        Completion(
            tuple(ids[:n].tolist()), log_probs[:n], sampler_log_probs[:n], "stop" if is_stopped else "length"
        )
        for ids, log_probs, sampler_log_probs, n, is_stopped in zip(*sampled, strict=True)
    ]


def _check(
    lm: causal_lm.CausalLM,
    prompts: Sequence[Sequence[int]],
    request_ids: Sequence[int],
    sampling: token_choice.SamplingConfig,
    stop_ids: Sequence[int],
    batch_size: int,
) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    if len(request_ids) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts need as many request_ids, got {len(request_ids)}.")
    if any(not 0 <= request_id < 2**32 for request_id in request_ids):
        raise ValueError("request_ids must lie in [0, 2**32): they are folded into the noise key.")
    batching.check_token_ids(prompts, lm.config.vocab_size, "Prompt")
    batching.check_token_ids([stop_ids], lm.config.vocab_size, "List of stop ids")
    for i, prompt in enumerate(prompts):
        if not len(prompt):
            raise ValueError(
                f"Prompt {i} is empty; begin it with at least one token, such as the model's bos."
            )
        if len(prompt) + sampling.max_new_tokens > lm.config.max_positions:
            raise ValueError(
                f"Prompt {i} of {len(prompt)} tokens and max_new_tokens={sampling.max_new_tokens} exceed the "
                f"model's max_positions={lm.config.max_positions}; shorten one of them."
            )
