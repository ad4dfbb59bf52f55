"""Programming families over lists of numbers: prefix sums, windows, frequencies, binary search.

A `program` is the efficient solution; `reference` searches plainly over the small instances that become
tests, so that running the one against the other checks both.
"""

import random

from promptcot_jax.corpus.families import ProgramFamily, Scene, Thoughts, Values

_LIST_FORMAT = "n (1 <= n <= {most}) and n integers from {low} to {high}"


def _draw_sizes(draw: random.Random) -> Values:
    return {"most": draw.choice((200, 500, 1000, 2000, 5000, 20000)), "low": 1, "high": draw.randint(5, 60)}


def _numbers(draw: random.Random, values: Values, shortest: int = 1) -> str:
    length = draw.randint(shortest, 8)
    return f"{length}\n" + " ".join(
        str(draw.randint(int(values["low"]), int(values["high"]))) for _ in range(length)
    )


def _draw_prefix(draw: random.Random) -> Values:
    low, high = -draw.randint(1, 9), draw.randint(2, 9)
    return {**_draw_sizes(draw), "low": low, "high": high, "target": draw.randint(low, high)}


def _count_segments(words: list[str], values: Values) -> int:
    numbers = [int(word) for word in words[1:]]
    ends = range(len(numbers) + 1)
    return sum(sum(numbers[i:j]) == values["target"] for j in ends for i in range(j))


PREFIX_SUMS = ProgramFamily(
    name="prefix_sums",
    concepts=("prefix sums", "hash maps", "subarrays"),
    level=3,
    thoughts=Thoughts(
        goals=(
            "counts stretches of a list by their sum",
            "replaces a search over stretches by a lookup",
        ),
        difficulties=(
            "negative entries rule out a sliding window",
            "trying all stretches is too slow for long lists",
        ),
        reason="the sum of a stretch is a difference of prefix sums, and a map counts the earlier ones",
        skeleton="signed lists of up to {most} entries whose contiguous parts are counted by sum",
        steps=(
            "Permit entries between {low} and {high}, so signs vary and windows fail.",
            "Count contiguous parts that sum to exactly {target}.",
            "Set the length limit {most}, which needs a hash map.",
        ),
        blueprint=("length up to {most}", "entries {low} to {high}", "target sum {target}"),
    ),
    scenes=(
        Scene(
            label="bank account",
            facts="{name} notes every deposit and withdrawal of an account in order.",
            quantity="the number of runs of consecutive entries with sum {target}",
        ),
        Scene(
            label="bare list",
            facts="",
            quantity="the number of contiguous nonempty subarrays with sum {target}",
        ),
    ),
    input_format=_LIST_FORMAT,
    program="""n = int(next(tokens))
seen = dict([(0, 1)])
prefix = count = 0
for _ in range(n):
    prefix += int(next(tokens))
    count += seen.get(prefix - {target}, 0)
    seen[prefix] = seen.get(prefix, 0) + 1
return count""",
    draw=_draw_prefix,
    instance=_numbers,
    reference=_count_segments,
)


def _best_window(words: list[str], values: Values) -> int:
    numbers, width = [int(word) for word in words[1:]], int(values["width"])
    return max(sum(numbers[i : i + width]) for i in range(len(numbers) - width + 1))


WINDOWS = ProgramFamily(
    name="sliding_window",
    concepts=("sliding windows", "running sums", "arrays"),
    level=2,
    thoughts=Thoughts(
        goals=(
            "finds the richest stretch of fixed length",
            "updates a sum while it moves along a list",
        ),
        difficulties=(
            "summing every stretch anew repeats nearly all the work",
            "the entry that leaves must be removed when another one arrives",
        ),
        reason="neighbouring windows share all but two entries, so the running sum is updated at once",
        skeleton="windows of a fixed width over lists of up to {most} entries",
        steps=(
            "Fix the window width {width} in the statement.",
            "Bound entries by {high}, all positive.",
            "Permit lengths from the width up to {most}, so recomputation is wasteful.",
        ),
        blueprint=("length {width} to {most}", "entries 1 to {high}", "width {width}", "wanted largest sum"),
    ),
    scenes=(
        Scene(
            label="weather station",
            facts="A weather station records the rainfall of n days.",
            quantity="the largest total over {width} days in a row",
        ),
        Scene(
            label="shop takings",
            facts="{name} runs a shop and wants to know its best stretch of {width} successive days.",
            quantity="the highest income of such a stretch",
        ),
    ),
    input_format="n ({width} <= n <= {most}) and n integers from {low} to {high}",
    program="""n = int(next(tokens))
a = [int(next(tokens)) for _ in range(n)]
best = window = sum(a[:{width}])
for i in range({width}, n):
    window += a[i] - a[i - {width}]
    best = max(best, window)
return best""",
    draw=lambda draw: {**_draw_sizes(draw), "width": draw.randint(2, 6)},
    instance=lambda draw, values: _numbers(draw, values, shortest=int(values["width"])),
    reference=_best_window,
)


def _repeated_numbers(draw: random.Random, values: Values) -> str:
    """Few different values, each about as often as the limit."""
    numbers = [
        value for value in (1, 2, 4) for _ in range(max(0, int(values["least"]) + draw.randint(-2, 1)))
    ] or [3]
    draw.shuffle(numbers)
    return f"{len(numbers)}\n" + " ".join(map(str, numbers))


def _count_frequent(words: list[str], values: Values) -> int:
    return sum(words[1:].count(word) >= int(values["least"]) for word in set(words[1:]))


FREQUENCIES = ProgramFamily(
    name="frequencies",
    concepts=("frequency tables", "counting sort", "distinct values"),
    level=1,
    thoughts=Thoughts(
        goals=(
            "asks which values repeat often enough",
            "needs a tally and then a look at the tally",
        ),
        difficulties=(
            "values must be counted once each and not once per occurrence",
            "comparing all pairs of entries takes too long",
        ),
        reason="the values are few and bounded, so one table of counts replaces all comparisons",
        skeleton="lists of up to {most} small values, tallied by value",
        steps=(
            "Bound the values by {high}, so a table fits.",
            "Ask for values that occur at least {least} times.",
            "Set the length limit {most}, too long for quadratic work.",
        ),
        blueprint=("length up to {most}", "values 1 to {high}", "occurrences at least {least}"),
    ),
    scenes=(
        Scene(
            label="election",
            facts="In an election every ballot shows the number of one candidate.",
            quantity="the number of candidates with {least} or more ballots",
        ),
        Scene(
            label="stamp album",
            facts="{name} sorts stamps by their printed value.",
            quantity="the number of different values found on at least {least} stamps",
        ),
    ),
    input_format=_LIST_FORMAT,
    program="""n = int(next(tokens))
table = [0] * ({high} + 1)
for _ in range(n):
    table[int(next(tokens))] += 1
return sum(c >= {least} for c in table)""",
    draw=lambda draw: {**_draw_sizes(draw), "least": draw.randint(2, 6)},
    instance=_repeated_numbers,
    reference=_count_frequent,
)


def _longest_piece(words: list[str], values: Values) -> int:
    lengths = [int(word) for word in words[1:]]
    fitting = [k for k in range(1, max(lengths) + 1) if sum(a // k for a in lengths) >= int(values["pieces"])]
    return max(fitting, default=0)


BINARY_SEARCH = ProgramFamily(
    name="binary_search",
    concepts=("binary search on the answer", "monotone predicates", "integer division"),
    level=3,
    thoughts=Thoughts(
        goals=(
            "searches for the largest size that still works",
            "guesses an outcome and checks it rather than computing it",
        ),
        difficulties=(
            "no formula gives the size and a monotone check must be found",
            "the case that nothing works needs an answer as well",
        ),
        reason="smaller sizes never give fewer pieces, so the check is monotone and can be bisected",
        skeleton="a largest piece size that must yield enough equal pieces from up to {most} rods",
        steps=(
            "Supply up to {most} rods of length at most {high}.",
            "Require {pieces} equal whole pieces in all, without joining.",
            "Maximise the size and define zero for impossible inputs.",
        ),
        blueprint=("rods up to {most}", "lengths 1 to {high}", "pieces {pieces}", "wanted largest size or 0"),
    ),
    scenes=(
        Scene(
            label="carpenter",
            facts="A carpenter cuts rods into equal pieces and needs {pieces} of them; leftovers are thrown "
            "away.",
            quantity="the largest possible integer piece length (0 if there is none)",
        ),
        Scene(
            label="ribbon shop",
            facts="From several ribbons, {name} cuts {pieces} strips of one common integer length; ribbons "
            "are never joined.",
            quantity="the greatest such length (0 if impossible)",
        ),
    ),
    input_format=_LIST_FORMAT,
    program="""n = int(next(tokens))
a = [int(next(tokens)) for _ in range(n)]
low, high = 0, max(a)
while low < high:
    size = (low + high + 1) // 2
    if sum(x // size for x in a) >= {pieces}:
        low = size
    else:
        high = size - 1
return low""",
    draw=lambda draw: {**_draw_sizes(draw), "pieces": draw.randint(3, 25)},
    instance=_numbers,
    reference=_longest_piece,
)

FAMILIES = (PREFIX_SUMS, WINDOWS, FREQUENCIES, BINARY_SEARCH)
