"""Mathematics families about unknowns: linear systems, quadratics, mixtures, rates."""

import random

from promptcot_jax.corpus.families import MathFamily, Scene, Thoughts, Values


def _draw_system(draw: random.Random) -> Values:
    low, high = sorted(draw.sample(range(2, 15), 2))
    many, few = draw.randint(12, 90), draw.randint(12, 90)
    return {"high": high, "low": low, "count": many + few, "sum": many * high + few * low}


def _solve_system(high: int, low: int, count: int, sum: int) -> Values:
    return {
        "value": (sum - low * count) // (high - low),
        "base": low * count,
        "excess": sum - low * count,
        "gap": high - low,
    }


SYSTEM = MathFamily(
    name="linear_system",
    concepts=("linear systems", "elimination", "integer unknowns"),
    level=1,
    thoughts=Thoughts(
        goals=(
            "separates a mixed collection by its count and its worth",
            "hides a pair of unknowns behind their joint totals",
        ),
        difficulties=(
            "neither total settles anything alone",
            "guessing is slow while one substitution settles it",
        ),
        reason="count and worth are independent linear conditions, so eliminating one unknown settles the "
        "other",
        skeleton="two kinds worth {high} and {low} that are known only by totals",
        steps=(
            "Let the kinds be worth {high} and {low} each.",
            "Reveal the joint count {count}.",
            "Reveal the joint worth {sum} and ask for the dearer kind.",
        ),
        blueprint=("count {count}", "worths {high} and {low}", "joint worth {sum}", "wanted the dearer kind"),
    ),
    scenes=(
        Scene(
            label="cinema tickets",
            facts="A cinema sold {count} tickets, at {high} coins for adults and {low} coins for children, "
            "and took {sum} coins.",
            quantity="the number of adult tickets",
        ),
        Scene(
            label="quiz points",
            facts="{name} answered {count} quiz questions; hard ones gave {high} points and easy ones {low}. "
            "All answers were right, for {sum} points.",
            quantity="the number of hard questions",
        ),
        Scene(
            label="bare equations",
            facts="Integers x and y satisfy x + y = {count} and {high}x + {low}y = {sum}.",
            quantity="the value of x",
        ),
    ),
    work="If all {count} were of the cheaper kind, the total would be {low} * {count} = {base}. The missing "
    "{sum} - {base} = {excess} comes from steps of {high} - {low} = {gap}, so there are {excess} / {gap} = "
    "{value}.",
    draw=_draw_system,
    solve=_solve_system,
)


def _draw_vieta(draw: random.Random) -> Values:
    return {"sum": draw.randint(9, 99), "product": draw.randint(2, 20)}


def _solve_vieta(sum: int, product: int) -> Values:
    return {"value": sum * sum - 2 * product, "square": sum * sum, "twice": 2 * product}


VIETA = MathFamily(
    name="vieta",
    concepts=("Vieta's formulas", "quadratic equations", "symmetric expressions"),
    level=2,
    thoughts=Thoughts(
        goals=(
            "asks about a pair of numbers that nobody should compute",
            "rewards a symmetric view of the roots of a quadratic",
        ),
        difficulties=(
            "the roots are ugly and only their sum and product are needed",
            "solving for each root leads into messy radicals",
        ),
        reason="a symmetric expression depends on sum and product alone, and the coefficients show both",
        skeleton="a pair of unknowns with sum {sum} and a known product, asked for symmetrically",
        steps=(
            "Give the pair the total {sum}.",
            "Give it the product {product}; the members need not be whole.",
            "Want the squares added, which needs neither member.",
        ),
        blueprint=("sum {sum}", "product {product}", "wanted sum of squares"),
    ),
    scenes=(
        Scene(
            label="bare quadratic",
            facts="The equation x^2 - {sum}x + {product} = 0 has the roots r and s.",
            quantity="the value of r^2 + s^2",
        ),
        Scene(
            label="rectangle diagonal",
            facts="A rectangle has area {product}, and its length and width add up to {sum}.",
            quantity="the square of the length of its diagonal",
        ),
        Scene(
            label="two numbers",
            facts="{name} thinks of two real numbers whose sum is {sum} and whose product is {product}.",
            quantity="the sum of their squares",
        ),
    ),
    work="Only sum and product of the two numbers are needed. Squaring the sum gives r^2 + 2rs + s^2, so r^2 "
    "+ s^2 = {sum}^2 - 2 * {product} = {square} - {twice} = {value}.",
    draw=_draw_vieta,
    solve=_solve_vieta,
)


def _draw_mixture(draw: random.Random) -> Values:
    weak, target, strong = sorted(draw.sample(range(5, 90, 5), 3))
    volume = (target - weak) * draw.randint(2, 30)
    return {"weak": weak, "strong": strong, "target": target, "volume": volume}


def _solve_mixture(weak: int, strong: int, target: int, volume: int) -> Values:
    up, down = strong - target, target - weak
    return {"value": volume * up // down, "up": up, "down": down}


MIXTURE = MathFamily(
    name="mixture",
    concepts=("mixtures", "percentages", "weighted averages"),
    level=2,
    thoughts=Thoughts(
        goals=(
            "dilutes one solution with another until a target is met",
            "balances strengths like weights on a lever",
        ),
        difficulties=(
            "amounts and percentages must not be averaged as if the volumes were equal",
            "the unknown volume appears in the total as well",
        ),
        reason="the excess of one liquid must cancel the lack of the other, as with weights on a lever",
        skeleton="two liquids of {strong} and {weak} percent that are blended to a target in between",
        steps=(
            "Fix {volume} units of the strong liquid at {strong} percent.",
            "Thin it with a liquid of {weak} percent.",
            "Demand {target} percent for the blend and ask for the added amount.",
        ),
        blueprint=(
            "volume {volume} at {strong}",
            "thinner {weak}",
            "target {target}",
            "wanted thinner volume",
        ),
    ),
    scenes=(
        Scene(
            label="chemistry bench",
            facts="{name} has {volume} ml of acid at {strong}% and adds acid at {weak}% until the mixture is "
            "at {target}%.",
            quantity="the number of millilitres added",
        ),
        Scene(
            label="juice stall",
            facts="A stall blends {volume} cups of drink with {strong}% juice and some drink with {weak}% "
            "juice into a drink with {target}% juice.",
            quantity="the number of cups of the weaker drink",
        ),
    ),
    work="Each unit of {strong}% lies {up} points above the target, each unit of {weak}% lies {down} below. "
    "These balance when {volume} * {up} = x * {down}, so x = {value}.",
    draw=_draw_mixture,
    solve=_solve_mixture,
)


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
    rest = capacity - wait * alone
    return {
        "value": wait + rest // joint,
        "alone": alone,
        "early": wait * alone,
        "rest": rest,
        "joint": joint,
        "later": rest // joint,
    }


TANK = MathFamily(
    name="filling_rates",
    concepts=("rates of work", "net flow", "piecewise processes"),
    level=2,
    thoughts=Thoughts(
        goals=(
            "fills something while it loses a part again",
            "splits a process in phases with different speeds",
        ),
        difficulties=(
            "the loss acts in every phase and the helper only in the later one",
            "a single average speed does not exist",
        ),
        reason="within a phase the net rate is constant, so every phase is one product",
        skeleton="a filling process at {fast} per minute that gains a helper later and loses {leak} "
        "throughout",
        steps=(
            "Let the main source run at {fast} a minute against a loss of {leak}.",
            "Add a helper at {slow} a minute after {wait} minutes.",
            "Fix the amount {capacity} and ask for the whole time.",
        ),
        blueprint=(
            "amount {capacity}",
            "main rate {fast}",
            "loss {leak}",
            "helper {slow} after {wait}",
            "wanted whole time",
        ),
    ),
    scenes=(
        Scene(
            label="leaking tank",
            facts="An empty tank of {capacity} litres gets {fast} litres a minute from a pump but leaks "
            "{leak} a minute. After {wait} minutes a second pump adds {slow} a minute.",
            quantity="the number of minutes from start to full",
        ),
        Scene(
            label="bakery stock",
            facts="A bakery needs {capacity} rolls on its shelf. It bakes {fast} and sells {leak} a minute; "
            "when {wait} minutes have passed, {name} bakes {slow} more a minute.",
            quantity="the number of minutes until the stock is reached",
        ),
    ),
    work="First the net rate is {fast} - {leak} = {alone}, giving {early} in {wait} minutes. The other "
    "{rest} come at {joint} a minute and take {later} minutes. In all that is {wait} + {later} = {value}.",
    draw=_draw_tank,
    solve=_solve_tank,
)

FAMILIES = (SYSTEM, VIETA, MIXTURE, TANK)
