"""The rollout store: every completion of a policy in self-play, with log-probabilities, verdict and reward.

`rollouts/iteration_WWWWW_try_TT.jsonl` holds the `Rollout`s that were drawn together. A file is written by
`rollouts.map_draws`, so a killed run draws and grades exactly what is missing of it; once it is whole it is
never written again. All trainers read from here, and `data.rollout_sets` reads it as a data set.
"""

from etils import epath

from promptcot_jax.data import rollout_sets

DIRECTORY = "rollouts"

read = rollout_sets.read


def file_of(directory: epath.PathLike, iteration: int, attempt: int) -> epath.Path:
    """Where the rollouts of one try of an iteration are."""
    return epath.Path(directory) / f"iteration_{iteration:05d}_try_{attempt:02d}.jsonl"
