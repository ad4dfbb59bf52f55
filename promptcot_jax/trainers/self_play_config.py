"""Settings of the iterations of self-play, and which of them do not go together."""

import dataclasses
from typing import ClassVar, Literal

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.models.decoder import Remat
from promptcot_jax.parallel import hosts
from promptcot_jax.sampling.rollouts import RolloutConfig
from promptcot_jax.trainers.goals import Goal
from promptcot_jax.trainers.grpo import GrpoConfig
from promptcot_jax.trainers.policy_updates import Method
from promptcot_jax.trainers.watching import NOT_WATCHED, WatchConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfPlayConfig:
    """The iterations; how many samples a prompt gets is `RolloutConfig.group_size`.

    Attributes:
        minibatches_per_iteration: updates of one pass over an iteration, each on its share of the sequences.
        passes_per_iteration: how often an iteration's sequences are gone through.
        max_tries: how often prompts are drawn for an iteration at most, until enough of them are of use.
        old_log_probs: `scored`: by the trainer's own forward pass, so that ratios begin at 1 (of an iteration
            with one update that is the update's own, at no cost); `sampled`: the sampler's, which saves that
            pass and is for sampling in float32.
        row_length: of packed rows; 0: of the longest prompt and completion, up to the next 64.
        checkpoint_every: iterations; a killed run makes at most the updates of so many again.
        samples_every: iterations, from one with samples to read to the next; 0: none.
        score_tokens: padded tokens that are scored at once.
        max_skipped: updates with a non-finite gradient or loss that are tolerated.
        max_staleness: 1: an iteration is drawn and graded while the updates of the iteration before it are
            made, by the policy from before these (`run_ahead`); 0: by the policy that it improves.
        stop_at: such as 'eval/avg_at_k >= 0.9': the run ends, complete, after the iteration whose row says
            so.
        watch: where metrics go, and until when the run may last.
    """

    EXECUTION_ONLY: ClassVar = frozenset(
        {
            *("checkpoint_every", "samples_every", "keep", "micro_batches", "remat"),
            *("score_tokens", "max_skipped", "tensorboard", "watch"),
        }
    )

    num_iterations: int
    prompts_per_iteration: int = 16
    minibatches_per_iteration: int = 1
    passes_per_iteration: int = 1
    max_tries: int = 4
    old_log_probs: Literal["scored", "sampled"] = "scored"
    row_length: int = 0
    checkpoint_every: int = 10
    samples_every: int = 10
    keep: int = 2
    micro_batches: int = 1
    remat: Remat = "projections"
    score_tokens: int = 16384
    max_skipped: int = 10
    max_staleness: int = 0
    tensorboard: bool = True
    stop_at: str | None = None
    watch: WatchConfig = NOT_WATCHED

    @property
    def goal(self) -> Goal | None:
        """`stop_at` as what it means."""
        return None if self.stop_at is None else Goal.of(self.stop_at)

    def __post_init__(self):
        _ = self.goal  # refuses what is none
        for name in (
            "num_iterations",
            "prompts_per_iteration",
            "minibatches_per_iteration",
            "passes_per_iteration",
            "max_tries",
            "checkpoint_every",
            "keep",
            "micro_batches",
            "score_tokens",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("row_length", "samples_every", "max_skipped"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}.")
        if self.max_staleness not in (0, 1):
            raise ValueError(f"max_staleness must be 0 or 1, got {self.max_staleness}.")

    @property
    def updates_per_iteration(self) -> int:
        """At most: of few sequences come fewer."""
        return self.minibatches_per_iteration * self.passes_per_iteration

    def most_units(self, method: Method, group_size: int) -> int:
        """What the method learns from in one update at most."""
        return -(
            -self.prompts_per_iteration * method.most_units(group_size) // self.minibatches_per_iteration
        )

    def resolve_single_update(self, method: Method) -> Method:
        """The method, spared what a single update of an iteration does not need."""
        if (
            isinstance(method, GrpoConfig)
            and self.updates_per_iteration == 1
            and self.old_log_probs == "scored"
        ):
            return dataclasses.replace(method, single_update=True)
        return method

    def tokens_of_row(self, longest: int) -> int:
        """Of the updates.

        Args:
            longest: tokens of what must share a row.
        """
        return self.row_length or -(-longest // 64) * 64

    def check(self, method: Method, rollouts: RolloutConfig) -> None:
        """Refuses what would train on something else than it samples.

        Raises:
            WrongUse: says what to set.
        """
        sampling = rollouts.sampling
        if rollouts.group_size < 2:
            raise WrongUse("GRPO compares the samples of a prompt; set group_size to at least 2.")
        if (sampling.top_p, sampling.top_k, sampling.min_p) != (1.0, 0, 0.0):
            raise WrongUse(
                "Self-play draws from the whole distribution: with top_p, top_k or min_p the policy that is "
                "trained would not be the one that was sampled. Set them to 1, 0 and 0."
            )
        if isinstance(method, GrpoConfig):
            self._check_ratios(method)
        if self.max_staleness and hosts.count() > 1:
            raise WrongUse(
                f"max_staleness = 1 is for one process, and this run has {hosts.count()}: programs of two "
                "threads would be launched in different orders on different hosts. Set MAX_STALENESS to 0."
            )

    def _check_ratios(self, method: GrpoConfig) -> None:
        """Refuses ratios that would not refer to what they are taken for."""
        is_sampled = self.old_log_probs == "sampled"
        is_corrected = method.sampler_correction != "none"
        if is_sampled and is_corrected:
            raise WrongUse(
                "With old_log_probs = 'sampled' there is nothing to correct by; set sampler_correction to "
                "'none'."
            )
        if method.single_update and self.updates_per_iteration > 1:
            raise WrongUse(
                f"single_update is set, but an iteration makes {self.updates_per_iteration} updates; "
                "leave it unset: ratios need the log-probabilities from before the first."
            )
        is_ratio_to_sampler = is_sampled and not method.single_update
        if self.max_staleness and not (is_corrected or is_ratio_to_sampler):
            raise WrongUse(
                "With max_staleness = 1 another policy draws than the one that is trained, and "
                "sampler_correction = 'none' would take its rollouts for the policy's own; set it to 'token' "
                "or 'sequence', or have old_log_probs = 'sampled', so that ratios refer to what drew them."
            )
