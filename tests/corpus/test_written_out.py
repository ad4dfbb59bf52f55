"""Every equation of a written-out calculation holds, and its last number is the result."""

import fractions
import itertools
import math
import random
import re

import pytest

from promptcot_jax.corpus import endings, math_families, rows, styles, written_out

TIMES = 2000


def sides(text):
    """The pairs of expressions that a text says are equal."""
    for claim in re.split(r"[,;:]| so | and ", text):
        if "=" in claim:
            yield from itertools.pairwise(side.strip() for side in claim.split("="))


def value_of(expression):
    assert re.fullmatch(r"[0-9 +*/-]+", expression), expression
    return eval(re.sub(r"\d+", r"Fraction(\g<0>)", expression), {"Fraction": fractions.Fraction})


def assert_true(text, result):
    for left, right in sides(text):
        assert value_of(left) == value_of(right), text
    assert int(re.findall(r"\d+", text)[-1]) == result, text


def number(draw, digits=4):
    return draw.randint(1, 10 ** draw.randint(1, digits))


@pytest.mark.parametrize(
    ("write", "result"),
    [
        (written_out.product, lambda a, b: a * b),
        (written_out.quotient, lambda a, b: a // b),
        (written_out.chunks, lambda a, b: a % b),
        (written_out.common_divisor, math.gcd),
    ],
)
def test_calculations_with_two_numbers(write, result):
    draw = random.Random(1)
    for _ in range(TIMES):
        a, b = number(draw), number(draw)
        assert_true(write(a, b), result(a, b))


@pytest.mark.parametrize(
    ("write", "result"),
    [
        (written_out.joined_sum, sum),
        (written_out.running_totals, sum),
        (written_out.products, math.prod),
    ],
)
def test_calculations_with_several_numbers(write, result):
    draw = random.Random(3)
    for _ in range(TIMES):
        numbers = [number(draw, 2) for _ in range(draw.randint(1, 6))]
        assert_true(write(numbers), result(numbers))


def test_a_task_leads_to_the_product_of_its_factors():
    assert written_out.leading_to("(9-2)*(9+2)", [7, 11]) == "(9-2)*(9+2) = 7*11 = 77"
    draw = random.Random(9)
    for _ in range(TIMES):
        a, b = number(draw), number(draw)
        assert_true(written_out.leading_to(f"{a + 1} * {b} - {b}", [a, b]), a * b)


def test_running_totals_are_those_of_the_terms():
    assert written_out.running_totals([5, 6, 8]) == "5+6+8: 5, 11, 19"


def test_factorizations_end_in_the_largest_prime_and_name_every_prime():
    draw = random.Random(4)
    for _ in range(TIMES):
        n = number(draw, 6) + 1
        text = written_out.factorization(n)
        factors = endings.prime_factors(n)
        assert_true(text, factors[-1][0])
        divided = [int(p) for p in re.findall(r"= (\d+)\*", text)]
        assert divided + [factors[-1][0]] == [p for p, exponent in factors for _ in range(exponent)]


def test_binomials():
    draw = random.Random(7)
    for _ in range(TIMES):
        pairs = [(n, draw.randint(0, n)) for n in (draw.randint(1, 18), draw.randint(1, 18))]
        pairs = pairs[: draw.randint(1, 2)]
        text = written_out.binomials(*pairs)
        table = re.sub(r"C\((\d+), (\d+)\)", lambda c: str(math.comb(int(c[1]), int(c[2]))), text)
        assert_true(table, math.prod(math.comb(n, k) for n, k in pairs))


def test_modular_powers_name_the_power_of_every_step():
    draw = random.Random(8)
    for _ in range(300):
        base, exponent, modulus = draw.randint(2, 19), draw.randint(2, 60), draw.randint(101, 499)
        text = written_out.modular_power(base, exponent, modulus)
        lines = text.split(". ")
        for line in lines:
            power, _, steps = line.partition(": ")
            base_too, reached = map(int, power.split("^"))
            assert base_too == base
            left = int(re.findall(r"\d+", steps)[-1])
            assert_true(steps.replace(";", ","), pow(base, reached, modulus))
            assert left < modulus
        assert reached == exponent


def test_base_digits():
    draw = random.Random(5)
    for _ in range(TIMES):
        n, base = number(draw, 5), draw.randint(2, 9)
        assert_true(written_out.base_digits(n, base), int(endings.in_base(n, base)))


def test_next_square():
    draw = random.Random(6)
    for _ in range(TIMES):
        n = number(draw, 6)
        assert_true(written_out.next_square(n), (math.isqrt(n) + 1) ** 2)


def test_how_products_and_differences_are_split():
    assert written_out.product(7, 8) == "7*8 = 56"
    assert written_out.product(37, 20) == "37*20 = 600+140 = 740"
    assert written_out.product(12, 30) == "12*30 = 360"  # no carry
    assert written_out.product(37, 24) == "37*24 = 600+140+120+28 = 740+148 = 888"
    assert written_out.product(24, 237).endswith(", 24*237 = 4740+948 = 5688")
    assert written_out.difference(787, 62) == "787-62 = 725"  # nothing to borrow
    assert written_out.difference(752, 388) == "752-388 = 452-88 = 372-8 = 364"
    assert written_out.quotient(92, 4) == "92/4: 4*20 = 80, 92-80 = 12; 4*3 = 12, 12-12 = 0; so 20+3 = 23"


def test_differences():
    draw = random.Random(10)
    for _ in range(TIMES):
        part, rest = number(draw), draw.randint(0, 9999)
        assert_true(written_out.difference(part + rest, part), rest)


@pytest.mark.parametrize("family", math_families.families(), ids=lambda family: family.name)
def test_solutions_end_in_the_answer(family):
    draw = random.Random(family.name)
    for ending in itertools.islice(itertools.cycle(endings.math_endings()), 70):
        row = rows.math_row(draw, "row", styles.STYLES[0], family, ending, family.draw(draw))
        if row is not None:
            work, _, last = row.solution.partition(" The answer is ")
            assert last == f"\\boxed{{{row.answer}}}"
            assert re.findall(r"\d+", work)[-1] == row.answer, row.solution
