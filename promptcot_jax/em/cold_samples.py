"""Samples of the cold-started q_phi among those of an E-step, which keep them apart as q_phi sharpens.

Of the G samples of a pair m are the cold-started q_phi's, and each z has the log q of the mixture,

    log q(z) = log((1 - m / G) q_phi(z | c, x) + m / G q_cold(z | c, x)),

whichever wrote it: the weight p_theta(z, x | c) / q(z) then makes the same estimates as G samples of one
proposal do (Veach & Guibas 1995). Both densities are those at the E-step's temperature.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from promptcot_jax.core.arrays import Params
from promptcot_jax.em import proposals
from promptcot_jax.em.generators import RationaleModel, Round
from promptcot_jax.em.pairs import Pair, Rationale
from promptcot_jax.em.settings import EStepConfig


def draw(
    cold_phi: Callable[[], Params],
    pairs: Sequence[Pair],
    rationale_model: RationaleModel,
    *,
    config: EStepConfig,
    em_round: Round,
) -> dict[str, list[Rationale]]:
    """The `num_cold_samples` rationales of each pair by its id, also written to `cold_rationales.jsonl`.

    Args:
        cold_phi: reads the cold-started q_phi; called where its samples are missing.
    """
    rows = rationale_model.stored_rationales(
        lambda: rationale_model.sampler(
            cold_phi(), temperature=config.temperature, key=em_round.key("propose_cold")
        ),
        pairs,
        config.num_cold_samples,
        path=em_round.directory / "cold_rationales.jsonl",
        pairs_per_shard=em_round.config.pairs_per_shard,
        name=f"cold-started proposals {em_round.index}",
    )
    return {pair.triple.id: row for pair, row in zip(pairs, rows, strict=True)}


def mixed(
    phi: Params,
    cold_phi: Params,
    pairs: Sequence[Pair],
    of_phi: Sequence[Sequence[Rationale]],
    of_cold: Sequence[Sequence[Rationale]],
    rationale_model: RationaleModel,
    *,
    temperature: float,
) -> list[list[Rationale]]:
    """Samples of each pair, phi's first, with the log density of the mixture.

    A sample's density under the model that wrote it is known; it is scored under the other one.
    """
    of_phi_by_cold = _log_densities(rationale_model, cold_phi, pairs, of_phi, temperature)
    of_cold_by_phi = _log_densities(rationale_model, phi, pairs, of_cold, temperature)
    own, cold = (np.array([[z.log_q for z in row] for row in rows]) for rows in (of_phi, of_cold))
    by_phi = np.concatenate([own, of_cold_by_phi], axis=-1)  # [B, G]
    by_cold = np.concatenate([of_phi_by_cold, cold], axis=-1)
    log_q = proposals.mixture_log_density(np.stack([by_phi, by_cold]), (own.shape[1], cold.shape[1]))
    return [
        [dataclasses.replace(z, log_q=float(value)) for z, value in zip((*row, *more), values, strict=True)]
        for row, more, values in zip(of_phi, of_cold, log_q, strict=True)
    ]


def _log_densities(
    model: RationaleModel,
    params: Params,
    pairs: Sequence[Pair],
    rationales: Sequence[Sequence[Rationale]],
    temperature: float,
) -> np.ndarray:
    """log q(z | c, x) [B, n] of what was sampled, the end token included where it came."""
    prompts = [pair.phi_prompt_ids for pair, row in zip(pairs, rationales, strict=True) for _ in row]
    completions = [z.token_ids for row in rationales for z in row]
    scores = model.token_log_probs(params, prompts, completions, temperature=temperature)
    return np.array([row.sum(dtype=np.float64) for row in scores]).reshape(len(pairs), -1)
