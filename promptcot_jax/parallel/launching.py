"""Programs of two threads on the same devices, launched one after the other.

Self-play may draw rollouts in one thread while it trains in another (`trainers.rollout_collector`). A program
on several devices is put into a queue of each. Two threads that launch at once could fill these queues in
different orders, in which collectives wait for each other for ever, so both launch under a lock. A launch
does not wait for its program: the other thread is not held up for long, on a single device not at all.
"""

import contextlib
import functools
import threading
from collections.abc import Callable
from typing import Any

import jax

_lock = threading.RLock()


def serialized(program: Callable[..., Any]) -> Any:
    """A jitted function that is launched while no other such function is; `lower` and the rest as it was."""
    return _Serialized(program)


class _Serialized:
    def __init__(self, program: Callable[..., Any]):
        functools.update_wrapper(self, program)
        self._program = program

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        is_one = jax.sharding.get_abstract_mesh().size <= 1
        with contextlib.nullcontext() if is_one else _lock:
            return self._program(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._program, name)
