"""Held-out likelihoods after each round: four numbers per token of x, and whether p_theta uses z at all.

* `nll_bound`: importance-weighted bound on -log p(x | c) with z ~ q_phi. A z that copies x cannot game it,
  since its own probability is paid for. The stop rule uses this one.
* `nll_x_given_q`: -log p(x | z, c) with the greedy z of q_phi (likely what the paper plots).
* `nll_x_given_p`: the same with the greedy z of p_theta(z | c).
* `nll_joint`: -log p(z, x | c) with the greedy z of q_phi.
* `nll_x_given_other`: -log p(x | z', c) with the greedy z' of the next pair. Its gap to `nll_x_given_q`,
  `z_gap`, closes when p_theta has learned to ignore z (posterior collapse), which no bound shows.

A z that did not end inside its budget is closed with the end marker and scored all the same, so that every
variant and round is measured on the same pairs; how often is in `unfinished_*`. For the bound this is a
proposal like any other: "sample up to the budget, then close", whose density is that of the tokens sampled.
A figure that is not finite is None: JSON has no infinity, and no comparison may be won by one.
"""

import collections
import dataclasses
import functools
import logging
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from promptcot_jax.core import prng
from promptcot_jax.core.arrays import Params
from promptcot_jax.data import examples, templates
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.em import diagnostics, models
from promptcot_jax.em.models import Roles
from promptcot_jax.em.pairs import Pair, Rationale
from promptcot_jax.em.settings import HeldOutConfig
from promptcot_jax.models.language_model import LanguageModel
from promptcot_jax.objectives import bounds
from promptcot_jax.sampling import rollouts, scoring

log = logging.getLogger(__name__)


def evaluate(
    roles: Roles,
    theta: Params,
    phi: Params,
    pairs: Sequence[Pair],
    *,
    max_rationale_tokens: int,
    config: HeldOutConfig,
    seed: int,
) -> dict[str, Any]:
    """All held-out figures of one (theta, phi); every round has the same noise, so rounds compare paired."""
    sampler_of = functools.partial(
        roles.sampler,
        temperature=1.0,
        max_tokens=max_rationale_tokens,
        key=prng.stream_key(seed, "held_out"),
    )
    from_phi = sampler_of(roles.phi_lm, phi)
    samples = roles.propose(from_phi, pairs, config.num_samples)
    greedy = [row[0] for row in roles.propose(models.greedily(from_phi), pairs, 1)]
    del from_phi  # and its copy of the parameters, before the other model's is made
    from_theta = sampler_of(roles.theta_lm, theta)
    num_x_tokens = sum(len(pair.problem_ids) for pair in pairs)
    figures = {
        "held_out_pairs": len(pairs),
        "held_out_x_tokens": num_x_tokens,
        "held_out_retokenized": sum(z.retokenized for row in samples for z in row),
        **_bounds(roles, theta, pairs, samples),
        **_given_q(roles, theta, pairs, greedy),
        **_given_p(roles, theta, models.greedily(from_theta), pairs),
        **_distinct_problems(roles, from_theta, pairs, config, seed),
    }
    lost = [name for name, value in figures.items() if not np.isfinite(value)]
    if lost:
        log.warning("held-out figures that are not finite, recorded as null: %s", ", ".join(lost))
    figures = {name: None if name in lost else value for name, value in figures.items()}
    return figures | {"style_share_greedy": diagnostics.style_shares(z.text for z in greedy)}


def evaluate_direct(
    lm: LanguageModel, params: Params, pairs: Sequence[Pair], prompts: Sequence[Sequence[int]], roles: Roles
) -> dict[str, float]:
    """Held-out NLL per token of x of a model cold-started on c -> x, the "without rationale" variant."""
    token_log_probs = scoring.score(
        lm,
        params,
        prompts,
        [pair.problem_ids for pair in pairs],
        batch_tokens=roles.sizes.score_tokens,
        pad_id=roles.tokenizer.pad_id,
    )
    total = sum(float(scores.sum(dtype=np.float64)) for scores in token_log_probs)
    return {"nll_direct": -total / sum(len(pair.problem_ids) for pair in pairs)}


def _bounds(
    roles: Roles, theta: Params, pairs: Sequence[Pair], samples: Sequence[Sequence[Rationale]]
) -> dict[str, Any]:
    """ELBO and importance bound per token of x."""
    blocks = [[closed_block(roles.tokenizer, z) for z in row] for row in samples]
    log_p_z, log_p_x = roles.log_joint_of_blocks(theta, pairs, blocks)
    log_q = np.array([[z.log_q for z in row] for row in samples])
    log_weights = jnp.asarray(log_p_z + log_p_x - log_q)
    num_x_tokens = sum(len(pair.problem_ids) for pair in pairs)
    return {
        "nll_bound": -float(bounds.importance_bound(log_weights).sum()) / num_x_tokens,
        "nll_elbo": -float(bounds.elbo(log_weights).sum()) / num_x_tokens,
        "held_out_effective_samples": float(bounds.effective_sample_size(log_weights).mean()),
        "unfinished_samples": sum(z.finish_reason == "length" for row in samples for z in row),
    }


def _given_q(
    roles: Roles, theta: Params, pairs: Sequence[Pair], greedy: Sequence[Rationale]
) -> dict[str, Any]:
    """NLL of x and of (z, x) with q_phi's greedy z, and of x with another pair's."""
    blocks = [closed_block(roles.tokenizer, z) for z in greedy]
    log_p_z, log_p_x = roles.log_joint_of_blocks(theta, pairs, [[block] for block in blocks])
    num_x_tokens = sum(len(pair.problem_ids) for pair in pairs)
    figures = {
        "nll_x_given_q": -float(log_p_x.sum()) / num_x_tokens,
        "nll_joint": -float((log_p_z + log_p_x).sum()) / num_x_tokens,
        "unfinished_q": sum(z.finish_reason == "length" for z in greedy),
        "greedy_length": float(np.mean([len(block) for block in blocks])),
    }
    if len(pairs) < 2:  # there is no other pair
        return figures
    _, log_p_x_other = roles.log_joint_of_blocks(theta, pairs, [[block] for block in blocks[1:] + blocks[:1]])
    return figures | {
        "nll_x_given_other": -float(log_p_x_other.sum()) / num_x_tokens,
        "z_gap": float((log_p_x - log_p_x_other).sum()) / num_x_tokens,
    }


def closed_block(tokenizer: Tokenizer, z: Rationale) -> tuple[int, ...]:
    """The z block, ended by its marker where the model ran out of budget."""
    return z.block_ids if z.finish_reason == "stop" else (*z.block_ids, *_closing(tokenizer))


def _closing(tokenizer: Tokenizer) -> list[int]:
    return tokenizer.encode("\n" + templates.END_RATIONALE + "\n")


def _given_p(roles: Roles, theta: Params, sampler: rollouts.Sampler, pairs: Sequence[Pair]) -> dict[str, Any]:
    """NLL of x with p_theta's own greedy z.

    p_theta writes no end token after z: its block is what stands up to the end marker's line and with it.
    """
    completions = sampler.complete(models.draws_of_pairs(pairs, 1), models.theta_prompt_ids)
    blocks, unfinished = [], 0
    for completion in completions:
        block, ended = examples.leading_rationale(roles.tokenizer, completion.ids_without_end)
        unfinished += not ended
        blocks.append([block if ended else (*block, *_closing(roles.tokenizer))])
    _, log_p_x = roles.log_joint_of_blocks(theta, pairs, blocks)
    num_x_tokens = sum(len(pair.problem_ids) for pair in pairs)
    return {"nll_x_given_p": -float(log_p_x.sum()) / num_x_tokens, "unfinished_p": unfinished}


def _distinct_problems(
    roles: Roles,
    sampler: rollouts.Sampler,
    pairs: Sequence[Pair],
    config: HeldOutConfig,
    seed: int,
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
    draws = models.draws_of_pairs(chosen, config.problems_per_set)
    completions = of_problems.complete(draws, models.theta_prompt_ids)
    ended = [completion for completion in completions if completion.finish_reason == "stop"]
    parsed = [
        templates.parse_problem(roles.tokenizer.decode(completion.ids_without_end)) for completion in ended
    ]
    written = collections.Counter(" ".join(blocks[1].split()) for blocks in parsed if blocks)
    return {
        "problems_parsed_share": written.total() / len(completions),
        "problems_distinct_share": len(written) / max(written.total(), 1),
    }
