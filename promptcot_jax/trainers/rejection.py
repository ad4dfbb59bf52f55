"""Rejection sampling: a policy fine-tuned on its right completions (iterative SFT, the paper's appendix)."""

import dataclasses
from collections.abc import Sequence

from promptcot_jax.data.examples import TokenExample
from promptcot_jax.trainers import sft
from promptcot_jax.trainers.loss_figures import LossFigures
from promptcot_jax.trainers.rollout_groups import Group
from promptcot_jax.trainers.train_step import Loss


@dataclasses.dataclass(frozen=True, kw_only=True)
class RejectionConfig:
    """Which completions are trained on, by likelihood.

    Attributes:
        solved_below: prompts that are solved in this share of their samples, or more, are of no use (the
            paper: half of 8); 1.01 takes all that are solved at all.
        completions_per_prompt: at most, the first right ones of different tokens; 0: all.
    """

    solved_below: float = 0.5
    completions_per_prompt: int = 0

    value_names = ()
    sequences_per_unit = 1
    keeps_start = False

    def __post_init__(self):
        if self.completions_per_prompt < 0:
            raise ValueError(
                f"completions_per_prompt must be 0 (all) or more, got {self.completions_per_prompt}."
            )

    def most_units(self, group_size: int) -> int:
        """Of one prompt."""
        right = [n for n in range(group_size + 1) if n / group_size < self.solved_below]
        return min(max(right, default=0), self.completions_per_prompt or group_size)

    def is_of_use(self, group: Group) -> bool:
        """Whether a prompt gives a completion to train on."""
        return 0 < group.pass_share < self.solved_below

    def units_of(self, groups: Sequence[Group], *, num_groups: int) -> list[tuple[TokenExample, ...]]:
        """The right completions, each once."""
        units = []
        for group in groups:
            right = {rollout.token_ids: rollout for rollout in group.graded if rollout.correct}
            units += [
                (TokenExample(prompt_ids=rollout.prompt_ids, completion_ids=rollout.token_ids),)
                for rollout in list(right.values())[: self.completions_per_prompt or None]
            ]
        return units

    def loss(self, temperature: float) -> Loss:
        return sft.sft_loss

    def scoring_temperature(self, temperature: float) -> float:
        return temperature

    def figures_of(self, steps: Sequence[LossFigures]) -> dict[str, float]:
        """None beside the loss."""
        return {}
