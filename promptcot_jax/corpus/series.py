"""Mathematics families about sequences: arithmetic and geometric series, recurrences."""

import random

from promptcot_jax.corpus.families import MathFamily, Scene, Thoughts, Values


def _draw_series(draw: random.Random) -> Values:
    return {"start": draw.randint(5, 60), "step": draw.randint(2, 12), "terms": draw.randint(8, 40)}


def _solve_series(start: int, step: int, terms: int) -> Values:
    last = start + (terms - 1) * step
    return {"value": terms * (start + last) // 2, "last": last, "gaps": terms - 1, "ends": start + last}


SERIES = MathFamily(
    name="arithmetic_series",
    concepts=("arithmetic series", "linear growth", "pairing terms"),
    level=1,
    thoughts=Thoughts(
        goals=(
            "adds up a quantity that grows evenly",
            "makes a long steady sum easy for those who pair its ends",
        ),
        difficulties=(
            "the last term must be found first and there is one gap fewer than terms",
            "adding term by term is possible but far too slow",
        ),
        reason="equal growth makes all pairs from opposite ends equal, so only first and last term matter",
        skeleton="a sum of {terms} evenly growing terms",
        steps=(
            "Begin at {start}, so that the first term is not trivial.",
            "Let every further term grow by {step}.",
            "Stop after {terms} terms, too many to add singly.",
        ),
        blueprint=("terms {terms}", "first {start}", "difference {step}"),
    ),
    scenes=(
        Scene(
            label="theatre seats",
            facts="A theatre has {terms} rows. The front row has {start} seats, and each later row has "
            "{step} seats more than the row before it.",
            quantity="the total number of seats",
        ),
        Scene(
            label="daily savings",
            facts="For {terms} days {name} puts coins into a jar: {start} on the first day and then {step} "
            "more each day than on the previous one.",
            quantity="the number of coins in the jar at the end",
        ),
        Scene(
            label="bare sequence",
            facts="An arithmetic progression of {terms} terms starts with {start} and has common difference "
            "{step}.",
            quantity="the sum of its terms",
        ),
    ),
    work="There are {gaps} gaps, so the last term is {start} + {gaps} * {step} = {last}. Pairing ends, the "
    "sum is {terms} * ({start} + {last}) / 2 = {terms} * {ends} / 2 = {value}.",
    draw=_draw_series,
    solve=_solve_series,
)


def _draw_growth(draw: random.Random) -> Values:
    return {"start": draw.randint(2, 60), "ratio": draw.randint(2, 5), "terms": draw.randint(4, 8)}


def _solve_growth(start: int, ratio: int, terms: int) -> Values:
    power = ratio**terms
    return {"value": start * (power - 1) // (ratio - 1), "power": power, "less": ratio - 1}


GROWTH = MathFamily(
    name="geometric_series",
    concepts=("geometric series", "exponential growth", "telescoping"),
    level=2,
    thoughts=Thoughts(
        goals=(
            "adds up a quantity that multiplies from stage to stage",
            "shows how fast repeated multiplication piles up",
        ),
        difficulties=(
            "all stages count and not only the last one",
            "the closed form needs the power one beyond the last stage",
        ),
        reason="multiplying the sum by the ratio shifts it by one stage, and the difference telescopes",
        skeleton="{terms} stages that multiply by a fixed ratio",
        steps=(
            "Start the first stage with {start}.",
            "Multiply by {ratio} from each stage to the next.",
            "Add all {terms} stages instead of asking for the last.",
        ),
        blueprint=("first {start}", "ratio {ratio}", "stages {terms}"),
    ),
    scenes=(
        Scene(
            label="spreading rumour",
            facts="On day one {start} people hear a rumour. Each following day the number of new listeners "
            "is {ratio} times that of the day before.",
            quantity="the number of people who know it after {terms} days",
        ),
        Scene(
            label="paper folding club",
            facts="{name} folds {start} cranes in week one and in every later week {ratio} times as many as "
            "in the week before, for {terms} weeks.",
            quantity="the total number of cranes",
        ),
        Scene(
            label="bare sequence",
            facts="A geometric progression has first term {start} and common ratio {ratio}.",
            quantity="the sum of its first {terms} terms",
        ),
    ),
    work="Let S be the sum. Then {ratio} * S - S leaves only the ends, {start} * {ratio}^{terms} - {start}. "
    "So S = {start} * ({power} - 1) / {less} = {value}.",
    draw=_draw_growth,
    solve=_solve_growth,
)


def _draw_recurrence(draw: random.Random) -> Values:
    return {
        "p": draw.randint(2, 5),
        "q": draw.randint(2, 5),
        "first": draw.randint(1, 9),
        "second": draw.randint(1, 12),
        "index": draw.randint(5, 8),
    }


def _solve_recurrence(p: int, q: int, first: int, second: int, index: int) -> Values:
    terms = [first, second]
    while len(terms) < index:
        terms.append(p * terms[-1] + q * terms[-2])
    return {"value": terms[-1], "terms": ", ".join(map(str, terms))}


RECURRENCE = MathFamily(
    name="recurrence",
    concepts=("linear recurrences", "sequences", "iteration"),
    level=2,
    thoughts=Thoughts(
        goals=(
            "unrolls a rule that looks back at earlier values",
            "lets a short rule generate quickly growing values",
        ),
        difficulties=(
            "the weights must be applied to the right predecessors at every stage",
            "an early slip grows with every further term",
        ),
        reason="each term needs just its predecessors, so a rule and its initial values fix everything",
        skeleton="a second-order rule with the weights {p} and {q}",
        steps=(
            "Weight the latest term by {p} and the one before by {q}.",
            "Seed the rule with {first} and {second}.",
            "Ask for term number {index}, a few iterations away.",
        ),
        blueprint=("seeds {first}, {second}", "weights {p}, {q}", "index {index}"),
    ),
    scenes=(
        Scene(
            label="bare sequence",
            facts="A sequence has a_1 = {first}, a_2 = {second} and a_(n+2) = {p} a_(n+1) + {q} a_n for all "
            "n >= 1.",
            quantity="the term a_{index}",
        ),
        Scene(
            label="fish pond",
            facts="A pond holds {first} fish in year 1 and {second} in year 2. From then on each year's "
            "count is {p} times last year's plus {q} times the count of the year before that.",
            quantity="the number of fish in year {index}",
        ),
        Scene(
            label="calculator game",
            facts="{name} writes {first}, then {second}, and goes on: each new number is {p} times the last "
            "one plus {q} times the one before the last.",
            quantity="the number written in position {index}",
        ),
    ),
    work="Apply the rule term by term, {p} times the latest plus {q} times the one before. The sequence runs "
    "{terms}, so term {index} is {value}.",
    draw=_draw_recurrence,
    solve=_solve_recurrence,
)

FAMILIES = (SERIES, GROWTH, RECURRENCE)
