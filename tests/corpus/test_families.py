"""Answers and tests of every family against brute force, and reference programs in real runs."""

import concurrent.futures
import fractions
import itertools
import math
import random
import re
import subprocess
import sys

import pytest

from promptcot_jax.corpus import endings, families, generator, math_families, program_families
from promptcot_jax.corpus.families import MathFamily

DRAWS = 25


def crt(first, second, r, s, bound):
    return next(n for n in itertools.count(bound + 1) if n % first == r and n % second == s)


def modular_power(base, exponent, modulus):
    return base**exponent % modulus


def common_multiples(first, second, total):
    return sum(n % first == 0 and n % second == 0 for n in range(1, total + 1))


def divisors(p, q, r, a, b, c, factor):
    exponents = itertools.product(range(a + 1), range(b + 1), range(c + 1))
    return sum(p**i * q**j * r**k % factor == 0 for i, j, k in exponents)


def digit_codes(length, top, total):
    return sum(sum(digits) == total for digits in itertools.product(range(top + 1), repeat=length))


def sieve_counting(first, second, total):
    return sum(n % first != 0 and n % second != 0 for n in range(1, total + 1))


def arithmetic_series(start, step, terms):
    return sum(range(start, start + step * terms, step))


def geometric_series(start, ratio, terms):
    return sum(start * ratio**i for i in range(terms))


def linear_system(high, low, count, sum):
    (answer,) = [x for x in range(count + 1) if high * x + low * (count - x) == sum]
    assert 0 < answer < count
    return answer


def vieta(sum, product):
    root = math.sqrt(sum * sum - 4 * product)
    return round(((sum + root) / 2) ** 2 + ((sum - root) / 2) ** 2)


def recurrence(p, q, first, second, index):
    def term(n):
        return (first, second)[n - 1] if n <= 2 else p * term(n - 1) + q * term(n - 2)

    return term(index)


def mixture(weak, strong, target, volume):
    (answer,) = [
        x for x in range(20 * volume) if fractions.Fraction(strong * volume + weak * x, volume + x) == target
    ]
    return answer


def filling_rates(fast, slow, leak, wait, capacity):
    level = minutes = 0
    while level < capacity:
        level += fast - leak + (slow if minutes >= wait else 0)
        minutes += 1
    assert level == capacity
    return minutes


def committees(left, right, size, least):
    members = ["s"] * left + ["j"] * right
    return sum(group.count("s") >= least for group in itertools.combinations(members, size))


def lattice_paths(across, up, x, y):
    ways = {(0, 0): 1}
    for i, j in itertools.product(range(across + 1), range(up + 1)):
        if (i, j) != (0, 0):
            ways[i, j] = 0 if (i, j) == (x, y) else ways.get((i - 1, j), 0) + ways.get((i, j - 1), 0)
    return ways[across, up]


def urn_probability(red, blue, event):
    colours = ["r"] * red + ["b"] * blue
    hits = [(a == b) == (event == "equal") for a, b in itertools.permutations(colours, 2)]
    chance = fractions.Fraction(sum(hits), len(hits))
    return chance.numerator + chance.denominator


def border_area(length, width, border):
    cells = itertools.product(range(-border, length + border), range(-border, width + border))
    return sum(not (0 <= x < length and 0 <= y < width) for x, y in cells)


def open_box(length, width, cut):
    base = [
        (x, y)
        for x, y in itertools.product(range(length), range(width))
        if cut <= x < length - cut and cut <= y < width - cut
    ]
    return len(base) * cut


def right_triangle(leg, hypotenuse, wanted):
    (other,) = [b for b in range(1, hypotenuse) if leg * leg + b * b == hypotenuse * hypotenuse]
    return {"area": fractions.Fraction(leg * other, 2), "perimeter": leg + other + hypotenuse}[wanted]


@pytest.mark.parametrize("family", math_families.families(), ids=lambda family: family.name)
def test_answers_equal_brute_force(family):
    draw = random.Random(family.name)
    for _ in range(DRAWS):
        parameters = family.draw(draw)
        assert family.solve(**parameters)["value"] == globals()[family.name](**parameters), parameters


def by_search(ending, value, modulus=None, radix=None):
    """The answers of the endings, from their definitions."""
    if ending == "remainder":
        return next(r for r in range(modulus) if (value - r) % modulus == 0)
    if ending == "digit_sum":
        return sum(int(digit) for digit in str(value))
    if ending == "divisor_count":
        return sum(value % d == 0 for d in range(1, value + 1))
    if ending == "largest_prime":
        divisors = [d for d in range(2, value + 1) if value % d == 0]
        return max(d for d in divisors if all(d % e for e in range(2, d)))
    if ending == "next_square":
        return next(k for k in itertools.count(1) if math.isqrt(value + k) ** 2 == value + k)
    if ending == "base":
        return next(text for text in [endings.in_base(value, radix)] if int(text, radix) == value)
    return value


@pytest.mark.parametrize("ending", endings.math_endings(), ids=lambda ending: ending.name)
def test_endings_answer_what_they_ask(ending):
    draw = random.Random(ending.name)
    for value in [12, 20, 25, 36, 97, 360, 1024, *(draw.randint(20, 3000) for _ in range(20))]:
        parameters = ending.draw(draw, value)
        if parameters is None:
            continue
        found = ending.solve(value, **parameters)["result"]
        arguments = {"modulus" if name == "divisor" else name: number for name, number in parameters.items()}
        assert found == by_search(ending.name, value, **arguments), (value, parameters)


def equations_of(solution):
    """The `expression = number` claims of a worked solution that hold only digits and + - * / ^."""
    for chain in re.findall(r"(?<![\w^])[0-9(][0-9+\-*/^() ]*(?:= [0-9+\-*/^() ]*[0-9)])+", solution):
        sides = [side.strip() for side in chain.split("=")]
        yield from itertools.pairwise(sides)


def value_of(expression):
    tree = re.sub(r"(\d+)", r"Fraction(\1)", expression.replace("^", "**"))
    return eval(tree, {"Fraction": fractions.Fraction, "__builtins__": {}})


def test_the_arithmetic_of_worked_solutions_holds():
    config = generator.CorpusConfig(seed=2, num_train=600, num_heldout=0, num_novel=0)
    checked = 0
    for row in generator.generate(config).train:
        if row.domain == "code":
            continue
        for left, right in equations_of(row.solution):
            if left.count("(") == left.count(")") and right.count("(") == right.count(")"):
                assert value_of(left) == value_of(right), (left, right, row.solution)
                checked += 1
    assert checked > 600


def run_program(row):
    program = re.search(r"```python\n(.*)\n```\Z", row.solution, re.DOTALL)[1]
    for case in row.tests:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", program], input=case.input, capture_output=True, text=True
        )
        if done.returncode or done.stdout.split() != case.output.split():
            return f"{row.id} {row.family}: {done.stderr or done.stdout!r} for {case}"
    return ""


@pytest.mark.slow
def test_programs_pass_their_tests_and_tests_tell_programs_apart():
    names = tuple(family.name for family in program_families.families())
    config = generator.CorpusConfig(
        seed=5, num_train=6 * len(names), num_heldout=0, num_novel=2 * len(names), families=names
    )
    corpus = generator.generate(config)
    program_rows = corpus.train + corpus.novel
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        failures = [failure for failure in pool.map(run_program, program_rows) if failure]
    assert failures == []
    constant = [row for row in program_rows if len({case.output for case in row.tests}) == 1]
    assert len(constant) < 0.15 * len(program_rows)


@pytest.mark.parametrize("family", generator.families().values(), ids=lambda family: family.name)
def test_blueprint_and_steps_name_every_parameter(family):
    """Exact and stepwise rationales must carry the numbers that the problem needs."""
    derived = {"alphabet", "open", "close", "low"}  # told by `letters` and `kind`; a lower limit of 1
    needed = set(family.draw(random.Random(1))) - derived
    gaps = [set(re.findall(r"\{(\w+)\}", " ".join(texts))) for texts in (family.blueprint, family.steps)]
    assert needed <= gaps[0]
    assert needed <= gaps[1]


@pytest.mark.parametrize(
    ("file", "made"),
    [
        ("math_families", math_families.families),
        ("program_families", program_families.families),
        ("math_endings", endings.math_endings),
        ("program_endings", endings.program_endings),
    ],
)
def test_every_text_has_its_functions(file, made):
    assert [own.name for own in made()] == list(families.texts_of(file))


def test_names_of_parameters_do_not_collide():
    draw = random.Random(0)
    for of_domain, known in (
        (math_families.families(), endings.math_endings()),
        (program_families.families(), endings.program_endings()),
    ):
        for family, ending in itertools.product(of_domain, known):
            drawn = ending.draw(draw, 60) if isinstance(family, MathFamily) else ending.draw(draw, [1, 2])
            assert not set(family.draw(draw)) & {*drawn, "setting", "name"}, (family.name, ending.name)


def test_lead_concepts_belong_to_one_family_and_no_ending():
    leads = [family.concepts[0] for family in generator.families().values()]
    others = [c for family in generator.families().values() for c in family.concepts[1:]]
    known = (*endings.math_endings(), *endings.program_endings())
    of_endings = [ending.concept for ending in known if ending.concept]
    assert len(set(leads + of_endings)) == len(leads + of_endings)
    assert not set(of_endings) & set(others)
    for family in generator.families().values():
        assert len(family.scenes) >= 2
        assert len(family.concepts) >= 3
