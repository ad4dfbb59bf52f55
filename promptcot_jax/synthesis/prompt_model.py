"""Drafts from a real p_theta: sampled by the compiled decode loop, scored teacher-forced at temperature 1.

The scores are log p(z | c) and log p(x | z, c) of the model itself, whatever temperature or cut the sampler
used, and of the ids that were sampled, even where their text would tokenize otherwise.
"""

from collections.abc import Sequence

import numpy as np

from promptcot_jax.checkpoints import load
from promptcot_jax.core import prng
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import examples, templates
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.sampling import generation, scoring
from promptcot_jax.synthesis import writing


def draft_writer(
    model: load.LoadedModel, config: writing.WritingConfig, *, score_tokens: int
) -> writing.WriteDrafts:
    """A function that drafts problems with `model`; the decoding layout is made once.

    Args:
        score_tokens: tokens of one scoring batch.
    """
    lm, tokenizer = model.lm, model.tokenizer
    decoding_params = lm.decoding_layout(model.params)
    key = prng.stream_key(config.seed, "synthesize")

    def write_drafts(requests: Sequence[writing.Request]) -> list[writing.Draft]:
        prompts = [tuple(examples.theta_prompt_ids(tokenizer, request.concept_set)) for request in requests]
        completions = generation.generate(
            lm,
            decoding_params,
            prompts,
            sampling=config.sampling,
            stop_ids=tokenizer.stop_ids,
            key=key,
            request_ids=[request.index for request in requests],
            batch_size=config.batch_size,
            pad_id=tokenizer.pad_id,
            is_decoding_layout=True,
        )
        token_log_probs = scoring.score(
            lm,
            model.params,
            prompts,
            [completion.token_ids for completion in completions],
            batch_tokens=score_tokens,
            pad_id=tokenizer.pad_id,
        )
        return [
            to_draft(tokenizer, request, completion, scores)
            for request, completion, scores in zip(requests, completions, token_log_probs, strict=True)
        ]

    return write_drafts


def to_draft(
    tokenizer: Tokenizer,
    request: writing.Request,
    completion: generation.Completion,
    token_log_probs: np.ndarray,
) -> writing.Draft:
    """Splits one scored completion into its z and x parts."""
    ended = completion.finish_reason == "stop"
    ids = completion.ids_without_end
    text = tokenizer.decode(ids)
    split = len(examples.leading_rationale(tokenizer, ids)[0])
    parsed = templates.parse_problem(text) if ended else None
    return writing.Draft(
        request=request.index,
        concept_set_id=request.concept_set.id,
        sample=request.sample,
        text=text,
        finish_reason=completion.finish_reason,
        num_tokens=len(completion.token_ids),
        log_p_z=float(token_log_probs[:split].sum(dtype=np.float64)),
        log_p_x=float(token_log_probs[split:].sum(dtype=np.float64)),
        retokenized=parsed is not None and canonical_ids(tokenizer, *parsed) != tuple(completion.token_ids),
    )


def canonical_ids(tokenizer: Tokenizer, rationale: str, problem: str) -> tuple[int, ...] | None:
    """What (z, x) is as a training target; None where its text spells out a stop token and can be none."""
    try:
        return (*examples.rationale_ids(tokenizer, rationale), *examples.problem_ids(tokenizer, problem))
    except WrongUse:
        return None
