"""Settings of EM.

The paper gives learning rates, batch sizes, temperature and G; rounds, lengths and schedule are ours.
"""

import dataclasses
from typing import Annotated, ClassVar, Literal, get_args

from promptcot_jax.core import prng
from promptcot_jax.core.settings import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Range,
    settings,
)
from promptcot_jax.sampling.engine import EngineConfig

Role = Literal["theta", "phi", "direct"]  # p_theta(z, x | c), q_phi(z | c, x), the baseline p(x | c)

# Where the rationales that theta is fitted to come from. With an E-step: `e_step`, as `EStepConfig` says it;
# `self_training`, with one sample a pair; `reward_weighted`, with that objective. With a phi that stays as it
# was cold-started: `fixed`, one of its rationales a pair for all rounds; `fixed_sampled`, the same at the
# E-step's temperature; `given`, the rationale that the pair's own row carries.
Arm = Literal["e_step", "self_training", "reward_weighted", "fixed", "fixed_sampled", "given"]


def role_seed(seed: int, role: Role) -> int:
    """Seed of one role's fits, so that each has a data order of its own."""
    return prng.derived_seed(seed, get_args(Role).index(role))


@settings
class EStepConfig:
    """How rationales are sampled, rewarded and turned into targets of phi (paper section 2.3).

    `objective`: `best_of_g` fits phi by SFT on the arg-max sample (the paper), or on the `num_winners` best
    distinct ones alike; `reward_weighted` on all valid samples with weights softmax(R - log q), the
    self-normalised exact E-step; `grpo` takes clipped policy-gradient steps on R. The last two keep the
    samples of a pair in one batch, of `rows_per_batch` rows and as many pairs as these hold.
    `reward`: `log_joint` is the paper's R = log p(z | c) + log p(x | z, c); `log_joint_per_token` divides by
    the tokens of z and x; `elbo` subtracts log q.
    `temperature`, `num_cold_samples` and `num_winners` are the remedies where q_phi collapses onto one
    rationale a pair: the samples differ more, come from what q_phi was before EM too, or several of them are
    learned. With these an entropy floor is not needed.
    """

    group_size: PositiveInt = 8  # G, rationales of a pair
    temperature: PositiveFloat = 1.0
    max_rationale_tokens: Annotated[int, Range(at_least=3)]
    num_cold_samples: NonNegativeInt = 0  # of the G, drawn from the cold-started q_phi; see `em.cold_samples`
    num_winners: PositiveInt = 1  # of a pair, with objective 'best_of_g'
    objective: Literal["best_of_g", "reward_weighted", "grpo"] = "best_of_g"
    reward: Literal["log_joint", "log_joint_per_token", "elbo"] = "log_joint"
    clip_epsilon: float = 0.2  # of the importance ratio, with objective 'grpo'

    def __post_init__(self):
        if self.num_cold_samples >= self.group_size:
            raise ValueError(
                f"num_cold_samples must be below group_size ({self.group_size}), got {self.num_cold_samples}."
            )
        if self.num_cold_samples and self.objective == "grpo":
            raise ValueError("objective 'grpo' takes ratios to q_phi itself; set num_cold_samples to 0.")
        if self.num_winners > 1 and self.objective != "best_of_g":
            raise ValueError(
                f"objective '{self.objective}' weighs all samples and has no winners; set num_winners to 1."
            )
        if self.num_winners > self.group_size:
            raise ValueError(
                f"num_winners must be at most group_size ({self.group_size}), got {self.num_winners}."
            )
        if self.objective == "grpo" and self.group_size < 2:
            raise ValueError("objective 'grpo' compares samples; set group_size to at least 2.")
        if self.objective == "grpo" and self.temperature != 1.0:
            raise ValueError(
                "objective 'grpo' takes ratios to a sampler at temperature 1; set temperature to 1."
            )
        if self.objective == "reward_weighted" and self.reward == "log_joint_per_token":
            raise ValueError("objective 'reward_weighted' needs a log density as reward: log_joint or elbo.")


@settings
class HeldOutConfig:
    """Size of the held-out measurement after each round.

    The bound's slack is about half the square of its error: a few hundred samples on few pairs measure what
    8 on many do not. Its cost is drawing two thirds of `bound_pairs * num_samples` rationales a round, and
    scoring the distinct ones by both models and by the cold-started q_phi.
    """

    num_pairs: PositiveInt = 64
    bound_pairs: PositiveInt = 32  # the first of these are measured by the bound, too
    num_samples: Annotated[int, Range(at_least=3)] = 512  # rationales per pair in the bound
    num_concept_sets: NonNegativeInt = 32  # prompts for which p_theta writes problems, to count distinct ones
    problems_per_set: NonNegativeInt = 4

    @property
    def samples_by_proposal(self) -> tuple[int, int, int]:
        """Of a pair: by the cold-started q_phi, by the round's and by p_theta, a third each."""
        third = self.num_samples // 3
        return self.num_samples - 2 * third, third, third


@settings
class EmConfig:
    """The EM loop: rounds, pairs per round, and when to stop.

    `arm`: where theta's rationales come from, see `Arm`. `fixed_temperature` is that of the arm `fixed`.
    `optimizer_between_rounds`: `reset` starts Adam's moments and the schedule, warm-up included, anew each
    round, `keep` carries them on; `docs/results/em.md` compares them. The loop stops when `patience` rounds
    have surely not lowered the held-out `nll_bound` by `tolerance` (nats per token; the interval of the
    paired difference excludes it, see `history.has_converged`), or after `max_rounds`. EM warns that
    p_theta uses z little where the held-out `z_gap` (nats per token of x) is within two standard errors of
    zero, or below `z_gap_share` of the cold start's.
    """

    max_rounds: PositiveInt
    pairs_per_round: NonNegativeInt = 0  # the next ones of a seeded order; 0: all pairs in every round
    arm: Arm = "e_step"
    fixed_temperature: NonNegativeFloat = 0.0  # 0: greedy, as the rationales of the M-step are
    optimizer_between_rounds: Literal["reset", "keep"] = "reset"
    tolerance: float = 0.002
    patience: PositiveInt = 2
    pairs_per_shard: PositiveInt = 64  # a killed E-step or M-step loses at most this many pairs' samples
    z_gap_share: NonNegativeFloat = 0.7
    seed: int = 0

    @property
    def has_e_step(self) -> bool:
        """Whether phi is trained."""
        return self.arm in ("e_step", "self_training", "reward_weighted")


def settings_of_arm(arm: Arm, config: EmConfig, e_step: EStepConfig) -> tuple[EmConfig, EStepConfig]:
    """The settings of one arm of a comparison: those given, but for what the arm is about."""
    config = dataclasses.replace(config, arm=arm)
    if arm == "fixed_sampled":
        config = dataclasses.replace(config, fixed_temperature=e_step.temperature)
    elif arm == "self_training":
        e_step = dataclasses.replace(e_step, group_size=1, num_cold_samples=0, num_winners=1)
    elif arm == "reward_weighted":
        e_step = dataclasses.replace(e_step, objective="reward_weighted", num_winners=1)
    return config, e_step


@settings
class BatchSizes:
    """How much is decoded and scored at once; larger is faster until memory ends.

    Results do not depend on it beyond float rounding.
    """

    EXECUTION_ONLY: ClassVar = frozenset({"score_tokens"})
    engine: EngineConfig = EngineConfig(num_slots=64)
    score_tokens: PositiveInt = 16384  # padded tokens scored at once
