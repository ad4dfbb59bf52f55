"""Random nested subsets of a training file, for curves over the size of the training set (see `scaling`).

Of one seed the smaller subset is part of the larger, so that a curve does not jump because other problems
came; another seed draws others. Rows keep their order and their fields.
"""

import collections
import contextlib
from collections.abc import Sequence

import numpy as np
from etils import epath
from jaxtyping import Int

from promptcot_jax.analyses.figures import AnalysisResult
from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.settings import NonNegativeInt, PositiveInt, settings
from promptcot_jax.core.workdir import InputPath
from promptcot_jax.data import rows


@settings
class SubsetConfig:
    """Which subsets of what; no sizes: none are drawn."""

    source: InputPath = "{workdir}/verified_prompts.jsonl"  # in any format that stages read
    sizes: tuple[PositiveInt, ...] = ()  # rows of a subset; the model before training needs none
    seeds: tuple[NonNegativeInt, ...] = (0, 1, 2)

    def __post_init__(self):
        if len(set(self.sizes)) < len(self.sizes):
            raise ValueError(f"sizes must be different numbers of rows, got {self.sizes}.")
        if self.sizes and (not self.seeds or len(set(self.seeds)) < len(self.seeds)):
            raise ValueError(f"seeds must be different numbers, at least one, got {self.seeds}.")


def write(
    directory: epath.PathLike,
    source: str,
    sizes: Sequence[int],
    seeds: Sequence[int],
    *,
    bad_rows: rows.BadRows = rows.FATAL,
    counts: collections.Counter[str] | None = None,
) -> AnalysisResult:
    """Writes `subset_SIZE_SEED.jsonl` for each size and seed, and returns their list. Reads the rows twice.

    Args:
        counts: is added to, as by `data.rows`.

    Raises:
        WrongUse: the file is missing, has fewer rows than a size asks for, or a row is bad and not to be
            skipped.
    """
    num_rows = sum(1 for _ in rows.map_rows(source, rows.json_line, bad_rows=bad_rows, counts=counts))
    if max(sizes) > num_rows:
        raise WrongUse(
            f"{source} has {num_rows:,} rows, fewer than the subset of {max(sizes):,} that SUBSET_SIZES "
            "asks for."
        )
    ranks = {seed: ranks_of(num_rows, seed) for seed in seeds}
    names = {(size, seed): f"subset_{size}_{seed}.jsonl" for size in sizes for seed in seeds}
    with contextlib.ExitStack() as open_files:
        files = {
            key: open_files.enter_context(jsonl.atomic_stream(epath.Path(directory) / name))
            for key, name in names.items()
        }
        for i, line in enumerate(rows.map_rows(source, rows.json_line, bad_rows=bad_rows)):
            for (size, seed), file in files.items():
                if ranks[seed][i] < size:
                    file.write(line)
    return AnalysisResult(
        name="subsets",
        title="Random nested subsets",
        caption=f"Of {num_rows:,} rows; of one seed the smaller is part of the larger. The files are in "
        "subsets/.",
        rows=[{"size": size, "seed": seed, "file": name} for (size, seed), name in names.items()],
    )


def ranks_of(num_rows: int, seed: int) -> Int[np.ndarray, " rows"]:
    """Rank of each row in a random order; the subset of n has the rows of ranks below n."""
    ranks = np.empty(num_rows, np.int64)
    ranks[np.random.default_rng(seed).permutation(num_rows)] = np.arange(num_rows)
    return ranks
