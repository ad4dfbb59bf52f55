"""The problems of self-play's evaluations: those of a file that are not trained on."""

import collections
import dataclasses
import logging
from collections.abc import Mapping, Sequence

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import prompt_stream, rows
from promptcot_jax.data.prompt_stream import PromptConfig, Task
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.synthesis import text_sketches
from promptcot_jax.trainers.held_out import HeldOutConfig

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class HeldOutProblems:
    """What is evaluated on, and what of the file is not."""

    tasks: Sequence[Task]
    counts: Mapping[str, int]


def read(
    config: HeldOutConfig,
    tokenizer: Tokenizer,
    *,
    longest: int,
    trained_on: Sequence[Task],
    bad_rows: rows.BadRows,
) -> HeldOutProblems:
    """The problems of `config.prompts` with their ids, without those whose text is trained on.

    Args:
        longest: tokens that a prompt may have, beside its completion.

    Raises:
        WrongUse: there is no problem, a row is bad and bad rows are not to be skipped, or all are trained on.
    """
    assert config.prompts is not None
    counts: collections.Counter[str] = collections.Counter()
    settings = PromptConfig(bad_rows=bad_rows)
    found = prompt_stream.read_tasks(config.prompts, tokenizer, settings, longest=longest, counts=counts)
    known = {text_sketches.comparable(task.prompt.problem) for task in trained_on}
    unseen = [task for task in found if text_sketches.comparable(task.prompt.problem) not in known]
    if num_seen := len(found) - len(unseen):
        log.warning(
            "%s: %d of %d problems are trained on and left out of the evaluations",
            config.prompts,
            num_seen,
            len(found),
        )
    if not unseen:
        raise WrongUse(
            f"{config.prompts}: there is nothing to evaluate on in it; of {len(found)} problems {num_seen} "
            f"are trained on ({dict(counts)}). Set EVAL_PROMPTS to problems that VERIFIED_PROMPTS lacks."
        )
    if counts["dropped_too_long"]:
        log.warning("%s: %d problems are too long", config.prompts, counts["dropped_too_long"])
    kept = unseen[: config.max_problems or None]
    return HeldOutProblems(
        tasks=kept,
        counts={
            "heldout_in": counts["read"],
            "heldout_out": len(kept),
            "heldout_dropped_trained_on": num_seen,
            "heldout_dropped_too_long": counts["dropped_too_long"],
            **{f"heldout_dropped_{name}": n for name, n in counts.items() if name.startswith("bad_")},
        },
    )
