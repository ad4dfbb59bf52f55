"""Held-out likelihoods of a round, and whether p_theta uses z.

`nll_bound`, which the stop rule and the choice of the best round use, is the importance-weighted bound on
-log p_theta(x | c) by `proposals`: samples of the cold-started q_phi, of the round's and of p_theta itself. A
q_phi that has lost modes of p_theta's posterior does not loosen it, and a z that copies x cannot game it: its
own probability is paid for. A pair none of whose samples ended is left out and counted.

Beside it, each per token of what it is the likelihood of:

* `nll_elbo`: the negative ELBO of the round's q_phi, a looser bound.
* `nll_x_given_q`: -log p(x | z, c) with the greedy z of q_phi (likely what the paper plots).
* `nll_z`: -log p(z | c) of that z; `nll_z_and_x`: -log p(z, x | c), which the M-step minimizes.
* `nll_x_given_p`: -log p(x | z, c) with the greedy z of p_theta(z | c).
* `nll_x_given_like`: with q_phi's greedy z of a pair with like concepts, of the pairs that have such another.
  Its gap to that with the own z, `z_gap`, closes when p_theta has learned to ignore z (posterior collapse),
  which no bound shows, or when q_phi's z have come to say less. `z_gap_cold` is the same gap with the greedy
  z of the cold-started q_phi, which are the same in every round.
* `nll_x_given_other`, `z_gap_other`: with the z of the next pair, which may be of another kind altogether.

For these a greedy z that did not end is closed with the end marker and scored all the same, so that every arm
and round is measured on the same pairs; how often is in `unfinished_*`. A figure that is not finite is None:
JSON has no infinity, and no comparison may be won by one. `held_out_by_pair` has the nats of each pair, for
paired comparisons.
"""

import collections
import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from promptcot_jax.checkpoints.load import LoadedModel
from promptcot_jax.core import prng
from promptcot_jax.core.arrays import Float, Params
from promptcot_jax.data import examples, templates
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.em import derangement, diagnostics, generators, proposals
from promptcot_jax.em.generators import PromptModel, RationaleModel, Round
from promptcot_jax.em.pairs import Pair, Rationale
from promptcot_jax.em.settings import BatchSizes, HeldOutConfig
from promptcot_jax.objectives import paired
from promptcot_jax.sampling import rollouts, scoring

log = logging.getLogger(__name__)


def held_out(
    theta: Params,
    phi: Params,
    pairs: Sequence[Pair],
    prompt_model: PromptModel,
    rationale_model: RationaleModel,
    *,
    config: HeldOutConfig,
    em_round: Round,
    cold_phi: Callable[[], Params],
) -> tuple[Params, Params, dict[str, Any]]:
    """Measures (theta, phi); every round has the same noise, so rounds compare paired.

    Args:
        cold_phi: reads the cold-started q_phi; not called in round -1, where phi is it.

    Returns:
        theta and phi as they were, and figures.
    """
    models, cold_phi = (prompt_model, rationale_model), (lambda: phi) if em_round.index < 0 else cold_phi
    some, seed = pairs[: config.bound_pairs], em_round.config.seed
    drawn = proposals.draw(
        theta, phi, some, config.samples_by_proposal, *models, cold_phi=cold_phi, em_round=em_round
    )
    bound, bound_by_pair = proposals.measure(theta, phi, drawn, *models, cold_phi=cold_phi)
    greedy = greedy_rationales(phi, pairs, rationale_model, seed)
    of_cold = rationale_model.stored_rationales(
        lambda: rationale_model.sampler(cold_phi(), temperature=0.0, key=prng.stream_key(seed, "held_out")),
        pairs,
        1,
        path=em_round.em_directory / "held_out_rationales.jsonl",
        pairs_per_shard=em_round.config.pairs_per_shard,
        name="held-out rationales",
    )
    from_theta = prompt_model.sampler(theta, temperature=1.0, key=prng.stream_key(seed, "held_out"))
    given_q, x_given_q_by_pair = _given_q(prompt_model, theta, pairs, greedy)
    figures = {
        "held_out_pairs": len(pairs),
        "held_out_x_tokens": _num_x_tokens(pairs),
        **bound,
        **given_q,
        **_use_of_cold(prompt_model, theta, pairs, [z for (z,) in of_cold]),
        **_given_p(prompt_model, theta, pairs, _greedy(from_theta)),
        **_distinct_problems(prompt_model.tokenizer, from_theta, pairs, config, seed),
    }
    lost = [name for name, value in figures.items() if not np.isfinite(value)]
    if lost:
        log.warning("held-out figures that are not finite, recorded as null: %s", ", ".join(lost))
    figures = {name: None if name in lost else np.asarray(value).item() for name, value in figures.items()}
    figures["held_out_by_pair"] = {
        "x_tokens": _x_tokens(pairs),
        "bound": [_finite(value) for value in bound_by_pair],
        "x_given_q": [_finite(value) for value in x_given_q_by_pair],
    }
    if (style_of := rationale_model.style_of) is not None:
        figures["style_share_greedy"] = diagnostics.style_shares((z.rationale for z in greedy), style_of)
    return theta, phi, figures


def greedy_rationales(
    phi: Params, pairs: Sequence[Pair], rationale_model: RationaleModel, seed: int
) -> list[Rationale]:
    """The greedy z of q_phi for each pair."""
    sampler = rationale_model.sampler(phi, temperature=0.0, key=prng.stream_key(seed, "held_out"))
    return [z for (z,) in rationale_model.rationales(sampler, pairs, 1)]


def direct_nll(model: LoadedModel, pairs: Sequence[Pair], batch_sizes: BatchSizes) -> dict[str, Any]:
    """Held-out NLL per token of x of a model cold-started on c -> x, the "without rationale" variant.

    `direct_by_pair` has the nats of each pair, to be compared with those of the bound.
    """
    token_log_probs = scoring.score(
        model.lm,
        model.params,
        [model.tokenizer.prompt_ids(examples.direct_prompt(pair.triple)) for pair in pairs],
        [pair.problem_ids for pair in pairs],
        batch_tokens=batch_sizes.score_tokens,
        pad_id=model.tokenizer.pad_id,
    )
    by_pair = [-float(scores.sum(dtype=np.float64)) for scores in token_log_probs]
    return {"nll_direct": sum(by_pair) / _num_x_tokens(pairs), "direct_by_pair": by_pair}


def _x_tokens(pairs: Sequence[Pair]) -> list[int]:
    return [len(pair.problem_ids) for pair in pairs]


def _num_x_tokens(pairs: Sequence[Pair]) -> int:
    return sum(_x_tokens(pairs))


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _nll(log_probs: np.ndarray, pairs: Sequence[Pair]) -> float:
    """Of all pairs, per token of x."""
    return -float(log_probs.sum()) / _num_x_tokens(pairs)


def _greedy(sampler: rollouts.Sampler) -> rollouts.Sampler:
    """The same model and budget without noise."""
    return dataclasses.replace(sampler, sampling=dataclasses.replace(sampler.sampling, temperature=0.0))


def _given_q(
    prompt_model: PromptModel, theta: Params, pairs: Sequence[Pair], greedy: Sequence[Rationale]
) -> tuple[dict[str, Any], Float[np.ndarray, " B"]]:
    """NLL of z, of x, and of both with q_phi's greedy z; of x with other pairs' z; and that of x by pair."""
    blocks = [[closed_block(prompt_model.tokenizer, z)] for z in greedy]
    log_p_z, log_p_x = prompt_model.log_joint(theta, pairs, blocks)
    z_tokens, x_tokens = sum(len(block) for (block,) in blocks), _num_x_tokens(pairs)
    figures = {
        "nll_x_given_q": -log_p_x.sum() / x_tokens,
        "nll_z": -log_p_z.sum() / z_tokens,
        "nll_z_and_x": -(log_p_z + log_p_x).sum() / (z_tokens + x_tokens),
        "unfinished_q": sum(z.finish_reason == "length" for z in greedy),
        "greedy_length": z_tokens / len(pairs),
    }
    if len(pairs) < 2:  # there is no other pair
        return figures, -log_p_x[:, 0]
    like = derangement.like_pairs(pairs)
    next_ones = [(i + 1) % len(pairs) for i in range(len(pairs))]
    gaps = {
        "pairs_without_like": like.num_unlike,
        **_gap(prompt_model, theta, pairs, blocks, like.others, like.is_like, ("nll_x_given_like", "z_gap")),
        **_gap(
            prompt_model,
            theta,
            pairs,
            blocks,
            next_ones,
            (True,) * len(pairs),
            ("nll_x_given_other", "z_gap_other"),
        ),
    }
    return figures | gaps, -log_p_x[:, 0]


def _use_of_cold(
    prompt_model: PromptModel, theta: Params, pairs: Sequence[Pair], of_cold: Sequence[Rationale]
) -> dict[str, Any]:
    """What the z of the cold-started q_phi, the same in all rounds, are worth to theta."""
    if len(pairs) < 2:
        return {}
    blocks, like = [[closed_block(prompt_model.tokenizer, z)] for z in of_cold], derangement.like_pairs(pairs)
    names = ("nll_x_given_like_cold", "z_gap_cold")
    return _gap(prompt_model, theta, pairs, blocks, like.others, like.is_like, names)


def _gap(
    prompt_model: PromptModel,
    theta: Params,
    pairs: Sequence[Pair],
    blocks: Sequence[Sequence[Sequence[int]]],
    others: Sequence[int],
    counts: Sequence[bool],
    names: tuple[str, str],
) -> dict[str, Any]:
    """NLL of x with the block of another pair, and what that costs, with its error over pairs.

    Args:
        counts: which pairs count; nothing is said where fewer than half do.
    """
    some = [i for i, counted in enumerate(counts) if counted]
    if 2 * len(some) < len(pairs) or len(some) < 2:
        return {}
    chosen = [pairs[i] for i in some]
    _, with_own = prompt_model.log_joint(theta, chosen, [blocks[i] for i in some])
    _, with_other = prompt_model.log_joint(theta, chosen, [blocks[others[i]] for i in some])
    lost, error, _ = paired.difference(-with_other[:, 0], -with_own[:, 0], _x_tokens(chosen))
    nll, gap = names
    return {nll: _nll(with_other, chosen), gap: lost, f"{gap}_error": error}


def closed_block(tokenizer: Tokenizer, z: Rationale) -> tuple[int, ...]:
    """The z block, ended by its marker where the model ran out of budget."""
    return z.block_ids if z.finish_reason == "stop" else (*z.block_ids, *_closing(tokenizer))


def _closing(tokenizer: Tokenizer) -> list[int]:
    return tokenizer.encode("\n" + templates.END_RATIONALE + "\n")


def _given_p(
    prompt_model: PromptModel, theta: Params, pairs: Sequence[Pair], sampler: rollouts.Sampler
) -> dict[str, Any]:
    """NLL of x with p_theta's own greedy z, written from c alone.

    p_theta writes no end token after z: its block is what stands up to the end marker's line and with it.
    """
    tokenizer = prompt_model.tokenizer
    completions = sampler.complete(generators.draws_of_pairs(pairs, 1), generators.theta_prompt_ids)
    found = [examples.leading_rationale(tokenizer, completion.ids_without_end) for completion in completions]
    blocks = [[block if ended else (*block, *_closing(tokenizer))] for block, ended in found]
    _, log_p_x = prompt_model.log_joint(theta, pairs, blocks)
    return {
        "nll_x_given_p": _nll(log_p_x, pairs),
        "unfinished_p": sum(not ended for _, ended in found),
    }


def _distinct_problems(
    tokenizer: Tokenizer, sampler: rollouts.Sampler, pairs: Sequence[Pair], config: HeldOutConfig, seed: int
) -> dict[str, Any]:
    """Problems p_theta writes for held-out concepts: share that parses, and of those the distinct ones."""
    chosen = pairs[: config.num_concept_sets]
    if not config.problems_per_set or not chosen:
        return {}
    budget = sampler.sampling.max_new_tokens + max(len(pair.problem_ids) for pair in pairs)
    of_problems = dataclasses.replace(
        sampler,
        sampling=dataclasses.replace(sampler.sampling, max_new_tokens=budget),
        key=prng.stream_key(seed, "held_out", 1),
    )
    draws = generators.draws_of_pairs(chosen, config.problems_per_set)
    completions = of_problems.complete(draws, generators.theta_prompt_ids)
    ended = [completion for completion in completions if completion.finish_reason == "stop"]
    parsed = [templates.parse_problem(tokenizer.decode(completion.ids_without_end)) for completion in ended]
    written = collections.Counter(" ".join(blocks[1].split()) for blocks in parsed if blocks)
    return {
        "problems_parsed_share": written.total() / len(completions),
        "problems_distinct_share": len(written) / max(written.total(), 1),
    }
