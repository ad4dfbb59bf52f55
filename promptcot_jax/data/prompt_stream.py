"""Verified prompts in the order in which self-play draws them: endless, mixed by rate, fixed by the seed.

The place in the stream is one number. Each epoch holds the prompts in an order of its own; with rates each
domain gives its share of the epoch (`example_sets.Mixed`).
"""

import collections
import dataclasses
import os
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from promptcot_jax.core import records
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.workdir import InputPath
from promptcot_jax.data import example_sets, examples, rollout_sets, rows
from promptcot_jax.data.rollout_sets import Tries
from promptcot_jax.data.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """Which verified prompts are drawn.

    Attributes:
        pools: of difficulty for the solver that voted in `verify`; () takes all.
        solved_below: leaves out prompts that this solver solved in this share of its tries, or more (the
            paper: half of 8); 1.01 takes all. A prompt without tries stays, an imported one for instance.
        solved_in: a rollout store whose tries count for `solved_below` in the place of the solver's: those of
            the policy itself.
        rates: of the domains, such as {"math": 3.0, "code": 1.0}; None: each prompt counts once.
    """

    pools: tuple[str, ...] = ()
    solved_below: float = 1.01
    solved_in: InputPath | None = None
    rates: Mapping[str, float] | None = None
    bad_rows: rows.BadRows = rows.FATAL

    def takes(self, prompt: records.Prompt, tries: Mapping[str, Tries]) -> bool:
        """Whether a prompt is drawn.

        Args:
            tries: of the store `solved_in`.
        """
        num_tries, pass_share, pool = 0, 0.0, ""
        if isinstance(prompt, records.VerifiedMathPrompt | records.VerifiedProgramPrompt):
            num_tries, pass_share, pool = prompt.num_solutions, prompt.pass_share, prompt.pool
        if self.solved_in is not None:
            own = tries.get(prompt.id, Tries())
            num_tries, pass_share = own.num_graded, own.pass_share
        is_easy = num_tries > 0 and pass_share >= self.solved_below
        return not is_easy and (not self.pools or pool in self.pools)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A prompt and the ids that the policy reads."""

    prompt: records.Prompt
    prompt_ids: tuple[int, ...]


class PromptStream:
    """Tasks by their number in the stream."""

    def __init__(self, tasks: Sequence[Task], *, seed: int, rates: Mapping[str, float] | None = None):
        """Fixes the order.

        Raises:
            WrongUse: there are no tasks, or the rates do not fit the domains.
        """
        if not tasks:
            raise WrongUse("There are no verified prompts to draw; look at the counts of what was dropped.")
        by_domain: dict[str, list[Task]] = collections.defaultdict(list)
        for task in tasks:
            by_domain[task.prompt.domain].append(task)
        self._seed = seed
        self._order = example_sets.Mixed(
            {domain: _Numbered(len(own)) for domain, own in by_domain.items()},
            rates,
        )
        self._tasks = [task for domain in self._order.parts for task in by_domain[domain]]
        self._index_of = {task.prompt.id: i for i, task in enumerate(self._tasks)}
        self._epoch = (-1, np.zeros(0, np.int64))

    def take(self, first: int, count: int) -> list[Task]:
        """The tasks `first`, `first + 1`, ... of the stream."""
        return [self.task(number) for number in range(first, first + count)]

    def task(self, number: int) -> Task:
        """The task of this number in the stream."""
        return self._tasks[self.index_at(number)]

    def index_at(self, number: int) -> int:
        """Which of the `len(self)` prompts has a number in the stream."""
        epoch, place = divmod(number, len(self._order))
        if epoch != self._epoch[0]:
            self._epoch = (epoch, self._order.order(self._seed, epoch))
        return int(self._epoch[1][place])

    def index_of(self, prompt_id: str) -> int:
        """Which of the prompts has an id."""
        return self._index_of[prompt_id]

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt."""
        return max(len(task.prompt_ids) for task in self._tasks)

    @property
    def prompts(self) -> dict[str, records.Prompt]:
        """All prompts by id."""
        return {task.prompt.id: task.prompt for task in self._tasks}

    def __len__(self) -> int:
        return len(self._tasks)


class _Numbered(example_sets.ExampleSet):
    """So many things of which only the order matters."""

    def __init__(self, number: int):
        self.prompt_lengths = self.completion_lengths = np.zeros(number, np.int32)


def read_tasks(
    path: epath.PathLike,
    tokenizer: Tokenizer,
    config: PromptConfig,
    *,
    longest: int,
    counts: collections.Counter[str],
) -> list[Task]:
    """The prompts of a file, tokenized; `counts` gets what was read and what was left out by reason.

    Args:
        longest: tokens that a prompt may have, beside its completion.

    Raises:
        WrongUse: a row is bad and bad rows are not to be skipped, two prompts share an id, or there is no
            store `solved_in`.
    """
    found = rows.iter_records(path, records.AnyPrompt, bad_rows=config.bad_rows, counts=counts)
    tries = {} if config.solved_in is None else rollout_sets.tries_by_prompt(config.solved_in)
    prompts: list[records.Prompt] = []
    for prompt in found:
        if config.takes(prompt, tries):
            prompts.append(prompt)
        else:
            counts["dropped_difficulty"] += 1
    rows.check_ids((prompt.id for prompt in prompts), os.fspath(path))
    ids = examples.solver_prompt_ids(tokenizer, prompts)
    tasks = [Task(prompt=prompt, prompt_ids=tuple(own)) for prompt, own in zip(prompts, ids, strict=True)]
    kept = [task for task in tasks if len(task.prompt_ids) <= longest]
    counts["dropped_too_long"] += len(tasks) - len(kept)
    return kept
