"""`promptcot cache_tasks`: tasks written where seqio finds them with `use_cached=True`.

For T5X's USE_CACHED_TASKS, and ours. The stage is done again each time, and leaves alone what is up to date.
"""

from collections.abc import Mapping

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.workdir import InputPath, OutputPath
from promptcot_jax.data.seqio import seqio_cache, seqio_tasks
from promptcot_jax.data.training_sets import DataConfig
from promptcot_jax.run import stage


def cache_tasks(
    *,
    workdir: str,
    tasks: tuple[str, ...],
    data: DataConfig,
    files: Mapping[str, InputPath],
    splits: tuple[str, ...] = (),
    tokenizer: InputPath = "{workdir}/tokenizer",
    cache_dir: OutputPath = "{workdir}/cached_tasks",
    num_shards: int = seqio_cache.MOST_SHARDS,
    overwrite: bool = False,
) -> stage.StageResult:
    """Caches tasks by name; what is cached already and fresh stays as it is.

    Args:
        tasks: of this package, or of seqio's registry; a mixture stands for its tasks.
        files: by split, of the tasks of this package; without them these must have been registered.
        splits: none means all.

    Raises:
        WrongUse: `seqio_cache.write_cache` says of what.
    """
    if not tasks:
        raise WrongUse("TASKS names no task; there is nothing to cache.")
    if files:
        seqio_tasks.register_over(tasks, tokenizer, files, data.row_rules())
    counts = {}
    for name in seqio_cache.tasks_of(tasks):
        written = seqio_cache.write_cache(
            name, cache_dir, splits=splits, num_shards=num_shards, overwrite=overwrite
        )
        for split, of_split in written.items():
            counts |= {f"{name}/{split}/{key}": number for key, number in of_split.items()}
    return stage.StageResult(counts=counts)
