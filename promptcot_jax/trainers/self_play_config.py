"""Settings of the iterations of self-play, and which of them do not go together."""

from typing import ClassVar, Literal

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.settings import NonNegativeInt, PositiveInt, settings
from promptcot_jax.models import language_model
from promptcot_jax.models.language_model import LanguageModel
from promptcot_jax.models.lora import LoraConfig
from promptcot_jax.parallel import hosts
from promptcot_jax.sampling.rollouts import RolloutConfig
from promptcot_jax.trainers import driver
from promptcot_jax.trainers.algorithm import Algorithm, OldLogProbs
from promptcot_jax.trainers.goals import Goal
from promptcot_jax.trainers.optimizer import OptimizerConfig
from promptcot_jax.trainers.train_step import StepConfig

# Beyond it a CPU's attention takes more time than shared prompts save (`benchmarks/shared_prompts.py`).
LONG_ROW = 768


@settings
class SelfPlayConfig(driver.RunConfig):
    """The iterations; how many samples a prompt gets is `RolloutConfig.group_size`."""

    EXECUTION_ONLY: ClassVar = driver.RunConfig.EXECUTION_ONLY | {"samples_every", "updates_per_checkpoint"}

    num_iterations: PositiveInt
    prompts_per_iteration: PositiveInt = 16
    # What one update learns from at most: completions, or pairs by DPO. An iteration's are dealt out evenly
    # to as many updates as that takes.
    units_per_update: PositiveInt = 64
    passes_per_iteration: PositiveInt = 1  # how often an iteration's sequences are gone through
    max_tries: PositiveInt = 4  # an iteration draws so many times `prompts_per_iteration` prompts at most
    # A prompt whose samples were all right so many times in a row is no longer drawn; 0: all stay.
    retire_after: NonNegativeInt = 0
    # "scored": computed by the trainer before the updates, so that ratios begin at 1; with a single update
    # they come from the update's own forward pass, for free. "sampled": the sampler's, which saves the
    # scoring pass; for sampling in float32.
    old_log_probs: OldLogProbs = "scored"
    # Tokens of a packed row; 0: those of the longest prompt and completion, rounded up to a multiple of 64,
    # or up to `LONG_ROW` if more completions fit in with the prompt that they share.
    row_length: NonNegativeInt = 0
    checkpoint_every: PositiveInt = 10  # iterations; a killed run makes at most the updates of so many again
    # Updates from one checkpoint within an iteration to the next, for iterations of very many; 0: none.
    updates_per_checkpoint: NonNegativeInt = 0
    samples_every: NonNegativeInt = 10  # iterations, from one with samples to read to the next; 0: none
    # 1: sampled by the policy of one iteration earlier, while that iteration's updates are made
    # (`rollout_collector`); 0: on-policy.
    max_staleness: Literal[0, 1] = 0
    # Such as 'eval/avg_at_k >= 0.9': the run ends, complete, after the iteration whose row says so.
    stop_at: str | None = None

    @property
    def goal(self) -> Goal | None:
        """`stop_at`, parsed."""
        return None if self.stop_at is None else Goal.of(self.stop_at)

    def __post_init__(self):
        _ = self.goal  # refuses what is none

    def num_minibatches(self, num_units: int) -> int:
        """Of one pass over so many units."""
        return -(-num_units // self.units_per_update)

    def most_updates(self, algorithm: Algorithm, group_size: int) -> int:
        """Of an iteration that has as many units as there may be."""
        num_units = self.prompts_per_iteration * algorithm.most_units(group_size)
        return self.num_minibatches(num_units) * self.passes_per_iteration

    def most_units(self, algorithm: Algorithm, group_size: int) -> int:
        """What the algorithm learns from in one update at most."""
        return min(self.units_per_update, self.prompts_per_iteration * algorithm.most_units(group_size))

    def resolved(self, algorithm: Algorithm, group_size: int) -> Algorithm:
        """The algorithm as these iterations run it.

        Raises:
            WrongUse: they do not go together.
        """
        return algorithm.for_iterations(
            num_updates=self.most_updates(algorithm, group_size),
            old_log_probs=self.old_log_probs,
            max_staleness=self.max_staleness,
        )

    def step_config(
        self,
        algorithm: Algorithm,
        *,
        temperature: float,
        optimizer: OptimizerConfig,
        adapter: LoraConfig | None,
    ) -> StepConfig:
        """What an update computes.

        Args:
            algorithm: as `resolved` gives it.
            temperature: of the sampling.
        """
        return StepConfig(
            loss=algorithm.loss(temperature),
            optimizer=optimizer,
            adapter=adapter,
            micro_batches=self.micro_batches,
            remat=self.remat,
        )

    def tokens_of_row(
        self,
        lm: LanguageModel,
        algorithm: Algorithm,
        rollouts: RolloutConfig,
        *,
        prompt_tokens: int,
        rows_multiple: int,
    ) -> int:
        """Of the updates.

        Args:
            prompt_tokens: of the longest prompt.
            rows_multiple: an update's rows are a multiple of it.
        """
        if self.row_length:
            return self.row_length
        completion_tokens, num_sequences = rollouts.sampling.max_new_tokens, algorithm.sequences_per_unit
        of_unit = tokens = num_sequences * (prompt_tokens + completion_tokens)
        if algorithm.keeps_prompts_together and language_model.prefix_capacity(lm, LONG_ROW):
            # As many units of one prompt as leave rows for all devices, if completions are half as long too.
            of_full_rows = self.most_units(algorithm, rollouts.group_size) * of_unit // (2 * rows_multiple)
            room, own = min(LONG_ROW, of_full_rows) - prompt_tokens, num_sequences * (completion_tokens + 1)
            num_units = min(algorithm.most_units(rollouts.group_size), max(0, room) // own)
            longer = prompt_tokens + num_units * own
            if num_units > 1 and prompt_tokens <= language_model.prefix_capacity(lm, longer):
                tokens = max(of_unit, longer)
        return -(-tokens // 64) * 64

    def check(self, algorithm: Algorithm, rollouts: RolloutConfig) -> None:
        """Refuses what would train on something else than it samples.

        Raises:
            WrongUse: says what to set.
        """
        sampling = rollouts.sampling
        if rollouts.group_size < 2:
            raise WrongUse("Self-play compares samples of one prompt; set group_size to at least 2.")
        if (sampling.top_p, sampling.top_k, sampling.min_p) != (1.0, 0, 0.0):
            raise WrongUse(
                "Self-play draws from the whole distribution: with top_p, top_k or min_p the policy that is "
                "trained would not be the one that was sampled. Set them to 1, 0 and 0."
            )
        self.resolved(algorithm, rollouts.group_size)
        if self.max_staleness and hosts.count() > 1:
            raise WrongUse(
                f"max_staleness = 1 is for one process, and this run has {hosts.count()}: programs of two "
                "threads would be launched in different orders on different hosts. Set MAX_STALENESS to 0."
            )
