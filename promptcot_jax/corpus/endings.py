"""Endings: what is asked about a mathematics family's result, and how a task wraps a program's instances.

Their texts are in `texts/math_endings.toml` and `texts/program_endings.toml`.
"""

import functools
import math
import random
from collections.abc import Callable

from promptcot_jax.corpus import written_out
from promptcot_jax.corpus.families import MathEnding, ProgramEnding, Values, texts_of, worked_solutions

_SMALL = 600  # up to which a result is factored, or written in another base, in a few steps


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


def in_base(number: int, base: int) -> str:
    """Digits of `number` in a base of at most ten."""
    digits = ""
    while number:
        number, digit = divmod(number, base)
        digits = str(digit) + digits
    return digits or "0"


def _remainder(value: int, divisor: int) -> Values:
    return {"result": value % divisor, "chunks": written_out.chunks(value, divisor)}


def _draw_divisor(draw: random.Random, value: int) -> Values | None:
    return {"divisor": draw.randint(3, 12)} if value >= 20 else None


def _digit_sum(value: int) -> Values:
    digits = [int(digit) for digit in str(value)]
    return {"result": sum(digits), "totals": written_out.running_totals(digits)}


def _divisor_count(value: int) -> Values:
    choices = [exponent + 1 for _, exponent in prime_factors(value)]
    return {
        "result": math.prod(choices),
        "divisions": written_out.factorization(value),
        "powers": "*".join(f"{prime}^{exponent}" for prime, exponent in prime_factors(value)),
        "choices": written_out.products(choices),
    }


def _largest_prime(value: int) -> Values:
    return {"result": prime_factors(value)[-1][0], "divisions": written_out.factorization(value)}


def _next_square(value: int) -> Values:
    square = (math.isqrt(value) + 1) ** 2
    return {
        "result": square - value,
        "rest": written_out.difference(square, value),
        "squares": written_out.next_square(value),
    }


def _base(value: int, radix: int) -> Values:
    return {"result": in_base(value, radix), "digits": written_out.base_digits(value, radix)}


def _draw_radix(draw: random.Random, value: int) -> Values | None:
    return {"radix": draw.randint(3, 9)} if 10 <= value <= _SMALL else None


def _between(least: int, most: int = 1_000_000) -> Callable[[random.Random, int], Values | None]:
    """Draws nothing, but accepts only results between the limits."""
    return lambda draw, value: {} if least <= value <= most else None


@functools.cache
def math_endings() -> tuple[MathEnding, ...]:
    """The plain question first."""
    texts, works = texts_of("math_endings"), worked_solutions("endings")
    return tuple(
        MathEnding(name=name, draw=draw, solve=solve, work=works[name], **texts[name])
        for name, draw, solve in (
            ("plain", lambda draw, value: {}, lambda value: {"result": value}),
            ("remainder", _draw_divisor, _remainder),
            ("digit_sum", _between(20), _digit_sum),
            ("divisor_count", _between(12, _SMALL), _divisor_count),
            ("largest_prime", _between(12, _SMALL), _largest_prime),
            ("next_square", _between(12), _next_square),
            ("base", _draw_radix, _base),
        )
    )


def _draw_threshold(draw: random.Random, results: list[int]) -> Values:
    above_least = [result for result in results if result > min(results)]  # so that both verdicts occur
    return {"threshold": draw.choice(above_least or [max(results) + 1])}


def _draw_limit(draw: random.Random, results: list[int]) -> Values:
    return {"limit": draw.randint(3, 60)}


def _draw_modulus(draw: random.Random, results: list[int]) -> Values:
    return {"divisor": draw.randint(5, 97)}


@functools.cache
def program_endings() -> tuple[ProgramEnding, ...]:
    """The single instance first."""
    texts = texts_of("program_endings")
    return tuple(
        ProgramEnding(name=name, draw=draw, report=report, **texts[name])
        for name, draw, report in (
            ("single", lambda draw, results: {}, lambda results: str(results[0])),
            ("cases", _draw_limit, lambda results, limit: "\n".join(map(str, results))),
            ("total", _draw_limit, lambda results, limit: str(sum(results))),
            (
                "decision",
                _draw_threshold,
                lambda results, threshold: "YES" if results[0] >= threshold else "NO",
            ),
            ("modulo", _draw_modulus, lambda results, divisor: str(results[0] % divisor)),
            ("best", _draw_limit, lambda results, limit: str(max(results))),
        )
    )
