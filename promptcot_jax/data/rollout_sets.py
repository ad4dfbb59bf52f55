"""The rollouts of a policy in self-play: their files, how often prompts were solved, right completions.

`rollouts/iteration_WWWWW.jsonl` holds the `Rollout`s that an iteration drew, with log-probabilities, verdict
and reward. A file that is whole is never written again.

Two uses: prompts are left out by what the policy itself made of them (the paper's offline filter, see
`prompt_stream.PromptConfig`), and another fit is trained on the right completions (`rollout_tasks`).
"""

import collections
import dataclasses
import os
from collections.abc import Iterator

from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import Rollout

DIRECTORY = "rollouts"  # in a workdir
FILES = "iteration_?????.jsonl"


def file_of(directory: epath.PathLike, iteration: int) -> epath.Path:
    """Where the rollouts of an iteration are."""
    return epath.Path(directory) / f"iteration_{iteration:05d}.jsonl"


def read(directory: epath.PathLike) -> Iterator[Rollout]:
    """All rollouts of finished files, in the order in which they were drawn."""
    for file in sorted(epath.Path(directory).glob(FILES)):
        yield from jsonl.read_file(file, Rollout)


@dataclasses.dataclass
class Tries:
    """The graded samples of a prompt over a whole store."""

    num_graded: int = 0
    num_right: int = 0

    @property
    def pass_share(self) -> float:
        """Share of them that is right; 0 without any."""
        return self.num_right / self.num_graded if self.num_graded else 0.0


def tries_by_prompt(directory: epath.PathLike) -> dict[str, Tries]:
    """How often each prompt of a store was tried and solved, by its id, over all iterations.

    Raises:
        WrongUse: there is no store.
    """
    if not epath.Path(directory).exists() or not any(epath.Path(directory).glob(FILES)):
        raise WrongUse(
            f"{os.fspath(directory)}: there are no finished rollouts here; give the directory rollouts/ of a "
            "workdir in which self_play has run."
        )
    found: dict[str, Tries] = collections.defaultdict(Tries)
    for rollout in read(directory):
        tries = found[rollout.prompt_id]
        tries.num_graded += rollout.graded
        tries.num_right += rollout.correct
    return dict(found)


def right_ones(
    directory: epath.PathLike, *, solved_below: float, completions_per_prompt: int
) -> Iterator[Rollout]:
    """The right completions of a store, each once.

    Args:
        solved_below: prompts that are solved in this share of all their samples, or more, are left out.
        completions_per_prompt: at most, the first ones; 0: all.

    Raises:
        WrongUse: there is no store.
    """
    tries = tries_by_prompt(directory)
    taken: dict[str, set[tuple[int, ...]]] = collections.defaultdict(set)
    for rollout in read(directory):
        own = taken[rollout.prompt_id]
        is_full = completions_per_prompt and len(own) >= completions_per_prompt
        is_easy = tries[rollout.prompt_id].pass_share >= solved_below
        if rollout.correct and not is_easy and not is_full and rollout.token_ids not in own:
            own.add(rollout.token_ids)
            yield rollout
