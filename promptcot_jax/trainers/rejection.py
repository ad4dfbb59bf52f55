"""Rejection sampling: a policy fine-tuned on its right completions (iterative SFT, the paper's appendix)."""

from collections.abc import Sequence

from promptcot_jax.core.settings import NonNegativeInt, settings
from promptcot_jax.data.examples import TokenExample
from promptcot_jax.trainers import sft
from promptcot_jax.trainers.algorithm import Algorithm, Group, Unit
from promptcot_jax.trainers.train_step import Loss


@settings
class RejectionSampling(Algorithm):
    """Which completions are trained on, by likelihood."""

    # Prompts solved in this share of their samples, or more, are of no use (the paper: half of 8); 1.01 takes
    # all that are solved at all.
    solved_below: float = 0.5
    completions_per_prompt: NonNegativeInt = 4  # at most, the first right ones of different tokens; 0: all

    def most_units(self, group_size: int) -> int:
        right = [n for n in range(group_size + 1) if n / group_size < self.solved_below]
        return min(max(right, default=0), self.completions_per_prompt or group_size)

    def is_of_use(self, group: Group) -> bool:
        """Whether a prompt gives a completion to train on."""
        return bool(group.right_and_ended) and group.pass_share < self.solved_below

    def units_of(self, groups: Sequence[Group], *, num_groups: int) -> list[Unit]:
        """The right completions that ended, each once."""
        units = []
        for group in groups:
            right = {rollout.token_ids: rollout for rollout in group.right_and_ended}
            units += [
                (TokenExample(prompt_ids=rollout.prompt_ids, completion_ids=rollout.token_ids),)
                for rollout in list(right.values())[: self.completions_per_prompt or None]
            ]
        return units

    def loss(self, temperature: float) -> Loss:
        return sft.SftLoss()
