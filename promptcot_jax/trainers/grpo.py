"""GRPO and its relatives on packed completions: self-play trains a policy with it, the E-step's `grpo` phi.

One loss with a switch for each part in which the published ones differ; `Grpo` names them. What the
values of a batch must hold follows from the switches (`value_names`).
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from jax import lax

from promptcot_jax.core.arrays import Array, Bool, Float, Params
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import Rollout
from promptcot_jax.core.settings import NonNegativeFloat, NonNegativeInt, PositiveFloat, Share, settings
from promptcot_jax.data.examples import TokenExample
from promptcot_jax.data.packing import PackedBatch
from promptcot_jax.models.decoder import Remat
from promptcot_jax.models.language_model import LanguageModel
from promptcot_jax.objectives import advantages, policy_gradient, token_log_probs
from promptcot_jax.objectives.advantages import Baseline
from promptcot_jax.objectives.policy_gradient import Aggregation, KlEstimator, RatioLevel
from promptcot_jax.sampling import journal
from promptcot_jax.trainers import sft, train_step
from promptcot_jax.trainers.algorithm import Algorithm, Group, OldLogProbs, Unit
from promptcot_jax.trainers.train_step import Loss, LossFigures, LossSums

Surrogate = Literal["clip", "cispo"]
SamplerCorrection = Literal["none", "token", "sequence"]


@settings
class Grpo(Algorithm):
    """The algorithm. Defaults: GRPO with DAPO's aggregation and wider upper clip, and without KL.

    | published as | settings |
    |---|---|
    | GRPO | aggregation="sequence", clip_high=0.2, kl_beta=0.04 |
    | Dr. GRPO | baseline="mean", aggregation="constant", clip_high=0.2 |
    | RLOO | baseline="leave_one_out" |
    | DAPO | the defaults, with a length term of `rewards.RewardConfig` or `mask_cut_off` |
    | GSPO | ratio="sequence", aggregation="sequence", clip_low=3e-4, clip_high=4e-4 |
    | CISPO | surrogate="cispo", clip_low=1.0, clip_high=2.0 |
    """

    keeps_prompts_together: ClassVar[bool] = True

    baseline: Baseline = "mean_and_std"
    ratio: RatioLevel = "token"
    surrogate: Surrogate = "clip"
    clip_low: Share = 0.2
    clip_high: NonNegativeFloat = 0.28
    # With surrogate = "clip", the most that a ratio counts where the advantage is negative; dual-clip PPO has
    # 3. 0: it is not bounded.
    dual_clip: NonNegativeFloat = 0.0
    aggregation: Aggregation = "token"
    # What aggregation = "constant" divides by: the longest completion allowed.
    constant_length: NonNegativeInt = 0
    # Weight of the KL to the policy that training began with; at 0 that policy is not kept.
    kl_beta: NonNegativeFloat = 0.0
    # k2 or k3; k1's gradient has mean 0, and k2's is the one that k1 has within the reward.
    kl_estimator: KlEstimator = "k3"
    # Weight of the entropy of the policy at each token, which the loss then rewards; against a policy that
    # gives up looking for other answers.
    entropy_coef: NonNegativeFloat = 0.0
    sampler_correction: SamplerCorrection = "token"  # weigh tokens or sequences by p_old / p_sampler
    sampler_cap: PositiveFloat = 2.0  # that ratio is at most
    # What is above the cap trains nothing instead: for mixtures of experts, where sampler and trainer may
    # have routed a token to different ones.
    sampler_mask: bool = False
    # An iteration makes one update, so that old log-probabilities are those of its own pass: ratios are 1,
    # and no pass is spent on them. Self-play sets it where it is so.
    single_update: bool = False
    # Completions that ran out of tokens stay in their group's baseline, and train nothing.
    mask_cut_off: bool = False

    def __post_init__(self):
        if (self.aggregation == "constant") != (self.constant_length > 0):
            raise ValueError(
                f"constant_length={self.constant_length} with aggregation={self.aggregation!r}: it must be "
                "positive for 'constant', and 0 otherwise."
            )
        if self.dual_clip and (self.surrogate != "clip" or self.dual_clip <= 1.0 + self.clip_high):
            raise ValueError(
                f"dual_clip={self.dual_clip} with surrogate={self.surrogate!r}: it is a part of 'clip', and "
                f"must be 0 or above 1 + clip_high ({1.0 + self.clip_high})."
            )
        if self.kl_beta and self.kl_estimator == "k1":
            raise ValueError(
                "kl_estimator 'k1' as a term of the loss has a gradient of mean 0; use 'k2', whose gradient "
                "is that of k1 in the reward, or 'k3'."
            )

    @property
    def value_names(self) -> tuple[str, ...]:
        names = ["advantages"]
        names += [] if self.single_update else ["old_log_probs"]
        names += ["sampler_log_probs"] if self.sampler_correction != "none" else []
        names += ["reference_log_probs"] if self.kl_beta else []
        return tuple(sorted(names))

    @property
    def keeps_reference(self) -> bool:
        return self.kl_beta > 0

    def for_iterations(self, *, num_updates: int, old_log_probs: OldLogProbs, max_staleness: int) -> "Grpo":
        """See `Algorithm`; a single update needs no old log-probabilities."""
        is_sampled = old_log_probs == "sampled"
        if is_sampled and self.sampler_correction != "none":
            raise WrongUse(
                "With old_log_probs = 'sampled' there is nothing to correct by; set sampler_correction to "
                "'none'."
            )
        if self.single_update and num_updates > 1:
            raise WrongUse(
                f"single_update is set, but an iteration makes {num_updates} updates; leave it unset: ratios "
                "need the log-probabilities from before the first."
            )
        if max_staleness and not self.takes_older_rollouts(old_log_probs):
            raise WrongUse(
                "With max_staleness = 1 another policy draws than the one that is trained, and "
                "sampler_correction = 'none' would take its rollouts for the policy's own; set it to 'token' "
                "or 'sequence', or have old_log_probs = 'sampled', so that ratios refer to what drew them."
            )
        is_single = num_updates == 1 and not is_sampled
        return dataclasses.replace(self, single_update=self.single_update or is_single)

    def takes_older_rollouts(self, old_log_probs: OldLogProbs) -> bool:
        """Whether weights correct for their age, or ratios refer to what drew them."""
        is_ratio_to_sampler = old_log_probs == "sampled" and not self.single_update
        return self.sampler_correction != "none" or is_ratio_to_sampler

    def most_units(self, group_size: int) -> int:
        return group_size

    def is_of_use(self, group: Group) -> bool:
        """Whether the verdicts on a prompt's samples differ.

        Where they are all right or all wrong there is no advantage to give, whatever other terms of the
        reward tell them apart: kept, such a group would dilute the mean of the batch (DAPO's dynamic
        sampling, arXiv 2503.14476, equation 11).
        """
        return group.verdicts == "mixed"

    def units_of(self, groups: Sequence[Group], *, num_groups: int) -> list[Unit]:
        """Each graded sample with its advantage and the sampler's log-probabilities.

        Args:
            num_groups: of a full iteration; smaller ones are filled up, so that one shape is compiled.
        """
        size = max((len(group.rollouts) for group in groups), default=0)
        rewards = np.zeros((max(num_groups, len(groups)), size), np.float32)
        is_graded = np.zeros(rewards.shape, bool)
        for row, group in enumerate(groups):
            rewards[row] = [rollout.reward for rollout in group.rollouts]
            is_graded[row] = [rollout.graded for rollout in group.rollouts]
        of_groups = np.asarray(
            advantages.group_advantages(jnp.asarray(rewards), jnp.asarray(is_graded), baseline=self.baseline)
        )
        return [
            (_example(rollout, float(of_groups[row, column])),)
            for row, group in enumerate(groups)
            for column, rollout in enumerate(group.rollouts)
            if rollout.graded and not (self.mask_cut_off and rollout.finish_reason == "length")
        ]

    def loss(self, temperature: float) -> Loss:
        return GrpoLoss(config=self, temperature=temperature)


def _example(rollout: Rollout, advantage: float) -> TokenExample:
    return TokenExample(
        prompt_ids=rollout.prompt_ids,
        completion_ids=rollout.token_ids,
        token_values={
            "advantages": np.full(len(rollout.token_ids), advantage),
            "sampler_log_probs": journal.floats_of(rollout.sampler_log_probs),
        },
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class GrpoLoss:
    """Weighted sum of the token losses, what to divide it by, and figures.

    `batch.values` holds for each completion token the advantage of its sample ("advantages") and
    log-probabilities at `temperature`: under the policy before the iteration's first update, as the trainer
    computes them ("old_log_probs"), as the sampler did ("sampler_log_probs"), and under the reference
    ("reference_log_probs"), each where the settings need it.
    """

    config: Grpo
    temperature: float = 1.0

    def __call__(
        self, lm: LanguageModel, params: Params, batch: PackedBatch, *, remat: Remat = "projections"
    ) -> LossSums:
        config = self.config
        labels, is_label = sft.next_token_labels(batch)
        hidden, *routers = sft.hidden_states(lm, params, batch, remat=remat)
        log_probs, entropies = token_log_probs.chunked_log_probs_and_entropies(
            hidden,
            lm.output_embedding(params),
            labels,
            is_label=is_label,
            temperature=self.temperature,
            soft_cap=lm.config.logit_soft_cap,
            entropy_gradient=config.entropy_coef > 0,
            rules=lm.rules,
        )
        losses, figures = token_losses(
            log_probs,
            {name: sft.of_next_token(batch.values[name]) for name in config.value_names},
            jnp.asarray(batch.segment_ids),
            is_label,
            config=config,
        )
        weights, count = policy_gradient.aggregation_weights(
            jnp.asarray(batch.segment_ids),
            is_label,
            aggregation=config.aggregation,
            constant_length=config.constant_length,
        )
        figures.sums["entropy"] = token_log_probs.masked_total(lax.stop_gradient(entropies), is_label)[0]
        losses = losses - config.entropy_coef * entropies
        total = jnp.sum(jnp.where(is_label, weights * losses, 0.0))
        return total, count, *routers, figures

    def metrics_of(self, steps: Sequence[LossFigures]) -> dict[str, float]:
        """Those that TRL has under its names; means are per trained token."""
        sums, maxima = train_step.over_steps(steps)
        num_labels = max(sums["labels"], 1.0)
        means = {name: total / num_labels for name, total in sums.items()}
        metrics = {
            "entropy": means["entropy"],
            "policy_kl": means["policy_kl"],
            "clip_ratio/low_mean": means["clip_low"],
            "clip_ratio/high_mean": means["clip_high"],
            "ratio/min": -maxima["max_minus_ratio"],
            "ratio/max": maxima["max_ratio"],
        }
        if "kl" in means:
            metrics["kl"] = means["kl"]
        if "sampler_gap" in means:
            metrics |= {
                "sampling/sampling_logp_difference/mean": means["sampler_gap"],
                "sampling/sampling_logp_difference/max": maxima["max_sampler_gap"],
                "sampling/importance_sampling_ratio/mean": means["sampler_weight"],
                "sampling/importance_sampling_ratio/min": -maxima["max_minus_sampler_weight"],
            }
        return metrics


def token_losses(
    log_probs: Float[Array, "B T"],
    values: dict[str, Array],
    segment_ids: Array,
    is_label: Bool[Array, "B T"],
    *,
    config: Grpo,
) -> tuple[Float[Array, "B T"], LossFigures]:
    """Loss of each label under the settings, and the figures but for the entropy.

    Args:
        values: by name as `GrpoLoss` describes them, at the positions that predict.
    """
    advantages = values["advantages"]
    old = lax.stop_gradient(log_probs) if config.single_update else values["old_log_probs"]
    log_probs = jnp.where(is_label, log_probs, old)  # ratio 1 where nothing is trained
    log_ratio = policy_gradient.log_ratios(log_probs, old, segment_ids, is_label, level=config.ratio)
    clips = {"clip_low": config.clip_low, "clip_high": config.clip_high}
    if config.surrogate == "clip":
        losses = policy_gradient.clipped_surrogate(log_ratio, advantages, **clips, dual_clip=config.dual_clip)
    else:
        losses = policy_gradient.cispo(log_probs, log_ratio, advantages, **clips)
    is_low, is_high = policy_gradient.clipped_where(log_ratio, advantages, **clips)

    shares = {"labels": is_label, "clip_low": is_low, "clip_high": is_high}
    sums = {name: where.astype(jnp.float32) for name, where in shares.items()}
    ratio = jnp.exp(log_ratio)
    extremes = {"max_ratio": ratio, "max_minus_ratio": -ratio}
    # From samples of the old policy: how far the updates of this iteration have gone.
    sums["policy_kl"] = policy_gradient.kl_estimate(old, log_probs, estimator="k3")
    if config.sampler_correction != "none":
        sampler = values["sampler_log_probs"]
        weights = policy_gradient.sampler_weights(
            old,
            sampler,
            segment_ids,
            is_label,
            level=config.sampler_correction,
            cap=config.sampler_cap,
            is_masked=config.sampler_mask,
        )
        losses = losses * weights
        gap = jnp.abs(jnp.where(is_label, old - sampler, 0.0))
        sums |= {"sampler_gap": gap, "sampler_weight": weights}
        extremes |= {"max_sampler_gap": gap, "max_minus_sampler_weight": -weights}
    if config.kl_beta:
        kl = policy_gradient.kl_estimate(
            log_probs, values["reference_log_probs"], estimator=config.kl_estimator
        )
        losses = losses + config.kl_beta * kl
        sums["kl"] = kl
    return losses, LossFigures(
        {name: token_log_probs.masked_total(value, is_label)[0] for name, value in sums.items()},
        {
            name: jnp.max(jnp.where(is_label, value, -jnp.inf), initial=-jnp.inf)
            for name, value in extremes.items()
        },
    )
