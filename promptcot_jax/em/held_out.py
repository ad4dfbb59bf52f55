"""Held-out likelihoods of a round, per token of x, and whether p_theta uses z at all.

* `nll_bound`: importance-weighted bound on -log p(x | c) with z ~ q_phi. A z that copies x cannot game it,
  since its own probability is paid for. The stop rule uses this one.
* `nll_elbo`: the negative ELBO of the same samples, which is a looser bound.
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
import logging
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from promptcot_jax.checkpoints.load import LoadedModel
from promptcot_jax.core import prng
from promptcot_jax.core.arrays import Params
from promptcot_jax.data import examples, templates
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.em import diagnostics, generators
from promptcot_jax.em.generators import PromptModel, RationaleModel, Round
from promptcot_jax.em.pairs import Pair, Rationale
from promptcot_jax.em.settings import BatchSizes, HeldOutConfig
from promptcot_jax.objectives import bounds
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
) -> tuple[Params, Params, dict[str, Any]]:
    """Measures (theta, phi); every round has the same noise, so rounds compare paired.

    Returns:
        theta and phi as they were, and figures.
    """
    key = prng.stream_key(em_round.config.seed, "held_out")
    from_phi = rationale_model.sampler(phi, temperature=1.0, key=key)
    samples = rationale_model.rationales(from_phi, pairs, config.num_samples)
    greedy = [row[0] for row in rationale_model.rationales(_greedy(from_phi), pairs, 1)]
    del from_phi  # and its copy of the parameters, before the other model's is made
    from_theta = prompt_model.sampler(theta, temperature=1.0, key=key)
    figures = {
        "held_out_pairs": len(pairs),
        "held_out_x_tokens": _num_x_tokens(pairs),
        "held_out_retokenized": sum(z.retokenized for row in samples for z in row),
        **_bounds(prompt_model, theta, pairs, samples),
        **_given_q(prompt_model, theta, pairs, greedy),
        **_given_p(prompt_model, theta, pairs, _greedy(from_theta)),
        **_distinct_problems(prompt_model.tokenizer, from_theta, pairs, config, em_round.config.seed),
    }
    lost = [name for name, value in figures.items() if not np.isfinite(value)]
    if lost:
        log.warning("held-out figures that are not finite, recorded as null: %s", ", ".join(lost))
    figures = {name: None if name in lost else value for name, value in figures.items()}
    if (style_of := rationale_model.style_of) is not None:
        figures["style_share_greedy"] = diagnostics.style_shares((z.rationale for z in greedy), style_of)
    return theta, phi, figures


def direct_nll(model: LoadedModel, pairs: Sequence[Pair], batch_sizes: BatchSizes) -> dict[str, float]:
    """Held-out NLL per token of x of a model cold-started on c -> x, the "without rationale" variant."""
    token_log_probs = scoring.score(
        model.lm,
        model.params,
        [model.tokenizer.prompt_ids(examples.direct_prompt(pair.triple)) for pair in pairs],
        [pair.problem_ids for pair in pairs],
        batch_tokens=batch_sizes.score_tokens,
        pad_id=model.tokenizer.pad_id,
    )
    total = sum(float(scores.sum(dtype=np.float64)) for scores in token_log_probs)
    return {"nll_direct": -total / _num_x_tokens(pairs)}


def _num_x_tokens(pairs: Sequence[Pair]) -> int:
    return sum(len(pair.problem_ids) for pair in pairs)


def _nll(log_probs: jax.Array | np.ndarray, pairs: Sequence[Pair]) -> float:
    """Of all pairs, per token of x."""
    return -float(log_probs.sum()) / _num_x_tokens(pairs)


def _greedy(sampler: rollouts.Sampler) -> rollouts.Sampler:
    """The same model and budget without noise."""
    return dataclasses.replace(sampler, sampling=dataclasses.replace(sampler.sampling, temperature=0.0))


def _bounds(
    prompt_model: PromptModel, theta: Params, pairs: Sequence[Pair], samples: Sequence[Sequence[Rationale]]
) -> dict[str, Any]:
    """ELBO and importance bound per token of x."""
    blocks = [[closed_block(prompt_model.tokenizer, z) for z in row] for row in samples]
    log_p_z, log_p_x = prompt_model.log_joint(theta, pairs, blocks)
    log_q = np.array([[z.log_q for z in row] for row in samples])
    log_weights = jnp.asarray(log_p_z + log_p_x - log_q)
    return {
        "nll_bound": _nll(bounds.importance_bound(log_weights), pairs),
        "nll_elbo": _nll(bounds.elbo(log_weights), pairs),
        "held_out_effective_samples": float(bounds.effective_sample_size(log_weights).mean()),
        "unfinished_samples": sum(z.finish_reason == "length" for row in samples for z in row),
    }


def _given_q(
    prompt_model: PromptModel, theta: Params, pairs: Sequence[Pair], greedy: Sequence[Rationale]
) -> dict[str, Any]:
    """NLL of x and of (z, x) with q_phi's greedy z, and of x with another pair's."""
    blocks = [[closed_block(prompt_model.tokenizer, z)] for z in greedy]
    log_p_z, log_p_x = prompt_model.log_joint(theta, pairs, blocks)
    figures = {
        "nll_x_given_q": _nll(log_p_x, pairs),
        "nll_joint": _nll(log_p_z + log_p_x, pairs),
        "unfinished_q": sum(z.finish_reason == "length" for z in greedy),
        "greedy_length": float(np.mean([len(block) for (block,) in blocks])),
    }
    if len(pairs) < 2:  # there is no other pair
        return figures
    _, log_p_x_other = prompt_model.log_joint(theta, pairs, blocks[1:] + blocks[:1])
    return figures | {
        "nll_x_given_other": _nll(log_p_x_other, pairs),
        "z_gap": float((log_p_x - log_p_x_other).sum()) / _num_x_tokens(pairs),
    }


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
