"""Writing problems: (z, x) ~ p_theta(. | c) for one list of concepts after the other, until enough are kept.

Work goes in batches. How many lists the next batch takes follows from the share of drafts kept so far, so the
whole is a function of the seed. Draws are numbered through all batches, a draw's noise is keyed by its
number, and a batch's samples are kept as they come: a killed run reads the finished batches, goes on with the
missing draws and ends in the same bytes. Nothing that was sampled is lost: drafts stay as they are, and
`rejects.jsonl` says why one was not kept.
"""

import collections
import dataclasses
import logging
import math
import os
import sys
from collections.abc import Callable, Sequence

from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import ConceptSet, Problem
from promptcot_jax.parallel import hosts
from promptcot_jax.sampling.rollouts import Draw, draws_of
from promptcot_jax.synthesis.drafts import Author, Draft
from promptcot_jax.synthesis.selection import REASONS, Reject, Selection

WriteDrafts = Callable[[epath.PathLike, Sequence[Draw[ConceptSet]]], list[Draft]]
NextSets = Callable[[int], list[ConceptSet]]  # so many, or those that are left

_GUESSED_SHARE = 0.5  # of drafts that are kept, before any is known
_LEAST_SHARE = (
    0.02  # a batch is planned by; a model whose drafts are all rejected must not plan for ever more
)
_MOST_GROWTH = 4  # of a batch over the one before

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListBatchConfig:
    """How much is written.

    Attributes:
        num_concept_sets: lists of concepts, without a target; all of a file where 0.
        target: problems to keep; batches go on until there are as many, or `max_concept_sets` are used up.
        rows_per_file: of `problems.jsonl` and `rejects.jsonl`; more go into shards.
    """

    num_concept_sets: int = 0
    target: int = 0
    max_concept_sets: int = 100_000
    rows_per_file: int = 50_000

    def __post_init__(self):
        for name in ("num_concept_sets", "target"):
            if getattr(self, name) < 0:
                raise WrongUse(f"{name} must be 0 or more, got {getattr(self, name)}.")
        for name in ("max_concept_sets", "rows_per_file"):
            if getattr(self, name) < 1:
                raise WrongUse(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.target and self.num_concept_sets:
            raise WrongUse(
                f"num_concept_sets is {self.num_concept_sets} and target {self.target}: with a target the "
                "number of lists follows from what is kept; set one to 0 (max_concept_sets is the limit)."
            )


def write_problems(
    next_sets: NextSets,
    *,
    config: ListBatchConfig,
    write_drafts: WriteDrafts,
    samples_per_set: int,
    selection: Selection,
    author: Author,
    directory: epath.PathLike,
    problems_path: epath.PathLike,
) -> dict[str, int]:
    """Samples, selects and writes drafts, rejects and problems; returns the counts for the manifest.

    Args:
        next_sets: the concept lists in order, so many at each call.
        write_drafts: samples draws into a file, see `prompt_model.draft_writer`.
        selection: its `select` is called on the first host only.
        directory: of drafts and rejects.
    """
    problems: list[Problem] = []
    rejects: list[Reject] = []
    used = drafted = retokenized = kept = batches = before = 0
    while size := next_batch(config, kept, drafted, used, before, samples_per_set):
        sets = next_sets(size)
        if not sets:
            break
        draws = draws_of(sets, samples_per_set, first=drafted)
        drafts = write_drafts(os.path.join(directory, f"drafts_{batches:03d}.jsonl"), draws)
        by_id = {concept_set.id: concept_set for concept_set in sets}

        def select(drafts: Sequence[Draft] = drafts, by_id: dict[str, ConceptSet] = by_id) -> list[int]:
            selected, rejected = selection.select(drafts, by_id, author)
            problems.extend(selected)
            rejects.extend(rejected)
            left = {(reject.concept_set_id, reject.sample) for reject in rejected}
            odd = sum(d.retokenized and (d.concept_set_id, d.sample) not in left for d in drafts)
            return [len(selected), odd]

        selected, odd = hosts.decided_by_first(f"select batch {batches}", select)
        before, used, drafted, batches = len(sets), used + len(sets), drafted + len(draws), batches + 1
        kept, retokenized = kept + selected, retokenized + odd
        log.info("batch %d: %d of %d drafts kept, %d in all", batches, selected, len(drafts), kept)
    if kept < config.target:
        log.warning(
            "%d problems kept of the %d asked for, from %d concept sets; raise MAX_CONCEPT_SETS (%d), bring "
            "more concepts, or look in rejects.jsonl for the rule that refuses most",
            kept,
            config.target,
            used,
            config.max_concept_sets,
        )

    def write() -> dict[str, int]:
        jsonl.write_records(problems_path, problems, config.rows_per_file)
        jsonl.write_records(os.path.join(directory, "rejects.jsonl"), rejects, config.rows_per_file)
        by_reason = collections.Counter(reject.reason for reject in rejects)
        return {f"dropped_{reason}": by_reason[reason] for reason in REASONS if by_reason[reason]}

    dropped = hosts.decided_by_first("write problems", write)
    return {
        "concept_sets": used,
        "batches": batches,
        "in": drafted,
        "out": kept,
        **dropped,
        "retokenized": retokenized,
    }


def next_batch(
    config: ListBatchConfig, kept: int, drafted: int, used: int, before: int, samples_per_set: int
) -> int:
    """How many lists the next batch takes, after `kept` of `drafted` drafts from `used` lists; 0: no more.

    Args:
        before: lists of the batch before.
    """
    if not config.target:
        return 0 if used else config.num_concept_sets or sys.maxsize
    if kept >= config.target:
        return 0
    share = max(kept / drafted, _LEAST_SHARE) if drafted else _GUESSED_SHARE
    size = math.ceil((config.target - kept) / (share * samples_per_set))
    return min(size, _MOST_GROWTH * before or size, config.max_concept_sets - used)
