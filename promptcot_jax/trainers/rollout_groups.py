"""Groups of rollouts of one prompt: which of them teach something, what each sample is worth, and figures.

A group whose graded samples are all right or all wrong has no advantage to give, whatever terms of the reward
tell its samples apart: it leaves the batch, by the raw verdicts (DAPO's dynamic sampling, arXiv 2503.14476,
equation 11). Kept, it would only dilute the mean of a batch.
"""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np

from promptcot_jax.core.records import Rollout
from promptcot_jax.data.examples import TokenExample
from promptcot_jax.objectives import advantages as advantages_lib
from promptcot_jax.sampling import journal
from promptcot_jax.trainers.grpo import GrpoConfig

Kind = Literal["mixed", "all_right", "all_wrong", "ungraded"]
KINDS: tuple[Kind, ...] = ("mixed", "all_right", "all_wrong", "ungraded")


@dataclasses.dataclass(frozen=True)
class Group:
    """The samples of one draw of a prompt, in order."""

    rollouts: tuple[Rollout, ...]

    @property
    def kind(self) -> Kind:
        """What the verdicts say; `ungraded` where fewer than two samples have one."""
        verdicts = [rollout.correct for rollout in self.rollouts if rollout.graded]
        if len(verdicts) < 2:
            return "ungraded"
        return "mixed" if len({*verdicts}) == 2 else "all_right" if verdicts[0] else "all_wrong"


def groups_of(rollouts: Sequence[Rollout]) -> list[Group]:
    """Rollouts by group, in the order in which the groups were drawn."""
    members: dict[int, list[Rollout]] = collections.defaultdict(list)
    for rollout in rollouts:
        members[rollout.group].append(rollout)
    return [Group(tuple(members[number])) for number in sorted(members)]


def examples_of(groups: Sequence[Group], config: GrpoConfig, *, num_groups: int) -> list[TokenExample]:
    """What is trained on: each graded sample with its advantage and the sampler's log-probabilities.

    Args:
        num_groups: of a full batch; smaller ones are filled up, so that one shape is compiled.
    """
    if not groups:
        return []
    size = len(groups[0].rollouts)
    rewards = np.zeros((max(num_groups, len(groups)), size), np.float32)
    is_graded = np.zeros(rewards.shape, bool)
    for row, group in enumerate(groups):
        rewards[row] = [rollout.reward for rollout in group.rollouts]
        is_graded[row] = [rollout.graded for rollout in group.rollouts]
    worth = np.asarray(
        advantages_lib.group_advantages(
            jnp.asarray(rewards), jnp.asarray(is_graded), baseline=config.baseline
        )
    )
    return [
        TokenExample(
            prompt_ids=rollout.prompt_ids,
            completion_ids=rollout.token_ids,
            token_values={
                "advantages": np.full(len(rollout.token_ids), worth[row, column]),
                "sampler_log_probs": journal.floats_of(rollout.sampler_log_probs),
            },
        )
        for row, group in enumerate(groups)
        for column, rollout in enumerate(group.rollouts)
        if rollout.graded and not (config.mask_cut_off and rollout.finish_reason == "length")
    ]


def figures_of(groups: Sequence[Group]) -> dict[str, float]:
    """Metrics of everything that a wave drew, kept or not; those that TRL has under its names."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    graded = [rollout for rollout in rollouts if rollout.graded]
    lengths = [len(rollout.token_ids) for rollout in rollouts]
    ended = [len(rollout.token_ids) for rollout in rollouts if rollout.finish_reason == "stop"]
    kinds = collections.Counter(group.kind for group in groups)
    statuses = collections.Counter(rollout.status for rollout in rollouts)
    figures = {
        "reward": _mean([rollout.reward for rollout in graded]),
        "reward_std": _mean([_std(group) for group in groups if group.kind != "ungraded"]),
        "frac_reward_zero_std": (kinds["all_right"] + kinds["all_wrong"]) / len(groups),
        "reward/correct": _mean([float(rollout.correct) for rollout in graded]),
        "reward/format": _mean([rollout.format for rollout in graded]),
        "reward/length": _mean([rollout.length for rollout in graded]),
        "reward/ungraded": 1 - len(graded) / len(rollouts),
        "completions/mean_length": _mean(lengths),
        "completions/min_length": float(min(lengths)),
        "completions/max_length": float(max(lengths)),
        "completions/mean_terminated_length": _mean(ended),
        "completions/clipped_ratio": 1 - len(ended) / len(rollouts),
    }
    figures |= {f"groups/{kind}": kinds[kind] / len(groups) for kind in KINDS}
    return figures | {f"reward/status/{status}": n / len(rollouts) for status, n in sorted(statuses.items())}


def _std(group: Group) -> float:
    """Deviation of the rewards of a group's graded samples, of these samples themselves."""
    return float(np.std([rollout.reward for rollout in group.rollouts if rollout.graded]))


def _mean(values: Sequence[float] | Sequence[int]) -> float:
    return float(np.mean(values)) if values else 0.0
