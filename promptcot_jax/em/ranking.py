"""Ranking of the E-step: rewards of G rationales a pair, the choice among them, phi's targets (paper 2.3).

Functions of arrays and records without a model, so that they are held against brute force where every z can
be enumerated. Ranking is per pair, so shards of pairs are independent.

With objective `reward_weighted` phi's fit minimizes sum_b L_b over pairs b, where

    L_b = sum_g w_bg * -log q(z_bg | c_b, x_b)      w: posterior weights, which sum to 1 over g

A batch holds all samples of its pairs, and its gradient is that of

    sum_b L_b / sum_b n_b      n_b = sum_g w_bg * T_bg / sum_g w_bg, of T_bg tokens each: expected tokens

which with one-hot weights is that of `best_of_g`. Each token of z_bg brings its weight w_bg and its share
n_b / (K_b * T_bg) of the normalizer: n_b together, and as much for each of the pair's K_b targets, so that a
sample of little weight moves phi little whatever else is in its batch.
"""

import dataclasses
import itertools
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
    "reward_weighted": ("weight", "count"),
    "grpo": ("advantages", "old_log_probs"),
}
LEAST_WEIGHT = 1e-3  # a posterior weight below makes no target: a pass over the sample for next to nothing


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
    """phi's training examples (c, x) -> z, in the candidates' order; those of a pair are a group.

    `best_of_g`: the winners. `reward_weighted`: samples of at least `LEAST_WEIGHT`. `grpo`: all valid samples
    of a pair whose rewards differ, so that a batch, divided by its number of tokens, holds whole groups, in
    which advantages add up to zero.
    """
    by_id, targets = {pair.triple.id: pair for pair in pairs}, list[examples.TokenExample]()
    for pair_id, row in itertools.groupby(candidates, key=lambda candidate: candidate.pair_id):
        pair, kept = by_id[pair_id], _kept(list(row), config)
        targets += [
            examples.TokenExample(
                prompt_ids=pair.phi_prompt_ids,
                completion_ids=candidate.token_ids,
                token_values={
                    name: (value,) * len(candidate.token_ids)
                    for name, value in _values_of(candidate, kept, config).items()
                },
                group=None if config.objective == "best_of_g" else pair.index,
            )
            for candidate in kept
        ]
    return targets


def _kept(row: Sequence[Candidate], config: EStepConfig) -> list[Candidate]:
    """The candidates of a pair that phi is fitted to."""
    if config.objective == "grpo":
        valid = [c for c in row if c.valid]
        # One and the same sample G times has rewards that differ by rounding, which advantages scale up.
        return valid if any(c.weight for c in valid) and len({c.token_ids for c in valid}) > 1 else []
    return [c for c in row if c.weight >= LEAST_WEIGHT]


def _values_of(candidate: Candidate, kept: Sequence[Candidate], config: EStepConfig) -> dict[str, float]:
    """What each token of a target comes with, but for what `e_step` adds; `kept` are those of its pair."""
    if config.objective == "reward_weighted":
        weights, lengths = zip(*((c.weight, len(c.token_ids)) for c in kept), strict=True)
        expected_tokens = float(np.average(lengths, weights=weights))
        share = expected_tokens / (len(kept) * len(candidate.token_ids))
        return {"weight": candidate.weight, "count": share}
    return dict.fromkeys(PHI_TOKEN_VALUES[config.objective][:1], candidate.weight)


def winners(candidates: Sequence[Candidate]) -> dict[str, Rationale]:
    """The best sample of each pair that has a valid one, by the pair's id."""
    names = [field.name for field in dataclasses.fields(Rationale)]
    return {c.pair_id: Rationale(**{name: getattr(c, name) for name in names}) for c in candidates if c.won}


def _finite(value: float) -> float:
    """JSON has no infinities; an unscorable sample is invalid already, and carries the lowest float32."""
    return float(value) if np.isfinite(value) else -3.4e38
