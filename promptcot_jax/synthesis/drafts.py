"""Drafts: what p_theta wrote for one request, how it is sampled and scored, and the (z, x) read from it.

The rollout engine samples. The scores are log p(z | c) and log p(x | z, c) of the model itself at temperature
1, whatever temperature or cut the sampler used, and of the ids that were sampled, even where their text would
tokenize otherwise.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from etils import epath

from promptcot_jax.checkpoints import load
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import ConceptSet
from promptcot_jax.data import examples, templates
from promptcot_jax.data.statement_rules import Fault
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.sampling import completions, rollouts, scoring
from promptcot_jax.synthesis.filters import Written


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draft:
    """What p_theta wrote for one request, before anything is dropped."""

    request: int
    concept_set_id: str
    sample: int
    text: str  # without the end token
    finish_reason: Literal["stop", "length"]
    num_tokens: int  # the end token included
    log_p_z: float  # log p_theta(z | c) of the ids up to the end of the z block; without one, of all
    log_p_x: float  # log p_theta(x | z, c) of the rest, the end token included
    retokenized: bool  # its text would tokenize otherwise; the scores are those of the sampled ids


@dataclasses.dataclass(frozen=True, kw_only=True)
class Author:
    """Which model wrote the problems, for their lineage."""

    model_digest: str
    round_index: int  # -1: the cold start, or a model of no EM round
    seed: int


WriteDrafts = Callable[[epath.PathLike, Sequence[rollouts.Draw[ConceptSet]]], list[Draft]]

OUT_OF_FORM = ("unfinished", "unparseable", "empty")
_EMPTY_BLOCK = re.compile(
    "|".join(
        rf"{re.escape(begin)}\s*{re.escape(end)}"
        for begin, end in (
            (templates.BEGIN_RATIONALE, templates.END_RATIONALE),
            (templates.BEGIN_PROBLEM, templates.END_PROBLEM),
        )
    )
)


def read_draft(draft: Draft, concept_set: ConceptSet) -> Written | Fault:
    """The rationale and the problem of a draft; a fault of `OUT_OF_FORM` where one cannot be read."""
    parsed = templates.parse_problem(draft.text) if draft.finish_reason == "stop" else None
    if parsed is not None:
        rationale, problem = parsed
        return Written(
            domain=concept_set.domain, concepts=concept_set.concepts, rationale=rationale, problem=problem
        )
    if draft.finish_reason == "length":
        return Fault("unfinished", "the budget of tokens ran out", float(draft.num_tokens))
    is_empty = not draft.text.strip() or _EMPTY_BLOCK.search(draft.text)
    return Fault("empty" if is_empty else "unparseable", figure=float(draft.num_tokens))


def draft_writer(
    model: load.LoadedModel, config: rollouts.RolloutConfig, *, score_tokens: int
) -> WriteDrafts:
    """A function that samples draws into a file, shard by shard; the decoding layout is made once.

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
