"""Rules for the statement of a problem: how it reads, and what its text alone shows to be wrong with it.

A rule looks at a statement and its domain and returns what it found, or None. They know signs and a few words
and no mathematics; what they let through is a judge's to read and, in the end, the votes': samples disagree
about an ill-posed problem. How often each refuses real problems, and finds planted faults, is in
`docs/results/synthesis.md`. Three sets are made of them: `WELL_POSED` is for what is verified, `RELEASED` is
that of the paper's scripts, and `synthesis.filters` has its own for what a model wrote.
"""

import collections
import functools
import itertools
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from promptcot_jax.core.records import Domain

_SHOWN = 80  # characters of what is shown of a text


class Finding(NamedTuple):
    """What a rule found."""

    detail: str = ""  # the words in question
    figure: float = 1.0  # what the rule measured; 1 where it only says yes


class Fault(NamedTuple):
    """Why a problem is not kept: the name of the rule that it breaks, and what that found."""

    reason: str
    detail: str = ""
    figure: float = 1.0


Rule = Callable[[str, Domain], Finding | None]


def first_fault(problem: str, domain: Domain, rules: Mapping[str, Rule]) -> Fault | None:
    """The fault of the first rule that a statement breaks."""
    for reason, rule in rules.items():
        if found := rule(problem, domain):
            return Fault(reason, *found)
    return None


def _matched(pattern: re.Pattern[str], text: str) -> Finding | None:
    match = pattern.search(text)
    return Finding(" ".join(match[0].split())[:_SHOWN]) if match else None


# How a statement reads: its formulas, sentences and questions, and whether it breaks off.

FORMULA = re.compile(r"\$\$.*?\$\$|\$[^$]*\$|\\\[.*?\\\]|\\\(.*?\\\)", re.DOTALL)
_SOURCE = re.compile(r"\[asy\].*?\[/asy\]|```.*?```|\\(?:begin|end)\{[^}]*\}", re.DOTALL)

_NAMED = r"(?<!\bMr\.)(?<!\bMrs\.)(?<!\bMs\.)(?<!\bDr\.)(?<!\bSt\.)"
# What goes on in small letters is no new sentence: "at 5 p.m. on Monday", "divisors of 30! are".
_SENTENCE_END = re.compile(rf"(?<=\?)\s+|{_NAMED}(?<=[.!])\s+(?![a-z])|\n\s*\n")


def without_source(text: str) -> str:
    """The text without the source of drawings and programs."""
    return _SOURCE.sub(" ", text)


@functools.lru_cache(16)  # several rules look at the same text
def words_only(text: str) -> str:
    """The text without source, and with "F" for each formula."""
    return FORMULA.sub(" F ", without_source(text))


@functools.lru_cache(16)
def sentences(text: str) -> tuple[str, ...]:
    """Sentences on one line each."""
    return tuple(" ".join(part.split()) for part in _SENTENCE_END.split(text) if part.strip())


_OPEN_END = re.compile(
    r"(?:[,;:(=+<-]|\b(?:the|a|an|of|and|or|with|for|to|is|are|that|where|by|in|at|from|than))$",
    re.IGNORECASE,
)
_PRICE = re.compile(r"\$\s?(?:\d[\d,.]*|\.\d+)(?:[kKmMbB]\b)?(?=[\s,.;:?!)/%'\"-]|$)")
_OPENED = re.compile(r"\$(?=[^\s/,.;:?!)'\"`])")  # "100$ each" is a price too, and '$' a sign


def open_end(text: str) -> str | None:
    """The last words of a text that breaks off: in a sentence, after an announcement, or in a formula."""
    text = text.rstrip()
    last = text[-_SHOWN:]
    signs = text.replace("\\$", "")  # LaTeX's way to write a dollar
    is_odd = signs.count("$") % 2 and "$$" not in signs
    in_formula = is_odd and _OPENED.search(FORMULA.sub(" ", _PRICE.sub(" ", signs)))
    return " ".join(last.split()) if in_formula or _OPEN_END.search(last) else None


_ASKING = re.compile(
    r"(?:^|[;:,]\s|\b(?:and|then|also)\s)(?:(?:please|also|now|then|finally|next)[,\s]+)?"
    r"(?:find|determine|compute|calculate|evaluate|work out|what"
    r"|(?:by )?how (?:many|much|large|long|far|old|often|tall|fast))\b"
    # "Write your answer as a fraction" asks for nothing more, and stories have people who give and write.
    r"|^(?:(?:please|also|now|then|finally|next)[,\s]+)?(?:which|write|give|express|convert)\s+"
    r"(?!your|down|it\b|them\b|(?:the |an? )?(?:\w+ )?(?:answer|result))",
    re.IGNORECASE,
)


# "Express your answer as m/n, and find m + n" says how to write what was asked for before.
_ANSWER_FORM = re.compile(
    r"\b(?:express|write|written|put)\b[^.?!]*\b(?:as|in)\b[^.?!]*"
    r"\b(?:find|compute|determine)\s+(?:F|\w(?:\s*\+\s*\w)+)\W*$",
    re.IGNORECASE,
)


def questions(text: str) -> list[str]:
    """What a text asks for, each in the words from which on it does; one sentence may ask twice."""
    asked = []
    for sentence in sentences(words_only(text)):
        if _ANSWER_FORM.search(sentence):
            continue
        starts = [match.start() for match in _ASKING.finditer(sentence)]
        if not starts and sentence.endswith("?"):
            starts = [0]
        asked += [sentence[start:].lstrip(" ,;:")[:_SHOWN] for start in starts]
    return asked


# What is wrong with a statement, whoever wrote it.


def unfinished(problem: str, domain: Domain) -> Finding | None:
    """Ends in the middle of a sentence, list or formula, or with an announcement that nothing follows."""
    end = open_end(problem)
    return None if end is None else Finding(end)


def several_questions(problem: str, domain: Domain, *, most: int = 1) -> Finding | None:
    """Asks for more things than allowed. A program may print several."""
    asked = [] if domain == "code" else questions(problem)
    return Finding(" / ".join(asked), float(len(asked))) if len(asked) > most else None


_WORD = re.compile(r"[^\W\d_]{2,}")
_ENGLISH = frozenset(
    "a all an and any are as at be both but by can each every find for from function given had has have "
    "he her his how if in into is it its least let many more most much no not number of on one only or "
    "other out over per she so such sum than that the their them then there these they this to two up "
    "value was were what when where which who will with write you your".split()
)
_LEAST_ENGLISH = 0.12
_LEAST_WORDS = 8  # to tell a language by


def foreign_language(problem: str, domain: Domain) -> Finding | None:
    """A statement with other letters than Latin and Greek, or without English's small words."""
    words = [word.lower() for word in _WORD.findall(words_only(problem))]
    foreign = [word for word in words if not word.isascii() and max(word) >= "\u0400"]
    if foreign:
        return Finding(foreign[0], len(foreign) / len(words))
    share = sum(word in _ENGLISH for word in words) / max(len(words), 1)
    if len(words) >= _LEAST_WORDS and share < _LEAST_ENGLISH:
        return Finding(" ".join(words[:6]), share)
    return None


def too_short(problem: str, domain: Domain, *, least: int) -> Finding | None:
    """Fewer words and numbers than asked for."""
    count = _length(problem)
    return Finding(figure=float(count)) if count < least else None


def too_long(problem: str, domain: Domain, *, most: int) -> Finding | None:
    """More words and numbers than allowed."""
    count = _length(problem)
    return Finding(figure=float(count)) if count > most else None


def _length(problem: str) -> int:
    return len(re.findall(r"\w+", problem))


_PROVE_THAT = re.compile(r"\bprove that\b", re.IGNORECASE)
_PROOF = re.compile(
    rf"{_PROVE_THAT.pattern}|(?:^|[.;,:!?]\s+|\b(?:and|then|to)\s+)(?:prove|disprove)\b"
    r"|(?:^|[.;!?]\s+)(?:show|demonstrate|justify|verify)\s+that\b"
    r"|\bgive a (?:rigorous )?proof\b",
    re.IGNORECASE,
)


def asks_for_proof(problem: str, domain: Domain) -> Finding | None:
    """A request for a proof. The story around a program may speak of one."""
    return None if domain == "code" else _matched(_PROOF, problem)


_OPTION = re.compile(
    r"(?:^|\s)(?:\\(?:textbf|text|mathrm)\{)?\(?([A-E])[).:](?:\s*\})?(?=[\s$\\~])", re.MULTILINE
)
_CHOICE = re.compile(
    r"\b(?:which (?:one )?of the (?:following|options|statements)|choose the correct|select the correct"
    r"|(?:answer|response) choices)\b",
    re.IGNORECASE,
)


def multiple_choice(problem: str, domain: Domain) -> Finding | None:
    """Options to choose from: lettered in order, or asked for."""
    letters = "".join(_OPTION.findall(problem))
    if "ABC" in letters:
        return Finding(letters, float(len(letters)))
    return _matched(_CHOICE, problem)


_DECISION = re.compile(
    r"(?:^|[,:;]\s|\b(?:and|then)\s)(?:is|are|was|were|does|do|did|can|could|will|would|must|should|has|have)\s"
    r"[^?]*\?$"
    r"|(?:^|[,:;]\s|\b(?:and|then)\s)(?:determine|decide|find out|check|state|say|tell)\s+(?:whether|if)\b"
    r"|\b(?:true or false|yes or no)\b",
    re.IGNORECASE,
)
_QUESTION_WORD = re.compile(r"\b(?:how|what|which|who|whose|whom|when|where|why)\b", re.IGNORECASE)


def yes_no_answer(problem: str, domain: Domain) -> Finding | None:
    """A question whose answer is yes or no. A program is judged by its tests and may print either."""
    if domain == "code":
        return None
    for sentence in sentences(words_only(problem)):
        if sentence.endswith("?") and _QUESTION_WORD.search(sentence):
            continue
        if _DECISION.search(sentence):
            return Finding(sentence[-_SHOWN:])
    return None


_SOLUTION = re.compile(
    r"\\boxed\b|(?:^|\n|[.?!]\s+)\W{0,4}(?:(?:full |detailed )?solution|final answer|answer|rationale|hint"
    r"|thinking process|blueprint|plan|explanation)\W{0,3}:"
    r"|\b(?:the|our|its) (?:final |correct )?answer (?:is|equals|turns out)\b(?!\s+(?:a|an|the|of)\b)"
    r"|####\s*-?\d|(?:^|\n|[.?!]\s+)Step 1\s*[:.]",
    re.IGNORECASE,
)


def solution_in_problem(problem: str, domain: Domain) -> Finding | None:
    """A boxed or stated answer, or the heading of a solution or plan, inside the statement."""
    return _matched(_SOLUTION, problem)


_DRAWING = re.compile(r"\[asy\]|\\begin\{(?:tikzpicture|tabular|array|table)|\|.*\|.*\||!\[|<table|<svg")
_SHOWN_THING = r"(?:figure|diagram|picture|table|chart|bar graph|graph|image|illustration|drawing)"
_PICTURE = re.compile(
    r"\b(?:in|on|of|from|use|using|see) (?:the|this) (?:figure|diagram|chart|bar graph|illustration)\b"
    rf"|\b(?:following|accompanying|adjacent) {_SHOWN_THING}\b"
    rf"|\b{_SHOWN_THING}s? (?:above|below|shown|at (?:the )?(?:right|left))\b"
    r"|\bthe \w+ (?:shown|pictured)(?=[.,?]| above| below| here)"
    r"|\bas (?:shown|pictured|drawn|seen) (?:in|on|above|below|here)\b|\b(?:Figure|Fig\.) \d+\b",
    re.IGNORECASE,
)
_EARLIER = re.compile(
    r"\b(?:the )?(?:previous|preceding|last|earlier) (?:problem|question|part|exercise|task)s?\b"
    r"|\b(?:problem|question|exercise) (?:above|\d+) above\b"
    r"|\b(?:from|in|of|by) part \(?[a-d1-4i]+\)?"
    r"|\bas (?:we )?(?:proved|found|computed|shown|defined) (?:earlier|before|previously)\b",
    re.IGNORECASE,
)
_PART_LABEL = re.compile(r"(?:^|\s)\((?:a|1|i)\)\s", re.IGNORECASE)


def missing_figure(problem: str, domain: Domain) -> Finding | None:
    """Speaks of a figure or table that the text does not hold."""
    return None if _DRAWING.search(problem) else _matched(_PICTURE, problem)


def missing_part(problem: str, domain: Domain) -> Finding | None:
    """Speaks of an earlier part or problem that the text does not hold."""
    return None if _PART_LABEL.search(problem) else _matched(_EARLIER, problem)


_GAP = re.compile(
    r"(?<!_)_{3,}(?!_)|\?{3,}|\[(?:insert|number|value|blank|todo)[^\]]*\]|\bTODO\b|\bTBD\b|(?:^|\s)\{[a-z_]{3,}\}"
    r"|<(?:number|value|insert)[^>]*>|\bX{3,}\b",
    re.IGNORECASE,
)


def gap(problem: str, domain: Domain) -> Finding | None:
    """Has a gap where a quantity should be. Programs are often about texts with odd signs in them."""
    return _matched(_GAP, words_only(problem)) if domain == "math" else None


_COMMANDS: Mapping[Domain, re.Pattern[str]] = {
    "math": re.compile(
        r"(?:^|[^\w\s]\s*|\b(?:and|then|please|now|to|completely)\s+)(?:find|determine|compute|calculate|evaluate"
        r"|work out|simplify|factor|expand|express|solve|give|state|name|list|write|enter|convert|round"
        r"|estimate|rationalize|order|count|identify|graph|what|how|which|who|when|where)\b",
        re.IGNORECASE,
    ),
    "code": re.compile(
        r"\b(?:print|output|return|write|find|compute|calculate|determine|display|report|check|count|tell"
        r"|convert|sort|remove|create|implement|design|generate|given|get|what|how|which)\b",
        re.IGNORECASE,
    ),
}


def no_question(problem: str, domain: Domain) -> Finding | None:
    """Asks for nothing that has an answer: no question, and no command but to prove something."""
    if "?" in problem or _COMMANDS[domain].search(problem):
        return None
    return Finding(problem.strip()[-_SHOWN:])


_SYMBOL_ASKED = re.compile(
    r"\b(?:find|determine|compute|calculate|what (?:is|are)|evaluate)\s+(?:the (?:exact )?values? of )?"
    r"\$?\(?([A-Za-z])\$?\s*[.?]\s*$",
    re.IGNORECASE,
)


def undetermined_symbol(problem: str, domain: Domain) -> Finding | None:
    """Asks for a letter of which nothing else in the text speaks."""
    if domain == "code":
        return None
    asked = _SYMBOL_ASKED.search(problem.strip())
    if asked is None:
        return None
    before = problem.strip()[: asked.start()]
    formulas = "".join(FORMULA.findall(before))
    if asked[1] in formulas or re.search(rf"(?<![A-Za-z]){asked[1]}(?![a-z]{{2}})", words_only(before)):
        return None
    return Finding(" ".join(asked[0].split())[:_SHOWN])


_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_LEAST_RETOLD_WORDS = 5  # of a fact that is told twice; "Box 1 holds 3" and "Box 2 holds 3" are two facts
_ASSIGNED = re.compile(r"(?:^|[\s$,;:])([A-Za-z])\s*=\s*(-?\d+(?:\.\d+)?)(?![\w^]|\.\d|\s*[-+*/^(\\])")
_CONGRUENCE = re.compile(r"([A-Za-z])\s*(?:=|\\equiv)\s*(\d+)\s*(?:\\pmod\{?|\(mod|\(\\bmod|\\mod)\s*(\d+)")
_RANGE = re.compile(
    r"\b(?:from|between)\s+\$?(-?\d+)\$?\s+(?:to|and)\s+\$?(-?\d+)\$?\b|(?<![\w.])(-?\d+)\s*(?:<=|≤|\\leq?)\s*\$?[A-Za-z]\w*"
    r"\$?\s*(?:<=|≤|\\leq?)\s*(-?\d+)"
)


def contradictory(problem: str, domain: Domain) -> Finding | None:
    """Tells one fact with two numbers: a letter, a residue, a sentence; or bounds that nothing can keep."""
    for match in _RANGE.finditer(problem):
        low, high = (match[1], match[2]) if match[1] else (match[3], match[4])
        if not match[1] and int(low) > int(high):
            return Finding(" ".join(match[0].split())[:_SHOWN])
    if domain == "code":
        return None
    text = without_source(problem)
    return _two_values(text) or _retold(text)


# "Evaluate it at x = 2 and at x = 3", "the roots x = 2 and x = 5", "bounded by x = 1, x = 4", "another has
# a = 5" are no contradictions.
_MANY_VALUED = re.compile(
    r"\b(?:or|at|when|if|lines?|between|roots?|zeros?|zeroes|solutions?|bounded|enclosed|region|area|volume"
    r"|intercepts?|asymptotes?|[Aa]nother|other|second|cases?|respectively)\b"
)


def _two_values(problem: str) -> Finding | None:
    values = collections.defaultdict[str, set[str]](set)
    for letter, residue, modulus in _CONGRUENCE.findall(problem):
        values[f"{letter} modulo {modulus}"].add(residue)
    rest = _CONGRUENCE.sub(" ", problem)
    for match in _ASSIGNED.finditer(rest):
        if not re.search(r"[-+*/^=<>(\\]\s*$", rest[: match.start(1)]):  # not the end of "x + y = 3"
            values[match[1]].add(match[2])
    if _MANY_VALUED.search(problem):
        return None
    for name, numbers in values.items():
        if len(numbers) > 1:
            return Finding(f"{name} is {' and '.join(sorted(numbers))}")
    return None


def _retold(problem: str) -> Finding | None:
    """Two sentences of the same words that differ in one number."""
    told = [(sentence, _NUMBER.findall(sentence)) for sentence in sentences(problem)]
    for (one, numbers), (other, others) in itertools.combinations(told, 2):
        if len(numbers) != len(others) or _NUMBER.sub("#", one) != _NUMBER.sub("#", other):
            continue
        differing = sum(a != b for a, b in zip(numbers, others, strict=True))
        if differing == 1 and len(one.split()) >= _LEAST_RETOLD_WORDS:
            return Finding(f"{one[: _SHOWN // 2]} / {other[: _SHOWN // 2]}")
    return None


WELL_POSED: Mapping[str, Rule] = {
    "missing_figure": missing_figure,
    "missing_part": missing_part,
    "unfinished": unfinished,
    "gap": gap,
    "no_question": no_question,
    "several_questions": several_questions,
    "undetermined_symbol": undetermined_symbol,
    "contradictory": contradictory,
}

_ANNOUNCEMENT = re.compile(r"(?:following|below)[^.?!\n]{0,80}:\s*$", re.IGNORECASE)

RELEASED: Mapping[str, Rule] = {
    "unfinished_problem": lambda problem, domain: _matched(_ANNOUNCEMENT, problem.rstrip()),
    "asks_for_proof": lambda problem, domain: _matched(_PROVE_THAT, problem),
}
