"""What is in seqio's registry, looked up by name and read as examples; and tasks that know their origin.

seqio finds an offline cache by the task's name alone. A `CheckedTask` can say what its bytes are made from;
`seqio_cache` writes that beside the cache, and where the two differ the task refuses to read it.
"""

import collections
import functools
import itertools
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import tasks
from promptcot_jax.data.example_sets import Overlong
from promptcot_jax.data.examples import TokenExample
from promptcot_jax.data.seqio import length_filter
from promptcot_jax.data.seqio.vocabulary import TokenizerVocabulary

log = logging.getLogger(__name__)


class CheckedTask(seqio.Task):
    """A seqio task that refuses a cache which was made from something else than it reads now."""

    def __init__(
        self,
        *args: Any,
        made_from: Callable[[str], Mapping[str, Any] | None],
        counts: collections.Counter[str] | None = None,
        **settings: Any,
    ):
        """As `seqio.Task`.

        Args:
            made_from: all that decides the bytes of a split, as JSON values; None where that is not known.
            counts: is added to as rows are read: what is left out, by reason.
        """
        super().__init__(*args, **settings)
        self.made_from = made_from
        self.counts = collections.Counter() if counts is None else counts

    def assert_cached(self) -> None:
        """seqio asks this before it reads anything of a cache.

        Raises:
            WrongUse: the cache was made from other rows, another tokenizer, other rules or code.
        """
        super().assert_cached()
        directory = self.cache_dir or ""
        for split in self.splits:
            if changed := self.changed_since(directory, split):
                raise WrongUse(
                    f"The cache of '{self.name}' in {directory} is stale: {', '.join(changed)} of split "
                    f"'{split}' changed since it was written; write it again ('promptcot cache_tasks' with "
                    "OVERWRITE=True), or take it out of seqio's cache directories."
                )

    def changed_since(self, directory: str, split: str) -> list[str]:
        """What a split is made from that is not as it was when its cache was written."""
        now = self.made_from(split) if tf.io.gfile.exists(info_path(directory, split)) else None
        if now is None:
            return []
        now = json.loads(json.dumps(now))  # lists for tuples
        path = origin_path(directory, split)
        if not tf.io.gfile.exists(path):
            _warn_of_unknown_origin(directory)
            return []
        then = read_json(path)["made_from"]
        return sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))


@functools.cache  # once for each: seqio asks several times for one reading
def _warn_of_unknown_origin(directory: str) -> None:
    log.warning("%s does not say what it was made from (seqio's script never does); may be stale", directory)


def add_task(
    name: str,
    source: Any,  # seqio's annotation of it leaves out its own FunctionDataSource
    vocabulary: TokenizerVocabulary,
    features: Sequence[str],
    *,
    preprocessors: Sequence[Callable[..., tf.data.Dataset]] = (),
    overlong: Overlong,
    counts: collections.Counter[str],
    **of_task: Any,
) -> None:
    """Registers a `CheckedTask` in the place of one of that name; `overlong` may cut its last feature."""
    within_lengths = functools.partial(
        length_filter.within_lengths, overlong=overlong, cut_feature=features[-1], counts=counts
    )
    seqio.TaskRegistry.remove(name)
    seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=[*preprocessors, seqio.CacheDatasetPlaceholder(), within_lengths],
        output_features=dict.fromkeys(
            features, seqio.Feature(vocabulary=vocabulary, add_eos=False, dtype=tf.int32)
        ),
        task_cls=CheckedTask,
        counts=counts,
        **of_task,
    )


def provider_named(name: str) -> seqio.Task | seqio.Mixture:
    """The task or mixture of that name.

    Raises:
        WrongUse: there is none.
    """
    known = [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]
    if name not in known:
        raise WrongUse(
            f"There is no task or mixture '{name}' in seqio's registry (there are "
            f"{', '.join(sorted(known)) or 'none'}), nor in this package; import the module that registers "
            "it in a gin file."
        )
    return seqio.get_mixture_or_task(name)


def rates_of(name: str, split: str = "train") -> dict[str, float]:
    """The tasks of a registered mixture that have this split, with their rates; a task is its only one.

    Raises:
        WrongUse: there is no such task or mixture, it has no such split, or lacks `inputs` or `targets`.
    """
    provider = provider_named(name)
    if missing := {"inputs", "targets"} - provider.output_features.keys():
        raise WrongUse(f"'{name}' has no feature '{min(missing)}'; a fit needs 'inputs' and 'targets'.")
    if split not in provider.splits:
        raise WrongUse(f"'{name}' has no split '{split}'; it has {', '.join(sorted(provider.splits))}.")
    if isinstance(provider, seqio.Task):
        return {name: 1.0}
    return {task.name: float(provider.get_rate(task)) for task in provider.tasks if split in task.splits}


def task_examples(
    name: str, split: str = "train", *, use_cached: bool = False
) -> Iterator[list[TokenExample]]:
    """The examples of any registered task with `inputs` and `targets`, whole, in the task's order.

    Of a mixture those of its tasks, one after another and each once, where seqio's own reading would repeat
    them for ever, or end with the first task that does; the rates are `rates_of`.

    Raises:
        WrongUse: there is no such task or split, it lacks a feature, a row is refused, or a cache is asked
            for that is not there or is stale.
    """
    for member in rates_of(name, split):
        task = seqio.TaskRegistry.get(member)
        if use_cached and task.supports_caching and not task.cache_dir:
            raise WrongUse(
                f"'{member}' is in none of the cache directories {seqio.get_global_cache_dirs()}; write it "
                "with 'promptcot cache_tasks', or name its directory in --seqio_additional_cache_dirs."
            )
        dataset = task.get_dataset(sequence_length=None, split=split, shuffle=False, use_cached=use_cached)
        found = (
            TokenExample(prompt_ids=row["inputs"], completion_ids=row["targets"])
            for row in dataset.as_numpy_iterator()
        )
        try:
            while batch := list(itertools.islice(found, tasks.ROWS_AT_ONCE)):
                yield batch
        except tf.errors.OpError as error:
            raise wrong_use_within(error) or error from None


def add_cache_dirs(directories: Iterable[str]) -> None:
    """More places where seqio looks for offline caches."""
    seqio.add_global_cache_dirs([os.path.expanduser(directory) for directory in directories])


def wrong_use_within(error: tf.errors.OpError) -> WrongUse | None:
    """The `WrongUse` that TensorFlow wrapped on its way out of a task, if that is what failed."""
    match = re.search(r"WrongUse: (.*?)\s*(?:\nTraceback|\n\n|\Z)", error.message, re.DOTALL)
    return WrongUse(match[1]) if match else None


info_path = seqio.utils.get_cached_info_path


def origin_path(directory: str, split: str) -> str:
    """Where a cache says what a split was made from."""
    return os.path.join(directory, f"made_from.{split}.json")


def read_json(path: str) -> Any:
    """A JSON document, on disk or in a bucket."""
    with tf.io.gfile.GFile(path) as file:
        return json.load(file)
