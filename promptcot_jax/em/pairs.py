"""Pairs (c, x) tokenized once, and the rationales drawn for them.

Prompt, z block and x block are tokenized apart and joined, so that R, log q and the trainers see one split. A sampled
rationale keeps its sampled ids even where its text would tokenize otherwise.
"""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Literal

from promptcot_jax.core import records
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import examples, templates
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.sampling import generation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """One (concepts, problem) pair; `index` numbers it within the run and keys its noise."""

    index: int
    triple: records.Triple
    theta_prompt_ids: tuple[int, ...]
    phi_prompt_ids: tuple[int, ...]
    problem_ids: tuple[int, ...]  # x block with markers and end token


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rationale:
    """One sampled z with the log-probability its sampler gave it."""

    text: str
    token_ids: tuple[int, ...]  # as sampled, the end token included when it came
    finish_reason: Literal["stop", "length"]
    log_q: float
    is_valid: bool  # ended inside its budget and parses
    retokenized: bool

    @property
    def block_ids(self) -> tuple[int, ...]:
        """The z block without the end token: what p_theta scores and is trained on."""
        return self.token_ids[:-1] if self.finish_reason == "stop" else self.token_ids


def tokenize_pairs(tokenizer: Tokenizer, triples: Sequence[records.Triple]) -> list[Pair]:
    """Tokenizes prompts and problems of all triples.

    Raises:
        WrongUse: two triples share an id; candidates and rationales are joined to their pair by it.
    """
    counts = collections.Counter(triple.id for triple in triples)
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        raise WrongUse(f"{len(repeated)} triple ids occur twice, e.g. {repeated[0]!r}; give each row its own id.")
    return [
        Pair(
            index=index,
            triple=triple,
            theta_prompt_ids=tuple(examples.theta_prompt_ids(tokenizer, triple)),
            phi_prompt_ids=tuple(examples.phi_prompt_ids(tokenizer, triple)),
            problem_ids=tuple(examples.problem_ids(tokenizer, triple.problem)),
        )
        for index, triple in enumerate(triples)
    ]


def to_rationale(tokenizer: Tokenizer, completion: generation.Completion) -> Rationale:
    """Parses one completion of q_phi."""
    ended = completion.finish_reason == "stop"
    block = completion.token_ids[:-1] if ended else completion.token_ids
    text = templates.parse_rationale(tokenizer.decode(block)) if ended else None
    return Rationale(
        text=text if text is not None else tokenizer.decode(block),
        token_ids=tuple(completion.token_ids),
        finish_reason=completion.finish_reason,
        log_q=float(completion.log_probs.sum()),
        is_valid=text is not None,
        retokenized=text is not None and tuple(examples.rationale_ids(tokenizer, text)) != tuple(block),
    )


def theta_example(pair: Pair, block_ids: Sequence[int]) -> examples.TokenExample:
    """Target of the M-step: c -> z, x with the sampled ids of the z block."""
    return examples.TokenExample(prompt_ids=pair.theta_prompt_ids, completion_ids=(*block_ids, *pair.problem_ids))
