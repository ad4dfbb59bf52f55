"""What an iteration of self-play draws: prompts, G completions each, graded, until enough prompts are of use.

A prompt may teach nothing, such as one whose samples are all right; further prompts are drawn in its place,
in as many tries as it takes up to a limit. Grading runs beside decoding. Finished tries are files of the
rollout store, and are read from there ever after.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

from etils import epath

from promptcot_jax.checkpoints import store
from promptcot_jax.core import prng
from promptcot_jax.core.arrays import Params
from promptcot_jax.core.records import Rollout
from promptcot_jax.data.prompt_stream import PromptStream, Task
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.models.language_model import LanguageModel
from promptcot_jax.parallel import hosts
from promptcot_jax.sampling import rollout_store, rollouts
from promptcot_jax.sampling.completions import Completion
from promptcot_jax.sampling.rollouts import Draw, RolloutConfig, Sampler, Times
from promptcot_jax.trainers import rollout_groups
from promptcot_jax.trainers.grading import Grader
from promptcot_jax.trainers.rollout_groups import Group

_LEAST_SHARE = 0.25  # of the prompts of a further try that are taken to be of use


@dataclasses.dataclass(frozen=True)
class RolloutBatch:
    """What an iteration drew."""

    groups: list[Group]  # all of them
    used: list[Group]
    num_tries: int
    times: Times


@dataclasses.dataclass(frozen=True)
class PolicySnapshot:
    """A policy that draws an iteration."""

    sampler: Sampler
    policy_digest: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class RolloutCollector:
    """How iterations are drawn.

    Attributes:
        is_of_use: whether there is something to learn from a prompt's samples.
        wanted: prompts of use in an iteration.
        directory: of the rollout store.
    """

    lm: LanguageModel
    tokenizer: Tokenizer
    stream: PromptStream
    grader: Grader
    config: RolloutConfig
    is_of_use: Callable[[Group], bool]
    wanted: int
    max_tries: int
    directory: epath.Path

    def collect(
        self,
        iteration: int,
        snapshot: Callable[[], PolicySnapshot],
        first_prompt: int,
        *,
        check: Callable[[], None] = lambda: None,
    ) -> RolloutBatch:
        """Draws the prompts from `first_prompt` on, as many as the iteration takes.

        A further try takes as many as are likely to fill the iteration, by the share that was of use so far;
        what is of use beyond the iteration's size is left out.

        Args:
            snapshot: gives what draws; called where rollouts are missing, for stored ones need none.
            check: see `rollouts.map_draws`.
        """
        groups: list[Group] = []
        used: list[Group] = []
        times, num_tries = Times(), 0
        snapshot = functools.cache(snapshot)
        while len(used) < self.wanted and num_tries < self.max_tries:
            share = max(len(used) / len(groups), _LEAST_SHARE) if groups else 1.0
            count = min(self.wanted, math.ceil((self.wanted - len(used)) / share))
            first = first_prompt + len(groups)
            rolled = self._rollouts(iteration, num_tries, first, count, snapshot, times, check)
            groups += rollout_groups.groups_of(rolled)
            used = [group for group in groups if self.is_of_use(group)]
            num_tries += 1
        return RolloutBatch(groups, used[: self.wanted], num_tries, times)

    def snapshot(self, iteration: int, params: Params) -> PolicySnapshot:
        """What draws an iteration with a policy."""
        sampler = Sampler(
            lm=self.lm,
            params=self.lm.decoding_layout(params),
            sampling=self.config.sampling,
            stop_ids=tuple(self.tokenizer.stop_ids),
            key=prng.stream_key(self.config.seed, "rollout", iteration),
            engine=self.config.engine,
            continue_partial=self.config.continue_partial,
        )
        return PolicySnapshot(sampler, store.params_digest(params))

    def _rollouts(
        self,
        iteration: int,
        attempt: int,
        first_prompt: int,
        count: int,
        snapshot: Callable[[], PolicySnapshot],
        times: Times,
        check: Callable[[], None],
    ) -> list[Rollout]:
        """The graded rollouts of one try: read where they are stored, else drawn."""
        group_size = self.config.group_size

        def grade(some: Sequence[Draw[Task]], completions: Sequence[Completion]) -> list[Rollout]:
            if not hosts.is_first():  # time limits would make verdicts differ; all read what the first wrote
                return []
            return self.grader.rollouts(
                some,
                completions,
                iteration=iteration,
                group_size=group_size,
                seed=self.config.seed,
                policy_digest=snapshot().policy_digest,
            )

        return rollouts.map_draws(
            rollout_store.file_of(self.directory, iteration, attempt),
            rollouts.draws_of(
                self.stream.take(first_prompt, count), group_size, first=first_prompt * group_size
            ),
            grade,
            Rollout,
            sampler=lambda: snapshot().sampler,
            prompt_ids=lambda task: task.prompt_ids,
            shard_size=self.config.requests_per_shard,
            name=f"iteration {iteration}, try {attempt}",
            beside=True,
            times=times,
            check=check,
        )
