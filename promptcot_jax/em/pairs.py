"""Pairs (c, x) tokenized once, and the rationales sampled for them.

Prompt, z block and x block are tokenized apart and joined, so that R, log q and the trainers see one split. A
sampled rationale keeps its sampled ids even where its text would tokenize otherwise.
"""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Literal

from etils import epath

from promptcot_jax.core import prng, records
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import examples, rows, tasks, templates
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.em.settings import EmConfig
from promptcot_jax.sampling import completions

CLOSING_TOKENS = 24  # room for the end marker that closes a rationale which ran out of budget


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
    """One z ~ q_phi(z | c, x) of a pair; the greedy ones of the M-step are rows of `rationales.jsonl`."""

    pair_id: str
    rationale: str
    token_ids: tuple[int, ...]  # as sampled, the end token included when it came
    finish_reason: Literal["stop", "length"]
    valid: bool  # ended inside its budget and parses
    retokenized: bool  # its text would tokenize otherwise; the sampled ids are kept
    log_q: float

    @property
    def block_ids(self) -> tuple[int, ...]:
        """The z block without the end token: what p_theta scores and is trained on."""
        return self.token_ids[:-1] if self.finish_reason == "stop" else self.token_ids


def read_pairs(
    tokenizer: Tokenizer,
    path: epath.PathLike,
    rules: tasks.RowRules,
    *,
    max_rationale_tokens: int,
    max_positions: int,
    start: int = 0,
    limit: int = 0,
) -> tuple[list[Pair], collections.Counter[str]]:
    """The pairs of a file of triples that the models have room for, and what became of its rows.

    Args:
        start: first row, as `limit` in `tasks.iter_task_rows`.

    Raises:
        WrongUse: a row is bad and the rules do not skip it, or two rows share an id.
    """
    counts = collections.Counter[str]()
    triples = tasks.iter_task_rows(records.Triple, path, rules, start=start, limit=limit, counts=counts)
    found = tokenize_pairs(tokenizer, list(triples), rules, counts)
    kept = within_positions(found, max_rationale_tokens=max_rationale_tokens, max_positions=max_positions)
    counts["dropped_too_long"] += len(found) - len(kept)
    return kept, counts


def tokenize_pairs(
    tokenizer: Tokenizer,
    triples: Sequence[records.Triple],
    rules: tasks.RowRules = tasks.NO_RULES,
    counts: collections.Counter[str] | None = None,
) -> list[Pair]:
    """Tokenizes prompts and problems of all triples.

    Raises:
        WrongUse: a triple cannot be written and the rules do not skip it, or two triples share an id:
            candidates and rationales are joined to their pair by it.
    """
    rows.check_ids((triple.id for triple in triples), "the triples")

    def make(some: Sequence[records.Triple]) -> list[Pair]:
        theta_prompts = tokenizer.prompt_ids_many([examples.theta_prompt(triple) for triple in some])
        phi_prompts = tokenizer.prompt_ids_many([examples.phi_prompt(triple) for triple in some])
        return [
            Pair(
                index=0,
                triple=triple,
                theta_prompt_ids=tuple(theta_prompt),
                phi_prompt_ids=tuple(phi_prompt),
                problem_ids=examples.problem_ids(tokenizer, triple.problem, f"Row '{triple.id}'"),
            )
            for triple, theta_prompt, phi_prompt in zip(some, theta_prompts, phi_prompts, strict=True)
        ]

    made = tasks.made_of(triples, make, rules, collections.Counter() if counts is None else counts)
    return [dataclasses.replace(pair, index=index) for index, pair in enumerate(made)]


def within_positions(pairs: Sequence[Pair], *, max_rationale_tokens: int, max_positions: int) -> list[Pair]:
    """The pairs whose longest rationale still fits what the models can read, for both models."""

    def longest(pair: Pair) -> int:
        prompt_and_problem = len(pair.theta_prompt_ids) + len(pair.problem_ids) + CLOSING_TOKENS
        return max(prompt_and_problem, len(pair.phi_prompt_ids)) + max_rationale_tokens

    return [pair for pair in pairs if longest(pair) <= max_positions]


def pairs_of_round(pairs: Sequence[Pair], index: int, config: EmConfig) -> list[Pair]:
    """The next `pairs_per_round` pairs of one seeded order, wrapping around; all where that is 0."""
    count = min(config.pairs_per_round or len(pairs), len(pairs))
    if count == len(pairs):
        return list(pairs)
    order = prng.stream_generator(config.seed, "pairs").permutation(len(pairs))
    return [pairs[order[i % len(order)]] for i in range(index * count, (index + 1) * count)]


def to_rationale(tokenizer: Tokenizer, pair: Pair, completion: completions.Completion) -> Rationale:
    """Parses one completion of q_phi."""
    block = completion.ids_without_end
    written = tokenizer.decode(block)
    text = templates.parse_rationale(written) if completion.finish_reason == "stop" else None
    own_ids = None if text is None else _own_ids(tokenizer, text)
    return Rationale(
        pair_id=pair.triple.id,
        rationale=written if text is None else text,
        token_ids=tuple(completion.token_ids),
        finish_reason=completion.finish_reason,
        valid=own_ids is not None,
        retokenized=own_ids is not None and own_ids != tuple(block),
        log_q=float(completion.log_probs.sum()),
    )


def given_rationale(tokenizer: Tokenizer, pair: Pair) -> Rationale:
    """The rationale that the pair's own row carries; not valid where it holds a stop token."""
    ids = _own_ids(tokenizer, pair.triple.rationale)
    return Rationale(
        pair_id=pair.triple.id,
        rationale=pair.triple.rationale,
        token_ids=() if ids is None else (*ids, tokenizer.eos_id),
        finish_reason="stop",
        valid=ids is not None,
        retokenized=False,
        log_q=0.0,
    )


def _own_ids(tokenizer: Tokenizer, text: str) -> tuple[int, ...] | None:
    """How the tokenizer itself writes z; None where it holds a stop token, which must not become a target."""
    try:
        return examples.rationale_ids(tokenizer, text)
    except WrongUse:
        return None
