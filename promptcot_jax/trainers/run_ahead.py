"""Rollouts one wave ahead: the next wave is drawn and graded in a thread while this one's updates are made.

The policy that draws is then the one from before these updates, so that rollouts are stale by one wave. What
is drawn stays a function of settings and seed: by which policy a wave is drawn is fixed, and not by who is
faster. A checkpoint comes after `settle`, so a resumed run finds the rollouts of its first wave in the store
and never needs the policy that drew them.

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
from promptcot_jax.trainers.wave_draws import Drawer, Drawn, WaveDrawer


class _GivenUp(Exception):
    """The run has ended otherwise, and nobody waits for the thread's rollouts."""


class RunAhead:
    """A context manager that draws the waves of a run, one after the other; its thread ends with it."""

    def __init__(self, drawer: WaveDrawer, mesh: Mesh, *, num_waves: int, max_staleness: int):
        """Nothing is drawn.

        Args:
            max_staleness: 0: every wave is drawn when it is asked for, by the policy given; 1: the first.
        """
        self._drawer, self._mesh, self._num_waves = drawer, mesh, num_waves
        self._max_staleness = max_staleness
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "run_ahead") if max_staleness else None
        self._next: tuple[int, concurrent.futures.Future[Drawn]] | None = None
        self._is_over = threading.Event()

    def __enter__(self) -> "RunAhead":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Waits for the wave under way, which belongs to the outcome; after an error it is given up."""
        try:
            if kind is None:
                self.settle()
        finally:
            self._is_over.set()
            if self._thread is not None:
                self._thread.shutdown(cancel_futures=True)

    def staleness(self, wave: int) -> int:
        """How many waves of updates lie between the policy that draws a wave and the one it improves."""
        return min(wave, self._max_staleness)

    def draw(self, wave: int, params: Params, trained: Params, first_prompt: int) -> Drawn:
        """The rollouts of a wave, and with staleness those of the next one begun.

        Args:
            params: of the policy before the wave's updates.
            trained: what the updates will donate of them.
            first_prompt: the wave's place in the stream of prompts.

        Raises:
            WrongUse: the run was resumed, and rollouts are missing that it must find in the store.
        """
        if self._next is not None:
            ahead_wave, future = self._next
            assert ahead_wave == wave
            self._next = None
            drawn = future.result()
        else:
            make = self._refuse(wave) if self.staleness(wave) else lambda: self._drawer.drawer(wave, params)
            drawn = self._drawer.draw(wave, make, first_prompt)
        if self._thread is not None and wave + 1 < self._num_waves:
            own = with_own_arrays(self._drawer.drawer(wave + 1, params), trained)
            next_prompt = first_prompt + len(drawn.groups)
            self._next = (wave + 1, self._thread.submit(self._draw_ahead, wave + 1, own, next_prompt))
        return drawn

    def settle(self) -> None:
        """Returns when the rollouts of the wave under way are wholly stored; raises what went wrong there."""
        if self._next is not None:
            self._next[1].result()

    def _draw_ahead(self, wave: int, drawer: Drawer, first_prompt: int) -> Drawn:
        def check() -> None:
            if self._is_over.is_set():
                raise _GivenUp

        with jax.set_mesh(self._mesh):
            return self._drawer.draw(wave, lambda: drawer, first_prompt, check=check)

    def _refuse(self, wave: int) -> Callable[[], Drawer]:
        def refuse() -> Drawer:
            raise WrongUse(
                f"{self._drawer.directory}: rollouts of wave {wave} are missing, from which this run goes "
                "on, and the policy that drew them is gone. Put the files back, or delete the checkpoints "
                "(self_play/checkpoints) to begin anew from the rollouts that are there."
            )

        return refuse


def with_own_arrays(drawer: Drawer, donated: Params) -> Drawer:
    """A drawer that outlives the arrays of `donated`: those that it shares with them are copied."""
    shared = {id(leaf) for leaf in jax.tree.leaves(donated)}
    sampler = drawer.sampler
    params = jax.tree.map(lambda leaf: jnp.copy(leaf) if id(leaf) in shared else leaf, sampler.params)
    return dataclasses.replace(drawer, sampler=dataclasses.replace(sampler, params=params))
