"""The tasks that the stages train on, by name: what each reads, and how a row becomes an example.

| name | reads | trains |
|---|---|---|
| `p_theta` | triples | c -> z, x (paper section 3.2) |
| `q_phi` | triples | c, x -> z |
| `p_direct` | triples | c -> x, the EM study's baseline without rationale |
| `NAME_math`, `NAME_code` | triples | the rows of one domain |
| `NAME_by_domain` | triples | a mixture of these two by rate |
| `sft_traces` | worked solutions | x -> solution (section 3.5) |

Here is the path from files to token ids that the stages take, without TensorFlow: rows are read one by one,
rendered, tokenized a few hundred at a time and kept in a `token_store`, from which batches are made.
`seqio_tasks` registers the same tasks with seqio, from the same functions. Any other name is looked for in
seqio's registry, so that a stage trains on a user's own task or mixture too.
"""

import collections
import dataclasses
import functools
import hashlib
import importlib
import inspect
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal

from etils import epath

from promptcot_jax.core import manifest, records
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import example_sets, examples, rows, templates, token_store
from promptcot_jax.data import tokenizer as tokenizer_lib
from promptcot_jax.data.example_sets import ExampleSet
from promptcot_jax.data.tokenizer import Tokenizer

ROWS_AT_ONCE = 512  # tokenized in one call: enough for all cores of a TPU host, little memory

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What a row is, and the text that is made of it; `domain`: rows of another domain are passed over."""

    record_type: Any
    to_text: Callable[[Any, Tokenizer], examples.TextExample]
    domain: records.Domain | None = None


_ROLES = {"p_theta": examples.theta_text, "q_phi": examples.phi_text, "p_direct": examples.direct_text}
DOMAINS: tuple[records.Domain, ...] = ("math", "code")
TASKS: dict[str, Task] = {
    **{name: Task(record_type=records.Triple, to_text=text) for name, text in _ROLES.items()},
    **{
        f"{name}_{domain}": Task(record_type=records.Triple, to_text=text, domain=domain)
        for name, text in _ROLES.items()
        for domain in DOMAINS
    },
    "sft_traces": Task(
        record_type=records.SolvedMathProblem | records.SolvedProgramProblem, to_text=examples.solution_text
    ),
}
MIXTURES: dict[str, tuple[str, ...]] = {
    f"{name}_by_domain": tuple(f"{name}_{domain}" for domain in DOMAINS) for name in _ROLES
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How a stage reads its training data.

    `bad_rows`: a row that cannot be read or rendered ends the stage, or is logged, counted and left out.
    `rates` of the tasks of a mixture; without them each row is as likely as any other. `cache_dir` holds the
    tokenized tasks: where it is empty, `token_cache/` in a local workdir, else in the user's cache directory.
    """

    HOW_ONLY: ClassVar = frozenset({"cache_dir"})

    bad_rows: Literal["error", "skip"] = "error"
    max_row_bytes: int = rows.BadRows.max_row_bytes
    rates: Mapping[str, float] | None = None
    cache_dir: str = ""

    @property
    def bad_row_rule(self) -> rows.BadRows:
        """The rule for rows, checked."""
        return rows.BadRows(action=self.bad_rows, max_row_bytes=self.max_row_bytes)

    def __post_init__(self):
        _ = self.bad_row_rule

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

    Args:
        limit: the first rows only; 0 takes all.

    Returns:
        The examples, and counts for the manifest: rows read, and left out by reason.

    Raises:
        WrongUse: there is no such task, a file is missing, or a row is bad and `config` does not skip it.
    """
    cache_dir = config.cache_dir_in(workdir)
    members = MIXTURES.get(name, (name,))
    stores = {
        member: token_store.open_or_build(
            cache_dir, content_of(member, path, tokenizer, bad_rows=config.bad_row_rule, limit=limit)
        )
        for member in members
    }
    counts: collections.Counter[str] = collections.Counter()
    for store in stores.values():
        counts.update(store.counts)
    if name not in MIXTURES:
        return stores[name], dict(counts)
    return example_sets.Mixed(stores, config.rates), dict(counts)


def content_of(
    name: str, path: epath.PathLike, tokenizer: Tokenizer, *, bad_rows: rows.BadRows, limit: int = 0
) -> token_store.Content:
    """One task's store: what it is made from, and how.

    Raises:
        WrongUse: there is no such task or no such file.
    """
    task = task_named(name)
    counts: collections.Counter[str] = collections.Counter()
    made_from = {
        "task": name,
        "rows": manifest.file_digest(path),
        "limit": limit,
        "bad_rows": dataclasses.asdict(bad_rows),
        "tokenizer": tokenizer.digest,
        "code": _code_digest(),
    }
    build = functools.partial(
        iter_token_examples, task, path, tokenizer, bad_rows=bad_rows, limit=limit, counts=counts
    )
    return token_store.Content(name, made_from, build, counts)


def task_named(name: str) -> Task:
    """A task of this package.

    Raises:
        WrongUse: there is none of that name.
    """
    if name not in TASKS:
        raise WrongUse(f"There is no task '{name}'; there are {', '.join([*TASKS, *MIXTURES])}.")
    return TASKS[name]


def iter_token_examples(
    task: Task,
    path: epath.PathLike,
    tokenizer: Tokenizer,
    *,
    bad_rows: rows.BadRows,
    limit: int = 0,
    counts: collections.Counter[str],
) -> Iterator[list[examples.TokenExample]]:
    """The examples of a file's rows, a few hundred at a time.

    Raises:
        WrongUse: a row is bad and `bad_rows` does not skip it.
    """
    found = rows.iter_records(path, task.record_type, bad_rows=bad_rows, counts=counts)
    taken = itertools.islice(found, limit or None)
    wanted = (row for row in taken if task.domain is None or row.domain == task.domain)
    is_skipping = bad_rows.action == "skip"
    texts = _rendered(task, wanted, tokenizer, is_skipping, counts)
    while batch := list(itertools.islice(texts, ROWS_AT_ONCE)):
        yield _tokenized(tokenizer, batch, is_skipping, counts)


def _rendered(
    task: Task,
    found: Iterable[Any],
    tokenizer: Tokenizer,
    is_skipping: bool,
    counts: collections.Counter[str],
) -> Iterator[examples.TextExample]:
    for row in found:
        try:
            yield task.to_text(row, tokenizer)
        except WrongUse as error:
            _skip_or_raise(error, is_skipping, counts)


def _tokenized(
    tokenizer: Tokenizer,
    texts: list[examples.TextExample],
    is_skipping: bool,
    counts: collections.Counter[str],
) -> list[examples.TokenExample]:
    """All at once; one by one where a text of the batch is refused."""
    try:
        return examples.tokenize(tokenizer, texts)
    except WrongUse as error:
        if not is_skipping:
            raise
        if len(texts) == 1:
            _skip_or_raise(error, is_skipping, counts)
            return []
    return [example for text in texts for example in _tokenized(tokenizer, [text], is_skipping, counts)]


def _skip_or_raise(error: WrongUse, is_skipping: bool, counts: collections.Counter[str]) -> None:
    if not is_skipping:
        raise error
    counts["bad_content"] += 1
    log.warning("left out: %s", error)


@functools.cache
def _code_digest() -> str:
    """Digest of the code between rows and ids: a changed template makes another store."""
    modules = (examples, templates, tokenizer_lib, rows, importlib.import_module(__name__))
    sources = "".join(inspect.getsource(module) for module in modules)
    return hashlib.sha256(sources.encode()).hexdigest()[:16]
