"""Writing problems: (z, x) ~ p_theta(. | c) for one list of concepts after the other, until enough are kept.

Work goes in batches. How many lists the next batch takes follows from the share of drafts kept so far, so the
whole is a function of the seed. Draws are numbered through all batches, a draw's noise is keyed by its
number, and a batch's samples are kept as they come: a killed run reads the finished batches, goes on with the
missing draws and ends in the same bytes. Nothing that was sampled is lost: drafts stay as they are, and
`rejects.jsonl` says why one was not kept.
"""

import logging
import math
import os
import sys
from collections.abc import Callable, Sequence

from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.core.records import ConceptSet, Problem
from promptcot_jax.core.settings import NonNegativeInt, PositiveInt, settings
from promptcot_jax.parallel import hosts
from promptcot_jax.sampling.rollouts import draws_of
from promptcot_jax.synthesis import outcomes
from promptcot_jax.synthesis.drafts import Author, Draft, WriteDrafts
from promptcot_jax.synthesis.outcomes import Reject
from promptcot_jax.synthesis.selection import REASONS, Selection

NextSets = Callable[[int], list[ConceptSet]]  # so many, or those that are left

_GUESSED_SHARE = 0.5  # of drafts that are kept, before any is known
# That a batch is planned by, or a model whose drafts are all rejected would get ever more.
_LEAST_SHARE = 0.02
_MOST_GROWTH = 4  # of a batch over the one before

log = logging.getLogger(__name__)


@settings
class ListBatchConfig:
    """How much is written."""

    num_concept_sets: NonNegativeInt  # lists of concepts, without a target; all of a file where 0
    # Problems to keep; batches go on until there are as many, or `max_concept_sets` are used up.
    target: NonNegativeInt = 0
    max_concept_sets: PositiveInt = 100_000
    rows_per_file: PositiveInt = 50_000  # of `problems.jsonl` and `rejects.jsonl`; more go into shards

    def __post_init__(self):
        if self.target and self.num_concept_sets:
            raise ValueError(
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
        write_drafts: samples draws into a file, see `drafts.draft_writer`.
        selection: its `select` is called on the first host only.
        directory: of drafts and rejects.
    """
    problems: list[Problem] = []
    rejects: list[Reject] = []
    used = drafted = retokenized = kept = batches = last_size = 0
    while size := next_batch(config, kept, drafted, used, last_size, samples_per_set):
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
            refused = {reject.subject["request"] for reject in rejected}
            num_retokenized = sum(draft.retokenized and draft.request not in refused for draft in drafts)
            return [len(selected), num_retokenized]

        selected, num_retokenized = hosts.decided_by_first(f"select batch {batches}", select)
        last_size, used, drafted, batches = len(sets), used + len(sets), drafted + len(draws), batches + 1
        kept, retokenized = kept + selected, retokenized + num_retokenized
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
        rejected = [reject.row for reject in rejects]
        jsonl.write_records(os.path.join(directory, "rejects.jsonl"), rejected, config.rows_per_file)
        by_reason = outcomes.by_reason(rejects)
        return outcomes.dropped({reason: by_reason[reason] for reason in REASONS if reason in by_reason})

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
    config: ListBatchConfig, kept: int, drafted: int, used: int, last_size: int, samples_per_set: int
) -> int:
    """How many lists the next batch takes, after `kept` of `drafted` drafts from `used` lists; 0: no more.

    Args:
        last_size: lists of the batch before.
    """
    if not config.target:
        return 0 if used else config.num_concept_sets or sys.maxsize
    if kept >= config.target:
        return 0
    share = max(kept / drafted, _LEAST_SHARE) if drafted else _GUESSED_SHARE
    size = math.ceil((config.target - kept) / (share * samples_per_set))
    return min(size, _MOST_GROWTH * last_size or size, config.max_concept_sets - used)
