"""What an iteration of self-play draws: prompts, G completions each, graded, until enough prompts are of use.

A prompt may teach nothing, such as one whose samples are all right; further prompts are drawn in its place,
in as many tries as it takes up to a limit. Grading runs beside decoding. Finished tries are files of the
rollout store, and are read from there ever after.

`RunAhead` draws one iteration ahead, in a thread, while the updates before it are made, by the policy from
before these updates. By which policy an iteration is drawn is fixed, and not by who is faster, so the outcome
stays a function of settings and seed; a checkpoint comes after `settle`, so a resumed run finds the rollouts
of its first iteration in the store. Several hosts would launch the programs of both threads in different
orders (`parallel.launching`): one process only.
"""

import concurrent.futures
import dataclasses
import functools
import math
import threading
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh

from promptcot_jax.checkpoints import store
from promptcot_jax.core import prng
from promptcot_jax.core.arrays import Params
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import Rollout
from promptcot_jax.data import rollout_sets
from promptcot_jax.data.prompt_stream import PromptStream, Task
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.models.language_model import LanguageModel
from promptcot_jax.parallel import hosts
from promptcot_jax.sampling import rollouts
from promptcot_jax.sampling.completions import Completion
from promptcot_jax.sampling.rollouts import Draw, RolloutConfig, Sampler, Times
from promptcot_jax.trainers import algorithm as algorithm_lib
from promptcot_jax.trainers.algorithm import Algorithm, Group
from promptcot_jax.trainers.grading import Grader
from promptcot_jax.trainers.self_play_config import SelfPlayConfig

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
        algorithm: says whether there is something to learn from a prompt's samples.
        directory: of the rollout store.
    """

    lm: LanguageModel
    tokenizer: Tokenizer
    stream: PromptStream
    grader: Grader
    config: RolloutConfig
    iterations: SelfPlayConfig
    algorithm: Algorithm
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
        wanted = self.iterations.prompts_per_iteration
        while len(used) < wanted and num_tries < self.iterations.max_tries:
            share = max(len(used) / len(groups), _LEAST_SHARE) if groups else 1.0
            count = min(wanted, math.ceil((wanted - len(used)) / share))
            first = first_prompt + len(groups)
            rolled = self._rollouts(iteration, num_tries, first, count, snapshot, times, check)
            groups += algorithm_lib.groups_of(rolled)
            used = [group for group in groups if self.algorithm.is_of_use(group)]
            num_tries += 1
        return RolloutBatch(groups, used[:wanted], num_tries, times)

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
            rollout_sets.file_of(self.directory, iteration, attempt),
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


class _Cancelled(Exception):
    """The run has ended otherwise, and nobody waits for the thread's rollouts."""


class RunAhead:
    """A context manager that draws the iterations of a run, one after the other; its thread ends with it."""

    def __init__(self, collector: RolloutCollector, mesh: Mesh, *, num_iterations: int, max_staleness: int):
        """Nothing is drawn.

        Args:
            max_staleness: 0: every iteration is drawn when it is asked for, by the policy given; 1: the
                first.
        """
        self._collector, self._mesh, self._num_iterations = collector, mesh, num_iterations
        self._max_staleness = max_staleness
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "run_ahead") if max_staleness else None
        self._next: tuple[int, concurrent.futures.Future[RolloutBatch]] | None = None
        self._is_over = threading.Event()

    def __enter__(self) -> "RunAhead":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Waits for the iteration under way, which belongs to the outcome; after an error it is given up."""
        try:
            if kind is None:
                self.settle()
        finally:
            self._is_over.set()
            if self._thread is not None:
                self._thread.shutdown(cancel_futures=True)

    def staleness(self, iteration: int) -> int:
        """How many iterations of updates the policy that draws is behind the one that is trained."""
        return min(iteration, self._max_staleness)

    def draw(self, iteration: int, params: Params, trained: Params, first_prompt: int) -> RolloutBatch:
        """The rollouts of an iteration, and with staleness those of the next one begun.

        Args:
            params: of the policy before the iteration's updates.
            trained: what the updates will donate of them.
            first_prompt: the iteration's position in the stream of prompts.

        Raises:
            WrongUse: the run was resumed, and rollouts are missing that it must find in the store.
        """
        if self._next is not None:
            ahead_iteration, future = self._next
            assert ahead_iteration == iteration
            self._next = None
            drawn = future.result()
        else:
            make = (
                self._refuse(iteration)
                if self.staleness(iteration)
                else lambda: self._collector.snapshot(iteration, params)
            )
            drawn = self._collector.collect(iteration, make, first_prompt)
        if self._thread is not None and iteration + 1 < self._num_iterations:
            own = with_own_arrays(self._collector.snapshot(iteration + 1, params), trained)
            next_prompt = first_prompt + len(drawn.groups)
            self._next = (
                iteration + 1,
                self._thread.submit(self._draw_ahead, iteration + 1, own, next_prompt),
            )
        return drawn

    def settle(self) -> None:
        """Returns when the rollouts under way are wholly stored; raises what went wrong there."""
        if self._next is not None:
            self._next[1].result()

    def _draw_ahead(self, iteration: int, snapshot: PolicySnapshot, first_prompt: int) -> RolloutBatch:
        def check() -> None:
            if self._is_over.is_set():
                raise _Cancelled

        with jax.set_mesh(self._mesh):
            return self._collector.collect(iteration, lambda: snapshot, first_prompt, check=check)

    def _refuse(self, iteration: int) -> Callable[[], PolicySnapshot]:
        def refuse() -> PolicySnapshot:
            raise WrongUse(
                f"{self._collector.directory}: rollouts of iteration {iteration} are missing, "
                "from which this run goes on, and the policy that drew them is gone. Put the files back, or "
                "delete self_play/checkpoints to begin anew from the rollouts that are there."
            )

        return refuse


def with_own_arrays(snapshot: PolicySnapshot, donated: Params) -> PolicySnapshot:
    """A snapshot that outlives the arrays of `donated`: those that it shares with them are copied."""
    shared = {id(leaf) for leaf in jax.tree.leaves(donated)}
    sampler = snapshot.sampler
    params = jax.tree.map(lambda leaf: jnp.copy(leaf) if id(leaf) in shared else leaf, sampler.params)
    return dataclasses.replace(snapshot, sampler=dataclasses.replace(sampler, params=params))
