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
import itertools
import logging
import os
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, ClassVar, Literal, TypeVar

from etils import epath

from promptcot_jax.core import manifest, records
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import (
    benchmark_files,
    decontamination,
    example_sets,
    examples,
    rows,
    token_store,
    validity,
)
from promptcot_jax.data.code_digest import code_digest
from promptcot_jax.data.example_sets import ExampleSet
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.data.validity import Validity

ROWS_AT_ONCE = 512  # tokenized in one call: enough for all cores of a TPU host, little memory
_TOKENIZER_CALLS = 3  # at once: while one waits for Python's lock the others keep the cores busy

Made = TypeVar("Made")

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What a row is, and the text that is made of it; `domain`: rows of another domain are passed over."""

    record_type: Any
    to_text: Callable[[Any, Tokenizer], examples.TextExample]
    domain: records.Domain | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowRules:
    """Which rows of a file become examples: readable and valid ones that overlap with no benchmark."""

    bad_rows: rows.BadRows = rows.FATAL
    validity: Validity = "paper"
    benchmarks: Mapping[str, str] = dataclasses.field(default_factory=dict)  # name -> path

    def __post_init__(self):
        if self.validity not in (known := typing.get_args(Validity)):
            raise ValueError(f"validity must be one of {list(known)}, got {self.validity!r}.")

    @functools.cached_property
    def index(self) -> decontamination.Index | None:
        """The benchmarks' texts, read when rows are first compared with them."""
        return benchmark_files.read_index(self.benchmarks) if self.benchmarks else None


NO_RULES = RowRules()
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
        record_type=records.SolvedMathProblem | records.SolvedProgramProblem | records.SftTrace,
        to_text=examples.solution_text,
    ),
}
MIXTURES: dict[str, dict[str, str]] = {  # what its rates are called by -> task
    f"{name}_by_domain": {domain: f"{name}_{domain}" for domain in DOMAINS} for name in _ROLES
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How a stage reads its training data.

    `bad_rows`: a row that cannot be read or rendered ends the stage, or is logged, counted and left out.
    `validity`: whose rules say which traces and problems are left out, see `validity`.
    `benchmarks`: name -> path; rows whose problem shares 13 words in a row with one are left out and counted.
    `rates` of the tasks of a mixture; without them each row is as likely as any other. `cache_dir` holds the
    tokenized tasks: where it is empty, `token_cache/` in a local workdir, else in the user's cache directory.
    `use_cached_tasks`, as in T5X: a task of a user's own is read from seqio's offline cache (`seqio_cache`).
    """

    HOW_ONLY: ClassVar = frozenset({"cache_dir"})

    bad_rows: Literal["error", "skip"] = "error"
    max_row_bytes: int = rows.BadRows.max_row_bytes
    validity: Validity = "paper"
    benchmarks: Mapping[str, manifest.InputPath] = dataclasses.field(default_factory=dict)
    rates: Mapping[str, float] | None = None
    cache_dir: str = ""
    use_cached_tasks: bool = False

    def row_rules(self) -> RowRules:
        """The rules for rows.

        Raises:
            ValueError: a setting is out of range.
        """
        bad_rows = rows.BadRows(action=self.bad_rows, max_row_bytes=self.max_row_bytes)
        return RowRules(bad_rows=bad_rows, validity=self.validity, benchmarks=self.benchmarks)

    def __post_init__(self):
        self.row_rules()

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
    counts = counts_of_rows([store.counts for store in stores.values()])
    if name not in MIXTURES:
        return stores[name], counts
    return example_sets.Mixed(stores, config.rates), counts


def counts_of_rows(of_tasks: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Counts for the manifest, of tasks that each read the same file: `in`, and `dropped_REASON`.

    What is wrong with the file counts once; what a task finds wrong with its own rows adds up.
    """
    of_file = {name: n for name, n in of_tasks[0].items() if not name.startswith("dropped_")}
    of_content = collections.Counter[str]()
    for counts in of_tasks:
        of_content.update({name: n for name, n in counts.items() if name.startswith("dropped_")})
    unread = {f"dropped_{name}": n for name, n in of_file.items() if name != "read"}
    return {"in": sum(of_file.values()), **unread, **of_content}


def _registered_with_seqio(
    name: str, split: str, config: DataConfig, workdir: str
) -> tuple[ExampleSet, dict[str, int]]:
    """A user's own task or mixture, tokenized at each start: nothing tells what its bytes depend on."""
    _refuse_what_only_our_tasks_have(name, config)
    from promptcot_jax.data import seqio_registry  # late: TensorFlow takes seconds, and most runs need none

    def opened(task: str) -> ExampleSet:
        build = functools.partial(
            seqio_registry.task_examples,
            task,
            split,
            use_cached=config.use_cached_tasks,
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
    task = task_named(name)
    counts: collections.Counter[str] = collections.Counter()
    origin = made_from(name, path, tokenizer, rules) | {"limit": limit}

    def build() -> Iterator[list[examples.TokenExample]]:
        yield from iter_token_examples(task, path, tokenizer, rules, limit=limit, counts=counts)
        if manifest.file_digest(path) != origin["rows"]:
            raise WrongUse(f"{os.fspath(path)} changed while it was tokenized; start again.")

    return token_store.Content(name, origin, build, counts)


def made_from(
    name: str, path: epath.PathLike, tokenizer: Tokenizer, rules: RowRules, *, also_by: Sequence[str] = ()
) -> dict[str, Any]:
    """Everything that decides what the task `name` makes of a file's rows, as JSON values.

    Args:
        also_by: names of further modules that do the work.

    Raises:
        WrongUse: there is no such file.
    """
    return {
        "task": name,
        "rows": manifest.file_digest(path),
        "bad_rows": dataclasses.asdict(rules.bad_rows),
        "validity": rules.validity,
        "benchmarks": [manifest.file_digest(benchmark) for benchmark in rules.benchmarks.values()],
        "tokenizer": tokenizer.digest,
        "code": code_digest(*also_by),
    }


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
    rules: RowRules,
    *,
    limit: int = 0,
    counts: collections.Counter[str],
) -> Iterator[list[examples.TokenExample]]:
    """The examples of a file's rows, a few hundred at a time, tokenized while the next are read.

    Raises:
        WrongUse: a row is bad and the rules do not skip it.
    """
    found = iter_task_rows(task.record_type, path, rules, domain=task.domain, limit=limit, counts=counts)

    def make(some: Sequence[Any]) -> list[examples.TokenExample]:
        return examples.tokenize(tokenizer, [task.to_text(row, tokenizer) for row in some])

    def made_of_batch(batch: list[Any], future: futures.Future[list[examples.TokenExample]]):
        return made_of(batch, lambda some: future.result() if some is batch else make(some), rules, counts)

    waiting = collections.deque()
    with futures.ThreadPoolExecutor(_TOKENIZER_CALLS) as pool:
        while batch := list(itertools.islice(found, ROWS_AT_ONCE)):
            waiting.append((batch, pool.submit(make, batch)))
            if len(waiting) > _TOKENIZER_CALLS:
                yield made_of_batch(*waiting.popleft())
        while waiting:
            yield made_of_batch(*waiting.popleft())


def iter_task_rows(
    record_type: Any,
    path: epath.PathLike,
    rules: RowRules,
    *,
    domain: records.Domain | None = None,
    start: int = 0,
    limit: int = 0,
    counts: collections.Counter[str],
) -> Iterator[Any]:
    """The records of a file that the rules leave.

    Args:
        start: readable rows to pass over first.
        limit: and readable rows to take then; 0 takes all.

    Raises:
        WrongUse: a row is bad and the rules do not skip it.
    """
    found = rows.iter_records(path, record_type, bad_rows=rules.bad_rows, counts=counts)
    found = itertools.islice(found, start, start + limit if limit else None)
    if domain is not None:
        found = (row for row in found if row.domain == domain)
    found = _valid(found, rules.validity, counts)
    return found if rules.index is None else decontamination.keep_clean(found, rules.index, _problem, counts)


def _valid(found: Iterable[Any], rules: Validity, counts: collections.Counter[str]) -> Iterator[Any]:
    for row in found:
        if (fault := validity.fault_of(row, rules)) is None:
            yield row
        else:
            counts[f"dropped_{fault}"] += 1


def _problem(row: Any) -> str:
    """The statement of whatever record: what is compared with benchmarks."""
    return row.prompt if isinstance(row, records.SftTrace | records.PreferencePair) else row.problem


def made_of(
    some: Sequence[Any],
    make: Callable[[Sequence[Any]], list[Made]],
    rules: RowRules,
    counts: collections.Counter[str],
) -> list[Made]:
    """What `make` makes of many rows at once; one by one where it refuses a row that may be left out.

    Raises:
        WrongUse: a row is refused and the rules do not skip it.
    """
    try:
        return make(some)
    except WrongUse as error:
        if rules.bad_rows.action == "error":
            raise WrongUse(f"{str(error).rstrip('.')}; {rows.REMEDY}.") from None
        if len(some) == 1:
            counts["dropped_bad_content"] += 1
            log.warning("left out: %s", error)
            return []
    return [made for row in some for made in made_of([row], make, rules, counts)]
