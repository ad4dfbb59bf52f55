"""Mathematics families that count integers: by divisors, by digits, by what does not divide them."""

import math
import random

from promptcot_jax.corpus.families import MathFamily, Scene, Thoughts, Values
from promptcot_jax.corpus.math_endings import factored


def _draw_divisors(draw: random.Random) -> Values:
    p, q, r = sorted(draw.sample((2, 3, 5, 7, 11), 3))
    a, b, c = draw.randint(3, 9), draw.randint(2, 7), draw.randint(2, 5)
    i, j = draw.randint(1, a - 1), draw.randint(0, b - 1)
    return {"p": p, "q": q, "r": r, "a": a, "b": b, "c": c, "factor": p**i * q**j}


def _solve_divisors(p: int, q: int, r: int, a: int, b: int, c: int, factor: int) -> Values:
    left = []
    for prime, exponent in ((p, a), (q, b), (r, c)):
        rest = factor
        while rest % prime == 0:
            rest, exponent = rest // prime, exponent - 1
        left.append(exponent + 1)
    return {
        "value": math.prod(left),
        "factored": factored(factor),
        "x": left[0],
        "y": left[1],
        "z": left[2],
    }


DIVISORS = MathFamily(
    name="divisors",
    concepts=("divisor lattices", "prime factorization", "multiplication principle"),
    level=3,
    thoughts=Thoughts(
        goals=(
            "counts divisors that satisfy an extra demand",
            "turns a question about divisors into independent choices of exponents",
        ),
        difficulties=(
            "the demand shifts the smallest allowed exponents and the off-by-one counts need care",
            "listing the divisors is hopeless and the exponents must be chosen independently",
        ),
        reason="each exponent is chosen on its own, and a required factor only raises the lower ends",
        skeleton="a product of powers of {p}, {q} and {r}, whose divisors must contain a given factor",
        steps=(
            "Build the number from the primes {p}, {q}, {r}.",
            "Give them the exponents {a}, {b}, {c}, enough room for choices.",
            "Keep only divisors that contain the factor {factor}.",
        ),
        blueprint=("primes {p}, {q}, {r}", "exponents {a}, {b}, {c}", "required factor {factor}"),
    ),
    scenes=(
        Scene(
            label="bare number",
            facts="Let N = {p}^{a} * {q}^{b} * {r}^{c}.",
            quantity="the number of positive divisors of N that are multiples of {factor}",
        ),
        Scene(
            label="equal packets",
            facts="A mill has {p}^{a} * {q}^{b} * {r}^{c} grains. {name} wants to pack all of them in equal "
            "packets whose size is a multiple of {factor}.",
            quantity="the number of possible packet sizes",
        ),
    ),
    work="Note {factor} = {factored}. A divisor that is a multiple of it may still choose {x} exponents of "
    "{p}, {y} of {q} and {z} of {r}. The choices are independent, so there are {x} * {y} * {z} = {value}.",
    draw=_draw_divisors,
    solve=_solve_divisors,
)


def _draw_codes(draw: random.Random) -> Values:
    length, top = draw.randint(3, 6), draw.randint(3, 9)
    return {"length": length, "top": top, "total": draw.randint(top + 1, length * top - 3)}


def _solve_codes(length: int, top: int, total: int) -> Values:
    terms, pieces = [], []
    for over in range(total // (top + 1) + 1):
        rest = total - over * (top + 1)
        if over > length:
            break
        terms.append((-1) ** over * math.comb(length, over) * math.comb(rest + length - 1, length - 1))
        pieces.append(f"{'-' if over % 2 else '+'} {abs(terms[-1])}")
    return {
        "value": sum(terms),
        "sum": " ".join(pieces).removeprefix("+ "),
        "bars": length - 1,
        "excess": top + 1,
        "all": terms[0],
    }


CODES = MathFamily(
    name="digit_codes",
    concepts=("digit constraints", "stars and bars", "inclusion-exclusion"),
    level=4,
    thoughts=Thoughts(
        goals=(
            "counts strings of digits by their total",
            "starts from free distributions and then enforces a cap on every place",
        ),
        difficulties=(
            "the cap on each place must be enforced by inclusion and exclusion",
            "strings that break the cap twice are removed twice and have to be put back",
        ),
        reason="stars and bars counts all distributions, and the cap is repaired by alternately removing "
        "excess",
        skeleton="{length} places filled with bounded digits whose total is prescribed",
        steps=(
            "Use {length} ordered places, zeros allowed everywhere.",
            "Cap every entry at {top}, so plain stars and bars overcounts.",
            "Prescribe the total {total} to make the cap bite.",
        ),
        blueprint=("places {length}", "largest digit {top}", "total {total}"),
    ),
    scenes=(
        Scene(
            label="door codes",
            facts="A door code has {length} digits, each from 0 to {top}; a code may begin with 0. "
            "{name} recalls only that its digits add up to {total}.",
            quantity="the number of codes that fit",
        ),
        Scene(
            label="judges' points",
            facts="Each of {length} judges awards a whole number of points from 0 to {top}. "
            "A skater received {total} points in all.",
            quantity="the number of ways the judges can have voted",
        ),
        Scene(
            label="bare lists",
            facts="Consider ordered lists of {length} integers between 0 and {top} with sum {total}.",
            quantity="the number of such lists",
        ),
    ),
    work="Without the cap, stars and bars with {bars} bars gives {all}. Removing {excess} from places that "
    "exceed {top}, inclusion-exclusion gives {sum} = {value}.",
    draw=_draw_codes,
    solve=_solve_codes,
)


def _draw_lockers(draw: random.Random) -> Values:
    first, second = sorted(draw.sample(range(3, 16), 2))
    while second % first == 0:
        first, second = sorted(draw.sample(range(3, 16), 2))
    return {"first": first, "second": second, "total": 20 * draw.randint(8, 60)}


def _solve_lockers(first: int, second: int, total: int) -> Values:
    lcm = math.lcm(first, second)
    a, b, both = total // first, total // second, total // lcm
    return {"value": total - a - b + both, "a": a, "b": b, "both": both, "lcm": lcm}


LOCKERS = MathFamily(
    name="sieve_counting",
    concepts=("inclusion-exclusion", "multiples", "complementary counting"),
    level=2,
    thoughts=Thoughts(
        goals=(
            "counts what is left after overlapping sets have been removed",
            "makes the solver count what is avoided rather than what is hit",
        ),
        difficulties=(
            "some members are removed twice and must be restored once",
            "the overlap is governed by the common multiple and not by the product",
        ),
        reason="the overlap of the removed sets is again a set of multiples, so it can be counted and put "
        "back",
        skeleton="a range up to {total} from which multiples are struck out",
        steps=(
            "Number the objects from 1 to {total}.",
            "Strike out multiples of {first} and of {second}, which overlap.",
            "Keep the survivors, so the complement must be counted.",
        ),
        blueprint=("range 1 to {total}", "strike multiples of {first} and {second}", "count survivors"),
    ),
    scenes=(
        Scene(
            label="school lockers",
            facts="A school has lockers numbered 1 to {total}. {name} closes each locker whose number is a "
            "multiple of {first} and each whose number is a multiple of {second}.",
            quantity="the number of lockers that stay open",
        ),
        Scene(
            label="raffle tickets",
            facts="Raffle tickets carry the numbers 1 to {total}. A ticket wins if its number is divisible "
            "by {first} or by {second}.",
            quantity="the number of losing tickets",
        ),
    ),
    work="There are {a} multiples of {first} and {b} of {second}; {both} numbers are multiples of {lcm} and "
    "counted twice. What remains is {total} - {a} - {b} + {both} = {value}.",
    draw=_draw_lockers,
    solve=_solve_lockers,
)

FAMILIES = (DIVISORS, CODES, LOCKERS)
