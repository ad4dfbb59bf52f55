"""Mathematics families about integers: remainders, powers, common multiples, divisors, digits."""

import itertools
import math
import random

from promptcot_jax.data.corpus.families import MathFamily, Scene, Thoughts, Values
from promptcot_jax.data.corpus.math_endings import factored


def _draw_crt(draw: random.Random) -> Values:
    first, second = sorted(draw.sample((5, 7, 8, 9, 11, 13, 16, 17, 19), 2))
    while math.gcd(first, second) > 1:
        first, second = sorted(draw.sample((5, 7, 8, 9, 11, 13, 16, 17, 19), 2))
    return {
        "first": first,
        "second": second,
        "r": draw.randint(1, first - 1),
        "s": draw.randint(1, second - 1),
        "bound": 50 * draw.randint(2, 18),
    }


def _solve_crt(first: int, second: int, r: int, s: int, bound: int) -> Values:
    start = next(n for n in range(s, first * second, second) if n % first == r)
    period = first * second
    return {"value": start + period * (-(-(bound + 1 - start) // period)), "start": start, "period": period}


CRT = MathFamily(
    name="crt",
    concepts=("simultaneous congruences", "coprime moduli", "periodicity"),
    level=3,
    thoughts=Thoughts(
        goals=(
            "pins down a hidden number by what is left over when it is grouped in different ways",
            "joins separate remainder conditions into a single one",
        ),
        difficulties=(
            "no condition alone says much and only their combination repeats with a fixed period",
            "the first match is too small and has to be moved up by whole periods",
        ),
        reason="coprime moduli leave exactly one class per period, and the bound then selects a single number",
        skeleton="a hidden number with prescribed residues for {first} and {second}",
        steps=(
            "Take the coprime moduli {first} and {second}, so one class survives.",
            "Prescribe the residues {r} and {s} in that order.",
            "Push the search beyond {bound}, which makes small guesses useless.",
        ),
        blueprint=("moduli {first} and {second}", "residues {r} and {s}", "lower bound {bound}"),
    ),
    scenes=(
        Scene(
            label="shells on a beach",
            facts="{name} collects shells. In groups of {first} there are {r} left over, in groups of {second} "
            "there are {s} left over, and there are more than {bound} shells.",
            quantity="the smallest possible number of shells",
        ),
        Scene(
            label="marching band",
            facts="A marching band has over {bound} members. In rows of {first}, {r} members remain; in rows of "
            "{second}, {s} remain.",
            quantity="the least number of members the band can have",
        ),
        Scene(
            label="bare integers",
            facts="Let N be the smallest integer greater than {bound} with N = {r} (mod {first}) and "
            "N = {s} (mod {second}).",
            quantity="the integer N",
        ),
    ),
    work="Numbers that are {s} mod {second} are checked mod {first}; the first one that fits is {start}. The moduli "
    "are coprime, so solutions repeat every {first} * {second} = {period}. The first above {bound} is {value}.",
    draw=_draw_crt,
    solve=_solve_crt,
)


def _solve_power(base: int, exponent: int, modulus: int) -> Values:
    half = pow(base, exponent // 2, modulus)
    odd = f" times {base}" if exponent % 2 else ""
    return {"value": pow(base, exponent, modulus), "middle": exponent // 2, "half": half, "odd": odd}


def _draw_power(draw: random.Random) -> Values:
    while True:
        values = {"base": draw.randint(2, 19), "exponent": draw.randint(12, 60), "modulus": draw.randint(101, 499)}
        if pow(values["base"], values["exponent"], values["modulus"]) >= 20:
            return values


POWER = MathFamily(
    name="modular_power",
    concepts=("modular exponentiation", "repeated squaring", "exponents"),
    level=3,
    thoughts=Thoughts(
        goals=(
            "reduces a power far too large to write down",
            "rewards squaring and reducing over multiplying everything out",
        ),
        difficulties=(
            "the power itself is out of reach and every stage has to be reduced at once",
            "one wrong reduction early on spoils all later squarings",
        ),
        reason="reduction commutes with multiplication, so repeated squaring keeps every number small",
        skeleton="a large power of {base} that is reduced",
        steps=(
            "Pick the base {base}, small enough to multiply by hand.",
            "Raise it to {exponent}, which rules out direct expansion.",
            "Reduce by {modulus}, large enough that no short cycle shows.",
        ),
        blueprint=("base {base}", "exponent {exponent}", "modulus {modulus}"),
    ),
    scenes=(
        Scene(
            label="bare power",
            facts="Let R be the remainder when {base}^{exponent} is divided by {modulus}.",
            quantity="the number R",
        ),
        Scene(
            label="circular dial",
            facts="A dial has marks 0 to {modulus} minus 1. {name} sets it to 1, then {exponent} times replaces "
            "its mark by {base} times that mark, counted around the dial modulo {modulus}.",
            quantity="the final mark",
        ),
        Scene(
            label="secret key",
            facts="Two spies agree on a key: the residue of {base} to the power {exponent}, taken modulo {modulus}.",
            quantity="their key",
        ),
    ),
    work="Reduce while squaring. Modulo {modulus}, {base}^{middle} leaves {half}. Squaring this{odd} gives "
    "{base}^{exponent}, which leaves {value}.",
    draw=_draw_power,
    solve=_solve_power,
)


def _draw_meetings(draw: random.Random) -> Values:
    common = draw.randint(2, 6)
    left, right = draw.choice(((2, 3), (3, 4), (2, 5), (3, 5), (4, 5), (1, 3), (1, 4), (5, 6)))
    first, second = common * left, common * right
    return {"first": first, "second": second, "total": 60 * draw.randint(15, 90)}


def _solve_meetings(first: int, second: int, total: int) -> Values:
    lcm = math.lcm(first, second)
    return {"value": total // lcm, "gcd": math.gcd(first, second), "lcm": lcm}


MEETINGS = MathFamily(
    name="common_multiples",
    concepts=("least common multiple", "greatest common divisor", "periodic events"),
    level=2,
    thoughts=Thoughts(
        goals=(
            "lets regular events coincide again and again",
            "asks how often separate rhythms fall together",
        ),
        difficulties=(
            "the product of the periods looks like the common period but is too long",
            "shared factors of the periods must be removed before counting",
        ),
        reason="events coincide at common multiples, and a shared factor makes the least one shorter than the product",
        skeleton="events with the periods {first} and {second}",
        steps=(
            "Give the events the periods {first} and {second}, which share a factor.",
            "Start them together, without counting the start.",
            "Watch for {total} units, long enough to forbid listing.",
        ),
        blueprint=("periods {first} and {second}", "duration {total}"),
    ),
    scenes=(
        Scene(
            label="lighthouses",
            facts="Two lighthouses flash together at time 0. One flashes every {first} seconds, the other every "
            "{second} seconds.",
            quantity="the number of further joint flashes within the first {total} seconds, the last instant included",
        ),
        Scene(
            label="factory checks",
            facts="On a belt, every {first}th box is weighed and every {second}th box is opened. "
            "{name} watches boxes 1 to {total}.",
            quantity="the number of boxes that are both weighed and opened",
        ),
        Scene(
            label="bare multiples",
            facts="Consider the positive integers that do not exceed {total}.",
            quantity="the number of them that are multiples of both {first} and {second}",
        ),
    ),
    work="The greatest common divisor of {first} and {second} is {gcd}, so their least common multiple is "
    "{first} * {second} / {gcd} = {lcm}. The whole part of {total} / {lcm} is {value}.",
    draw=_draw_meetings,
    solve=_solve_meetings,
)


def _draw_divisors(draw: random.Random) -> Values:
    p, q, r = sorted(draw.sample((2, 3, 5, 7, 11), 3))
    a, b, c = draw.randint(3, 9), draw.randint(2, 7), draw.randint(1, 5)
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
        skeleton="a number built from the primes {p}, {q} and {r}, whose divisors must contain a given factor",
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
            facts="A mill has {p}^{a} * {q}^{b} * {r}^{c} grains. {name} wants to pack all of them in equal packets "
            "whose size is a multiple of {factor}.",
            quantity="the number of possible packet sizes",
        ),
    ),
    work="Note {factor} = {factored}. A divisor that is a multiple of it may still choose {x} exponents of {p}, {y} of "
    "{q} and {z} of {r}. The choices are independent, so there are {x} * {y} * {z} = {value}.",
    draw=_draw_divisors,
    solve=_solve_divisors,
)


def _count_codes(length: int, top: int, total: int) -> int:
    counts = {0: 1}
    for _ in range(length):
        sums: dict[int, int] = {}
        for so_far, digit in itertools.product(counts, range(top + 1)):
            sums[so_far + digit] = sums.get(so_far + digit, 0) + counts[so_far]
        counts = sums
    return counts.get(total, 0)


def _draw_codes(draw: random.Random) -> Values:
    length, top = draw.randint(3, 6), draw.randint(3, 9)
    return {"length": length, "top": top, "total": draw.randint(3, length * top - 3)}


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
        reason="stars and bars counts all distributions, and the cap is repaired by alternately removing excess",
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
            label="integer solutions",
            facts="Consider ordered lists of {length} integers between 0 and {top} with sum {total}.",
            quantity="the number of such lists",
        ),
    ),
    work="Without the cap, stars and bars with {bars} bars gives {all}. Removing {excess} from places that exceed "
    "{top}, inclusion-exclusion gives {sum} = {value}.",
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
        reason="the overlap of the removed sets is again a set of multiples, so it can be counted and put back",
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
            facts="A school has lockers numbered 1 to {total}. {name} closes every {first}th locker and then makes "
            "sure that every {second}th locker is closed too.",
            quantity="the number of lockers that stay open",
        ),
        Scene(
            label="raffle tickets",
            facts="Raffle tickets carry the numbers 1 to {total}. A ticket wins if its number is divisible by {first} "
            "or by {second}.",
            quantity="the number of losing tickets",
        ),
    ),
    work="There are {a} multiples of {first} and {b} of {second}; {both} numbers are multiples of {lcm} and counted "
    "twice. What remains is {total} - {a} - {b} + {both} = {value}.",
    draw=_draw_lockers,
    solve=_solve_lockers,
)

FAMILIES = (CRT, POWER, MEETINGS, DIVISORS, CODES, LOCKERS)
