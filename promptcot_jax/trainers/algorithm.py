"""What self-play's algorithms share: groups of rollouts, and what an algorithm says of itself."""

import abc
import collections
import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import numpy as np

from promptcot_jax.core.records import Rollout
from promptcot_jax.data.examples import TokenExample
from promptcot_jax.trainers.train_step import Loss

OldLogProbs = Literal["scored", "sampled"]
Unit = tuple[TokenExample, ...]
Verdicts = Literal["mixed", "all_right", "all_wrong", "ungraded"]


@dataclasses.dataclass(frozen=True)
class Group:
    """The samples of one draw of a prompt, in order."""

    rollouts: tuple[Rollout, ...]

    @property
    def graded(self) -> list[Rollout]:
        """Those with a verdict."""
        return [rollout for rollout in self.rollouts if rollout.graded]

    @property
    def right_and_ended(self) -> list[Rollout]:
        """Those to imitate: right, and not cut off at the most tokens."""
        return [rollout for rollout in self.graded if rollout.correct and rollout.finish_reason == "stop"]

    @property
    def pass_share(self) -> float:
        """Share of the graded samples that are right; 0 without any."""
        return _mean([float(rollout.correct) for rollout in self.graded])

    @property
    def verdicts(self) -> Verdicts:
        """What the verdicts say; `ungraded` where fewer than two samples have one."""
        found = [rollout.score for rollout in self.graded]
        if len(found) < 2:
            return "ungraded"
        return "mixed" if len({*found}) > 1 else "all_right" if found[0] == 1.0 else "all_wrong"


class Algorithm(abc.ABC):
    """How a policy learns from groups of its rollouts; `Grpo`, `Dpo` and `RejectionSampling` are such.

    A unit is what must share a row of a batch: one completion, or a pair of DPO's.
    """

    unit_name: ClassVar[str] = "completions"  # for messages
    sequences_per_unit: ClassVar[int] = 1
    # Whether an update has all units of its prompts. So a group's advantages, which add up to 0, meet in one
    # update; where units have no such sum, fewer prompts an update only make its gradient noisier.
    keeps_prompts_together: ClassVar[bool] = False

    @property
    def value_names(self) -> tuple[str, ...]:
        """Numbers that each token of a batch must come with, sorted."""
        return ()

    @property
    def keeps_reference(self) -> bool:
        """Whether the reference is the policy that training began with, which is then kept all along."""
        return False

    def for_iterations(
        self, *, num_updates: int, old_log_probs: OldLogProbs, max_staleness: int
    ) -> "Algorithm":
        """The algorithm as it is run where an iteration makes so many updates.

        Raises:
            WrongUse: its ratios would not refer to what they are taken for.
        """
        return self  # without ratios

    def takes_older_rollouts(self, old_log_probs: OldLogProbs) -> bool:
        """Whether what an older policy drew may be learned from."""
        return True  # without ratios

    @abc.abstractmethod
    def most_units(self, group_size: int) -> int:
        """Of one prompt."""

    @abc.abstractmethod
    def is_of_use(self, group: Group) -> bool:
        """Whether there is something to learn from a prompt's samples."""

    @abc.abstractmethod
    def units_of(self, groups: Sequence[Group], *, num_groups: int) -> list[Unit]:
        """What is learned from.

        Args:
            num_groups: of a full iteration.
        """

    @abc.abstractmethod
    def loss(self, temperature: float) -> Loss:
        """The loss for completions sampled at a temperature."""

    def scoring_temperature(self, temperature: float) -> float:
        """Of old and reference log-probabilities, for completions sampled at a temperature."""
        return temperature


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
    kinds = collections.Counter(group.verdicts for group in groups)
    statuses = collections.Counter(rollout.status for rollout in rollouts)
    figures = {
        "reward": _mean([rollout.reward for rollout in graded]),
        "reward_std": _mean([_std(group) for group in groups if group.verdicts != "ungraded"]),
        "frac_reward_zero_std": (kinds["all_right"] + kinds["all_wrong"]) / len(groups),
        "reward/correct": _mean([rollout.score for rollout in graded]),
        "reward/format": _mean([rollout.format for rollout in graded]),
        "reward/length": _mean([rollout.length for rollout in graded]),
        "reward/ungraded": 1 - len(graded) / len(rollouts),
        "completions/mean_length": _mean(lengths),
        "completions/min_length": float(min(lengths)),
        "completions/max_length": float(max(lengths)),
        "completions/mean_terminated_length": _mean(ended),
        "completions/clipped_ratio": 1 - len(ended) / len(rollouts),
    }
    figures |= {f"groups/{kind}": kinds[kind] / len(groups) for kind in get_args(Verdicts)}
    return figures | {f"reward/status/{status}": n / len(rollouts) for status, n in sorted(statuses.items())}


def _std(group: Group) -> float:
    """Deviation of the rewards of a group's graded samples, of these samples themselves."""
    return float(np.std([rollout.reward for rollout in group.graded]))


def _mean(values: Sequence[float] | Sequence[int]) -> float:
    return float(np.mean(values)) if values else 0.0
