"""Settings of EM.

The paper gives learning rates, batch sizes, temperature and G; rounds, lengths and schedule are ours.
"""

import dataclasses
from typing import Literal

Objective = Literal["best_of_g", "reward_weighted", "grpo"]
Reward = Literal["log_joint", "log_joint_per_token", "elbo"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EStepConfig:
    """How rationales are drawn, rewarded and turned into targets of phi (paper section 2.3).

    `objective`: `best_of_g` fits phi by SFT on the arg-max sample (the paper); `reward_weighted` on all valid
    samples with weights softmax(R - log q), the self-normalised exact E-step; `grpo` takes a clipped
    policy-gradient step on R.
    `reward`: `log_joint` is the paper's R = log p(z | c) + log p(x | z, c); `log_joint_per_token` divides by
    the tokens of z and x; `elbo` subtracts log q.
    """

    group_size: int = 8
    temperature: float = 1.0
    max_rationale_tokens: int
    objective: Objective = "best_of_g"
    reward: Reward = "log_joint"
    clip_epsilon: float = 0.2  # grpo only

    def __post_init__(self):
        if self.group_size < 1:
            raise ValueError(f"group_size (G) must be at least 1, got {self.group_size}.")
        if self.temperature <= 0:
            raise ValueError(f"The E-step samples at a positive temperature, got {self.temperature}.")
        if self.max_rationale_tokens < 3:
            raise ValueError(f"max_rationale_tokens must be at least 3, got {self.max_rationale_tokens}.")
        if self.objective == "grpo" and self.group_size < 2:
            raise ValueError("objective 'grpo' compares samples; set group_size to at least 2.")
        if self.objective == "grpo" and self.temperature != 1.0:
            raise ValueError(
                "objective 'grpo' takes ratios to a sampler at temperature 1; set temperature to 1."
            )
        if self.objective == "reward_weighted" and self.reward == "log_joint_per_token":
            raise ValueError("objective 'reward_weighted' needs a log density as reward: log_joint or elbo.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOutConfig:
    """Size of the held-out evaluation after each round."""

    num_pairs: int = 64
    num_samples: int = 8  # rationales per pair in the importance bound
    num_concept_sets: int = 32  # prompts for which p_theta writes problems, to count the distinct ones
    problems_per_set: int = 4

    def __post_init__(self):
        for name in ("num_pairs", "num_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("num_concept_sets", "problems_per_set"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmConfig:
    """The EM loop: rounds, pairs per round, and when to stop.

    `pairs_per_round` 0 takes all pairs in every round; otherwise each round takes the next ones of a seeded
    order, so that small models do not overfit the same few. `e_step=False` is the paper's "without E-step"
    variant: rationales are sampled once from the cold-started q_phi and kept, only theta is trained.
    `optimizer_between_rounds`: `reset` starts Adam's moments and the schedule anew each round, `keep` carries
    them on. The loop stops when the best held-out `nll_bound` has not fallen by `tolerance` (nats per token)
    for `patience` rounds, or after `max_rounds`. A warning says when p_theta uses z little: another pair's z
    costs it less than `z_gap_warning` (nats per token of x), or less than `z_gap_share` of what it cost at
    the start (in the study of `docs/results.md` runs that kept using z stayed above 0.7 of it, the other
    one fell below 0.65).
    """

    max_rounds: int
    pairs_per_round: int = 0
    e_step: bool = True
    optimizer_between_rounds: Literal["reset", "keep"] = "reset"
    tolerance: float = 0.002
    patience: int = 2
    pairs_per_shard: int = 64  # a killed E-step or M-step loses at most this many pairs' samples
    z_gap_warning: float = 0.05
    z_gap_share: float = 0.7
    seed: int = 0

    def __post_init__(self):
        if self.max_rounds < 1:
            raise ValueError(f"max_rounds must be at least 1, got {self.max_rounds}.")
        if self.pairs_per_round < 0 or self.pairs_per_shard < 1:
            raise ValueError("pairs_per_round must be 0 (all) or more and pairs_per_shard at least 1.")
        if self.patience < 1:
            raise ValueError(f"patience must be at least 1 round, got {self.patience}.")
