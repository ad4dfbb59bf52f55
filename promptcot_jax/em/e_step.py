"""E-step (paper section 2.3): q_phi is fitted to the best of G rationales of each pair."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

from promptcot_jax.core.arrays import Params
from promptcot_jax.core.records import Candidate
from promptcot_jax.data import examples
from promptcot_jax.em import cold_samples, diagnostics, ranking
from promptcot_jax.em.generators import PromptModel, RationaleModel, Round
from promptcot_jax.em.pairs import Pair, Rationale
from promptcot_jax.em.settings import EStepConfig
from promptcot_jax.trainers import grpo, sft, train_step

log = logging.getLogger(__name__)

_REMEDIES = {  # of a collapse, as far as the objective has them
    "best_of_g": "Raise EM_TEMPERATURE, EM_COLD_SAMPLES or EM_NUM_WINNERS, l",
    "reward_weighted": "Raise EM_TEMPERATURE or EM_COLD_SAMPLES, l",
    "grpo": "L",
}


def e_step(
    theta: Params,
    phi: Params,
    pairs: Sequence[Pair],
    prompt_model: PromptModel,
    rationale_model: RationaleModel,
    *,
    config: EStepConfig,
    em_round: Round,
    cold_phi: Callable[[], Params],
) -> tuple[Params, Params, dict[str, Rationale], dict[str, Any]]:
    """Samples G rationales z ~ q_phi(z | c, x), ranks them by log p_theta(z, x | c), fits phi to the best.

    Args:
        rationale_model: its `sampler` is the rollout engine; a shard of pairs is ranked once it is sampled.
        cold_phi: reads the cold-started q_phi; called with `num_cold_samples`, and not in round 0, where phi
            is it.

    Returns:
        theta as it was, the next phi, each pair's best rationale by its id, and figures.
    """
    num_cold = config.num_cold_samples if em_round.index > 0 else 0
    read_cold = functools.cache(cold_phi)  # once, to lie beside theta and phi until all candidates are there
    of_cold = {}
    if num_cold:
        of_cold = cold_samples.draw(read_cold, pairs, rationale_model, config=config, em_round=em_round)

    def rank(shard: Sequence[Pair], rationales: list[list[Rationale]]) -> list[Candidate]:
        if num_cold:
            rationales = cold_samples.mixed(
                phi,
                read_cold(),
                shard,
                rationales,
                [of_cold[pair.triple.id] for pair in shard],
                rationale_model,
                temperature=config.temperature,
            )
        blocks = [[z.block_ids for z in row] for row in rationales]
        log_p_z, log_p_x = prompt_model.log_joint(theta, shard, blocks)  # each [B, G]
        return ranking.rank(shard, rationales, log_p_z, log_p_x, config)

    candidates = rationale_model.map_rationales(
        lambda: rationale_model.sampler(phi, temperature=config.temperature, key=em_round.key("propose")),
        pairs,
        config.group_size - num_cold,
        rank,
        Candidate,
        path=em_round.directory / "candidates.jsonl",
        pairs_per_shard=em_round.config.pairs_per_shard,
        name=f"E-step {em_round.index}",
    )
    read_cold.cache_clear()  # phi's fit needs the room
    figures = diagnostics.of_candidates(pairs, candidates, config, rationale_model.style_of)
    if figures["distinct_rationales"] < diagnostics.COLLAPSED:
        log.warning(
            "EM round %d (%s): q_phi has collapsed: only %.0f %% of a pair's further rationales differ from "
            "the ones before, which leaves R next to nothing to choose from. %sower EM_LEARNING_RATE, or "
            "make fewer rounds (MAX_ROUNDS).",
            em_round.index,
            em_round.config.arm,
            100 * figures["distinct_rationales"],
            _REMEDIES[config.objective],
        )
    winners, targets = ranking.winners(candidates), ranking.phi_targets(pairs, candidates, config)
    if config.objective == "reward_weighted":
        figures["phi_dropped_weights"] = sum(c.valid for c in candidates) - len(targets)
    if not targets and config.objective == "grpo":
        alike = "EM round %d (%s): the samples of each pair are rewarded alike; phi stays"
        log.warning(alike, em_round.index, em_round.config.arm)
        rationale_model.write(phi, em_round)
        return theta, phi, winners, figures
    if config.objective == "grpo":
        targets = _with_old_log_probs(rationale_model, phi, targets)
    phi, counts = rationale_model.fit(phi, targets, em_round, loss=phi_loss(config))
    return theta, phi, winners, figures | counts


def _with_old_log_probs(
    rationale_model: RationaleModel, phi: Params, targets: Sequence[examples.TokenExample]
) -> list[examples.TokenExample]:
    """Adds the log-probs of the phi that wrote the samples, which the importance ratio divides by."""
    scores = rationale_model.token_log_probs(
        phi, [row.prompt_ids.tolist() for row in targets], [row.completion_ids.tolist() for row in targets]
    )
    return [
        dataclasses.replace(row, token_values={**row.token_values, "old_log_probs": values})
        for row, values in zip(targets, scores, strict=True)
    ]


def phi_loss(config: EStepConfig) -> train_step.Loss:
    """The loss that phi is fitted by under an objective.

    With `grpo` a batch's clipped surrogate, on advantages of mean 0 and deviation 1 within each pair, is
    divided by its number of tokens, whatever their advantages.

    Raises:
        ValueError: the objective has no loss.
    """
    if config.objective == "best_of_g":
        return sft.SftLoss()
    if config.objective == "reward_weighted":
        return sft.WeightedSftLoss()
    if config.objective == "grpo":
        settings = grpo.Grpo(
            clip_low=config.clip_epsilon, clip_high=config.clip_epsilon, sampler_correction="none"
        )
        return grpo.GrpoLoss(config=settings)
    raise ValueError(f"phi_loss has no loss for objective {config.objective!r}.")
