"""A world whose plans are known: 64 plans, each problem the noisy rendering of one (stage `corpus`, for EM).

A plan is two of the letters A to H, drawn uniformly; its text is "plan A C". A problem is six symbols: three
of the first letter in one table and three of the second in another, each replaced, with chance `NOISE`, by a
symbol drawn at random. So log p(x | plan) and log p(x) have closed forms, and whether EM finds better
rationales than its annotators wrote can be counted, which no corpus of real problems allows.

The first `num_annotated` rows have the rationale of an annotator, who is wrong with a set chance: they are
for the cold start. The others, of which EM reads c and x alone, and the held-out ones have the right plan. A
row's id ends with it.
"""

import itertools
import random
from typing import Annotated

import numpy as np

from promptcot_jax.core.arrays import Float
from promptcot_jax.core.records import Triple
from promptcot_jax.core.settings import NonNegativeInt, PositiveInt, Range, Share, settings

LETTERS, SYMBOLS, SYMBOLS_OF_A_LETTER = "ABCDEFGH", "klmnopqrstuv", 3
NOISE = 0.1  # chance that a symbol is drawn anew; the old one may come again
PLANS = tuple(itertools.product(LETTERS, LETTERS))
WORDS = ("plan", "use", "take", "pick", "join", "draw", "make", "form")  # "plan A C", "use A C", ...
GENERIC = "some plan"  # says nothing

Plan = tuple[str, str]


@settings
class PlansConfig:
    """How many rows, and how they are annotated."""

    seed: int = 0
    num_annotated: PositiveInt = 3000
    num_others: NonNegativeInt = 1800
    num_heldout: PositiveInt = 256
    wrong_share: Share = 0.5  # of the annotated rows whose plan is drawn anew, whatever x is
    generic_share: Share = 0.0  # of the annotated rows whose rationale is `GENERIC`
    num_wordings: Annotated[int, Range(at_least=1, at_most=len(WORDS))] = (
        1  # of an annotated plan, drawn uniformly
    )


def generate(config: PlansConfig) -> tuple[list[Triple], list[Triple]]:
    """Rows for training, the annotated ones first, and held-out ones: the same ones for the same seed."""
    sizes = {"annotated": config.num_annotated, "other": config.num_others, "heldout": config.num_heldout}
    annotated, others, heldout = (
        [_row(config, kind, i) for i in range(size)] for kind, size in sizes.items()
    )
    return annotated + others, heldout


def _row(config: PlansConfig, kind: str, i: int) -> Triple:
    """Row i of a kind, from a stream of its own; the annotation takes the last draws of it."""
    draw = random.Random(f"{config.seed} {kind} {i}")
    plan = draw.choice(PLANS)
    symbols = [symbol if draw.random() >= NOISE else draw.choice(SYMBOLS) for symbol in rendering(plan)]
    return Triple(
        id=f"{kind}-{i}-{''.join(plan)}",
        concepts=(draw.choice(("alpha", "beta")),),  # say nothing of the plan
        problem=" ".join(symbols),
        rationale=_annotation(config, plan, draw) if kind == "annotated" else text_of(plan),
    )


def _annotation(config: PlansConfig, plan: Plan, draw: random.Random) -> str:
    if draw.random() < config.generic_share:
        return GENERIC
    if draw.random() < config.wrong_share:
        plan = draw.choice(PLANS)
    return text_of(plan, draw.choice(WORDS[: config.num_wordings]))


def text_of(plan: Plan, word: str = WORDS[0]) -> str:
    """A plan as a rationale."""
    return " ".join((word, *plan))


def plan_of_row(row_id: str) -> Plan:
    """The plan that a row's problem renders."""
    first, second = row_id[-2:]
    return first, second


def is_plan(rationale: str) -> bool:
    """Whether a rationale is a plan's text, in any wording, or the generic one."""
    return rationale.strip() == GENERIC or any(is_right(rationale, plan) for plan in PLANS)


def is_right(rationale: str, plan: Plan) -> bool:
    """Whether a rationale names the plan, in any wording."""
    word, *letters = rationale.split() or [""]
    return word in WORDS and tuple(letters) == plan


def rendering(plan: Plan) -> str:
    """The six symbols of a plan, before noise."""
    return "".join(table[letter] for table, letter in zip(_TABLES, plan, strict=True))


def log_likelihoods(problem: str) -> Float[np.ndarray, " 64"]:
    """log p(x | plan) for each of `PLANS`."""
    other = NOISE / len(SYMBOLS)
    log_ps = np.log([other, 1.0 - NOISE + other])  # of another symbol, of the plan's
    symbols = np.array(problem.split())
    return np.array([log_ps[(symbols == [*rendering(plan)]).astype(int)].sum() for plan in PLANS])


def _tables() -> list[dict[str, str]]:
    """The symbols of each letter in first and in second place: the same in every run."""
    draw = random.Random(1234)
    rows = [{letter: draw.choices(SYMBOLS, k=SYMBOLS_OF_A_LETTER) for letter in LETTERS} for _ in range(2)]
    return [{letter: "".join(symbols) for letter, symbols in row.items()} for row in rows]


_TABLES = _tables()
