"""When the numbers of a statement make sense, family by family: it has one answer, a positive integer.

The generator draws from narrow ranges, where all of this holds. A model may write any numbers; these
conditions say of which the family's closed form is right. Where a problem could be solved by other means
(congruences of moduli that share a factor), it is refused all the same.
"""

import math
from collections.abc import Callable, Mapping

from promptcot_jax.corpus.endings import prime_factors

_MOST = 60  # of what a closed form counts up to: people, steps, digits
_FEW = 20  # terms of what grows by a factor


def _crt(first: int, second: int, r: int, s: int, bound: int) -> bool:
    coprime = min(first, second) >= 2 and max(first, second) <= 1000 and math.gcd(first, second) == 1
    return coprime and 0 <= r < first and 0 <= s < second and bound >= 0


def _divisors(p: int, q: int, r: int, a: int, b: int, c: int, factor: int) -> bool:
    primes = (p, q, r)
    if len(set(primes)) < 3 or not all(prime_factors(prime) == [(prime, 1)] for prime in primes):
        return False
    if not all(1 <= exponent <= _MOST for exponent in (a, b, c)) or factor < 1:
        return False
    most = dict(zip(primes, (a, b, c), strict=True))
    return all(exponent <= most.get(prime, 0) for prime, exponent in prime_factors(factor))


def _digit_codes(length: int, top: int, total: int) -> bool:
    return 1 <= length <= _MOST and 1 <= top <= 9 and 0 <= total <= length * top


def _linear_system(high: int, low: int, count: int, sum: int) -> bool:
    excess, gap = sum - low * count, high - low  # `high` is asked for, as the dearer kind
    return min(low, count) >= 1 and gap > 0 and excess % gap == 0 and 0 < excess // gap < count


def _mixture(weak: int, strong: int, target: int, volume: int) -> bool:
    between = 0 <= weak < target < strong <= 100
    return between and volume >= 1 and volume * (strong - target) % (target - weak) == 0


def _filling(fast: int, slow: int, leak: int, wait: int, capacity: int) -> bool:
    alone, joint = fast - leak, fast + slow - leak
    rest = capacity - wait * alone
    return min(slow, leak, wait, alone) >= 1 and rest > 0 and rest % joint == 0


def _committees(left: int, right: int, size: int, least: int) -> bool:
    people = all(1 <= number <= _MOST for number in (left, right, size))
    return people and any(k <= left and size - k <= right for k in range(max(least, 0), size + 1))


def _lattice_paths(across: int, up: int, x: int, y: int) -> bool:
    inside = 0 <= x <= across <= _MOST and 0 <= y <= up <= _MOST
    return inside and (x, y) not in ((0, 0), (across, up))


def _right_triangle(leg: int, hypotenuse: int, wanted: str) -> bool:
    if not 1 <= leg < hypotenuse:
        return False
    square = hypotenuse * hypotenuse - leg * leg
    other = math.isqrt(square)
    return other * other == square and (wanted == "perimeter" or leg * other % 2 == 0)


def _run_lengths(letters: str, least: int, most: int) -> bool:
    named = letters.replace(" and ", ", ").split(", ")
    return len(set(named)) == len(named) and 1 <= least <= most


# A condition takes the parameters of `solve` or, of a programming family, all that its statements fix.
OF_FAMILY: Mapping[str, Callable[..., bool]] = {
    "crt": _crt,
    "modular_power": lambda base, exponent, modulus: min(base, exponent) >= 1 and modulus >= 2,
    "common_multiples": lambda first, second, total: min(first, second, total) >= 1,
    "divisors": _divisors,
    "digit_codes": _digit_codes,
    "sieve_counting": lambda first, second, total: min(first, second) >= 2 and total >= 1,
    "arithmetic_series": lambda start, step, terms: min(start, step) >= 1 and terms >= 2,
    "geometric_series": lambda start, ratio, terms: start >= 1 and ratio >= 2 and 2 <= terms <= _FEW,
    "recurrence": lambda p, q, first, second, index: (
        min(p, q, first, second) >= 1 and max(p, q, first, second) <= 1000 and 3 <= index <= _FEW
    ),
    "linear_system": _linear_system,
    "vieta": lambda sum, product: sum >= 1 and product >= 1 and sum * sum >= 4 * product,  # both are real
    "mixture": _mixture,
    "filling_rates": _filling,
    "committees": _committees,
    "lattice_paths": _lattice_paths,
    "urn_probability": lambda red, blue, event: (
        min(red, blue) >= 1 and (event == "different" or red + blue > 2)
    ),
    "border_area": lambda length, width, border: min(length, width, border) >= 1,
    "open_box": lambda length, width, cut: cut >= 1 and min(length, width) > 2 * cut,
    "right_triangle": _right_triangle,
    "prefix_sums": lambda most, low, high, target: most >= 1 and low <= high,
    "sliding_window": lambda most, low, high, width: 1 <= width <= most and low <= high,
    "frequencies": lambda most, low, high, least: 1 <= least <= most and low <= high,
    "binary_search": lambda most, low, high, pieces: min(most, pieces) >= 1 and 1 <= low <= high,
    "gcd_neighbours": lambda most, high, least: most >= 2 and 1 <= least <= high,
    "sieve": lambda modulus, residue, top: 0 <= residue < modulus and modulus >= 2 and top >= 1,
    "run_lengths": _run_lengths,
    "bracket_depth": lambda depth, most, kind: 1 <= depth <= most // 2,
    "grid_paths": lambda most, top, fee: min(most, top, fee) >= 1,
    "coin_change": lambda a, b, c, most: 1 <= a < b < c and most >= 1,
    "stair_steps": lambda short, long, bad, most: 1 <= short < long and bad >= 2 and most >= 1,
}


OF_ENDING: Mapping[str, Callable[..., bool]] = {
    "plain": lambda value: True,
    "remainder": lambda value, divisor: divisor >= 2,
    "digit_sum": lambda value: True,
    "divisor_count": lambda value: value >= 2,
    "largest_prime": lambda value: value >= 2,
    "next_square": lambda value: True,
    "base": lambda value, radix: 2 <= radix <= 9,
}
PROGRAM_ENDINGS: Mapping[str, Callable[..., bool]] = {
    "single": lambda: True,
    "cases": lambda limit: limit >= 1,
    "total": lambda limit: limit >= 1,
    "decision": lambda threshold: threshold >= 1,
    "modulo": lambda divisor: divisor >= 2,
    "best": lambda limit: limit >= 1,
}
