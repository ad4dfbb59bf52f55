"""M-step (paper section 2.3): p_theta is fitted to the greedy rationales of the updated q_phi.

The paper does not say what becomes of a pair whose greedy rationale does not end or parse. Here the sample
that won its E-step takes its place: it was valid, and q_phi has just been fitted to it.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from promptcot_jax.core import prng
from promptcot_jax.core.arrays import Params
from promptcot_jax.data import examples
from promptcot_jax.em.generators import PromptModel, RationaleModel, Round
from promptcot_jax.em.held_out import greedy_rationales
from promptcot_jax.em.pairs import Pair, Rationale, given_rationale, pairs_of_round
from promptcot_jax.em.settings import EmConfig
from promptcot_jax.sampling import rollouts


def m_step(
    theta: Params,
    phi: Params,
    pairs: Sequence[Pair],
    prompt_model: PromptModel,
    rationale_model: RationaleModel,
    *,
    em_round: Round,
    held_out_pairs: Sequence[Pair],
    winners: Mapping[str, Rationale] | None = None,
    fixed: Mapping[str, Rationale] | None = None,
) -> tuple[Params, Params, dict[str, Any]]:
    """Fits theta to c -> (z, x) with the greedy z of q_phi(z | c, x); a pair without a valid z is skipped.

    Args:
        held_out_pairs: the fit measures theta's NLL of these and phi's greedy z at times, for its metrics.
        winners: by the pair's id, what to use where the greedy rationale is not valid: the E-step's best.
        fixed: by the pair's id, what to use in place of the greedy rationales.

    Returns:
        the next theta, phi as it was, and figures.
    """
    if fixed is not None:
        rationales = [fixed[pair.triple.id] for pair in pairs]
    else:
        sampler = functools.partial(
            rationale_model.sampler, phi, temperature=0.0, key=em_round.key("propose")
        )
        path = em_round.directory / "rationales.jsonl"
        rationales = _one_each(
            sampler, pairs, rationale_model, path, em_round.config, f"M-step {em_round.index}"
        )
    num_valid = sum(z.valid for z in rationales)
    if winners is not None:
        of_pairs = zip(pairs, rationales, strict=True)
        rationales = [z if z.valid else winners.get(pair.triple.id, z) for pair, z in of_pairs]
    targets = [theta_target(pair, z) for pair, z in zip(pairs, rationales, strict=True) if z.valid]
    measured = []
    if prompt_model.fitter.loop.eval_every:
        greedy = greedy_rationales(phi, held_out_pairs, rationale_model, em_round.config.seed)
        measured = [theta_target(pair, z) for pair, z in zip(held_out_pairs, greedy, strict=True) if z.valid]
    theta, counts = prompt_model.fit(theta, targets, em_round, held_out=measured)
    figures = {
        "m_step_fallback": len(targets) - num_valid,
        "m_step_skipped": len(pairs) - len(targets),
        "m_step_retokenized": sum(z.retokenized for z in rationales),
    }
    return theta, phi, counts | figures


def theta_target(pair: Pair, z: Rationale) -> examples.TokenExample:
    """c -> z, x with the sampled ids of the z block; the end token follows x alone."""
    return examples.TokenExample(
        prompt_ids=pair.theta_prompt_ids, completion_ids=(*z.block_ids, *pair.problem_ids)
    )


def fixed_rationales(
    phi: Params,
    pairs: Sequence[Pair],
    rationale_model: RationaleModel,
    *,
    em_round: Round,
) -> dict[str, Rationale]:
    """Without E-step: one rationale, phi's or its own row's, for each pair of any round, by the pair's id."""
    if em_round.config.arm == "given":
        return {pair.triple.id: given_rationale(rationale_model.tokenizer, pair) for pair in pairs}
    seen = {
        pair.index
        for r in range(em_round.config.max_rounds)
        for pair in pairs_of_round(pairs, r, em_round.config)
    }
    some, key = [pair for pair in pairs if pair.index in seen], prng.stream_key(em_round.config.seed, "fixed")
    temperature = em_round.config.fixed_temperature
    sampler = functools.partial(rationale_model.sampler, phi, temperature=temperature, key=key)
    path = em_round.em_directory / "rationales.jsonl"
    rationales = _one_each(sampler, some, rationale_model, path, em_round.config, "fixed rationales")
    return {z.pair_id: z for z in rationales}


def _one_each(
    sampler: Callable[[], rollouts.Sampler],
    pairs: Sequence[Pair],
    rationale_model: RationaleModel,
    path: epath.Path,
    config: EmConfig,
    name: str,
) -> list[Rationale]:
    """One rationale of each pair, also written to `path`."""
    rows = rationale_model.stored_rationales(
        sampler, pairs, 1, path=path, pairs_per_shard=config.pairs_per_shard, name=name
    )
    return [z for (z,) in rows]
