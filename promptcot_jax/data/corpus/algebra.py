"""Mathematics families of algebra: series, systems, quadratics, recurrences, mixtures, work."""

import random

from promptcot_jax.data.corpus.families import MathFamily, Scene, Thoughts, Values


def _draw_series(draw: random.Random) -> Values:
    return {"start": draw.randint(5, 60), "step": draw.randint(2, 12), "terms": draw.randint(8, 40)}


def _solve_series(start: int, step: int, terms: int) -> Values:
    last = start + (terms - 1) * step
    return {"value": terms * (start + last) // 2, "last": last, "gaps": terms - 1, "ends": start + last}


SERIES = MathFamily(
    name="arithmetic_series",
    concepts=("arithmetic series", "linear growth", "pairing terms"),
    level=1,
    thoughts=Thoughts(
        goals=(
            "adds up a quantity that grows evenly",
            "makes a long steady sum easy for those who pair its ends",
        ),
        difficulties=(
            "the last term must be found first and there is one gap fewer than terms",
            "adding term by term is possible but far too slow",
        ),
        reason="equal growth makes all pairs from opposite ends equal, so only first and last term matter",
        skeleton="a sum of {terms} evenly growing terms",
        steps=(
            "Begin at {start}, so that the first term is not trivial.",
            "Let every further term grow by {step}.",
            "Stop after {terms} terms, too many to add singly.",
        ),
        blueprint=("terms {terms}", "first {start}", "difference {step}"),
    ),
    scenes=(
        Scene(
            label="theatre seats",
            facts="A theatre has {terms} rows. The front row has {start} seats, and each later row has {step} seats "
            "more than the row before it.",
            quantity="the total number of seats",
        ),
        Scene(
            label="daily savings",
            facts="For {terms} days {name} puts coins into a jar: {start} on the first day and then {step} more "
            "each day than on the previous one.",
            quantity="the number of coins in the jar at the end",
        ),
        Scene(
            label="bare sequence",
            facts="An arithmetic progression of {terms} terms starts with {start} and has common difference {step}.",
            quantity="the sum of its terms",
        ),
    ),
    work="There are {gaps} gaps, so the last term is {start} + {gaps} * {step} = {last}. Pairing ends, the sum is "
    "{terms} * ({start} + {last}) / 2 = {terms} * {ends} / 2 = {value}.",
    draw=_draw_series,
    solve=_solve_series,
)


def _draw_growth(draw: random.Random) -> Values:
    return {"start": draw.randint(2, 60), "ratio": draw.randint(2, 5), "terms": draw.randint(4, 8)}


def _solve_growth(start: int, ratio: int, terms: int) -> Values:
    power = ratio**terms
    return {"value": start * (power - 1) // (ratio - 1), "power": power, "less": ratio - 1}


GROWTH = MathFamily(
    name="geometric_series",
    concepts=("geometric series", "exponential growth", "telescoping"),
    level=2,
    thoughts=Thoughts(
        goals=(
            "adds up a quantity that multiplies from stage to stage",
            "shows how fast repeated multiplication piles up",
        ),
        difficulties=(
            "all stages count and not only the last one",
            "the closed form needs the power one beyond the last stage",
        ),
        reason="multiplying the sum by the ratio shifts it by one stage, and the difference telescopes",
        skeleton="{terms} stages that multiply by a fixed ratio",
        steps=(
            "Start the first stage with {start}.",
            "Multiply by {ratio} from each stage to the next.",
            "Add all {terms} stages instead of asking for the last.",
        ),
        blueprint=("first {start}", "ratio {ratio}", "stages {terms}"),
    ),
    scenes=(
        Scene(
            label="spreading rumour",
            facts="On day one {start} people hear a rumour. Each following day the number of new listeners is {ratio} "
            "times that of the day before.",
            quantity="the number of people who know it after {terms} days",
        ),
        Scene(
            label="paper folding club",
            facts="{name} folds {start} cranes in week one and in every later week {ratio} times as many as in "
            "the week before, for {terms} weeks.",
            quantity="the total number of cranes",
        ),
        Scene(
            label="bare sequence",
            facts="A geometric progression has first term {start} and common ratio {ratio}.",
            quantity="the sum of its first {terms} terms",
        ),
    ),
    work="Let S be the sum. Then {ratio} * S - S leaves only the ends, {start} * {ratio}^{terms} - {start}. So S = "
    "{start} * ({power} - 1) / {less} = {value}.",
    draw=_draw_growth,
    solve=_solve_growth,
)


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
        reason="count and worth are independent linear conditions, so eliminating one unknown settles the other",
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
            facts="A cinema sold {count} tickets, at {high} coins for adults and {low} coins for children, and took "
            "{sum} coins.",
            quantity="the number of adult tickets",
        ),
        Scene(
            label="quiz points",
            facts="{name} answered {count} quiz questions; hard ones gave {high} points and easy ones {low}. "
            "All answers were right, for {sum} points.",
            quantity="the number of hard questions",
        ),
        Scene(
            label="two unknowns",
            facts="Integers x and y satisfy x + y = {count} and {high}x + {low}y = {sum}.",
            quantity="the value of x",
        ),
    ),
    work="If all {count} were of the cheaper kind, the total would be {low} * {count} = {base}. The missing "
    "{sum} - {base} = {excess} comes from steps of {high} - {low} = {gap}, so there are {excess} / {gap} = {value}.",
    draw=_draw_system,
    solve=_solve_system,
)


def _draw_vieta(draw: random.Random) -> Values:
    return {"sum": draw.randint(9, 60), "product": draw.randint(2, 20)}


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
            "Give it the product {product}, so the members are irrational.",
            "Want the squares added, which needs neither member.",
        ),
        blueprint=("sum {sum}", "product {product}", "wanted sum of squares"),
    ),
    scenes=(
        Scene(
            label="quadratic roots",
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
    work="Only sum and product of the two numbers are needed. Squaring the sum gives r^2 + 2rs + s^2, so r^2 + s^2 = "
    "{sum}^2 - 2 * {product} = {square} - {twice} = {value}.",
    draw=_draw_vieta,
    solve=_solve_vieta,
)


def _draw_recurrence(draw: random.Random) -> Values:
    return {
        "p": draw.randint(1, 3),
        "q": draw.randint(1, 4),
        "first": draw.randint(1, 9),
        "second": draw.randint(1, 12),
        "index": draw.randint(5, 8),
    }


def _solve_recurrence(p: int, q: int, first: int, second: int, index: int) -> Values:
    terms = [first, second]
    while len(terms) < index:
        terms.append(p * terms[-1] + q * terms[-2])
    return {"value": terms[-1], "terms": ", ".join(map(str, terms))}


RECURRENCE = MathFamily(
    name="recurrence",
    concepts=("linear recurrences", "sequences", "iteration"),
    level=2,
    thoughts=Thoughts(
        goals=(
            "unrolls a rule that looks back at earlier values",
            "lets a short rule generate quickly growing values",
        ),
        difficulties=(
            "the weights must be applied to the right predecessors at every stage",
            "an early slip grows with every further term",
        ),
        reason="each term needs just its predecessors, so a rule and its initial values fix everything",
        skeleton="a second-order rule with the weights {p} and {q}",
        steps=(
            "Weight the latest term by {p} and the one before by {q}.",
            "Seed the rule with {first} and {second}.",
            "Ask for term number {index}, a few iterations away.",
        ),
        blueprint=("seeds {first}, {second}", "weights {p}, {q}", "index {index}"),
    ),
    scenes=(
        Scene(
            label="bare sequence",
            facts="A sequence has a_1 = {first}, a_2 = {second} and a_(n+2) = {p} a_(n+1) + {q} a_n for all n >= 1.",
            quantity="the term a_{index}",
        ),
        Scene(
            label="fish pond",
            facts="A pond holds {first} fish in year 1 and {second} in year 2. From then on each year's count is {p} "
            "times last year's plus {q} times the count of the year before that.",
            quantity="the number of fish in year {index}",
        ),
        Scene(
            label="calculator game",
            facts="{name} writes {first}, then {second}, and goes on: each new number is {p} times the last one plus "
            "{q} times the one before the last.",
            quantity="the number written in position {index}",
        ),
    ),
    work="Apply the rule term by term, {p} times the latest plus {q} times the one before. The sequence runs {terms}, "
    "so term {index} is {value}.",
    draw=_draw_recurrence,
    solve=_solve_recurrence,
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
        blueprint=("volume {volume} at {strong}", "thinner {weak}", "target {target}", "wanted thinner volume"),
    ),
    scenes=(
        Scene(
            label="chemistry bench",
            facts="{name} has {volume} ml of a {strong}% acid and adds a {weak}% acid until the mixture is a "
            "{target}% acid.",
            quantity="the number of millilitres added",
        ),
        Scene(
            label="juice stall",
            facts="A stall blends {volume} cups of drink with {strong}% juice and some drink with {weak}% juice into "
            "a drink with {target}% juice.",
            quantity="the number of cups of the weaker drink",
        ),
    ),
    work="Each unit of {strong}% lies {up} points above the target, each unit of {weak}% lies {down} below. These "
    "balance when {volume} * {up} = x * {down}, so x = {value}.",
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
        skeleton="a filling process at {fast} per minute that gains a helper later and loses {leak} throughout",
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
            facts="An empty tank of {capacity} litres gets {fast} litres a minute from a pump but leaks {leak} a "
            "minute. After {wait} minutes a second pump adds {slow} a minute.",
            quantity="the number of minutes from start to full",
        ),
        Scene(
            label="bakery stock",
            facts="A bakery needs {capacity} rolls on its shelf. It bakes {fast} and sells {leak} a minute; when "
            "{wait} minutes have passed, {name} bakes {slow} more a minute.",
            quantity="the number of minutes until the stock is reached",
        ),
    ),
    work="First the net rate is {fast} - {leak} = {alone}, giving {early} in {wait} minutes. The other {rest} come at "
    "{joint} a minute and take {later} minutes. In all that is {wait} + {later} = {value}.",
    draw=_draw_tank,
    solve=_solve_tank,
)

FAMILIES = (SERIES, GROWTH, SYSTEM, VIETA, RECURRENCE, MIXTURE, TANK)
