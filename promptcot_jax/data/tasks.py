"""The tasks that the stages train on, by name: what each reads, and how a row becomes an example.

| name | reads | trains |
|---|---|---|
| `p_theta` | triples | c -> z, x (paper section 3.2) |
| `q_phi` | triples | c, x -> z |
| `p_direct` | triples | c -> x, the EM study's baseline without rationale |
| `NAME_math`, `NAME_code` | triples | the rows of one domain |
| `NAME_by_domain` | triples | a mixture of these two by rate |
| `sft_traces` | worked solutions | x -> solution (section 3.5) |
| `documents` | rows of the seed corpus | all of their text, to pretrain a base model |

Here is the path from files to token ids, without TensorFlow: rows are read one by one, rendered, and
tokenized a few hundred at a time. `training_sets` keeps the ids for the stages; `seqio_tasks` registers the
same tasks with seqio, from the same functions.
"""

import collections
import dataclasses
import functools
import hashlib
import itertools
import logging
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, TypeVar

from etils import epath

from promptcot_jax.core import manifest, records
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.settings import settings
from promptcot_jax.data import (
    decontamination,
    examples,
    rows,
    validity,
)
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


@settings
class RowRules:
    """Which rows of a file become examples: readable and valid ones that overlap with no benchmark."""

    bad_rows: rows.BadRows = rows.FATAL
    validity: Validity = "paper"
    benchmarks: Mapping[str, str] = dataclasses.field(default_factory=dict)  # name -> path

    @functools.cached_property
    def index(self) -> decontamination.Index | None:
        """The benchmarks' texts, read when rows are first compared with them."""
        return decontamination.read_index(self.benchmarks) if self.benchmarks else None


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
    "documents": Task(record_type=records.CorpusRow, to_text=examples.document_text),
    "mixed_documents": Task(record_type=records.CorpusRow, to_text=examples.mixed_document_text),
}
MIXTURES: dict[str, dict[str, str]] = {  # what its rates are called by -> task
    f"{name}_by_domain": {domain: f"{name}_{domain}" for domain in DOMAINS} for name in _ROLES
}


def task_named(name: str) -> Task:
    """A task of this package.

    Raises:
        WrongUse: there is none of that name.
    """
    if name not in TASKS:
        raise WrongUse(f"There is no task '{name}'; there are {', '.join([*TASKS, *MIXTURES])}.")
    return TASKS[name]


def made_from(name: str, path: epath.PathLike, tokenizer: Tokenizer, rules: RowRules) -> dict[str, Any]:
    """Everything that decides what the task `name` makes of a file's rows, as JSON values.

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
        "code": code_digest(),
    }


@functools.cache
def code_digest() -> str:
    """Digest of `core/` and `data/`, through which rows go: a changed template makes another store."""
    package = pathlib.Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for file in sorted(file for room in ("core", "data") for file in (package / room).rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


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
