"""Rollouts one iteration ahead: drawn and graded in a thread while the updates before them are made.

The policy that draws is then the one from before these updates, so that rollouts are stale by one iteration.
What is drawn stays a function of settings and seed: by which policy an iteration is drawn is fixed, and not
by who is faster. A checkpoint comes after `settle`, so a resumed run finds the rollouts of its first
iteration in the store and never needs the policy that drew them.

The thread enters the mesh by itself (`jax.set_mesh` is a thread's own) and holds its own arrays, since
updates donate theirs. On several devices of one host programs are launched in turn (`parallel.launching`);
nobody could keep the turns of several hosts alike, so one process only.
"""

import concurrent.futures
import dataclasses
import threading
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from promptcot_jax.core.arrays import Params
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.trainers.rollout_collector import PolicySnapshot, RolloutBatch, RolloutCollector


class _GivenUp(Exception):
    """The run has ended otherwise, and nobody waits for the thread's rollouts."""


class RunAhead:
    """A context manager that draws the iterations of a run, one after the other; its thread ends with it."""

    def __init__(self, snapshot: RolloutCollector, mesh: Mesh, *, num_iterations: int, max_staleness: int):
        """Nothing is drawn.

        Args:
            max_staleness: 0: every iteration is drawn when it is asked for, by the policy given; 1: the
                first.
        """
        self._collector, self._mesh, self._num_iterations = snapshot, mesh, num_iterations
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
            first_prompt: the iteration's place in the stream of prompts.

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
                raise _GivenUp

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
