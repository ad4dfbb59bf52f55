"""DPO on pairs of a policy's own completions, a right and a wrong one (the paper's self-play, section 2.3).

Both completions of a pair lie in one packed row, the preferred one first: segments 1 and 2, 3 and 4, ... of
a row are pairs, so that no cut into micro-batches or devices parts them. The paper gives neither beta nor
the number of pairs of a prompt; the released script takes as many as there are completions of the rarer kind,
and notes a limit of 2 or 4 where the answer was voted.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal

import jax.numpy as jnp

from promptcot_jax.core.arrays import Array, Params
from promptcot_jax.core.records import Rollout
from promptcot_jax.core.settings import NonNegativeFloat, NonNegativeInt, PositiveFloat, Range, settings
from promptcot_jax.data.examples import TokenExample
from promptcot_jax.data.packing import PackedBatch
from promptcot_jax.models.decoder import Remat
from promptcot_jax.models.language_model import LanguageModel
from promptcot_jax.objectives import preference, token_log_probs
from promptcot_jax.objectives.preference import PreferenceLoss
from promptcot_jax.trainers import sft, train_step
from promptcot_jax.trainers.algorithm import Algorithm, Group, Unit
from promptcot_jax.trainers.train_step import Loss, LossFigures, LossSums


@settings
class Dpo(Algorithm):
    """Pairs and loss, by default DPO's with a reference that each iteration takes anew.

    | published as | settings |
    |---|---|
    | DPO | reference="start" |
    | IPO | loss="ipo", length_normalized=True, as TRL has it |
    | SimPO | reference="none", length_normalized=True, beta=2.0, target_margin=1.0 |
    | RPO | nll_weight=1.0 |
    """

    # "iteration": the policy before the iteration's first update; "start": that before the first of all;
    # "none": the log-probabilities of the policy stand in the place of its ratios to one.
    reference: Literal["iteration", "start", "none"] = "iteration"
    loss_type: PreferenceLoss = "sigmoid"
    beta: PositiveFloat = 0.1
    target_margin: NonNegativeFloat = 0.0  # that beta times the difference is to have; of "sigmoid"
    nll_weight: NonNegativeFloat = 0.0  # of -log p of the preferred completion, by token
    label_smoothing: Annotated[float, Range(at_least=0, below=0.5)] = 0.0  # of "sigmoid"
    length_normalized: bool = False  # compares means over tokens, not sums; beta is then larger, 2 to 10
    # Prompts solved in this share of their samples, or more, are of no use (the paper: half of 8).
    solved_below: float = 0.5
    pairs_per_prompt: NonNegativeInt = 0  # at most; 0: as many as there are of the rarer kind

    unit_name = "pairs"
    sequences_per_unit = 2

    def __post_init__(self):
        if self.loss_type == "ipo" and (self.target_margin or self.label_smoothing):
            raise ValueError(
                "target_margin and label_smoothing are of loss_type 'sigmoid'; set them to 0 with 'ipo', "
                "whose margin is 1 / (2 beta)."
            )

    @property
    def value_names(self) -> tuple[str, ...]:
        return () if self.reference == "none" else ("reference_log_probs",)

    @property
    def keeps_reference(self) -> bool:
        return self.reference == "start"

    def most_units(self, group_size: int) -> int:
        pairs = [min(n, group_size - n) for n in range(group_size) if n / group_size < self.solved_below]
        return min(max(pairs, default=0), self.pairs_per_prompt or group_size)

    def is_of_use(self, group: Group) -> bool:
        """Whether a prompt gives a pair."""
        return group.verdicts == "mixed" and group.pass_share < self.solved_below and bool(self._pairs(group))

    def units_of(self, groups: Sequence[Group], *, num_groups: int) -> list[Unit]:
        """The pairs of all groups."""
        return [(_example(one), _example(other)) for group in groups for one, other in self._pairs(group)]

    def _pairs(self, group: Group) -> list[tuple[Rollout, Rollout]]:
        """The first right completion with the first wrong one, and so on.

        One that came out both right and wrong, as a program near its time limit may, says nothing. One that
        was cut off is never preferred.
        """
        right = {rollout.token_ids for rollout in group.graded if rollout.correct}
        wrong = {rollout.token_ids for rollout in group.graded if not rollout.correct}
        chosen = [rollout for rollout in group.right_and_ended if rollout.token_ids not in wrong]
        rejected = [r for r in group.graded if not r.correct and r.token_ids not in right]
        return list(zip(chosen, rejected, strict=False))[: self.pairs_per_prompt or None]

    def loss(self, temperature: float) -> Loss:
        """Log-probabilities are those of the policy as it is, whatever the temperature of sampling."""
        return DpoLoss(config=self)

    def scoring_temperature(self, temperature: float) -> float:
        return 1.0


def _example(rollout: Rollout) -> TokenExample:
    return TokenExample(prompt_ids=rollout.prompt_ids, completion_ids=rollout.token_ids)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DpoLoss:
    """Sum of the losses of the pairs, their number, and figures.

    `batch.values["reference_log_probs"]` holds the log-probability of each completion token under the
    reference, where there is one.
    """

    config: Dpo

    def __call__(
        self, lm: LanguageModel, params: Params, batch: PackedBatch, *, remat: Remat = "projections"
    ) -> LossSums:
        config = self.config
        labels, is_label = sft.next_token_labels(batch)
        hidden, *routers = sft.hidden_states(lm, params, batch, remat=remat)
        log_probs = token_log_probs.chunked_label_log_probs(
            hidden,
            lm.output_embedding(params),
            labels,
            is_label=is_label,
            soft_cap=lm.config.logit_soft_cap,
            rules=lm.rules,
        )
        segment_ids = jnp.asarray(batch.segment_ids)
        reference = 0.0
        if config.reference != "none":
            reference = sft.of_next_token(batch.values["reference_log_probs"])
        lengths = _by_pair(jnp.ones_like(log_probs), segment_ids, is_label)  # two [B, pairs] each
        log_ps = _by_pair(log_probs, segment_ids, is_label)
        log_ratios = _by_pair(log_probs - reference, segment_ids, is_label)
        if config.length_normalized:
            log_ratios = tuple(x / jnp.maximum(n, 1.0) for x, n in zip(log_ratios, lengths, strict=True))
        chosen, rejected = log_ratios
        is_pair = (lengths[0] > 0) & (lengths[1] > 0)
        losses = preference.preference_losses(
            chosen,
            rejected,
            beta=config.beta,
            loss=config.loss_type,
            target_margin=config.target_margin,
            label_smoothing=config.label_smoothing,
        )
        nll = -log_ps[0] / jnp.maximum(lengths[0], 1.0)
        losses = losses + config.nll_weight * nll
        of_each = {
            "pairs": jnp.ones_like(chosen),
            "rewards/chosen": config.beta * chosen,
            "rewards/rejected": config.beta * rejected,
            "rewards/margins": config.beta * (chosen - rejected),
            "rewards/accuracies": (chosen > rejected).astype(jnp.float32),
            "logps/chosen": log_ps[0],
            "logps/rejected": log_ps[1],
            **({"nll_loss": nll} if config.nll_weight else {}),
        }
        sums = {name: token_log_probs.masked_total(value, is_pair)[0] for name, value in of_each.items()}
        return *token_log_probs.masked_total(losses, is_pair), *routers, LossFigures(sums, {})

    def metrics_of(self, steps: Sequence[LossFigures]) -> dict[str, float]:
        """Those of TRL under its names, means over pairs."""
        sums, _ = train_step.over_steps(steps)
        num_pairs = max(sums.pop("pairs"), 1.0)
        return {name: total / num_pairs for name, total in sums.items()}


def _by_pair(values: Array, segment_ids: Array, is_label: Array) -> tuple[Array, Array]:
    """Sums over the labels of the odd and of the even segments of each row: two [B, pairs]."""
    num_rows, length = values.shape
    sums = jnp.zeros((num_rows, 2 * (length // 2) + 3), values.dtype)
    sums = sums.at[jnp.arange(num_rows)[:, None], segment_ids].add(jnp.where(is_label, values, 0.0))
    return sums[:, 1::2], sums[:, 2::2]
