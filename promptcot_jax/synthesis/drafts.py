"""What p_theta wrote for one request, and the (z, x) that can be read from it."""

import dataclasses
import re
from typing import Literal

from promptcot_jax.core.records import ConceptSet
from promptcot_jax.data import templates
from promptcot_jax.synthesis.filters import Fault, Written


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draft:
    """What p_theta wrote for one request, before anything is dropped."""

    request: int
    concept_set_id: str
    sample: int
    text: str  # without the end token
    finish_reason: Literal["stop", "length"]
    num_tokens: int  # the end token included
    log_p_z: (
        float  # log p_theta(z | c) of the sampled ids up to the end of the z block (all of them without one)
    )
    log_p_x: float  # log p_theta(x | z, c) of the rest, the end token included
    retokenized: bool  # its text would tokenize otherwise; the scores are those of the sampled ids


@dataclasses.dataclass(frozen=True, kw_only=True)
class Author:
    """Which model wrote the problems, for their lineage."""

    model_digest: str
    round_index: int  # -1: the cold start, or a model of no EM round
    seed: int


OUT_OF_FORM = ("unfinished", "unparseable", "empty")
_EMPTY_BLOCK = re.compile(
    "|".join(
        rf"{re.escape(begin)}\s*{re.escape(end)}"
        for begin, end in (
            (templates.BEGIN_RATIONALE, templates.END_RATIONALE),
            (templates.BEGIN_PROBLEM, templates.END_PROBLEM),
        )
    )
)


def read_draft(draft: Draft, concept_set: ConceptSet) -> Written | Fault:
    """The rationale and the problem of a draft; a fault of `OUT_OF_FORM` where one cannot be read."""
    parsed = templates.parse_problem(draft.text) if draft.finish_reason == "stop" else None
    if parsed is not None:
        rationale, problem = parsed
        return Written(
            domain=concept_set.domain, concepts=concept_set.concepts, rationale=rationale, problem=problem
        )
    if draft.finish_reason == "length":
        return Fault("unfinished", float(draft.num_tokens), "the budget of tokens ran out")
    is_empty = not draft.text.strip() or _EMPTY_BLOCK.search(draft.text)
    return Fault("empty" if is_empty else "unparseable", float(draft.num_tokens))
