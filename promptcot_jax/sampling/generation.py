"""Completions of a list of prompts, in the order of the prompts: one stream of an engine made to measure."""

from collections.abc import Sequence

import jax

from promptcot_jax.core.arrays import Params
from promptcot_jax.models import language_model
from promptcot_jax.sampling import batching, engine, token_choice
from promptcot_jax.sampling.completions import Completion, Request


def generate(
    lm: language_model.LanguageModel,
    params: Params,
    prompts: Sequence[Sequence[int]],
    *,
    sampling: token_choice.SamplingConfig,
    stop_ids: Sequence[int],
    key: jax.Array,
    request_ids: Sequence[int] | None = None,
    num_slots: int = 32,
    stop_texts: Sequence[str] = (),
    decode_text: engine.DecodeText | None = None,
) -> list[Completion]:
    """One completion per prompt, in the order of the prompts.

    Args:
        params: in `lm.decoding_layout`, or as the trainer has them.
        key: of a stream and step, e.g. `prng.stream_key(seed, "propose", round_index)`.
        request_ids: whose noise each row draws; by default its index in `prompts`. Rows that share an id
            share their noise, so G samples of one prompt need G ids.
        num_slots: rows decoded at once; fewer where there are fewer prompts.

    Raises:
        ValueError: an empty prompt, ids outside the vocabulary, a prompt and budget that exceed the model's
            positions, request ids that do not match the prompts or 32 bits.
    """
    request_ids = range(len(prompts)) if request_ids is None else request_ids
    if len(request_ids) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts need as many request_ids, got {len(request_ids)}.")
    if num_slots < 1:
        raise ValueError(f"num_slots must be at least 1, got {num_slots}.")
    if not prompts:
        return []
    requests = [
        Request(
            id=request_id,
            prompt_ids=tuple(prompt),
            sampling=sampling,
            stop_ids=tuple(stop_ids),
            stop_texts=tuple(stop_texts),
        )
        for request_id, prompt in zip(request_ids, prompts, strict=True)
    ]
    made = engine.Engine(
        lm,
        engine.EngineConfig(num_slots=min(num_slots, batching.few_counts(len(prompts)))),
        max_tokens=max(request.most_tokens for request in requests),
    )
    for request in requests:
        made.check(request)
    indices = {id(request): i for i, request in enumerate(requests)}
    completions: dict[int, Completion] = {}
    for request, completion in made.stream(params, requests, key, decode_text):
        completions[indices[id(request)]] = completion
    return [completions[i] for i in range(len(prompts))]
