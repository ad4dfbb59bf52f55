"""Groups of rollouts of one prompt: what the raw verdicts say of them, and the figures of an iteration."""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from promptcot_jax.core.records import Rollout

Kind = Literal["mixed", "all_right", "all_wrong", "ungraded"]
KINDS: tuple[Kind, ...] = ("mixed", "all_right", "all_wrong", "ungraded")


@dataclasses.dataclass(frozen=True)
class Group:
    """The samples of one draw of a prompt, in order."""

    rollouts: tuple[Rollout, ...]

    @property
    def graded(self) -> list[Rollout]:
        """Those with a verdict."""
        return [rollout for rollout in self.rollouts if rollout.graded]

    @property
    def pass_share(self) -> float:
        """Share of the graded samples that are right; 0 without any."""
        return _mean([float(rollout.correct) for rollout in self.graded])

    @property
    def kind(self) -> Kind:
        """What the verdicts say; `ungraded` where fewer than two samples have one."""
        verdicts = [rollout.correct for rollout in self.graded]
        if len(verdicts) < 2:
            return "ungraded"
        return "mixed" if len({*verdicts}) == 2 else "all_right" if verdicts[0] else "all_wrong"


def groups_of(rollouts: Sequence[Rollout]) -> list[Group]:
    """Rollouts by group, in the order in which the groups were drawn."""
    members: dict[int, list[Rollout]] = collections.defaultdict(list)
    for rollout in rollouts:
        members[rollout.group].append(rollout)
    return [Group(tuple(members[number])) for number in sorted(members)]


def figures_of(groups: Sequence[Group]) -> dict[str, float]:
    """Metrics of everything that an iteration drew, kept or not; those that TRL has under its names."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    graded = [rollout for group in groups for rollout in group.graded]
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
    return float(np.std([rollout.reward for rollout in group.graded]))


def _mean(values: Sequence[float] | Sequence[int]) -> float:
    return float(np.mean(values)) if values else 0.0
