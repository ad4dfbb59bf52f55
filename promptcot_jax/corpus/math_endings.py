"""Last questions of mathematics problems: what is asked about the result of a family."""

import math
import random
from collections.abc import Callable

from promptcot_jax.corpus.families import MathEnding, Values


def prime_factors(number: int) -> list[tuple[int, int]]:
    """Primes of `number` in increasing order, each with its exponent."""
    factors, prime = [], 2
    while prime * prime <= number:
        exponent = 0
        while number % prime == 0:
            number, exponent = number // prime, exponent + 1
        if exponent:
            factors.append((prime, exponent))
        prime += 1
    return factors + ([(number, 1)] if number > 1 else [])


def factored(number: int) -> str:
    """Prime factorization as text, such as `2^3 * 5`."""
    return " * ".join(f"{p}^{e}" if e > 1 else str(p) for p, e in prime_factors(number))


def in_base(number: int, base: int) -> str:
    """Digits of `number` in a base of at most ten."""
    digits = ""
    while number:
        number, digit = divmod(number, base)
        digits = str(digit) + digits
    return digits or "0"


def _no_parameters(draw: random.Random, value: int) -> Values:
    return {}


def _remainder(value: int, divisor: int) -> Values:
    quotient, result = divmod(value, divisor)
    return {"result": result, "quotient": quotient}


def _draw_divisor(draw: random.Random, value: int) -> Values | None:
    return {"divisor": draw.randint(7, min(97, value // 2))} if value >= 20 else None


def _digit_sum(value: int) -> Values:
    return {"result": sum(map(int, str(value))), "digits": " + ".join(str(value))}


def _divisor_count(value: int) -> Values:
    exponents = [exponent + 1 for _, exponent in prime_factors(value)]
    return {
        "result": math.prod(exponents),
        "factored": factored(value),
        "product": " * ".join(map(str, exponents)),
    }


def _largest_prime(value: int) -> Values:
    return {"result": prime_factors(value)[-1][0], "factored": factored(value)}


def _next_square(value: int) -> Values:
    root = math.isqrt(value) + 1
    return {"result": root * root - value, "root": root, "below": root - 1, "square": root * root}


def _draw_radix(draw: random.Random, value: int) -> Values | None:
    return {"radix": draw.randint(3, 9)} if 10 <= value < 100_000 else None


def _at_least(least: int, most: int = 1_000_000) -> Callable[[random.Random, int], Values | None]:
    """Draws nothing, but accepts only results between the limits."""
    return lambda draw, value: {} if least <= value <= most else None


PLAIN = MathEnding(
    name="plain",
    concept="",
    extra_level=0,
    questions=("Find {quantity}.", "What is {quantity}?", "Determine {quantity}."),
    goal="",
    skeleton="ask for the outcome itself",
    step="Ask for the outcome itself, so that nothing distracts from the structure.",
    blueprint="ask the outcome itself",
    work="",
    draw=_no_parameters,
    solve=lambda value: {"result": value},
)

MATH_ENDINGS = (
    MathEnding(
        name="remainder",
        concept="remainders",
        extra_level=1,
        questions=(
            "Find the remainder when {quantity} is divided by {divisor}.",
            "What remainder does {quantity} leave on division by {divisor}?",
        ),
        goal="reports only a remainder",
        skeleton="report the outcome only modulo a small number",
        step="Hide the size of the outcome by reducing it modulo {divisor}.",
        blueprint="reduce modulo {divisor}",
        work="Dividing, {value} = {divisor} * {quotient} + {result}, so the remainder is {result}.",
        draw=_draw_divisor,
        solve=_remainder,
    ),
    MathEnding(
        name="digit_sum",
        concept="digit sums",
        extra_level=0,
        questions=(
            "Find the sum of the decimal digits of {quantity}.",
            "What do the digits of {quantity} add up to?",
        ),
        goal="looks at the digits of the outcome in the end",
        skeleton="add up the digits of the outcome",
        step="Ask for the digit sum, so that an approximate outcome is worth nothing.",
        blueprint="take the digit sum",
        work="The digits give {digits} = {result}.",
        draw=_at_least(20),
        solve=_digit_sum,
    ),
    MathEnding(
        name="divisor_count",
        concept="counting divisors",
        extra_level=1,
        questions=(
            "How many positive divisors does {quantity} have?",
            "Find the number of positive divisors of {quantity}.",
        ),
        goal="counts divisors of the outcome as a second stage",
        skeleton="count the divisors of the outcome",
        step="Add a second stage: the outcome must be factored and its divisors counted.",
        blueprint="count divisors",
        work="Since {value} = {factored}, it has {product} = {result} divisors.",
        draw=_at_least(12),
        solve=_divisor_count,
    ),
    MathEnding(
        name="largest_prime",
        concept="prime factors",
        extra_level=1,
        questions=(
            "What is the largest prime factor of {quantity}?",
            "Find the greatest prime that divides {quantity}.",
        ),
        goal="needs a factorization at the end",
        skeleton="factor the outcome and keep its greatest prime",
        step="Make the outcome a number to be factored, and keep only its greatest prime.",
        blueprint="keep the greatest prime factor",
        work="Factoring, {value} = {factored}, and the largest prime there is {result}.",
        draw=_at_least(12),
        solve=_largest_prime,
    ),
    MathEnding(
        name="next_square",
        concept="perfect squares",
        extra_level=0,
        questions=(
            "What is the least positive integer that must be added to {quantity} to make a perfect square?",
            "Find the smallest positive integer whose sum with {quantity} is a perfect square.",
        ),
        goal="compares the outcome with perfect squares",
        skeleton="measure the gap up to the next perfect square",
        step="Measure how far the outcome falls short of the next square.",
        blueprint="gap to the next square",
        work="As {below}^2 <= {value} < {root}^2 = {square}, the gap is {square} - {value} = {result}.",
        draw=_at_least(12),
        solve=_next_square,
    ),
    MathEnding(
        name="base",
        concept="number bases",
        extra_level=0,
        questions=(
            "Write {quantity} in base {radix}.",
            "What are the base {radix} digits of {quantity}, written as one number?",
        ),
        goal="rewrites the outcome in another base",
        skeleton="rewrite the outcome in another base",
        step="Change the notation at the end, from ten to base {radix}.",
        blueprint="convert to base {radix}",
        work="Repeated division of {value} by {radix} gives the digits {result}.",
        draw=_draw_radix,
        solve=lambda value, radix: {"result": in_base(value, radix)},
    ),
)
