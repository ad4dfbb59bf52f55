"""Programming families about divisors and primes; `reference` as in `list_programs`."""

import math
import random

from promptcot_jax.corpus.families import ProgramFamily, Scene, Thoughts, Values


def _draw_gcd(draw: random.Random) -> Values:
    return {
        "most": draw.choice((200, 500, 1000, 2000, 5000, 20000)),
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


GCD_PAIRS = ProgramFamily(
    name="gcd_neighbours",
    concepts=("Euclid's algorithm", "greatest common divisor", "adjacent pairs"),
    level=2,
    thoughts=Thoughts(
        goals=(
            "inspects neighbours in a list by what divides both",
            "uses an ancient algorithm many times over",
        ),
        difficulties=(
            "trying all divisors of each pair is too slow",
            "a list with a single entry has no neighbours at all",
        ),
        reason="Euclid's algorithm settles a pair in a few divisions, so one pass over the pairs is enough",
        skeleton="neighbours in lists of up to {most} entries, compared by their common divisors",
        steps=(
            "Use entries up to {high}, with many different divisors.",
            "Call a neighbouring pair good from common divisor {least} on.",
            "Set the length limit {most} and count the good pairs.",
        ),
        blueprint=("length up to {most}", "entries 1 to {high}", "gcd at least {least}"),
    ),
    scenes=(
        Scene(
            label="gear wheels",
            facts="Gear wheels stand in a row, each with a number of teeth.",
            quantity="the number of neighbouring wheels whose greatest common divisor is {least} or more",
        ),
        Scene(
            label="bare list",
            facts="Call two adjacent entries related if their greatest common divisor is not below {least}.",
            quantity="the number of related adjacent pairs",
        ),
    ),
    input_format="n (1 <= n <= {most}) and n integers from 1 to {high}",
    program="""n = int(next(tokens))
a = [int(next(tokens)) for _ in range(n)]
count = 0
for x, y in zip(a, a[1:]):
    while y:
        x, y = y, x % y
    count += x >= {least}
return count""",
    draw=_draw_gcd,
    instance=_related_numbers,
    reference=_count_gcd_pairs,
)


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


SIEVE = ProgramFamily(
    name="sieve",
    concepts=("sieve of Eratosthenes", "primes in residue classes", "ranges"),
    level=3,
    thoughts=Thoughts(
        goals=(
            "counts special primes in a range",
            "prepares a table of primes and then filters it",
        ),
        difficulties=(
            "testing each number by division is too slow over a long range",
            "one is not prime and both ends of the range belong to it",
        ),
        reason="a sieve marks all composites at once, and the class condition is a stride through the table",
        skeleton="primes of one residue class inside ranges up to {top}",
        steps=(
            "Give a range by its ends, both inclusive.",
            "Restrict to primes that leave {residue} modulo {modulus}.",
            "Let the upper end reach {top}, which calls for a sieve.",
        ),
        blueprint=("ends up to {top}", "class {residue} modulo {modulus}", "count primes"),
    ),
    scenes=(
        Scene(
            label="house numbers",
            facts="{name} likes a house number if it is prime and leaves remainder {residue} when divided by "
            "{modulus}.",
            quantity="the number of liked numbers from a to b inclusive",
        ),
        Scene(
            label="bare range",
            facts="",
            quantity="the number of primes p with a <= p <= b and p % {modulus} == {residue}",
        ),
    ),
    input_format="integers a and b, 1 <= a <= b <= {top}",
    program="""a, b = int(next(tokens)), int(next(tokens))
prime = [True] * (b + 1)
for d in range(2, int(b**0.5) + 1):
    if prime[d]:
        for k in range(d * d, b + 1, d):
            prime[k] = False
return sum(prime[p] for p in range(max(a, 2), b + 1) if p % {modulus} == {residue})""",
    draw=_draw_sieve,
    instance=_range,
    reference=_count_primes,
)

FAMILIES = (GCD_PAIRS, SIEVE)
