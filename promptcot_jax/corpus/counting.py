"""Mathematics families of counting and probability."""

import math
import random

from promptcot_jax.corpus.families import MathFamily, Scene, Thoughts, Values


def _draw_committee(draw: random.Random) -> Values:
    left, right = draw.randint(5, 14), draw.randint(5, 14)
    size = draw.randint(3, 5)
    return {"left": left, "right": right, "size": size, "least": draw.randint(2, size - 1)}


def _solve_committee(left: int, right: int, size: int, least: int) -> Values:
    cases = [math.comb(left, k) * math.comb(right, size - k) for k in range(least, size + 1)]
    return {
        "value": sum(cases),
        "cases": " + ".join(map(str, cases)),
        "number": len(cases),
        "other": size - least,
    }


COMMITTEE = MathFamily(
    name="committees",
    concepts=("combinations", "case analysis", "restricted selection"),
    level=3,
    thoughts=Thoughts(
        goals=(
            "selects a group with a quota for one kind of member",
            "splits a selection by how many members come from one side",
        ),
        difficulties=(
            "reserving the quota first and choosing freely afterwards counts groups repeatedly",
            "several cases satisfy the quota and each is a product of two selections",
        ),
        reason="once the split between the two sides is fixed, both selections are independent",
        skeleton="a selection of {size} from two kinds with a quota for one kind",
        steps=(
            "Offer {left} members of the kind with the quota and {right} of the other.",
            "Select {size} without order.",
            "Demand at least {least} with the quota, so that cases must be added.",
        ),
        blueprint=("kinds {left} and {right}", "size {size}", "quota at least {least} of the former"),
    ),
    scenes=(
        Scene(
            label="student council",
            facts="A club has {left} seniors and {right} juniors. It elects a council of {size} with no "
            "ranks, in which at least {least} must be seniors.",
            quantity="the number of possible councils",
        ),
        Scene(
            label="flower bouquet",
            facts="{name} owns {left} different roses and {right} different tulips and picks {size} flowers "
            "with no fewer than {least} roses among them.",
            quantity="the number of different bouquets",
        ),
    ),
    work="Let k members come from the first kind, k from {least} to {size}. Each k gives C({left}, k) * "
    "C({right}, {size} - k) selections. Adding the {number} cases, {cases} = {value}.",
    draw=_draw_committee,
    solve=_solve_committee,
)


def _draw_paths(draw: random.Random) -> Values:
    across, up = draw.randint(4, 9), draw.randint(4, 9)
    return {"across": across, "up": up, "x": draw.randint(1, across - 1), "y": draw.randint(1, up - 1)}


def _solve_paths(across: int, up: int, x: int, y: int) -> Values:
    total = math.comb(across + up, up)
    through = math.comb(x + y, y) * math.comb(across + up - x - y, up - y)
    return {"value": total - through, "total": total, "through": through}


PATHS = MathFamily(
    name="lattice_paths",
    concepts=("lattice paths", "binomial coefficients", "complementary counting"),
    level=3,
    thoughts=Thoughts(
        goals=(
            "counts shortest walks on a grid that avoid a bad crossing",
            "turns an obstacle on a grid into a subtraction",
        ),
        difficulties=(
            "walks that avoid a point are hard to count but walks through it split into a product",
            "the second half of a walk starts in the obstacle and not at the origin",
        ),
        reason="a walk through the obstacle is a pair of independent walks, each a binomial coefficient",
        skeleton="shortest walks over {across} columns and {up} rows of streets with one blocked crossing",
        steps=(
            "Lay out a grid {across} wide and {up} high.",
            "Permit only moves right and up between opposite corners.",
            "Block the crossing ({x}, {y}), so complements are needed.",
        ),
        blueprint=("width {across}", "height {up}", "blocked ({x}, {y})"),
    ),
    scenes=(
        Scene(
            label="city streets",
            facts="{name} walks from (0, 0) to ({across}, {up}) along streets, going one block east or north "
            "at a time. The crossing at ({x}, {y}) is closed.",
            quantity="the number of routes that avoid it",
        ),
        Scene(
            label="robot",
            facts="A robot starts in the origin and reaches ({across}, {up}) by unit moves right or up. "
            "It must never stand on ({x}, {y}).",
            quantity="the number of move sequences it can use",
        ),
    ),
    work="Without the restriction there are C({across} + {up}, {up}) = {total} paths. Those through the "
    "point split there, into a path to ({x}, {y}) and one from it: {through} paths. Subtracting, {total} - "
    "{through} = {value}.",
    draw=_draw_paths,
    solve=_solve_paths,
)


def _draw_urn(draw: random.Random) -> Values:
    return {
        "red": draw.randint(3, 24),
        "blue": draw.randint(3, 24),
        "event": draw.choice(("equal", "different")),
    }


def _solve_urn(red: int, blue: int, event: str) -> Values:
    mixed = red * blue
    all_pairs = math.comb(red + blue, 2)
    good = mixed if event == "different" else all_pairs - mixed
    shared = math.gcd(good, all_pairs)
    m, n = good // shared, all_pairs // shared
    return {"value": m + n, "m": m, "n": n, "good": good, "all_pairs": all_pairs, "sum": red + blue}


URN = MathFamily(
    name="urn_probability",
    concepts=("probability", "drawing without replacement", "reduced fractions"),
    level=2,
    thoughts=Thoughts(
        goals=(
            "compares the colours of blindly drawn objects",
            "ends a draw without replacement in a reduced fraction",
        ),
        difficulties=(
            "the second draw depends on the first and the fraction must be reduced at the end",
            "ordered and unordered counting must not be mixed",
        ),
        reason="all unordered pairs are equally likely, so a quotient of two counts is the probability",
        skeleton="an unseen draw from {red} and {blue} objects of two colours",
        steps=(
            "Fill the container with {red} of one colour and {blue} of another.",
            "Take two at once, with no replacement.",
            "Favour {event} colours and want numerator plus denominator after reduction.",
        ),
        blueprint=("colours {red} and {blue}", "two drawn", "event {event} colours", "wanted m + n"),
    ),
    scenes=(
        Scene(
            label="marbles in a bag",
            facts="A bag holds {red} red and {blue} blue marbles. Two marbles are taken at random without "
            "replacement. They have {event} colours with probability m/n in lowest terms.",
            quantity="the number m + n",
        ),
        Scene(
            label="socks in a drawer",
            facts="In the dark, {name} pulls two socks out of a drawer with {red} black and {blue} white "
            "ones. The chance of {event} colours is the reduced fraction m/n.",
            quantity="the value of m + n",
        ),
    ),
    work="There are C({sum}, 2) = {all_pairs} pairs, all equally likely; {good} of them show {event} "
    "colours. Reduced, {good}/{all_pairs} = {m}/{n}, and {m} + {n} = {value}.",
    draw=_draw_urn,
    solve=_solve_urn,
)

FAMILIES = (COMMITTEE, PATHS, URN)
