"""Programming families over strings: runs and brackets; `reference` as in `list_programs`."""

import itertools
import random

from promptcot_jax.corpus.families import ProgramFamily, Scene, Thoughts, Values

_LIMITS = (50, 100, 200, 300, 500, 1000, 2000, 3000, 5000, 10000)


def _draw_runs(draw: random.Random) -> Values:
    first, second, third = sorted(draw.sample("abcdefghkmpqrstxyz", 3))
    return {
        "letters": f"{first}, {second} and {third}",
        "alphabet": first + second + third,
        "least": draw.randint(2, 4),
        "most": draw.choice(_LIMITS),
    }


def _letters(draw: random.Random, values: Values) -> str:
    return "".join(
        draw.choice(str(values["alphabet"])) * draw.randint(1, 5) for _ in range(draw.randint(1, 6))
    )


def _count_runs(words: list[str], values: Values) -> int:
    return sum(len(list(group)) >= int(values["least"]) for _, group in itertools.groupby(words[0]))


RUNS = ProgramFamily(
    name="run_lengths",
    concepts=("run-length encoding", "string scanning", "state machines"),
    level=1,
    thoughts=Thoughts(
        goals=(
            "reads a string and notices where letters repeat",
            "splits a text in maximal blocks of equal letters",
        ),
        difficulties=(
            "the last block ends without any change of letter",
            "blocks are maximal and a long one must not be counted twice",
        ),
        reason="one scan with a counter that restarts at each change of letter sees every block once",
        skeleton="strings of up to {most} letters that are cut into maximal blocks",
        steps=(
            "Use only the letters {letters}, so blocks arise often.",
            "Let a block count from length {least} on.",
            "Cap the string at {most} letters and ask how many blocks count.",
        ),
        blueprint=("letters {letters}", "string up to {most}", "block length at least {least}"),
    ),
    scenes=(
        Scene(
            label="bead chain",
            facts="A chain of beads is written as a string over {letters}.",
            quantity="the number of maximal blocks of {least} or more equal beads",
        ),
        Scene(
            label="keyboard log",
            facts="On a worn keyboard {name} presses only the keys {letters}. A burst is a maximal run of "
            "one key.",
            quantity="the number of bursts of length {least} or more",
        ),
    ),
    input_format="a string of 1 to {most} such letters",
    program="""text = next(tokens)
count = run = 0
for i, letter in enumerate(text):
    run = run + 1 if i and text[i - 1] == letter else 1
    count += run == {least}
return count""",
    draw=_draw_runs,
    instance=_letters,
    reference=_count_runs,
)


def _brackets(draw: random.Random, values: Values) -> str:
    text, opened = "", 0
    for _ in range(draw.randint(4, 16)):
        if opened and draw.random() < 0.4:
            text, opened = text + str(values["close"]), opened - 1
        else:
            text, opened = text + str(values["open"]), opened + 1
    return text + str(values["close"]) * opened


def _count_depth(words: list[str], values: Values) -> int:
    text = words[0]
    prefixes = (text[: i + 1] for i, letter in enumerate(text) if letter == values["open"])
    return sum(
        p.count(str(values["open"])) - p.count(str(values["close"])) == values["depth"] for p in prefixes
    )


def _draw_brackets(draw: random.Random) -> Values:
    opening, closing, kind = draw.choice((("(", ")", "round"), ("[", "]", "square"), ("<", ">", "angle")))
    return {
        "open": opening,
        "close": closing,
        "kind": kind,
        "depth": draw.randint(1, 4),
        "most": 2 * draw.randint(10, 400),
    }


BRACKETS = ProgramFamily(
    name="bracket_depth",
    concepts=("balanced brackets", "nesting depth", "stacks"),
    level=2,
    thoughts=Thoughts(
        goals=(
            "looks at how deeply brackets are nested",
            "follows a nested structure with nothing but a counter",
        ),
        difficulties=(
            "depth changes differently at an opening and at a closing sign",
            "pairs at the wanted depth may lie in quite different parts of the string",
        ),
        reason="in a balanced string the height of the stack is all that matters, so a counter replaces it",
        skeleton="balanced strings of {kind} brackets in which one nesting level is singled out",
        steps=(
            "Use a single kind, {kind} brackets, and promise balance.",
            "Single out the nesting level {depth}, the outermost being one.",
            "Limit the string to {most} signs and count the pairs there.",
        ),
        blueprint=("{kind} brackets", "string up to {most}", "depth {depth}", "count pairs"),
    ),
    scenes=(
        Scene(
            label="code editor",
            facts="An editor colours {kind} brackets by nesting depth; outermost pairs have depth 1.",
            quantity="the number of bracket pairs with depth {depth}",
        ),
        Scene(
            label="nested crates",
            facts="{name} describes crates inside crates with {kind} brackets, one pair a crate. A crate "
            "inside no other is on level 1.",
            quantity="the number of crates on level {depth}",
        ),
    ),
    input_format="a balanced string of 2 to {most} brackets",
    program="""depth = count = 0
for sign in next(tokens):
    if sign == "{open}":
        depth += 1
        count += depth == {depth}
    else:
        depth -= 1
return count""",
    draw=_draw_brackets,
    instance=_brackets,
    reference=_count_depth,
)

FAMILIES = (RUNS, BRACKETS)
