"""Mathematics families: the numbers of a problem, and its result with what the worked solution shows.

Where two numbers play the same part (length and width, colours of balls), one order alone is drawn: splits
are by numbers, and the mirrored problem of a training row must not be held out.

Their texts are in `texts/math_families.toml` and `texts/worked_solutions.toml`.
"""

import functools
import math
import random

from promptcot_jax.corpus import written_out
from promptcot_jax.corpus.endings import prime_factors
from promptcot_jax.corpus.families import MathFamily, Values, texts_of, worked_solutions


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
    tried = [s]
    while tried[-1] % first != r:
        tried.append(tried[-1] + second)
    start, period = tried[-1], first * second
    if bound < start:
        value, climb = start, f"{bound} is already below {start}"
    else:
        times = (bound - start) // period + 1
        value = start + times * period
        climb = (
            f"{written_out.difference(bound, start)}, {written_out.quotient(bound - start, period)}. "
            f"One more is needed: {written_out.product(period, times)}, "
            f"{start}+{times * period} = {value}"
        )
    return {
        "value": value,
        "tried": ", ".join(f"{number} leaves {number % first}" for number in tried),
        "start": start,
        "period": written_out.product(first, second),
        "climb": climb,
    }


def _solve_power(base: int, exponent: int, modulus: int) -> Values:
    halves = [exponent >> shift for shift in range(exponent.bit_length())]
    return {
        "value": pow(base, exponent, modulus),
        "halves": ", ".join(map(str, halves)),
        "squarings": written_out.modular_power(base, exponent, modulus),
    }


def _draw_power(draw: random.Random) -> Values:
    while True:
        values = {
            "base": draw.randint(2, 12),
            "exponent": draw.randint(8, 40),
            "modulus": draw.randint(31, 99),
        }
        if pow(values["base"], values["exponent"], values["modulus"]) >= 20:
            return values


def _draw_meetings(draw: random.Random) -> Values:
    common = draw.randint(2, 4)
    left, right = draw.choice(((2, 3), (3, 4), (2, 5), (3, 5), (4, 5), (1, 3), (1, 4), (5, 6)))
    first, second = common * left, common * right
    return {"first": first, "second": second, "total": 20 * draw.randint(10, 60)}


def _solve_meetings(first: int, second: int, total: int) -> Values:
    gcd, lcm = math.gcd(first, second), math.lcm(first, second)
    return {
        "value": total // lcm,
        "gcd": written_out.common_divisor(first, second),
        "share": f"{second}/{gcd} = {second // gcd}",
        "lcm": lcm,
        "times": written_out.product(first, second // gcd),
        "division": written_out.quotient(total, lcm),
    }


def _draw_divisors(draw: random.Random) -> Values:
    p, q, r = sorted(draw.sample((2, 3, 5, 7, 11), 3))
    a, b, c = draw.randint(3, 9), draw.randint(2, 7), draw.randint(2, 5)
    i, j = draw.randint(1, a - 1), draw.randint(0, b - 1)
    while p**i * q**j > 10**6:
        i, j = draw.randint(1, a - 1), draw.randint(0, b - 1)
    return {"p": p, "q": q, "r": r, "a": a, "b": b, "c": c, "factor": p**i * q**j}


def _solve_divisors(p: int, q: int, r: int, a: int, b: int, c: int, factor: int) -> Values:
    needed = dict(prime_factors(factor))
    choices, pieces = [], []
    for prime, most in ((p, a), (q, b), (r, c)):
        least = needed.get(prime, 0)
        choices.append(most - least + 1)
        pieces.append(f"{prime} from {least} to {most}, {most}-{least}+1 = {choices[-1]} choices")
    return {
        "value": math.prod(choices),
        "divisions": written_out.factorization(factor),
        "powers": "*".join(f"{prime}^{exponent}" for prime, exponent in needed.items()),
        "exponents": "; ".join(pieces),
        "product": written_out.products(choices),
    }


def _draw_codes(draw: random.Random) -> Values:
    length, top = draw.randint(3, 6), draw.randint(3, 9)
    return {"length": length, "top": top, "total": draw.randint(top + 1, length * top - 3)}


def _solve_codes(length: int, top: int, total: int) -> Values:
    mirrored = length * top - total
    least = min(total, mirrored)
    mirror = ""
    if mirrored < total:
        mirror = (
            f"Taking every digit from {top} turns the sum into {written_out.product(length, top)} "
            f"minus {total}: {length * top}-{total} = {mirrored}, with as many codes. "
        )
    lines, value = [], 0
    for over in range(least // (top + 1) + 1):
        rest = least - over * (top + 1)
        free = (rest + length - 1, length - 1)
        term = math.comb(length, over) * math.comb(*free)
        bars = f"{rest}+{length - 1} = {rest + length - 1}"
        if over:
            lines.append(
                f"{over} digit{'s' if over > 1 else ''} too large: "
                f"{least}-{least - rest} = {rest}, {bars}, "
                f"{written_out.binomials((length, over), free)}, "
                f"{value}{'-' if over % 2 else '+'}{term} = {value + (-1) ** over * term}"
            )
        else:
            lines.append(f"Without the limit: {bars}, {written_out.binomials(free)}")
        value += (-1) ** over * term
    return {
        "value": value,
        "mirror": mirror,
        "least": least,
        "bars": length - 1,
        "excess": top + 1,
        "cases": ". ".join(lines),
    }


def _draw_lockers(draw: random.Random) -> Values:
    first, second = sorted(draw.sample(range(3, 16), 2))
    while second % first == 0:
        first, second = sorted(draw.sample(range(3, 16), 2))
    return {"first": first, "second": second, "total": 20 * draw.randint(8, 60)}


def _solve_lockers(first: int, second: int, total: int) -> Values:
    gcd, lcm = math.gcd(first, second), math.lcm(first, second)
    a, b, both = total // first, total // second, total // lcm
    return {
        "value": total - a - b + both,
        "gcd": written_out.common_divisor(first, second),
        "share": f"{second}/{gcd} = {second // gcd}",
        "times": written_out.product(first, second // gcd),
        "lcm": lcm,
        "of_first": written_out.quotient(total, first),
        "of_second": written_out.quotient(total, second),
        "of_both": written_out.quotient(total, lcm),
        "left": f"{written_out.difference(total, a)}, {written_out.difference(total - a, b)}, "
        f"{total - a - b}+{both} = {total - a - b + both}",
    }


def _draw_series(draw: random.Random) -> Values:
    return {"start": draw.randint(3, 45), "step": draw.randint(2, 9), "terms": draw.randint(8, 30)}


def _solve_series(start: int, step: int, terms: int) -> Values:
    gaps = terms - 1
    last = start + gaps * step
    ends = start + last
    if terms % 2:
        half, product = f"{ends}/2 = {ends // 2}", written_out.product(ends // 2, terms)
    else:
        half, product = f"{terms}/2 = {terms // 2}", written_out.product(ends, terms // 2)
    return {
        "value": terms * ends // 2,
        "gaps": gaps,
        "growth": written_out.product(step, gaps),
        "last": written_out.joined_sum([gaps * step, start]),
        "ends": written_out.joined_sum([last, start]),
        "half": half,
        "product": product,
    }


def _draw_growth(draw: random.Random) -> Values:
    return {"start": draw.randint(2, 60), "ratio": draw.randint(2, 5), "terms": draw.randint(4, 8)}


def _solve_growth(start: int, ratio: int, terms: int) -> Values:
    powers = [ratio**i for i in range(terms)]
    return {
        "value": start * sum(powers),
        "totals": written_out.running_totals(powers),
        "product": written_out.product(sum(powers), start),
    }


def _draw_recurrence(draw: random.Random) -> Values:
    return {
        "p": draw.randint(2, 5),
        "q": draw.randint(2, 5),
        "first": draw.randint(1, 9),
        "second": draw.randint(1, 12),
        "index": draw.randint(5, 8),
    }


def _solve_recurrence(p: int, q: int, first: int, second: int, index: int) -> Values:
    before, latest, lines = first, second, []
    for position in range(3, index + 1):
        term = p * latest + q * before
        lines.append(
            f"Term {position}: {written_out.product(latest, p)}, {written_out.product(before, q)}, "
            f"{p * latest}+{q * before} = {term}"
        )
        before, latest = latest, term
    return {"value": latest, "terms": ". ".join(lines)}


def _draw_system(draw: random.Random) -> Values:
    low, high = sorted(draw.sample(range(2, 15), 2))
    many, few = draw.randint(12, 90), draw.randint(12, 90)
    return {"high": high, "low": low, "count": many + few, "sum": many * high + few * low}


def _solve_system(high: int, low: int, count: int, sum: int) -> Values:
    base, gap = low * count, high - low
    return {
        "value": (sum - base) // gap,
        "base": written_out.product(count, low),
        "missing": written_out.difference(sum, base),
        "excess": sum - base,
        "gap": gap,
        "division": written_out.quotient(sum - base, gap),
    }


def _draw_vieta(draw: random.Random) -> Values:
    while True:
        sum, product = draw.randint(9, 75), draw.randint(2, 20)
        discriminant = sum * sum - 4 * product
        if math.isqrt(discriminant) ** 2 != discriminant:  # else the roots are no radicals
            return {"sum": sum, "product": product}


def _solve_vieta(sum: int, product: int) -> Values:
    square = sum * sum
    return {
        "value": square - 2 * product,
        "square": written_out.product(sum, sum),
        "twice": f"2*{product} = {2 * product}",
        "difference": written_out.difference(square, 2 * product),
    }


def _draw_mixture(draw: random.Random) -> Values:
    weak, target, strong = sorted(draw.sample(range(5, 90, 5), 3))
    volume = (target - weak) * draw.randint(2, 30)
    return {"weak": weak, "strong": strong, "target": target, "volume": volume}


def _solve_mixture(weak: int, strong: int, target: int, volume: int) -> Values:
    up, down = strong - target, target - weak
    return {
        "value": volume * up // down,
        "up": up,
        "down": down,
        "division": written_out.quotient(volume, down),
        "product": written_out.product(volume // down, up),
    }


def _draw_tank(draw: random.Random) -> Values:
    fast, slow = draw.randint(12, 40), draw.randint(5, 25)
    leak, wait = draw.randint(2, 10), draw.randint(3, 20)
    together = draw.randint(12, 80)
    return {
        "fast": fast,
        "slow": slow,
        "leak": leak,
        "wait": wait,
        "capacity": wait * (fast - leak) + together * (fast + slow - leak),
    }


def _solve_tank(fast: int, slow: int, leak: int, wait: int, capacity: int) -> Values:
    alone, joint = fast - leak, fast + slow - leak
    early = wait * alone
    later = (capacity - early) // joint
    return {
        "value": wait + later,
        "alone": f"{fast}-{leak} = {alone}",
        "early": written_out.product(alone, wait),
        "rest": written_out.difference(capacity, early),
        "joint": f"{alone}+{slow} = {joint}",
        "division": written_out.quotient(capacity - early, joint),
        "minutes": f"{wait}+{later} = {wait + later}",
    }


def _draw_committee(draw: random.Random) -> Values:
    left, right = draw.randint(5, 14), draw.randint(5, 14)
    size = draw.randint(3, 5)
    return {"left": left, "right": right, "size": size, "least": draw.randint(2, size - 1)}


def _solve_committee(left: int, right: int, size: int, least: int) -> Values:
    numbers = [k for k in range(least, size + 1) if k <= left and size - k <= right]
    cases = [math.comb(left, k) * math.comb(right, size - k) for k in numbers]
    lines = [written_out.binomials((left, k), (right, size - k)) for k in numbers]
    return {"value": sum(cases), "cases": "; ".join(lines), "sum": written_out.joined_sum(cases)}


def _draw_paths(draw: random.Random) -> Values:
    up = draw.randint(4, 8)
    across = draw.randint(up + 1, 9)
    return {"across": across, "up": up, "x": draw.randint(1, across - 1), "y": draw.randint(1, up - 1)}


def _solve_paths(across: int, up: int, x: int, y: int) -> Values:
    total = math.comb(across + up, up)
    through = math.comb(x + y, y) * math.comb(across + up - x - y, up - y)
    return {
        "value": total - through,
        "steps": f"{across}+{up} = {across + up}",
        "total": written_out.binomials((across + up, up)),
        "before": f"{x}+{y} = {x + y}",
        "after": f"{across + up}-{x + y} = {across + up - x - y}",
        "through": written_out.binomials((x + y, y), (across + up - x - y, up - y)),
        "difference": written_out.difference(total, through),
    }


def _draw_urn(draw: random.Random) -> Values:
    red, blue = sorted(draw.sample(range(3, 25), 2))
    return {"red": red, "blue": blue, "event": draw.choice(("equal", "different"))}


def _solve_urn(red: int, blue: int, event: str) -> Values:
    balls, mixed = red + blue, red * blue
    half, other = (balls // 2, balls - 1) if balls % 2 == 0 else ((balls - 1) // 2, balls)
    all_pairs = half * other
    good = mixed if event == "different" else all_pairs - mixed
    shared = math.gcd(good, all_pairs)
    m, n = good // shared, all_pairs // shared
    reduced = ""
    if shared > 1:
        reduced = f"{written_out.quotient(good, shared)}. {written_out.quotient(all_pairs, shared)}. "
    return {
        "value": m + n,
        "sum": f"{red}+{blue} = {balls}",
        "balls": balls,
        "less": balls - 1,
        "half": f"{2 * half}/2 = {half}",
        "all_pairs": written_out.product(other, half),
        "mixed": written_out.product(red, blue),
        "same": "" if event == "different" else f"Equal ones: {written_out.difference(all_pairs, mixed)}. ",
        "gcd": written_out.common_divisor(all_pairs, good),
        "reduced": reduced,
        "added": f"{m}+{n} = {m + n}",
    }


def _draw_border(draw: random.Random) -> Values:
    width = draw.randint(8, 40)
    return {"length": width + draw.randint(1, 25), "width": width, "border": draw.randint(1, 6)}


def _solve_border(length: int, width: int, border: int) -> Values:
    twice = 2 * border
    around = length + width + twice
    return {
        "value": twice * around,
        "twice": twice,
        "around": written_out.joined_sum([length, width, twice]),
        "product": written_out.product(around, twice),
    }


def _draw_box(draw: random.Random) -> Values:
    cut = draw.randint(2, 6)
    width = 2 * cut + draw.randint(5, 25)
    return {"length": width + draw.randint(1, 20), "width": width, "cut": cut}


def _solve_box(length: int, width: int, cut: int) -> Values:
    inside_length, inside_width = length - 2 * cut, width - 2 * cut
    base = inside_length * inside_width
    return {
        "value": base * cut,
        "twice": 2 * cut,
        "inside_length": inside_length,
        "inside_width": inside_width,
        "base": written_out.product(inside_length, inside_width),
        "volume": written_out.product(base, cut),
    }


def _draw_triangle(draw: random.Random) -> Values:
    m = draw.randint(2, 9)
    n = draw.randint(1, m - 1)
    scale = draw.randint(1, 9)
    return {
        "leg": scale * 2 * m * n,
        "hypotenuse": scale * (m * m + n * n),
        "wanted": draw.choice(("perimeter", "area")),
    }


def _solve_triangle(leg: int, hypotenuse: int, wanted: str) -> Values:
    shared = math.gcd(leg, hypotenuse)
    short, long = leg // shared, hypotenuse // shared
    root = math.isqrt(long * long - short * short)
    other = shared * root
    scaled, back = "", ""
    if shared > 1:
        scaled = (
            f"{written_out.common_divisor(hypotenuse, leg)}: "
            f"{hypotenuse} = {shared}*{long}, {leg} = {shared}*{short}. "
        )
        back = f" and {written_out.product(shared, root)}"
    if wanted == "area":
        value = leg * other // 2
        halved, whole = (leg, other) if leg % 2 == 0 else (other, leg)
        last = f"{leg}*{other}/2: {halved}/2 = {halved // 2}, {written_out.product(halved // 2, whole)}"
    else:
        value = leg + other + hypotenuse
        last = written_out.joined_sum([leg, other, hypotenuse])
    return {
        "value": value,
        "scaled": scaled,
        "square": written_out.leading_to(f"({long}-{short})*({long}+{short})", [long - short, long + short]),
        "root": f"{root}*{root} = {root * root}",
        "back": back,
        "other": other,
        "last": last,
    }


@functools.cache
def families() -> tuple[MathFamily, ...]:
    """All of them, in the order in which rows go through them."""
    texts, works = texts_of("math_families"), worked_solutions("families")
    return tuple(
        MathFamily(name=name, draw=draw, solve=solve, work=works[name], **texts[name])
        for name, draw, solve in (
            ("crt", _draw_crt, _solve_crt),
            ("modular_power", _draw_power, _solve_power),
            ("common_multiples", _draw_meetings, _solve_meetings),
            ("divisors", _draw_divisors, _solve_divisors),
            ("digit_codes", _draw_codes, _solve_codes),
            ("sieve_counting", _draw_lockers, _solve_lockers),
            ("arithmetic_series", _draw_series, _solve_series),
            ("geometric_series", _draw_growth, _solve_growth),
            ("recurrence", _draw_recurrence, _solve_recurrence),
            ("linear_system", _draw_system, _solve_system),
            ("vieta", _draw_vieta, _solve_vieta),
            ("mixture", _draw_mixture, _solve_mixture),
            ("filling_rates", _draw_tank, _solve_tank),
            ("committees", _draw_committee, _solve_committee),
            ("lattice_paths", _draw_paths, _solve_paths),
            ("urn_probability", _draw_urn, _solve_urn),
            ("border_area", _draw_border, _solve_border),
            ("open_box", _draw_box, _solve_box),
            ("right_triangle", _draw_triangle, _solve_triangle),
        )
    )
