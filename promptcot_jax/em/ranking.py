"""Ranking of the E-step: rewards of G rationales a pair, the choice among them, phi's targets (paper 2.3).

Functions of arrays and records without a model, so that they are held against brute force where every z can
be enumerated. Ranking is per pair, so shards of pairs are independent.
"""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from promptcot_jax.core.records import Candidate
from promptcot_jax.data import examples
from promptcot_jax.em.pairs import Pair, Rationale
from promptcot_jax.em.settings import EStepConfig
from promptcot_jax.objectives import advantages, bounds

# What each token of a target of phi comes with, by objective: first the sample's weight, then what
# `e_step` adds.
PHI_TOKEN_VALUES: Mapping[str, tuple[str, ...]] = {
    "best_of_g": (),
    "reward_weighted": ("weight",),
    "grpo": ("advantages", "old_log_probs"),
}


def rank(
    pairs: Sequence[Pair],
    rationales: Sequence[Sequence[Rationale]],
    log_p_z: np.ndarray,
    log_p_x: np.ndarray,
    config: EStepConfig,
) -> list[Candidate]:
    """The G rationales of each pair with scores, weights and winner, in order.

    Args:
        log_p_z: log p_theta(z | c) [B, G], summed over tokens; `log_p_x`: log p_theta(x | z, c).
    """
    log_q = np.array([[z.log_q for z in row] for row in rationales], np.float64)
    is_scored = np.isfinite(log_p_z) & np.isfinite(log_p_x) & np.isfinite(log_q)
    is_valid = np.array([[z.valid for z in row] for row in rationales]) & is_scored
    z_lengths = np.array([[len(z.block_ids) for z in row] for row in rationales])
    x_lengths = np.array([[len(pair.problem_ids)] for pair in pairs])
    rewards = reward(log_p_z, log_p_x, log_q, z_lengths + x_lengths, config)
    best = [
        distinct_by_reward(rewards[b], is_valid[b], [z.token_ids for z in row])
        for b, row in enumerate(rationales)
    ]
    weights = target_weights(rewards, log_q, is_valid, best, config)
    return [
        Candidate(
            pair_id=z.pair_id,
            sample=g,
            rationale=z.rationale,
            token_ids=z.token_ids,
            finish_reason=z.finish_reason,
            valid=bool(is_valid[b, g]),
            retokenized=z.retokenized,
            log_p_z=_finite(log_p_z[b, g]),
            log_p_x=_finite(log_p_x[b, g]),
            log_q=_finite(log_q[b, g]),
            length=len(z.block_ids),
            weight=float(weights[b, g]),
            won=best[b][:1] == [g],
        )
        for b, row in enumerate(rationales)
        for g, z in enumerate(row)
    ]


def reward(
    log_p_z: np.ndarray,
    log_p_x: np.ndarray,
    log_q: np.ndarray,
    num_tokens: np.ndarray,
    config: EStepConfig,
) -> np.ndarray:
    """The reward R [B, G] that the samples of a pair are compared by; `num_tokens` are those of z and x."""
    log_joint = log_p_z + log_p_x  # a sum over the tokens of z and x, never a mean
    if config.reward == "elbo":
        return log_joint - log_q
    if config.reward == "log_joint_per_token":
        return log_joint / num_tokens
    return log_joint


def distinct_by_reward(
    rewards: Sequence[float] | np.ndarray,
    is_valid: Sequence[bool] | np.ndarray,
    token_ids: Sequence[tuple[int, ...]],
) -> list[int]:
    """The valid samples of one pair, best first, each rationale once; of equal ones the first.

    On the host in float64: a sum of hundreds of nats in float32 would tie what is not tied.
    """
    order = sorted(np.flatnonzero(is_valid).tolist(), key=lambda g: -rewards[g])
    best: dict[tuple[int, ...], int] = {}
    for g in order:
        best.setdefault(token_ids[g], g)
    return list(best.values())


def target_weights(
    rewards: np.ndarray,
    log_q: np.ndarray,
    is_valid: np.ndarray,
    best: Sequence[Sequence[int]],
    config: EStepConfig,
) -> np.ndarray:
    """Weight of each sample [B, G] in phi's fit: 1 for winners, softmax(R - log q), or the group advantage.

    Args:
        best: as `distinct_by_reward` of each pair; the first `num_winners` of them win.

    Raises:
        ValueError: the objective has no weights.
    """
    if config.objective == "best_of_g":
        weights = np.zeros(rewards.shape, np.float32)
        for of_pair, winners in zip(weights, best, strict=True):
            of_pair[list(winners[: config.num_winners])] = 1.0
        return weights
    if config.objective == "reward_weighted":
        # `elbo` as the reward has log q in it already.
        log_weights = rewards if config.reward == "elbo" else rewards - log_q
        return bounds.posterior_weights(np.where(is_valid, log_weights, -np.inf))
    if config.objective == "grpo":
        centred = _centred(rewards, is_valid)
        return np.asarray(advantages.group_advantages(jnp.asarray(centred), jnp.asarray(is_valid)))
    raise ValueError(f"target_weights has no weights for objective {config.objective!r}.")


def _centred(values: np.ndarray, is_valid: np.ndarray) -> np.ndarray:
    """Values relative to the best valid one of their pair, -inf where invalid: small enough for float32."""
    values = np.where(is_valid, values, -np.inf)
    best = values.max(axis=-1, keepdims=True)
    return (values - np.where(np.isfinite(best), best, 0.0)).astype(np.float32)


def phi_targets(
    pairs: Sequence[Pair], candidates: Sequence[Candidate], config: EStepConfig
) -> list[examples.TokenExample]:
    """phi's training examples: (c, x) -> z for each candidate with a weight, put on each of its tokens."""
    weight_name = PHI_TOKEN_VALUES[config.objective][:1]
    by_id = {pair.triple.id: pair for pair in pairs}
    return [
        examples.TokenExample(
            prompt_ids=by_id[candidate.pair_id].phi_prompt_ids,
            completion_ids=candidate.token_ids,
            token_values={name: (candidate.weight,) * len(candidate.token_ids) for name in weight_name},
        )
        for candidate in candidates
        if candidate.weight != 0.0
    ]


def _finite(value: float) -> float:
    """JSON has no infinities; an unscorable sample is invalid already, and carries the lowest float32."""
    return float(value) if np.isfinite(value) else -3.4e38
