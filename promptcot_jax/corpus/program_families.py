"""Programming families: the numbers of a task, small inputs for it, and a plain search for their results.

Their texts are in `texts/program_families.toml`, with the efficient program of each: running it against the
search checks both.
"""

import functools
import itertools
import math
import random
from collections.abc import Callable

from promptcot_jax.corpus.families import ProgramFamily, Values, texts_of

_LIST_LIMITS = (200, 500, 1000, 2000, 5000, 20000)
_LIMITS = (50, 100, 200, 300, 500, 1000, 2000, 3000, 5000, 10000)


def _draw_sizes(draw: random.Random) -> Values:
    return {"most": draw.choice(_LIST_LIMITS), "low": 1, "high": draw.randint(5, 60)}


def _sizes_and(name: str, least: int, most: int) -> Callable[[random.Random], Values]:
    return lambda draw: {**_draw_sizes(draw), name: draw.randint(least, most)}


def _numbers(draw: random.Random, values: Values, shortest: int = 1) -> str:
    length = draw.randint(shortest, 8)
    return f"{length}\n" + " ".join(
        str(draw.randint(int(values["low"]), int(values["high"]))) for _ in range(length)
    )


def _draw_prefix(draw: random.Random) -> Values:
    low, high = -draw.randint(1, 9), draw.randint(2, 9)
    return {**_draw_sizes(draw), "low": low, "high": high, "target": draw.randint(low, high)}


def _count_segments(words: list[str], values: Values) -> int:
    numbers = [int(word) for word in words[1:]]
    ends = range(len(numbers) + 1)
    return sum(sum(numbers[i:j]) == values["target"] for j in ends for i in range(j))


def _window_numbers(draw: random.Random, values: Values) -> str:
    return _numbers(draw, values, shortest=int(values["width"]))


def _best_window(words: list[str], values: Values) -> int:
    numbers, width = [int(word) for word in words[1:]], int(values["width"])
    return max(sum(numbers[i : i + width]) for i in range(len(numbers) - width + 1))


def _repeated_numbers(draw: random.Random, values: Values) -> str:
    """Few different values, each about as often as the limit."""
    numbers = [
        value for value in (1, 2, 4) for _ in range(max(0, int(values["least"]) + draw.randint(-2, 1)))
    ] or [3]
    draw.shuffle(numbers)
    return f"{len(numbers)}\n" + " ".join(map(str, numbers))


def _count_frequent(words: list[str], values: Values) -> int:
    return sum(words[1:].count(word) >= int(values["least"]) for word in set(words[1:]))


def _longest_piece(words: list[str], values: Values) -> int:
    lengths = [int(word) for word in words[1:]]
    fitting = [k for k in range(1, max(lengths) + 1) if sum(a // k for a in lengths) >= int(values["pieces"])]
    return max(fitting, default=0)


def _draw_gcd(draw: random.Random) -> Values:
    return {
        "most": draw.choice(_LIST_LIMITS),
        "high": draw.randint(20, 99),
        "least": draw.randint(2, 9),
    }


def _related_numbers(draw: random.Random, values: Values) -> str:
    """Many multiples of one number, so that neighbours share divisors often enough to test the limit."""
    length, shared = draw.randint(1, 8), draw.randint(int(values["least"]) - 1, int(values["least"]) + 1)
    factors = [shared if draw.random() < 0.7 else 1 for _ in range(length)]
    return f"{length}\n" + " ".join(str(f * draw.randint(1, int(values["high"]) // f)) for f in factors)


def _count_gcd_pairs(words: list[str], values: Values) -> int:
    numbers = [int(word) for word in words[1:]]
    shared = [
        max(d for d in range(1, a + 1) if a % d == b % d == 0)
        for a, b in zip(numbers, numbers[1:], strict=False)
    ]
    return sum(d >= int(values["least"]) for d in shared)


def _count_primes(words: list[str], values: Values) -> int:
    low, high = int(words[0]), int(words[1])
    candidates = [n for n in range(max(low, 2), high + 1) if n % int(values["modulus"]) == values["residue"]]
    return sum(all(n % d for d in range(2, math.isqrt(n) + 1)) for n in candidates)


def _draw_sieve(draw: random.Random) -> Values:
    modulus = draw.choice((3, 4, 5, 6, 7, 8, 9, 10))
    residue = draw.choice([r for r in range(1, modulus) if math.gcd(r, modulus) == 1])
    return {"modulus": modulus, "residue": residue, "top": 1000 * draw.randint(1, 100)}


def _range(draw: random.Random, values: Values) -> str:
    return " ".join(map(str, sorted((draw.randint(1, 120), draw.randint(1, 400)))))


def _draw_runs(draw: random.Random) -> Values:
    first, second, third = sorted(draw.sample("abcdefghkmpqrstxyz", 3))
    return {
        "letters": f"{first}, {second} and {third}",
        "alphabet": first + second + third,
        "least": draw.randint(2, 4),
        "most": draw.choice(_LIMITS),
    }


def _letters(draw: random.Random, values: Values) -> str:
    return "".join(
        draw.choice(str(values["alphabet"])) * draw.randint(1, 5) for _ in range(draw.randint(1, 6))
    )


def _count_runs(words: list[str], values: Values) -> int:
    return sum(len(list(group)) >= int(values["least"]) for _, group in itertools.groupby(words[0]))


def _brackets(draw: random.Random, values: Values) -> str:
    text, opened = "", 0
    for _ in range(draw.randint(4, 16)):
        if opened and draw.random() < 0.4:
            text, opened = text + str(values["close"]), opened - 1
        else:
            text, opened = text + str(values["open"]), opened + 1
    return text + str(values["close"]) * opened


def _count_depth(words: list[str], values: Values) -> int:
    text = words[0]
    prefixes = (text[: i + 1] for i, letter in enumerate(text) if letter == values["open"])
    return sum(
        p.count(str(values["open"])) - p.count(str(values["close"])) == values["depth"] for p in prefixes
    )


def _draw_brackets(draw: random.Random) -> Values:
    opening, closing, kind = draw.choice((("(", ")", "round"), ("[", "]", "square"), ("<", ">", "angle")))
    return {
        "open": opening,
        "close": closing,
        "kind": kind,
        "depth": draw.randint(1, 4),
        "most": 2 * draw.randint(10, 400),
    }


def _draw_grid(draw: random.Random) -> Values:
    return {"most": draw.choice(_LIMITS[:6]), "top": draw.randint(5, 50), "fee": draw.randint(1, 20)}


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


@functools.cache
def families() -> tuple[ProgramFamily, ...]:
    """All of them, in the order in which rows go through them."""
    texts = texts_of("program_families")
    return tuple(
        ProgramFamily(name=name, draw=draw, instance=instance, reference=reference, **texts[name])
        for name, draw, instance, reference in (
            ("prefix_sums", _draw_prefix, _numbers, _count_segments),
            ("sliding_window", _sizes_and("width", 2, 6), _window_numbers, _best_window),
            ("frequencies", _sizes_and("least", 2, 6), _repeated_numbers, _count_frequent),
            ("binary_search", _sizes_and("pieces", 3, 25), _numbers, _longest_piece),
            ("gcd_neighbours", _draw_gcd, _related_numbers, _count_gcd_pairs),
            ("sieve", _draw_sieve, _range, _count_primes),
            ("run_lengths", _draw_runs, _letters, _count_runs),
            ("bracket_depth", _draw_brackets, _brackets, _count_depth),
            ("grid_paths", _draw_grid, _grid, _cheapest_path),
            ("coin_change", _draw_coins, lambda draw, values: str(draw.randint(1, 60)), _count_payments),
            ("stair_steps", _draw_stairs, lambda draw, values: str(draw.randint(1, 20)), _count_climbs),
        )
    )
