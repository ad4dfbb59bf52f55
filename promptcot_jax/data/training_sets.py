"""What a stage trains on: a task by name over its files, tokenized once, as a set of examples.

A task of this package goes through `tasks` into a `token_store`. Any other name is looked for in seqio's
registry, so that a stage trains on a user's own task or mixture too.
"""

import collections
import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

from etils import epath

from promptcot_jax.core import manifest
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.settings import PositiveInt, settings
from promptcot_jax.core.workdir import InputPath
from promptcot_jax.data import example_sets, examples, rows, tasks, token_store
from promptcot_jax.data.example_sets import ExampleSet
from promptcot_jax.data.tasks import MIXTURES, TASKS, RowRules
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.data.validity import Validity


@settings
class DataConfig:
    """How a stage reads its training data.

    `bad_rows`: a row that cannot be read or rendered ends the stage, or is logged, counted and left out.
    `validity`: whose rules say which traces and problems are left out, see `validity`.
    `benchmarks`: name -> path; rows whose problem shares 13 words in a row with one are left out and counted.
    `rates` of the tasks of a mixture; without them each row is as likely as any other. `cache_dir` holds the
    tokenized tasks: where it is empty, `token_cache/` in a local workdir, else in the user's cache directory.
    `use_cached_tasks`, as in T5X: a task of a user's own is read from seqio's offline cache (`seqio_cache`).
    """

    EXECUTION_ONLY: ClassVar = frozenset({"cache_dir"})

    bad_rows: Literal["error", "skip"] = "error"
    max_row_bytes: PositiveInt = rows.BadRows.max_row_bytes
    validity: Validity = "paper"
    benchmarks: Mapping[str, InputPath] = dataclasses.field(default_factory=dict)
    rates: Mapping[str, float] | None = None
    cache_dir: str = ""
    use_cached_tasks: bool = False

    def row_rules(self) -> RowRules:
        """The rules for rows."""
        bad_rows = rows.BadRows(action=self.bad_rows, max_row_bytes=self.max_row_bytes)
        return RowRules(bad_rows=bad_rows, validity=self.validity, benchmarks=self.benchmarks)

    def cache_dir_in(self, workdir: str) -> str:
        """Where the tokenized tasks of a workdir's stages are kept: a local directory always."""
        if self.cache_dir:
            return self.cache_dir
        if "://" not in workdir:
            return os.path.join(workdir, "token_cache")
        return os.path.join(os.path.expanduser("~"), ".cache", "promptcot_jax")


def open_task(
    name: str,
    path: epath.PathLike,
    tokenizer: Tokenizer,
    *,
    config: DataConfig,
    workdir: str,
    limit: int = 0,
    split: str = "train",
) -> tuple[ExampleSet, dict[str, int]]:
    """A task or mixture of this package over the rows of `path`, tokenized once and cached.

    Any other name is that of a task or mixture in seqio's registry, read without `path`.

    Args:
        limit: the first rows only; 0 takes all.
        split: of a task in seqio's registry; for this package's tasks a split is a file. The rates of a
            mixture there are those of "train"; of another split each example counts once.

    Returns:
        The examples, and counts for the manifest: rows that were there, and left out by reason.

    Raises:
        WrongUse: there is no such task, a file is missing, a row is bad and `config` does not skip it, or
            `config` asks of a task in seqio's registry what only this package's tasks can do.
    """
    if name not in TASKS and name not in MIXTURES:
        return _registered_with_seqio(name, split, config, workdir)
    cache_dir = config.cache_dir_in(workdir)
    members, rules = MIXTURES.get(name, {name: name}), config.row_rules()
    stores = {
        label: token_store.open_or_build(cache_dir, content_of(member, path, tokenizer, rules, limit=limit))
        for label, member in members.items()
    }
    counts = tasks.counts_of_rows([store.counts for store in stores.values()])
    if name not in MIXTURES:
        return stores[name], counts
    return example_sets.Mixed(stores, config.rates), counts


def _registered_with_seqio(
    name: str, split: str, config: DataConfig, workdir: str
) -> tuple[ExampleSet, dict[str, int]]:
    """A user's own task or mixture, tokenized at each start: nothing tells what its bytes depend on."""
    _refuse_what_only_our_tasks_have(name, config)
    from promptcot_jax.data.seqio import (
        seqio_registry,  # late: TensorFlow takes seconds, and most runs need none
    )

    def opened(task: str) -> ExampleSet:
        build = functools.partial(
            seqio_registry.task_examples, task, split, use_cached=config.use_cached_tasks
        )
        content = token_store.Content(f"{task}-{split}", {}, build, {})
        return token_store.open_or_build(config.cache_dir_in(workdir), content, anew=True)

    rates = seqio_registry.rates_of(name, split)
    stores = {task: opened(task) for task in rates}
    counts = {"in": sum(map(len, stores.values()))}
    if list(stores) == [name]:
        return stores[name], counts
    return example_sets.Mixed(stores, rates if split == "train" else None), counts


def _refuse_what_only_our_tasks_have(name: str, config: DataConfig) -> None:
    """Rules that a user asked for must not be passed over in silence."""
    for setting in ("bad_rows", "max_row_bytes", "validity", "benchmarks", "rates"):
        if (value := getattr(config, setting)) != getattr(DataConfig(), setting):
            raise WrongUse(
                f"DataConfig.{setting}={value!r} cannot apply to '{name}', a task or mixture of seqio's "
                "registry, which reads and mixes its rows itself; take the setting out for this stage, or "
                f"let the task do it (this package's own tasks are {', '.join([*TASKS, *MIXTURES])})."
            )


def content_of(
    name: str, path: epath.PathLike, tokenizer: Tokenizer, rules: RowRules, *, limit: int = 0
) -> token_store.Content:
    """One task's store: what it is made from, and how.

    Raises:
        WrongUse: there is no such task or no such file.
    """
    task = tasks.task_named(name)
    counts: collections.Counter[str] = collections.Counter()
    origin = tasks.made_from(name, path, tokenizer, rules) | {"limit": limit}

    def build() -> Iterator[list[examples.TokenExample]]:
        yield from tasks.iter_token_examples(task, path, tokenizer, rules, limit=limit, counts=counts)
        if manifest.file_digest(path) != origin["rows"]:
            raise WrongUse(f"{os.fspath(path)} changed while it was tokenized; start again.")

    return token_store.Content(name, origin, build, counts)
