"""What an iteration of self-play draws: prompts, G completions each, graded, until enough prompts are of use.

A prompt may teach nothing, such as one whose samples are all right; further prompts are drawn in its place,
up to a limit. All join one queue of the engine while others are under way. How many there are is decided by
the finished prompts in the order of the stream, so that neither speed nor number of slots has a say. Groups
of use beyond an iteration's size are left over for the next one, where `sampler_correction` makes up for
their age. Grading runs beside decoding. Finished iterations are files of the rollout store, and are read from
there ever after.

`RunAhead` draws one iteration ahead, in a thread, while the updates before it are made, by the policy from
before these updates. By which policy an iteration is drawn is fixed, and not by who is faster, so the outcome
stays a function of settings and seed; a checkpoint comes after `settle`, so a resumed run finds the rollouts
of its first iteration in the store. Several hosts would launch the programs of both threads in different
orders (`parallel.launching`): one process only.
"""

import concurrent.futures
import dataclasses
import functools
import itertools
import math
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh

from promptcot_jax.checkpoints import store
from promptcot_jax.core import jsonl, prng
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

_LEAST_SHARE = 0.25  # of further prompts that are taken to be of use


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("next_prompt", "num_drawn", "num_left_over", "share", "streaks"),
    meta_fields=(),
)
@dataclasses.dataclass(frozen=True)
class Position:
    """Where an iteration begins to draw; a part of checkpoints.

    Attributes:
        next_prompt: its number in the stream (int32).
        num_drawn: prompts so far, which is less where retired ones were passed over (int32).
        num_left_over: groups of use that the iteration before has not used (int32).
        share: of prompts that is of use, by the iterations before (float32).
        streaks: how often in a row all samples of each prompt were right ([prompts] int32).
    """

    next_prompt: Any
    num_drawn: Any
    num_left_over: Any
    share: Any
    streaks: Any

    @classmethod
    def first(cls, stream: PromptStream) -> "Position":
        """Of a new run."""
        return cls(np.int32(0), np.int32(0), np.int32(0), np.float32(1.0), np.zeros(len(stream), np.int32))


@dataclasses.dataclass(frozen=True)
class RolloutBatch:
    """What an iteration drew."""

    groups: list[Group]  # all of them
    used: list[Group]
    num_older: int  # of those used, which the iteration before had left over
    num_retired: int  # prompts that are no longer drawn
    times: Times
    after: Position


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
        position: Position,
        *,
        check: Callable[[], None] = lambda: None,
    ) -> RolloutBatch:
        """Draws prompts from a position on, until enough of them are of use.

        Args:
            snapshot: gives what draws; called where rollouts are missing, for stored ones need none.
            check: see `rollouts.map_draws`.

        Raises:
            WrongUse: a file of the store that holds what was left over is gone.
        """
        older = self._left_over(iteration, int(position.num_left_over))
        tasks = self._tasks(position)
        times = Times()
        rolled = self._rollouts(
            iteration, tasks, functools.cache(snapshot), self._how_many(position), times, check
        )
        groups = algorithm_lib.groups_of(rolled)
        own, size = [*filter(self.algorithm.is_of_use, groups)], self.iterations.prompts_per_iteration
        used = [*older, *own][:size]
        after = Position(
            next_prompt=np.int32(tasks[len(groups) - 1][0] + 1),
            num_drawn=np.int32(position.num_drawn + len(groups)),
            num_left_over=np.int32(self._num_kept(len(older) + len(own) - len(used))),
            share=np.float32(share_of_use(len(groups), len(own), float(position.share), size)),
            streaks=self._streaks(position, groups),
        )
        num_retired = int(self._is_retired(after).sum())
        return RolloutBatch(groups, used, len(older), num_retired, times, after)

    def _num_kept(self, num_unused: int) -> int:
        """Of the groups of use that an iteration does not use, those that it leaves over.

        At most half an iteration's: the next one still draws as many, and uses them all, so that none gets
        older than that.
        """
        takes_older = self.algorithm.takes_older_rollouts(self.iterations.old_log_probs)
        return min(num_unused, self.iterations.prompts_per_iteration // 2) if takes_older else 0

    def _left_over(self, iteration: int, count: int) -> list[Group]:
        """The last groups of use of the iteration before; read back, so that a resumed run has the same."""
        if not count:
            return []
        file = rollout_sets.file_of(self.directory, iteration - 1)
        if not file.exists():
            raise WrongUse(
                f"{os.fspath(file)}: what iteration {iteration - 1} left over is missing; put it back, or "
                "delete self_play/checkpoints to begin anew from the rollouts there are."
            )
        stored = algorithm_lib.groups_of(jsonl.read_file(file, Rollout))
        return [*filter(self.algorithm.is_of_use, stored)][-count:]

    def _tasks(self, position: Position) -> list[tuple[int, Task]]:
        """The prompts that the iteration draws at most, each with its number in the stream."""
        most = self.iterations.max_tries * self.iterations.prompts_per_iteration
        is_retired = self._is_retired(position)
        numbers = (
            number
            for number in itertools.count(int(position.next_prompt))
            if not is_retired[self.stream.index_at(number)]
        )
        return [(number, self.stream.task(number)) for number in itertools.islice(numbers, most)]

    def _is_retired(self, position: Position) -> np.ndarray:
        """By prompt; none where fewer than an iteration takes would stay."""
        retire_after, streaks = self.iterations.retire_after, np.asarray(position.streaks)
        is_retired = (streaks >= retire_after) & (retire_after > 0)
        least = min(self.iterations.prompts_per_iteration, len(streaks))
        return is_retired & (np.sum(~is_retired) >= least)

    def _streaks(self, position: Position, groups: Sequence[Group]) -> np.ndarray:
        streaks = np.array(position.streaks)
        for group in groups:
            if group.verdicts != "ungraded":
                prompt = self.stream.index_of(group.rollouts[0].prompt_id)
                streaks[prompt] = streaks[prompt] + 1 if group.verdicts == "all_right" else 0
        return streaks

    def _how_many(self, position: Position) -> Callable[[Sequence[Rollout]], int]:
        """How many samples an iteration draws, by the rollouts of its first prompts."""
        size = self.iterations.prompts_per_iteration

        def how_many(rolled: Sequence[Rollout]) -> int:
            num_prompts = prompts_to_draw(
                [self.algorithm.is_of_use(group) for group in algorithm_lib.groups_of(rolled)],
                wanted=size - int(position.num_left_over),
                share=float(position.share),
                weight=size,
                most=self.iterations.max_tries * size,
            )
            return num_prompts * self.config.group_size

        return how_many

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
        tasks: Sequence[tuple[int, Task]],
        snapshot: Callable[[], PolicySnapshot],
        how_many: Callable[[Sequence[Rollout]], int],
        times: Times,
        check: Callable[[], None],
    ) -> list[Rollout]:
        """The graded rollouts: read where they are stored, else drawn."""
        group_size = self.config.group_size
        draws = [
            Draw(index=number * group_size + sample, row=task, sample=sample)
            for number, task in tasks
            for sample in range(group_size)
        ]

        shared = hosts.Shared(f"verdicts of iteration {iteration}")

        def grade(some: Sequence[Draw[Task]], completions: Sequence[Completion]) -> list[Rollout]:
            return self.grader.rollouts(
                some,
                completions,
                shared=shared,
                iteration=iteration,
                group_size=group_size,
                seed=self.config.seed,
                policy_digest=snapshot().policy_digest,
            )

        return rollouts.map_draws(
            rollout_sets.file_of(self.directory, iteration),
            draws,
            grade,
            Rollout,
            sampler=lambda: snapshot().sampler,
            prompt_ids=lambda task: task.prompt_ids,
            shard_size=group_size,
            name=f"iteration {iteration}",
            beside=True,
            times=times,
            check=check,
            how_many=how_many,
            on_error=shared.give_up,
        )


def prompts_to_draw(of_use: Sequence[bool], *, wanted: int, share: float, weight: int, most: int) -> int:
    """How many prompts an iteration draws, by those that are finished, in the order of the stream.

    As many as are likely to do, by the share that was of use so far. It is the largest such number over the
    first 0, 1, 2, ... finished prompts, so that it is the same whichever come in together.

    Args:
        of_use: whether each finished prompt is of use.
        wanted: prompts of use.
        share: of prompts that is of use, by the iterations before, which counts as much as `weight` prompts.
        most: prompts at most.
    """
    num_of_use, num_prompts = 0, 1
    for count in range(len(of_use) + 1):
        num_of_use += count > 0 and of_use[count - 1]
        missing = wanted - num_of_use
        if missing > 0:
            so_far = max(share_of_use(count, num_of_use, share, weight), _LEAST_SHARE)
            num_prompts = max(num_prompts, count + math.ceil(missing / so_far))
    return min(num_prompts, most)


def share_of_use(num_prompts: int, num_of_use: int, before: float, weight: int) -> float:
    """The share of prompts that is of use, where the share before counts as much as `weight` prompts."""
    return (num_of_use + weight * before) / (num_prompts + weight)


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

    def draw(
        self,
        iteration: int,
        params: Params,
        trained: Params,
        position: Position,
        *,
        is_under_way: bool = False,
    ) -> RolloutBatch:
        """The rollouts of an iteration, and with staleness those of the next one begun.

        Args:
            params: of the policy before the iteration's updates.
            trained: what the updates will donate of them.
            position: where the iteration begins.
            is_under_way: an earlier attempt drew all this and made some of the updates; the policy before
                them is gone.

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
                if self.staleness(iteration) or is_under_way
                else lambda: self._collector.snapshot(iteration, params)
            )
            drawn = self._collector.collect(iteration, make, position)
        if self._thread is not None and iteration + 1 < self._num_iterations:
            make = self._refuse(iteration + 1)
            if not is_under_way:
                own = with_own_arrays(self._collector.snapshot(iteration + 1, params), trained)
                make = functools.partial(_itself, own)
            self._next = (
                iteration + 1,
                self._thread.submit(self._draw_ahead, iteration + 1, make, drawn.after),
            )
        return drawn

    def settle(self) -> None:
        """Returns when the rollouts under way are wholly stored; raises what went wrong there."""
        if self._next is not None:
            self._next[1].result()

    def _draw_ahead(
        self, iteration: int, make: Callable[[], PolicySnapshot], position: Position
    ) -> RolloutBatch:
        def check() -> None:
            if self._is_over.is_set():
                raise _Cancelled

        with jax.set_mesh(self._mesh):
            return self._collector.collect(iteration, make, position, check=check)

    def _refuse(self, iteration: int) -> Callable[[], PolicySnapshot]:
        def refuse() -> PolicySnapshot:
            raise WrongUse(
                f"{self._collector.directory}: rollouts of iteration {iteration} are missing, "
                "from which this run goes on, and the policy that drew them is gone. Put the files back, or "
                "delete self_play/checkpoints and self_play/updates to begin anew from the rollouts that are "
                "there."
            )

        return refuse


def _itself(snapshot: PolicySnapshot) -> PolicySnapshot:
    return snapshot


def with_own_arrays(snapshot: PolicySnapshot, donated: Params) -> PolicySnapshot:
    """A snapshot that outlives the arrays of `donated`: those that it shares with them are copied."""
    shared = {id(leaf) for leaf in jax.tree.leaves(donated)}
    sampler = snapshot.sampler
    params = jax.tree.map(lambda leaf: jnp.copy(leaf) if id(leaf) in shared else leaf, sampler.params)
    return dataclasses.replace(snapshot, sampler=dataclasses.replace(sampler, params=params))
