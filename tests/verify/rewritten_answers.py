r"""Pairs of answers drawn by chance: one written twice in different ways, or two that differ.

An expression is a tree whose value at a point is computed here, so that what is equal is known without the
grader. A way of writing chooses the order of sums and products, the identities, and the notation.
"""

import fractions
import random
from collections.abc import Callable
from typing import NamedTuple

Value = dict[str, float]  # of each variable


class Tree(NamedTuple):
    """A number or variable, or an operation on others."""

    kind: str  # number | variable | sum | product | quotient | power | root
    parts: tuple = ()


class Pair(NamedTuple):
    reference: str
    candidate: str
    is_match: bool


POINTS = ({"x": 1.37, "y": 2.71, "a": 0.59, "n": 3.3}, {"x": 2.9, "y": 0.41, "a": 1.83, "n": 5.7})


def drawn_tree(draw: random.Random, depth: int, variables: str = "xyan") -> Tree:
    if depth == 0 or draw.random() < 0.15:
        if variables and draw.random() < 0.5:
            return Tree("variable", (draw.choice(variables),))
        return Tree("number", (draw.randint(1, 12),))
    kind = draw.choice(("sum", "sum", "product", "quotient", "power", "root"))
    if kind in ("sum", "product"):
        return Tree(
            kind, tuple(drawn_tree(draw, depth - 1, variables) for _ in range(draw.choice((2, 2, 3))))
        )
    if kind == "quotient":
        return Tree(kind, (drawn_tree(draw, depth - 1, variables), drawn_tree(draw, depth - 1, variables)))
    return Tree(kind, (drawn_tree(draw, depth - 1, variables), draw.choice((2, 3))))


def value(tree: Tree, at: Value) -> float:
    kind, parts = tree
    if kind == "number":
        return float(parts[0])
    if kind == "variable":
        return at[parts[0]]
    if kind in ("power", "root"):
        return value(parts[0], at) ** (parts[1] if kind == "power" else 1 / parts[1])
    values = [value(part, at) for part in parts]
    if kind == "quotient":
        return values[0] / values[1]
    product = 1.0
    for each in values:
        product *= each
    return sum(values) if kind == "sum" else product


def rewritten(draw: random.Random, tree: Tree) -> Tree:
    """The same value: other orders, one factor multiplied out, a fraction expanded, a root as a power."""
    kind, parts = tree
    if kind in ("number", "variable"):
        return tree
    if kind in ("power", "root"):
        return Tree(kind, (rewritten(draw, parts[0]), parts[1]))
    parts = [rewritten(draw, part) for part in parts]
    if kind == "quotient":
        if draw.random() < 0.2:
            factor = Tree("number", (draw.randint(2, 5),))
            parts = [Tree("product", (factor, part)) for part in parts]
        return Tree(kind, tuple(parts))
    draw.shuffle(parts)
    if kind == "product" and draw.random() < 0.4:
        of_sum = next((part for part in parts if part.kind == "sum"), None)
        if of_sum is not None:
            parts.remove(of_sum)
            return Tree("sum", tuple(Tree("product", (*parts, term)) for term in of_sum.parts))
    return Tree(kind, tuple(parts))


def altered(draw: random.Random, tree: Tree) -> Tree:
    """Another value: one number is another, or one operation."""
    kind, parts = tree
    if kind == "number":
        return Tree(kind, (parts[0] + draw.choice((1, 2, 10)),))
    if kind == "variable":
        return Tree("sum", (tree, Tree("number", (draw.randint(1, 3),))))
    if kind in ("power", "root"):
        return (
            Tree(kind, (altered(draw, parts[0]), parts[1]))
            if draw.random() < 0.5
            else Tree(kind, (parts[0], 4))
        )
    i = draw.randrange(len(parts))
    return Tree(kind, (*parts[:i], altered(draw, parts[i]), *parts[i + 1 :]))


def latex(draw: random.Random, tree: Tree) -> str:
    kind, parts = tree
    if kind in ("number", "variable"):
        return str(parts[0])
    if kind == "sum":
        return draw.choice(("+", " + ")).join(latex(draw, part) for part in parts)
    if kind == "root":
        index = "" if parts[1] == 2 else f"[{parts[1]}]"
        return rf"\sqrt{index}{{{latex(draw, parts[0])}}}"
    if kind == "power":
        base = latex(draw, parts[0])
        base = base if parts[0].kind in ("number", "variable") else _parenthesised(draw, base)
        return f"{base}^{draw.choice((str(parts[1]), f'{{{parts[1]}}}'))}"
    if kind == "quotient":
        over, under = (latex(draw, part) for part in parts)
        if draw.random() < 0.15 and {part.kind for part in parts} <= {"number", "variable"}:
            return f"{over}/{under}"
        return rf"\{draw.choice('dt ').strip()}frac{{{over}}}{{{under}}}"
    factors = [latex(draw, part) for part in parts]
    factors = [
        _parenthesised(draw, factor) if part.kind in ("sum", "product") or "/" in factor else factor
        for part, factor in zip(parts, factors, strict=True)
    ]
    text = factors[0]
    for factor in factors[1:]:
        is_clear = not factor[0].isdigit() and "frac" not in factor[:6] and factor[0] != text[-1]
        glued = is_clear and draw.random() < 0.5
        text += factor if glued else draw.choice((r"\cdot ", r" \times ", r" \cdot ")) + factor
    return text


def _parenthesised(draw: random.Random, text: str) -> str:
    return draw.choice((f"({text})", rf"\left({text}\right)"))


def written(draw: random.Random, tree: Tree) -> tuple[str, str]:
    """Two ways of writing one expression."""
    return latex(draw, tree), latex(draw, rewritten(draw, tree))


def differ(one: Tree, two: Tree) -> bool:
    return any(abs(value(one, at) - value(two, at)) > 1e-6 * abs(value(one, at)) for at in POINTS)


def expressions(draw: random.Random) -> Pair:
    tree = drawn_tree(draw, draw.choice((1, 2, 2, 3)))
    reference, candidate = written(draw, tree)
    other = altered(draw, tree)
    if draw.random() < 0.4 and differ(tree, other):
        return Pair(reference, latex(draw, rewritten(draw, other)), False)
    return Pair(reference, candidate, True)


def numbers(draw: random.Random) -> Pair:
    over, under = draw.randint(1, 400), draw.choice((1, 2, 4, 5, 8, 10, 3, 7))
    exact = fractions.Fraction(over, under)

    def ways(number: fractions.Fraction) -> list[str]:
        top, bottom, k = number.numerator, number.denominator, draw.randint(2, 9)
        found = [rf"\frac{{{top}}}{{{bottom}}}", f"{top}/{bottom}", rf"\dfrac{{{k * top}}}{{{k * bottom}}}"]
        if bottom == 1:
            found += [str(top), f"{top}.0", rf"\sqrt{{{top * top}}}"]
        elif not 10**4 % bottom:
            found += [f"{float(number)}", f"{float(number)}0"]
        if number > 1 and bottom > 1:
            found.append(rf"{top // bottom}\frac{{{top % bottom}}}{{{bottom}}}")
        return found

    other = exact + draw.choice((1, -3, fractions.Fraction(1, 10), fractions.Fraction(1, under)))
    is_match = draw.random() < 0.6
    return Pair(
        draw.choice(ways(exact)),
        draw.choice(ways(exact if is_match or other < 0 else other)),
        is_match or other < 0,
    )


UNITS = (
    ("cm", "centimeters", r"\text{ cm}", r"\,\mathrm{cm}"),
    ("square meters", r"\text{ m}^2", r"\text{ square meters}"),
    ("mph", "miles per hour", r"\text{ miles per hour}", r"\text{ mph}"),
    (r"\%", "percent", "pct", "per cent", r"\text{ percent}", "%"),
    ("degrees", r"^\circ", r"^{\circ}", r"\text{ degrees}"),
    ("hours", r"\text{ hours}", r"\ \text{hr}"),
    ("dollars", r"\text{ dollars}"),
    ("chickens", r"\text{ chickens}"),
    ("red balls", r"\text{ red balls}"),
    ("marbles in the box", r"\text{ marbles in the box}"),
)


def quantities(draw: random.Random) -> Pair:
    number, units = draw.randint(2, 900), draw.choice(UNITS)
    one, two = draw.choice(units), draw.choice((*units, ""))
    other_units = draw.choice([other for other in UNITS if other is not units])
    kind = draw.random()

    def of(count: int, unit: str) -> str:
        return f"{count}{' ' if unit[:1].isalpha() else ''}{unit}"

    if kind < 0.6:
        return Pair(of(number, one), of(number, two), True)
    if kind < 0.8:
        return Pair(of(number, one), of(number + draw.randint(1, 9), two), False)
    return Pair(of(number, one), of(number, draw.choice(other_units)), False)


def lists(draw: random.Random) -> Pair:
    trees: list[Tree] = []
    for _ in range(200):
        tree = drawn_tree(draw, draw.choice((0, 1)), draw.choice(("", "x")))
        if all(differ(tree, other) for other in trees):
            trees.append(tree)
        if len(trees) == 12:
            break
    trees = trees[: draw.randint(2, 12)]
    name = draw.choice(("", "", "x=", r"x \in "))
    again = [rewritten(draw, tree) for tree in trees]
    is_match = draw.random() < 0.6
    if not is_match:
        change = draw.choice(("drop", "alter"))
        if change == "drop":
            del again[draw.randrange(len(again))]
        else:
            i = draw.randrange(len(again))
            again[i] = altered(draw, again[i])
            if any(not differ(again[i], tree) for tree in trees):
                del again[i]
    draw.shuffle(again)

    def text(items: list[str], name: str) -> str:
        way = draw.random()
        if way < 0.35 or name.endswith("in "):
            return rf"{name}\{{{', '.join(items)}\}}"
        if way < 0.55 and len(items) > 1:
            last = draw.choice((" and ", r"\text{ and }", r" \text{ or } ", r"\text{, and }", " or "))
            return name + ", ".join(items[:-1]) + last + items[-1]
        if way < 0.7 and name:
            return ", ".join(name + item for item in items)
        return name + draw.choice((", ", ",", r",\ ")).join(items)

    return Pair(
        text([latex(draw, t) for t in trees], ""), text([latex(draw, t) for t in again], name), is_match
    )


def intervals(draw: random.Random) -> Pair:
    low = draw.randint(-20, 10)
    high = low + draw.randint(1, 20)
    ends = draw.choice(("()", "[)", "(]", "[]"))
    infinite, x = draw.choice(("", "", "low", "high")), draw.choice("xtm")

    def text(low: int, high: int, ends: str) -> str:
        left, right = {"(": "<", "[": r"\le "}[ends[0]], {")": "<", "]": r"\le "}[ends[1]]
        mirror = {"<": ">", r"\le ": r"\ge "}
        if infinite == "low":
            bounds = draw.choice((f"{x}{right}{high}", f"{high}{mirror[right]}{x}"))
            bracket = rf"(-\infty, {high}{ends[1]}"
        elif infinite == "high":
            bounds = draw.choice((f"{x}{mirror[left]}{low}", f"{low}{left}{x}"))
            bracket = rf"{ends[0]}{low}, {draw.choice(('', '+'))}\infty)"
        else:
            bounds = draw.choice((
                f"{low}{left}{x}{right}{high}", f"{high}{mirror[right]}{x}{mirror[left]}{low}",
                rf"{x}{mirror[left]}{low} \text{{ and }} {x}{right}{high}",
                f"{low}{left}{x}, {x}{right}{high}",
            ))  # fmt: skip
            bracket = f"{ends[0]}{low}, {high}{ends[1]}"
        return draw.choice((
            bracket, rf"{x} \in {bracket}", bounds, rf"\left{bracket[0]}{bracket[1:-1]}\right{bracket[-1]}",
            rf"\{{{x} : {bounds}\}}" if "and" not in bounds and "," not in bounds else bounds,
        ))  # fmt: skip

    if draw.random() < 0.6:
        return Pair(text(low, high, ends), text(low, high, ends), True)
    other = (low + 1, high + 1, ends)
    if not infinite and draw.random() < 0.5:
        other = (low, high, draw.choice([form for form in ("()", "[)", "(]", "[]") if form != ends]))
    return Pair(text(low, high, ends), text(*other), False)


def equations(draw: random.Random) -> Pair:
    while True:
        left, right = drawn_tree(draw, 1, "xy"), drawn_tree(draw, 1, "xy")
        kinds = {
            part.kind for tree in (left, right) for part in (tree, *tree.parts) if isinstance(part, Tree)
        }
        moved = Tree("sum", (left, Tree("product", (Tree("number", (-1,)), right))))
        if "variable" in kinds and abs(value(moved, POINTS[0]) - value(moved, POINTS[1])) > 1e-3:
            break
    if left.kind in ("variable", "number") or right.kind in ("variable", "number"):
        left, right = (
            Tree("sum", (side, Tree("variable", ("y",)), Tree("variable", ("x",)))) for side in (left, right)
        )
        right = Tree("product", (right, Tree("number", (2,))))
    sides = [latex(draw, left), latex(draw, right)]
    number = Tree("number", (draw.randint(2, 5),))
    again = draw.choice((
        (left, right),
        (right, left),
        (Tree("product", (number, left)), Tree("product", (number, right))),
        (Tree("sum", (left, number)), Tree("sum", (right, number))),
    ))  # fmt: skip
    is_match = draw.random() < 0.6
    if not is_match:
        again = (altered(draw, again[0]), again[1])
        ratios = [
            (value(again[0], at) - value(again[1], at)) / (value(left, at) - value(right, at))
            for at in POINTS
        ]
        is_match = abs(ratios[0] - ratios[1]) < 1e-6 * abs(ratios[0])
    texts = [latex(draw, rewritten(draw, side)) for side in again]
    return Pair("=".join(sides), " = ".join(texts), is_match)


def worded(draw: random.Random) -> Pair:
    reference, candidate, is_match = draw.choice((numbers, expressions, intervals, quantities))(draw)
    around = draw.choice((
        r"\boxed{%s}", r"The answer is \boxed{%s}.", r"$$\boxed{%s}$$", "The answer is $%s$.",
        "Therefore, $%s$ is the answer.", r"**Final Answer:** \(%s\)", "Answer: %s", r"\[%s\]",
        r"First \boxed{0}, but then \boxed{%s}. I hope it is correct.",
    ))  # fmt: skip
    return Pair(reference, around.replace("%s", candidate), is_match)


KINDS: dict[str, Callable[[random.Random], Pair]] = {
    kind.__name__: kind for kind in (expressions, numbers, quantities, lists, intervals, equations, worded)
}


def pairs(kind: str, num: int, seed: int) -> list[Pair]:
    draw = random.Random(f"{kind} {seed}")
    return [KINDS[kind](draw) for _ in range(num)]
