"""Problems that repeat another one, planted to measure what finds them (see `synthesize`).

An edit says the same problem otherwise: names, numbers and the answer stay (but under `numbers`), so that
the whole is a paraphrase as a person or a model might write it. The edits go from one sentence asked in
another way to all at once.
"""

import random
import re
from collections.abc import Callable, Mapping
from typing import Literal

Edit = Literal["none", "framed", "question", "two_words", "question_first", "words", "all", "numbers"]
# Of a paraphrase, in the order in which less and less of the wording stays.
PARAPHRASES: tuple[Edit, ...] = ("question", "two_words", "question_first", "words", "all")
# Of a copied evaluation problem: as it is, within other text, more and more disguised.
COPIES: tuple[Edit, ...] = ("none", "framed", "two_words", "words", "all", "numbers")

_SENTENCE = re.compile(r"(?<=[.?!])\s+")
_NUMBER = re.compile(r"\d+")

_DO = "(?:Find|Determine|Compute|Calculate|Work out|Give)"
_QUESTIONS = (  # the first that fits
    (
        r"What remainder does (.+) leave (?:on division by|when divided by) (\d+)\?",
        r"Divide \1 by \2 and find the remainder.",
    ),
    (
        rf"{_DO} the remainder when (.+) is divided by (\d+)\.",
        r"How much is left over if \1 gets divided by \2?",
    ),
    (r"What (?:remains|is left over) when (.+) is divided by (\d+)\?", r"Reduce \1 modulo \2."),
    (rf"{_DO} the sum of the (?:decimal )?digits of (.+)\.", r"What is the digit sum of \1?"),
    (r"What do the (?:decimal )?digits of (.+) add up to\?", r"Compute the sum of all digits of \1."),
    (r"(?:What is the total|Which sum results)\?", r"How much does that give?"),
    (r"How many positive divisors does (.+) have\?", r"Count the positive divisors of \1."),
    (rf"{_DO} the number of positive divisors of (.+)\.", r"By how many positive integers is \1 divisible?"),
    (r"By how many positive integers is (.+) divisible\?", r"Find how many positive divisors \1 has."),
    (r"How many positive integers (?:exactly )?divide (.+)\?", r"Find how many positive divisors \1 has."),
    (
        r"What is the (largest|greatest) prime (?:factor|divisor) of (.+)\?",
        r"Which prime is the \1 that \2 can be divided by?",
    ),
    (
        rf"{_DO} the (largest|greatest) prime that divides (.+)\.",
        r"Among the prime factors of \2, which is the \1?",
    ),
    (
        r"Which is the (largest|greatest) prime number that divides (.+)\?",
        r"Among the prime factors of \2, find the \1.",
    ),
    (r"(?:Which prime factor|Which of them) is the (largest|greatest)\?", r"Name the \1 of these."),
    (
        r"What is the (?:least|smallest) positive integer that must be added to (.+) to (?:make|get) a "
        r"perfect square\?",
        r"How much does \1 lack to the next larger perfect square?",
    ),
    (
        rf"{_DO} the (least|smallest) positive integer whose sum with (.+) is a perfect square\.",
        r"Which \1 positive summand turns \2 into a perfect square?",
    ),
    (
        r"Which is the (least|smallest) positive integer that turns (.+) into a perfect square when added "
        r"to it\?",
        r"Find the \1 positive integer whose sum with \2 is a perfect square.",
    ),
    (
        r"By how much does the next larger perfect square exceed (.+)\?",
        r"How far below the next larger perfect square is \1?",
    ),
    (
        r"How far is it from (.+) up to the next larger perfect square\?",
        r"How much does \1 lack to the next larger perfect square?",
    ),
    (r"(?:Write|Express|Convert) (.+) (?:in|to|into) base (\d+)\.", r"What does \1 look like in base \2?"),
    (r"How is (.+) (?:written|expressed) in base (\d+)\?", r"What does \1 look like in base \2?"),
    (r"What are the base (\d+) digits of (.+), written as one number\?", r"Give \2 in base \1."),
    (r"(?:What|How large) is (.+)\?", r"State \1."),
    (rf"{_DO} (.+)\.", r"What is \1?"),
)

_OTHERWISE = {
    "a minute": "per minute",
    "add up to": "come to",
    "agree on": "settle on",
    "an integer": "a whole number",
    "at least": "no fewer than",
    "at random": "by chance",
    "awards": "gives",
    "bag": "sack",
    "bakes": "makes",
    "bends": "folds",
    "blends": "mixes",
    "buys": "purchases",
    "carry": "bear",
    "children": "kids",
    "collects": "gathers",
    "common difference": "constant difference",
    "common ratio": "constant ratio",
    "consider": "look at",
    "cut off": "removed",
    "different": "distinct",
    "divisible by": "a multiple of",
    "divisors": "factors",
    "elects": "chooses",
    "exceed": "go beyond",
    "fences": "encloses",
    "flash": "light up",
    "following": "later",
    "from then on": "thereafter",
    "greater than": "above",
    "greatest": "largest",
    "hear": "learn of",
    "holds": "contains",
    "in all": "altogether",
    "integer": "whole number",
    "integers": "whole numbers",
    "largest": "greatest",
    "leaks": "loses",
    "least": "smallest",
    "left over": "remaining",
    "longest": "greatest",
    "measures": "is",
    "mixture": "blend",
    "money": "cash",
    "no fewer than": "at least",
    "number of": "count of",
    "owns": "has",
    "picks": "chooses",
    "possible": "conceivable",
    "probability": "chance",
    "pulls": "takes",
    "puts": "places",
    "reaches": "gets to",
    "recalls": "remembers",
    "right triangle": "right-angled triangle",
    "roots": "solutions",
    "satisfy": "fulfil",
    "smaller": "lesser",
    "smallest": "least",
    "stand on": "touch",
    "starts": "begins",
    "stay open": "remain open",
    "sum": "total",
    "takes": "needs",
    "thinks of": "has in mind",
    "together": "at the same time",
    "twice": "two times",
    "until": "till",
    "walks": "goes on foot",
    "wants to": "would like to",
    "wide": "in width",
    "without replacement": "and not put back",
}
_SAID = re.compile(
    rf"\b(?<!whole )(?:{'|'.join(sorted(_OTHERWISE, key=len, reverse=True))})\b(?! day\b)", re.IGNORECASE
)


def edited(problem: str, edit: Edit, seed: int) -> str:
    """The problem after an edit, the same for the same seed; unchanged where the edit fits nowhere."""
    return _EDITS[edit](problem, random.Random(f"{seed}/{edit}/{problem}"))


def _ask_otherwise(problem: str, draw: random.Random) -> str:
    *facts, question = _SENTENCE.split(problem)
    for pattern, other in _QUESTIONS:
        if match := re.fullmatch(pattern, question):
            return " ".join([*facts, match.expand(other)])
    return problem


def _say_otherwise(most: int | None) -> Callable[[str, random.Random], str]:
    """With at most so many expressions in other words; None: with all that are known."""

    def edit(problem: str, draw: random.Random) -> str:
        places = list(_SAID.finditer(problem))
        if most is not None:
            places = sorted(draw.sample(places, min(most, len(places))), key=re.Match.start)
        for match in reversed(places):
            other = _OTHERWISE[match[0].lower()]
            other = other[0].upper() + other[1:] if match[0][0].isupper() else other
            problem = problem[: match.start()] + other + problem[match.end() :]
        return problem

    return edit


def _question_first(problem: str, draw: random.Random) -> str:
    *facts, question = _SENTENCE.split(problem)
    return " ".join([question, *facts])


def _everything(problem: str, draw: random.Random) -> str:
    return _question_first(_say_otherwise(None)(_ask_otherwise(problem, draw), draw), draw)


_EDITS: Mapping[Edit, Callable[[str, random.Random], str]] = {
    "none": lambda problem, draw: problem,
    "framed": lambda problem, draw: f"A friend hands you this task. {problem} Triple the result.",
    "question": _ask_otherwise,
    "two_words": _say_otherwise(2),
    "question_first": _question_first,
    "words": _say_otherwise(None),
    "all": _everything,
    "numbers": lambda problem, draw: _NUMBER.sub(lambda match: str(int(match[0]) + 1), problem),
}
