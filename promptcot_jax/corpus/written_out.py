"""Arithmetic as a pupil writes it out: texts whose every step is a table entry or one short sum.

The texts go into the worked solutions of the corpus. Each is made of true equations `A = B = C`, and the last
number in it is the result.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import accumulate


def _places(number: int) -> list[int]:
    """The digits that are not 0, each at its place: 307 -> 300, 7."""
    digits = str(number)
    return [int(d) * 10 ** (len(digits) - 1 - i) for i, d in enumerate(digits) if d != "0"]


def joined_sum(terms: Sequence[int]) -> str:
    """A sum worked off from the left: `800+120+28 = 920+28 = 948`."""
    terms, written = list(terms), []
    while len(terms) > 1:
        written.append("+".join(map(str, terms)))
        terms = [terms[0] + terms[1], *terms[2:]]
    return " = ".join([*written, str(terms[0])])


def difference(whole: int, part: int) -> str:
    """A difference, worked off from the left where a digit borrows: `752-388 = 452-88 = 372-8 = 364`."""
    digits, taken = str(whole)[::-1], str(part)[::-1]
    places = [part] if all(a >= b for a, b in zip(digits, taken, strict=False)) else _places(part)
    written = []
    for place in places:
        written.append(f"{whole}-{part}")
        whole, part = whole - place, part - place
    return " = ".join([*written, str(whole)])


def running_totals(terms: Iterable[int]) -> str:
    """A long sum with its running totals: `5+6+8: 5, 11, 19`."""
    terms = list(terms)
    return f"{'+'.join(map(str, terms))}: {', '.join(map(str, accumulate(terms)))}"


def product(left: int, right: int) -> str:
    """A product, split by the places of its factors: `37*24 = 600+140+120+28 = 740+148 = 888`.

    Where these would be many partial products, each place of one factor gets an equation of its own.
    """
    task = f"{left}*{right}"
    many, few = (left, right) if len(_places(left)) >= len(_places(right)) else (right, left)
    if min(left, right) <= 1:
        return f"{task} = {left * right}"
    rows = [[part * by for part in _places(many)] for by in _places(few)]
    if len(rows) == 1:
        carries = any(int(digit) * int(str(few)[0]) >= 10 for digit in str(many))
        return f"{task} = {joined_sum(rows[0]) if carries else left * right}"
    if len(rows) == 2 and len(rows[0]) == 2:
        flat = "+".join(str(term) for row in rows for term in row)
        return f"{task} = {flat} = {joined_sum([sum(row) for row in rows])}"
    lines = [product(many, by) for by in _places(few) if by > 1]
    return f"{', '.join(lines)}, {task} = {joined_sum([sum(row) for row in rows])}"


def products(factors: Sequence[int]) -> str:
    """Several factors, multiplied one after the other: `4*2 = 8, 8*3 = 24`; a single one stays alone."""
    first, *others = factors
    lines, so_far = [], first
    for factor in others:
        lines.append(product(so_far, factor))
        so_far *= factor
    return ", ".join(lines) or str(first)


def binomials(*pairs: tuple[int, int]) -> str:
    """A product of at most two binomial coefficients, each taken from the table.

    `C(9, 2)*C(7, 1) = 36*7 = 210+42 = 252`.
    """
    task = "*".join(f"C({n}, {k})" for n, k in pairs)
    return leading_to(task, [math.comb(n, k) for n, k in pairs])


def leading_to(task: str, factors: Sequence[int]) -> str:
    """A task that is the product of these factors, and the product: `(9-2)*(9+2) = 7*11 = 77`."""
    worked = products(factors)
    return f"{task} = {worked}" if ", " not in worked else f"{task} = {'*'.join(map(str, factors))}, {worked}"


def chunks(number: int, divisor: int) -> str:
    """What a division takes away, place by place: `7*40 = 280, 285-280 = 5`.

    The last number is the remainder.
    """
    written, rest = [], number
    for part in _places(number // divisor):
        written.append(f"{product(divisor, part)}, {difference(rest, divisor * part)}")
        rest -= divisor * part
    return "; ".join(written) or f"{divisor}*0 = 0, {number}-0 = {number}"


def quotient(number: int, divisor: int) -> str:
    """The whole part of a quotient, as `chunks` writes it and then the places added: `...; so 70+1 = 71`."""
    if divisor == 1:
        return f"{number}/1 = {number}"
    places = _places(number // divisor) or [0]
    return f"{number}/{divisor}: {chunks(number, divisor)}; so {joined_sum(places)}"


def common_divisor(left: int, right: int) -> str:
    """Euclid's divisions: `18 = 1*12+6, 12 = 2*6, so the greatest common divisor is 6`."""
    high, low = max(left, right), min(left, right)
    lines = []
    while low:
        times, rest = divmod(high, low)
        lines.append(f"{high} = {times}*{low}" + (f"+{rest}" if rest else ""))
        high, low = low, rest
    return f"{', '.join(lines)}, so the greatest common divisor is {high}"


def modular_power(base: int, exponent: int, modulus: int) -> str:
    """A power modulo a number, by squaring from the first binary digit of the exponent on.

    `12^2: 12*12 = 100+20+20+4 = 120+24 = 144; 101*1 = 101, 43 left`.
    """
    lines, rest, reached = [], base % modulus, 1
    for bit in bin(exponent)[3:]:
        for factor, power in ((rest, 2 * reached), (base, 2 * reached + 1))[: 1 + int(bit)]:
            whole, reached = rest * factor, power
            reduction = f"; {chunks(whole, modulus)}" if whole >= modulus else ""
            lines.append(f"{base}^{power}: {product(rest, factor)}{reduction}")
            rest = whole % modulus
    return ". ".join(lines)


def factorization(number: int) -> str:
    """Divisions by one prime after the other: `84 = 2*42, 42 = 2*21, 21 = 3*7, and 7 is prime`."""
    lines, rest, prime = [], number, 2
    while prime * prime <= rest:
        if rest % prime:
            prime += 1
        else:
            lines.append(f"{rest} = {prime}*{rest // prime}")
            rest //= prime
    return ", ".join([*lines, f"and {rest} is prime" if lines else f"{rest} is prime"])


def base_digits(number: int, base: int) -> str:
    """Digits from the highest power of the base down: `25 = 2*9+7, 7 = 2*3+1, 1 = 1*1, so 221`."""
    power = 1
    while power * base <= number:
        power *= base
    lines, digits, rest = [], "", number
    while power:
        digit, left = divmod(rest, power)
        lines.append(f"{rest} = {digit}*{power}+{left}" if power > 1 else f"{rest} = {digit}*1")
        digits, rest, power = digits + str(digit), left, power // base
    return f"{', '.join(lines)}, so {digits}"


def next_square(number: int) -> str:
    """The first square above a number, from a root that ends in 0 or 5 upwards by adding odd numbers.

    `10*10 = 100, 11*11 = 100+21 = 121, 12*12 = 121+23 = 144`; up to 100 the table is known.
    """
    last = math.isqrt(number) + 1
    if last <= 10:
        return f"{last - 1}*{last - 1} = {(last - 1) ** 2}, {last}*{last} = {last * last}"
    start = (last - 1) // 5 * 5
    lines = [f"{start}*{start} = {start * start}"]
    for root in range(start + 1, last + 1):
        before = (root - 1) ** 2
        lines.append(f"{root}*{root} = {before}+{2 * root - 1} = {root * root}")
    return ", ".join(lines)
