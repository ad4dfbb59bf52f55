"""Programming families of dynamic programming: grids, coins, stairs; `reference` as in `list_programs`."""

import itertools
import random

from promptcot_jax.corpus.families import ProgramFamily, Scene, Thoughts, Values

_LIMITS = (50, 100, 200, 300, 500, 1000, 2000, 3000, 5000, 10000)


def _grid(draw: random.Random, values: Values) -> str:
    height, width = draw.randint(1, 4), draw.randint(1, 4)
    rows = [" ".join(str(draw.randint(0, int(values["top"]))) for _ in range(width)) for _ in range(height)]
    return "\n".join([f"{height} {width}", *rows])


def _cheapest_path(words: list[str], values: Values) -> int:
    height, width, *cells = map(int, words)
    costs = []
    for down_moves in itertools.combinations(range(height + width - 2), height - 1):
        row = column = 0
        cost = cells[0] + int(values["fee"]) * (height - 1)
        for move in range(height + width - 2):
            row, column = (row + 1, column) if move in down_moves else (row, column + 1)
            cost += cells[row * width + column]
        costs.append(cost)
    return min(costs)


GRID = ProgramFamily(
    name="grid_paths",
    concepts=("grid dynamic programming", "optimal substructure", "path costs"),
    level=4,
    thoughts=Thoughts(
        goals=(
            "finds a cheapest way through a table",
            "makes a step in one direction dearer than in the other",
        ),
        difficulties=(
            "the locally cheaper move can lead into costly cells",
            "the extra charge depends on the move and not on the cell",
        ),
        reason="every cell is entered from two neighbours only, so best costs can be tabulated row by row",
        skeleton="monotone walks through tables of side at most {most} with a charge on downward moves",
        steps=(
            "Fill the table with costs from 0 to {top}.",
            "Permit moves right for free and down at the extra charge {fee}.",
            "Bound both sides by {most}, too large for trying all walks.",
        ),
        blueprint=("sides up to {most}", "costs 0 to {top}", "down charge {fee}", "wanted cheapest walk"),
    ),
    scenes=(
        Scene(
            label="mountain trail",
            facts="A hiker crosses a grid from the top left cell to the bottom right one, moving right or "
            "down and paying each visited cell; a move down costs {fee} extra.",
            quantity="the least total cost",
        ),
        Scene(
            label="warehouse cart",
            facts="A cart of {name} goes from the first to the last cell of a grid by steps right or down. "
            "It pays every cell it stands on, and {fee} more per step down.",
            quantity="the smallest sum it can pay",
        ),
    ),
    input_format="h and w (up to {most}), then h rows of w costs from 0 to {top}",
    program="""h, w = int(next(tokens)), int(next(tokens))
best = [10**9] * w
for i in range(h):
    for j in range(w):
        above = best[j] + {fee}
        left = best[j - 1] if j else 10**9
        start = 0 if i == j == 0 else 10**9
        best[j] = int(next(tokens)) + min(above, left, start)
return best[-1]""",
    draw=lambda draw: {
        "most": draw.choice(_LIMITS[:6]),
        "top": draw.randint(5, 50),
        "fee": draw.randint(1, 20),
    },
    instance=_grid,
    reference=_cheapest_path,
)


def _draw_coins(draw: random.Random) -> Values:
    coins = sorted(draw.sample(range(2, 16), 3))
    return {"a": coins[0], "b": coins[1], "c": coins[2], "most": draw.choice(_LIMITS[1:])}


def _count_payments(words: list[str], values: Values) -> int:
    amount, (a, b, c) = int(words[0]), (int(values[key]) for key in "abc")
    return sum(
        (amount - i * a - j * b) % c == 0
        for i in range(amount // a + 1)
        for j in range((amount - i * a) // b + 1)
    )


COINS = ProgramFamily(
    name="coin_change",
    concepts=("coin change", "counting by dynamic programming", "unordered sums"),
    level=3,
    thoughts=Thoughts(
        goals=(
            "counts the ways in which an amount can be paid",
            "builds a table over amounts, one kind of coin after another",
        ),
        difficulties=(
            "the order of the coins must not matter, which decides how the loops are nested",
            "many amounts cannot be paid at all and zero can be paid in one way",
        ),
        reason="adding coin kinds one by one in the outer loop counts each unordered payment once",
        skeleton="payments with three kinds of coins, the smallest worth {a}",
        steps=(
            "Mint the coins {a}, {b} and {c}, in unlimited supply.",
            "Ignore order, so the coins belong in the outer loop.",
            "Let the amount reach {most}, beyond plain recursion.",
        ),
        blueprint=("coins {a}, {b}, {c}", "amount up to {most}", "order ignored"),
    ),
    scenes=(
        Scene(
            label="island coins",
            facts="An island uses coins of {a}, {b} and {c} pearls and has plenty of each.",
            quantity="the number of unordered ways to pay the amount",
        ),
        Scene(
            label="ticket machine",
            facts="A machine of {name} pays out tokens worth {a}, {b} or {c}, any number of each.",
            quantity="the number of different collections of tokens worth the amount",
        ),
    ),
    input_format="an amount n, 1 <= n <= {most}",
    program="""n = int(next(tokens))
ways = [1] + [0] * n
for coin in ({a}, {b}, {c}):
    for total in range(coin, n + 1):
        ways[total] += ways[total - coin]
return ways[n]""",
    draw=_draw_coins,
    instance=lambda draw, values: str(draw.randint(1, 60)),
    reference=_count_payments,
)


def _draw_stairs(draw: random.Random) -> Values:
    while True:
        short, long = sorted(draw.sample(range(1, 7), 2))
        values = {"short": short, "long": long, "bad": draw.randint(3, 12), "most": draw.randint(20, 60)}
        # Else nearly all answers are 0.
        if sum(_count_climbs([str(stair)], values) > 0 for stair in range(1, 13)) >= 4:
            return values


def _count_climbs(words: list[str], values: Values) -> int:
    target, bad = int(words[0]), int(values["bad"])
    jumps = (int(values["short"]), int(values["long"]))
    climbs, count = [0], 0
    while climbs:  # where all climbs stand after one more jump
        climbs = [at + jump for at in climbs for jump in jumps if at + jump <= target and (at + jump) % bad]
        count += climbs.count(target)
    return count


STAIRS = ProgramFamily(
    name="stair_steps",
    concepts=("recurrences by dynamic programming", "forbidden states", "ordered sums"),
    level=2,
    thoughts=Thoughts(
        goals=(
            "counts ordered ways to climb while some places are forbidden",
            "lets a simple recurrence fail at regular places",
        ),
        difficulties=(
            "plain recursion explodes and forbidden places must be zeroed in time",
            "the target itself can be a forbidden place",
        ),
        reason="the last jump splits all climbs into two groups, and a forbidden place contributes none",
        skeleton="climbs by jumps of {short} or {long} with regularly broken stairs",
        steps=(
            "Permit the jumps {short} and {long}, in any order.",
            "Break each stair whose number {bad} divides.",
            "Let the target reach {most}, so results must be stored.",
        ),
        blueprint=("jumps {short} and {long}", "broken multiples of {bad}", "target up to {most}"),
    ),
    scenes=(
        Scene(
            label="old staircase",
            facts="From the ground a child climbs {short} or {long} stairs at a time. Stairs whose number is "
            "a multiple of {bad} are broken and must not be used.",
            quantity="the number of ways to land exactly on stair n",
        ),
        Scene(
            label="frog on stones",
            facts="A frog named {name} starts at 0 and leaps ahead by {short} or {long}. Positive multiples "
            "of {bad} are under water.",
            quantity="the number of leap sequences that end exactly at n",
        ),
    ),
    input_format="n, 1 <= n <= {most}",
    program="""n = int(next(tokens))
ways = [1] + [0] * n
for i in range(1, n + 1):
    if i % {bad}:
        ways[i] = sum(ways[i - s] for s in ({short}, {long}) if s <= i)
return ways[n]""",
    draw=_draw_stairs,
    instance=lambda draw, values: str(draw.randint(1, 20)),
    reference=_count_climbs,
)

FAMILIES = (GRID, COINS, STAIRS)
