"""Arithmetic as a pupil writes it out: texts whose every step is a table entry or one short sum.

The texts go into the worked solutions of the corpus. Each is made of true equations `A = B = C`, and the last
number in it is the result.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import accumulate


def place_parts(number: int) -> list[int]:
    """The digits that are not 0, each at its place: 307 -> 300, 7."""
    digits = str(number)
    return [int(d) * 10 ** (len(digits) - 1 - i) for i, d in enumerate(digits) if d != "0"]


def joined_sum(terms: Sequence[int]) -> str:
    """A sum worked off from the left: `800 + 120 + 28 = 920 + 28 = 948`."""
    terms, written = list(terms), []
    while len(terms) > 1:
        written.append(" + ".join(map(str, terms)))
        terms = [terms[0] + terms[1], *terms[2:]]
    return " = ".join([*written, str(terms[0])])


def running_totals(terms: Iterable[int]) -> str:
    """A long sum with its running totals: `5 + 6 + 8: 5, 11, 19`."""
    terms = list(terms)
    return f"{' + '.join(map(str, terms))}: {', '.join(map(str, accumulate(terms)))}"


def product(left: int, right: int) -> str:
    """A product, split by the places of its factors: `37 * 24 = 600 + 140 + 120 + 28 = 740 + 148 = 888`.

    Where that would need many partial products at once, one factor is split in a line of its own.
    """
    task = f"{left} * {right}"
    many, few = (left, right) if len(place_parts(left)) >= len(place_parts(right)) else (right, left)
    if min(left, right) <= 1:
        return f"{task} = {left * right}"
    rows = [[part * by for part in place_parts(many)] for by in place_parts(few)]
    if len(rows) == 1:
        terms = rows[0]
        carries = any(term >= 10 * part * place_unit(few) for term, part in _with_unit(terms, many))
        return f"{task} = {joined_sum(terms) if carries else left * right}"
    if len(rows) == 2 and len(rows[0]) == 2:
        flat = " + ".join(str(term) for row in rows for term in row)
        return f"{task} = {flat} = {joined_sum([sum(row) for row in rows])}"
    lines = [product(many, by) for by in place_parts(few)]
    return f"{', '.join(lines)}, {task} = {joined_sum([sum(row) for row in rows])}"


def place_unit(number: int) -> int:
    """The power of ten at the first digit: 37 -> 10."""
    return 10 ** (len(str(number)) - 1)


def _with_unit(terms: Sequence[int], number: int) -> list[tuple[int, int]]:
    """Each partial product with the power of ten of the digit that it came from."""
    return [(term, place_unit(part)) for term, part in zip(terms, place_parts(number), strict=True)]


def products(factors: Sequence[int]) -> str:
    """Several factors, multiplied one after the other: `4 * 2 = 8, 8 * 3 = 24`; a single one stays alone."""
    first, *others = factors
    lines, so_far = [], first
    for factor in others:
        lines.append(product(so_far, factor))
        so_far *= factor
    return ", ".join(lines) or str(first)


def chunks(number: int, divisor: int) -> str:
    """What a division takes away, place by place: `12 * 70 = 840, 17 left; 12 * 1 = 12, 5 left`.

    The last number is the remainder.
    """
    written, rest = [], number
    for part in place_parts(number // divisor):
        rest -= divisor * part
        written.append(f"{divisor} * {part} = {divisor * part}, {rest} left")
    return "; ".join(written) or f"{divisor} * 0 = 0, {number} left"


def quotient(number: int, divisor: int) -> str:
    """The whole part of a quotient: `857 / 12: 12 * 70 = 840, 17 left; 12 * 1 = 12, 5 left; so 71`."""
    return f"{number} / {divisor}: {chunks(number, divisor)}; so {number // divisor}"


def common_divisor(left: int, right: int) -> str:
    """Euclid's divisions: `18 = 1 * 12 + 6, 12 = 2 * 6, so the greatest common divisor is 6`."""
    high, low = max(left, right), min(left, right)
    lines = []
    while low:
        times, rest = divmod(high, low)
        lines.append(f"{high} = {times} * {low}" + (f" + {rest}" if rest else ""))
        high, low = low, rest
    return f"{', '.join(lines)}, so the greatest common divisor is {high}"


def factorization(number: int) -> str:
    """Divisions by one prime after the other: `84 = 2 * 42, 42 = 2 * 21, 21 = 3 * 7, and 7 is prime`."""
    lines, rest, prime = [], number, 2
    while prime * prime <= rest:
        if rest % prime:
            prime += 1
        else:
            lines.append(f"{rest} = {prime} * {rest // prime}")
            rest //= prime
    return ", ".join([*lines, f"and {rest} is prime" if lines else f"{rest} is prime"])


def base_digits(number: int, base: int) -> str:
    """Digits from the highest power of the base down: `25 = 2 * 9 + 7, 7 = 2 * 3 + 1, 1 = 1 * 1, so 221`."""
    power = 1
    while power * base <= number:
        power *= base
    lines, digits, rest = [], "", number
    while power:
        digit, left = divmod(rest, power)
        lines.append(f"{rest} = {digit} * {power} + {left}" if power > 1 else f"{rest} = {digit} * 1")
        digits, rest, power = digits + str(digit), left, power // base
    return f"{', '.join(lines)}, so {digits}"


def next_square(number: int) -> str:
    """The first square above a number, from a root that ends in 0 or 5 upwards by adding odd numbers.

    `10 * 10 = 100, 11 * 11 = 100 + 21 = 121, 12 * 12 = 121 + 23 = 144`.
    """
    last = math.isqrt(number) + 1
    start = (last - 1) // 5 * 5 or 1
    lines = [f"{start} * {start} = {start * start}"]
    for root in range(start + 1, last + 1):
        before = (root - 1) ** 2
        lines.append(f"{root} * {root} = {before} + {2 * root - 1} = {root * root}")
    return ", ".join(lines)
