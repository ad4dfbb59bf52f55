"""Held-out likelihoods after each round: four numbers per token of x, and whether p_theta uses z at all.

* `nll_bound`: importance-weighted bound on -log p(x | c) with z ~ q_phi. A z that copies x cannot game it, since its
  own probability is paid for. The stop rule uses this one. A sample that ended is a latent whether it parses or not.
* `nll_x_given_q`: -log p(x | z, c) with the greedy z of q_phi (likely what the paper plots).
* `nll_x_given_p`: the same with the greedy z of p_theta(z | c).
* `nll_joint`: -log p(z, x | c) with the greedy z of q_phi.
* `nll_x_given_other`: -log p(x | z', c) with the greedy z' of the next pair. Its gap to `nll_x_given_q` closes when
  p_theta has learned to ignore z (posterior collapse), which no curve of the bound shows.

A greedy z that did not end inside its budget is closed with the end marker and scored all the same, so that every
variant is measured on the same pairs; how many is in `unfinished_q` and `unfinished_p`.
"""

import collections
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from promptcot_jax.core import prng
from promptcot_jax.core.arrays import Params
from promptcot_jax.data import templates
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.em.models import Roles
from promptcot_jax.em.pairs import Pair
from promptcot_jax.em.settings import HeldOutConfig
from promptcot_jax.models.causal_lm import CausalLM
from promptcot_jax.objectives import bounds
from promptcot_jax.sampling import generation, scoring
from promptcot_jax.sampling.token_choice import SamplingConfig


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
    """All held-out figures of one (theta, phi). The noise is the same in every round, so rounds compare paired."""
    pairs = pairs[: config.num_pairs]
    num_x_tokens = sum(len(pair.problem_ids) for pair in pairs)
    key = prng.stream_key(seed, "held_out")
    figures: dict[str, Any] = {"held_out_pairs": len(pairs), "held_out_x_tokens": num_x_tokens}

    samples = roles.propose(
        phi, pairs, num_samples=config.num_samples, temperature=1.0, max_tokens=max_rationale_tokens, key=key
    )
    log_p_z, log_p_x = roles.log_joint(theta, pairs, samples)
    log_q = np.array([[z.log_q for z in row] for row in samples])
    is_finished = np.array([[z.finish_reason == "stop" for z in row] for row in samples])
    figures |= _bounds(pairs, log_p_z + log_p_x, log_q, is_finished)

    greedy = roles.greedy(phi, pairs, max_tokens=max_rationale_tokens, key=key)
    blocks = [closed_block(roles.tokenizer, z.block_ids, z.finish_reason) for z in greedy]
    log_p_z, log_p_x = roles.log_joint_of_blocks(theta, pairs, [[block] for block in blocks])
    _, log_p_x_other = roles.log_joint_of_blocks(theta, pairs, [[block] for block in blocks[1:] + blocks[:1]])
    figures |= {
        "nll_x_given_q": -float(log_p_x.sum()) / num_x_tokens,
        "nll_joint": -float((log_p_z + log_p_x).sum()) / num_x_tokens,
        "nll_x_given_other": -float(log_p_x_other.sum()) / num_x_tokens,
        "z_gap": float((log_p_x - log_p_x_other).sum()) / num_x_tokens,
        "unfinished_q": sum(z.finish_reason == "length" for z in greedy),
        "greedy_length": float(np.mean([len(block) for block in blocks])),
    }

    own = _greedy_of_theta(roles, theta, pairs, max_tokens=max_rationale_tokens, key=key)
    blocks = [closed_block(roles.tokenizer, ids, reason) for ids, reason in own]
    _, log_p_x = roles.log_joint_of_blocks(theta, pairs, [[block] for block in blocks])
    figures |= {
        "nll_x_given_p": -float(log_p_x.sum()) / num_x_tokens,
        "unfinished_p": sum(reason == "length" for _, reason in own),
    }
    return figures | _distinct_problems(roles, theta, pairs, max_rationale_tokens, config, key)


def evaluate_direct(
    lm: CausalLM, params: Params, pairs: Sequence[Pair], prompts: Sequence[Sequence[int]], roles: Roles
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


def _bounds(pairs: Sequence[Pair], log_joint: np.ndarray, log_q: np.ndarray, is_finished: np.ndarray) -> dict:
    """ELBO and importance bound per token of x, over pairs with at least one sample that ended."""
    log_weights = bounds.log_importance_weights(jnp.asarray(log_joint), jnp.asarray(log_q), jnp.asarray(is_finished))
    usable = is_finished.any(axis=-1)
    x_tokens = np.array([len(pair.problem_ids) for pair in pairs])[usable].sum()
    if not x_tokens:
        return {"nll_bound": None, "nll_elbo": None, "effective_samples": 0.0, "unbounded_pairs": len(pairs)}
    return {
        "nll_bound": -float(np.asarray(bounds.importance_bound(log_weights))[usable].sum() / x_tokens),
        "nll_elbo": -float(np.asarray(bounds.elbo(log_weights))[usable].sum() / x_tokens),
        "effective_samples": float(np.asarray(bounds.effective_sample_size(log_weights))[usable].mean()),
        "unbounded_pairs": int((~usable).sum()),
    }


def closed_block(tokenizer: Tokenizer, block_ids: Sequence[int], finish_reason: str) -> tuple[int, ...]:
    """The z block, ended by its marker where the model ran out of budget."""
    if finish_reason == "stop":
        return tuple(block_ids)
    return (*block_ids, *tokenizer.encode("\n" + templates.END_RATIONALE + "\n"))


def _greedy_of_theta(
    roles: Roles, theta: Params, pairs: Sequence[Pair], *, max_tokens: int, key: jax.Array
) -> list[tuple[tuple[int, ...], str]]:
    """p_theta's own greedy z for each pair: (z block, "stop" or "length").

    p_theta writes no end token after z, so the block is what stands up to and including the end marker's line.
    """
    completions = generation.generate(
        roles.theta_lm,
        theta,
        [pair.theta_prompt_ids for pair in pairs],
        sampling=SamplingConfig(temperature=0.0, max_new_tokens=max_tokens),
        stop_ids=(roles.tokenizer.eos_id,),
        key=key,
        request_ids=[pair.index for pair in pairs],
        batch_size=roles.sizes.decode_rows,
        pad_id=roles.tokenizer.pad_id,
    )
    return [first_block(roles.tokenizer, completion.token_ids) for completion in completions]


def first_block(tokenizer: Tokenizer, token_ids: Sequence[int]) -> tuple[tuple[int, ...], str]:
    """The shortest prefix of ids whose text holds the end marker of the rationale, with the newline after it."""
    end = templates.END_RATIONALE
    text = tokenizer.decode(token_ids)
    if end not in text:
        return tuple(token_ids), "length"
    low, high = 1, len(token_ids)
    while low < high:  # decoding a prefix is monotone in what it contains
        middle = (low + high) // 2
        if end in tokenizer.decode(token_ids[:middle]):
            high = middle
        else:
            low = middle + 1
    rest = tokenizer.decode(token_ids[low : low + 1])
    return tuple(token_ids[: low + 1] if rest == "\n" else token_ids[:low]), "stop"


def _distinct_problems(
    roles: Roles, theta: Params, pairs: Sequence[Pair], max_rationale_tokens: int, config: HeldOutConfig, key: jax.Array
) -> dict[str, Any]:
    """Problems that p_theta writes for held-out concepts: share that parses, and share of distinct ones of those."""
    n, chosen = config.problems_per_set, pairs[: config.num_concept_sets]
    if not n or not chosen:
        return {}
    longest_x = max(len(pair.problem_ids) for pair in pairs)
    completions = generation.generate(
        roles.theta_lm,
        theta,
        [pair.theta_prompt_ids for pair in chosen for _ in range(n)],
        sampling=SamplingConfig(temperature=1.0, max_new_tokens=max_rationale_tokens + longest_x),
        stop_ids=(roles.tokenizer.eos_id,),
        key=jax.random.fold_in(key, 1),
        request_ids=[pair.index * n + i for pair in chosen for i in range(n)],
        batch_size=roles.sizes.decode_rows,
        pad_id=roles.tokenizer.pad_id,
    )
    parsed = []
    for completion in completions:
        ids = completion.token_ids[:-1] if completion.finish_reason == "stop" else completion.token_ids
        block = templates.parse_problem(roles.tokenizer.decode(ids)) if completion.finish_reason == "stop" else None
        parsed.append(" ".join(block[1].split()) if block else None)
    written = collections.Counter(problem for problem in parsed if problem is not None)
    return {
        "problems_parsed_share": sum(written.values()) / len(parsed),
        "problems_distinct_share": len(written) / max(sum(written.values()), 1),
    }
