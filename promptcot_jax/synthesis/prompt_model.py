"""Drafts from a real p_theta: sampled by the rollout engine, scored teacher-forced at temperature 1.

The scores are log p(z | c) and log p(x | z, c) of the model itself, whatever temperature or cut the sampler
used, and of the ids that were sampled, even where their text would tokenize otherwise.
"""

from collections.abc import Sequence

import numpy as np
from etils import epath

from promptcot_jax.checkpoints import load
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import ConceptSet
from promptcot_jax.data import examples, templates
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.sampling import completions, rollouts, scoring
from promptcot_jax.synthesis import writing
from promptcot_jax.synthesis.drafts import Draft


def draft_writer(
    model: load.LoadedModel, config: rollouts.RolloutConfig, *, score_tokens: int
) -> writing.WriteDrafts:
    """A function that drafts problems with `model`, shard by shard; the decoding layout is made once.

    Args:
        score_tokens: tokens of one scoring batch.
    """
    lm, tokenizer = model.lm, model.tokenizer
    sampler = rollouts.make_sampler(lm, model.params, tokenizer, config, "synthesize")

    def prompt_ids(concept_set: ConceptSet) -> list[int]:
        return tokenizer.prompt_ids(examples.theta_prompt(concept_set))

    def to_drafts(
        draws: Sequence[rollouts.Draw[ConceptSet]], drawn: Sequence[completions.Completion]
    ) -> list[Draft]:
        token_log_probs = scoring.score(
            lm,
            model.params,
            [prompt_ids(draw.row) for draw in draws],
            [completion.token_ids for completion in drawn],
            batch_tokens=score_tokens,
            pad_id=tokenizer.pad_id,
        )
        return [
            to_draft(tokenizer, draw, completion, scores)
            for draw, completion, scores in zip(draws, drawn, token_log_probs, strict=True)
        ]

    def write_drafts(path: epath.PathLike, draws: Sequence[rollouts.Draw[ConceptSet]]) -> list[Draft]:
        return rollouts.map_draws(
            path,
            draws,
            to_drafts,
            Draft,
            sampler=sampler,
            prompt_ids=prompt_ids,
            shard_size=config.requests_per_shard,
            name="synthesize",
        )

    return write_drafts


def to_draft(
    tokenizer: Tokenizer,
    draw: rollouts.Draw[ConceptSet],
    completion: completions.Completion,
    token_log_probs: np.ndarray,
) -> Draft:
    """Splits one scored completion into its z and x parts."""
    ended = completion.finish_reason == "stop"
    ids = completion.ids_without_end
    text = tokenizer.decode(ids)
    split = len(examples.leading_rationale(tokenizer, ids)[0])
    parsed = templates.parse_problem(text) if ended else None
    return Draft(
        request=draw.index,
        concept_set_id=draw.row.id,
        sample=draw.sample,
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
