"""Mathematics families about remainders: congruences, powers, common multiples."""

import math
import random

from promptcot_jax.corpus.families import MathFamily, Scene, Thoughts, Values


def _draw_crt(draw: random.Random) -> Values:
    first, second = sorted(draw.sample((5, 7, 8, 9, 11, 13, 16, 17, 19), 2))
    while math.gcd(first, second) > 1:
        first, second = sorted(draw.sample((5, 7, 8, 9, 11, 13, 16, 17, 19), 2))
    return {
        "first": first,
        "second": second,
        "r": draw.randint(2, first - 1),
        "s": draw.randint(2, second - 1),
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
        reason="coprime moduli leave exactly one class per period, and the bound then selects one number",
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
            facts="{name} collects shells. In groups of {first} there are {r} left over, in groups of "
            "{second} there are {s} left over, and there are more than {bound} shells.",
            quantity="the smallest possible number of shells",
        ),
        Scene(
            label="marching band",
            facts="A marching band has over {bound} members. In rows of {first}, {r} members remain; in rows "
            "of {second}, {s} remain.",
            quantity="the least number of members the band can have",
        ),
        Scene(
            label="bare integers",
            facts="Let N be the smallest integer greater than {bound} with N = {r} (mod {first}) and "
            "N = {s} (mod {second}).",
            quantity="the integer N",
        ),
    ),
    work="Numbers that are {s} mod {second} are checked mod {first}; the first one that fits is {start}. The "
    "moduli are coprime, so solutions repeat every {first} * {second} = {period}. The first above {bound} "
    "is {value}.",
    draw=_draw_crt,
    solve=_solve_crt,
)


def _solve_power(base: int, exponent: int, modulus: int) -> Values:
    half = pow(base, exponent // 2, modulus)
    odd = f" and multiplying by {base}" if exponent % 2 else ""
    return {"value": pow(base, exponent, modulus), "middle": exponent // 2, "half": half, "odd": odd}


def _draw_power(draw: random.Random) -> Values:
    while True:
        values = {
            "base": draw.randint(2, 19),
            "exponent": draw.randint(12, 60),
            "modulus": draw.randint(101, 499),
        }
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
            "Reduce by {modulus}, which keeps three digits in play.",
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
            label="number dial",
            facts="A dial shows 1. A total of {exponent} times, {name} multiplies the shown number by {base} "
            "and keeps only the remainder on division by {modulus}.",
            quantity="the number shown at the end",
        ),
        Scene(
            label="secret key",
            facts="Two spies agree on a key: the residue of {base} to the power {exponent}, taken modulo "
            "{modulus}.",
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
        reason="events coincide at common multiples, and a shared factor makes the least one shorter than "
        "the product",
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
            facts="Two lighthouses flash together at time 0. One flashes every {first} seconds, the other "
            "every {second} seconds.",
            quantity="the number of joint flashes from second 1 to second {total}",
        ),
        Scene(
            label="factory checks",
            facts="Boxes on a belt are numbered from 1. Those whose number is a multiple of {first} are "
            "weighed, those with a multiple of {second} are opened. {name} watches the first {total} boxes.",
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

FAMILIES = (CRT, POWER, MEETINGS)
