"""A user's own reward: a function of prompt and completion, called in worker processes.

The function is named as `module:name`. Each worker imports it once, so that a client or a model of its own
may live in the module. What it takes too long for is `timeout`, what it fails at is `error`; both have no
reward, since neither is the completion's doing, and the first failure of each call is logged.
"""

import atexit
import functools
import importlib
import logging
import math
import pickle
import traceback
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import Prompt
from promptcot_jax.verify import worker_pool
from promptcot_jax.verify.rewards import Reward, RewardConfig, Ungraded, length_term
from promptcot_jax.verify.worker_pool import WorkerFailed, WorkerPool

RewardFunction = Callable[[Prompt, str], Any]  # a number, a `Reward`, or `Ungraded`; checked

MODULE = "promptcot_jax.verify.user_rewards"  # what a worker runs; there its name is another

log = logging.getLogger(__name__)


def load(name: str) -> RewardFunction:
    """The function called `module:name`.

    Raises:
        WrongUse: there is none.
    """
    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # importing runs the user's code
        raise WrongUse(
            f"REWARD_FUNCTION is {name!r}, and that cannot be had ({error}). It is 'module:function'; "
            "install the module, or put its folder on PYTHONPATH."
        ) from error
    if not callable(function):
        raise WrongUse(f"REWARD_FUNCTION is {name!r}, and that is no function: {function!r}.")
    return function


def user_rewards(
    prompts: Sequence[Prompt], texts: Sequence[str], num_tokens: Sequence[int], config: RewardConfig
) -> list[Reward | Ungraded]:
    """What `config.function` makes of a completion of each prompt, in order, on all cores."""
    if not prompts:
        return []
    pool, seconds = _shared_pool(), config.function_seconds

    def ask(i: int) -> tuple[Reward | Ungraded, str]:
        try:
            reply = pool.ask(pickle.dumps((config.function, prompts[i], texts[i])), seconds)
        except WorkerFailed as failure:
            return Ungraded(status="error"), str(failure)
        if reply is None:
            return Ungraded(status="timeout"), f"no value after {seconds:g} s"
        value = pickle.loads(reply)  # noqa: S301 - from `_answer`
        if isinstance(value, str):
            return Ungraded(status="error"), value
        if isinstance(value, float):
            length = length_term(num_tokens[i], config)
            status = "match" if value == 1.0 else "partial" if value else "mismatch"
            return Reward(correct=value, format=1.0, length=length, status=status), ""
        return value, ""

    with futures.ThreadPoolExecutor(pool.size) as threads:
        answers = list(threads.map(ask, range(len(prompts))))
    failures = [reason for _, reason in answers if reason]
    if failures:
        log.warning(
            "%s failed on %d of %d completions, which get no reward; the first: %s",
            *(config.function, len(failures), len(prompts), failures[0]),
        )
    return [verdict for verdict, _ in answers]


@functools.cache
def _shared_pool() -> WorkerPool:
    """This process's workers, until it ends."""
    pool = WorkerPool(MODULE)
    atexit.register(pool.close)
    return pool


_loaded = functools.cache(load)


def _answer(request: bytes) -> bytes:
    """In a worker: the function's value, or in words what is wrong with it."""
    name, prompt, text = pickle.loads(request)  # noqa: S301 - from `user_rewards`
    try:
        return pickle.dumps(_checked(_loaded(name)(prompt, text)))
    except (Exception, SystemExit):
        return pickle.dumps(traceback.format_exc(limit=-3))


def _checked(value: Any) -> float | Reward | Ungraded:
    """The value in plain types, so that records of it can be written and read back."""
    if isinstance(value, Reward | Ungraded) and (not isinstance(value.status, str) or not value.status):
        raise ValueError(f"the status of a reward is a text, not {value.status!r}.")
    if isinstance(value, Ungraded):
        return value
    correct = value.correct if isinstance(value, Reward) else value
    number = math.nan if isinstance(correct, str | bytes) else float(correct)
    if not 0 <= number <= 1:
        raise ValueError(f"a reward is a number from 0 to 1 or a `rewards.Reward` with such, not {value!r}.")
    if isinstance(value, Reward):
        terms = {"format": float(value.format), "length": float(value.length)}
        return Reward(correct=number, status=value.status, **terms)
    return number


if __name__ == "__main__":
    worker_pool.serve(_answer)
