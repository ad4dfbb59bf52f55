"""Is a statement well posed, as far as its text shows? One small function a fault; the first one counts.

The rules find what needs no understanding: a figure that is not there, no question or two of them, a gap, an
unknown that nothing determines, the same fact told with two numbers. What they let through is a judge's to
read (`judging.py`) and, in the end, the votes': samples disagree about an ill-posed problem. How often each
refuses real problems, and finds planted faults, is in `docs/results.md`.
"""

import collections
import dataclasses
import itertools
import re
from collections.abc import Callable, Mapping

from promptcot_jax.core.records import Domain
from promptcot_jax.synthesis import statements

_SHOWN = 80  # characters of a detail
_LEAST_RETOLD_WORDS = 5  # of a fact that is told twice; "Box 1 holds 3" and "Box 2 holds 3" are two facts

_DRAWING = re.compile(r"\[asy\]|\\begin\{(?:tikzpicture|tabular|array|table)|\|.*\|.*\||!\[|<table|<svg")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


@dataclasses.dataclass(frozen=True)
class StatementFault:
    """Why a statement cannot stand."""

    reason: str
    detail: str  # the words in question


Rule = Callable[[str, Domain], StatementFault | None]


def first_fault(problem: str, domain: Domain) -> StatementFault | None:
    """The fault of the first rule that a statement breaks."""
    for rule in RULES.values():
        if fault := rule(problem, domain):
            return fault
    return None


def _fault(reason: str, match: re.Match[str] | None) -> StatementFault | None:
    return StatementFault(reason, " ".join(match[0].split())[:_SHOWN]) if match else None


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


def refers_elsewhere(problem: str, domain: Domain) -> StatementFault | None:
    """Speaks of a figure, table or earlier part that the text does not hold."""
    if not _DRAWING.search(problem) and (fault := _fault("missing_figure", _PICTURE.search(problem))):
        return fault
    return None if _PART_LABEL.search(problem) else _fault("missing_part", _EARLIER.search(problem))


def unfinished(problem: str, domain: Domain) -> StatementFault | None:
    """Ends in the middle of a sentence, list or formula."""
    end = statements.open_end(problem)
    return None if end is None else StatementFault("unfinished", end)


_GAP = re.compile(
    r"(?<!_)_{3,}(?!_)|\?{3,}|\[(?:insert|number|value|blank|todo)[^\]]*\]|\bTODO\b|\bTBD\b|(?:^|\s)\{[a-z_]{3,}\}"
    r"|<(?:number|value|insert)[^>]*>|\bX{3,}\b",
    re.IGNORECASE,
)


def gap(problem: str, domain: Domain) -> StatementFault | None:
    """Has a gap where a quantity should be. Programs are often about texts with odd signs in them."""
    return _fault("gap", _GAP.search(statements.words_only(problem))) if domain == "math" else None


_COMMANDS: Mapping[Domain, re.Pattern[str]] = {
    "math": re.compile(
        r"(?:^|[^\w\s]\s*|\b(?:and|then|please|now|to|completely)\s+)(?:find|determine|compute|calculate|evaluate"
        r"|simplify|factor|expand|express|solve|give|state|name|list|write|enter|convert|round|estimate"
        r"|rationalize|order|count|identify|graph|what|how|which|who|when|where)\b",
        re.IGNORECASE,
    ),
    "code": re.compile(
        r"\b(?:print|output|return|write|find|compute|calculate|determine|display|report|check|count|tell"
        r"|convert|sort|remove|create|implement|design|generate|given|get|what|how|which)\b",
        re.IGNORECASE,
    ),
}


def no_question(problem: str, domain: Domain) -> StatementFault | None:
    """Asks for nothing that has an answer: no question, and no command but to prove something."""
    if "?" in problem or _COMMANDS[domain].search(problem):
        return None
    return StatementFault("no_question", problem.strip()[-_SHOWN:])


def several_questions(problem: str, domain: Domain) -> StatementFault | None:
    """Asks for more than one thing, in several sentences or in one. A program may print several."""
    if domain == "code":
        return None
    asked = statements.questions(problem)
    return StatementFault("several_questions", " / ".join(asked)) if len(asked) > 1 else None


_SYMBOL_ASKED = re.compile(
    r"\b(?:find|determine|compute|calculate|what (?:is|are)|evaluate)\s+(?:the (?:exact )?values? of )?"
    r"\$?\(?([A-Za-z])\$?\s*[.?]\s*$",
    re.IGNORECASE,
)


def undetermined_symbol(problem: str, domain: Domain) -> StatementFault | None:
    """Asks for a letter of which nothing else in the text speaks."""
    if domain == "code":
        return None
    asked = _SYMBOL_ASKED.search(problem.strip())
    if asked is None:
        return None
    before = problem.strip()[: asked.start()]
    formulas = "".join(statements.FORMULA.findall(before))
    if asked[1] in formulas or re.search(
        rf"(?<![A-Za-z]){asked[1]}(?![a-z]{{2}})", statements.words_only(before)
    ):
        return None
    return _fault("undetermined_symbol", asked)


_ASSIGNED = re.compile(r"(?:^|[\s$,;:])([A-Za-z])\s*=\s*(-?\d+(?:\.\d+)?)(?![\w^]|\.\d|\s*[-+*/^(\\])")
_CONGRUENCE = re.compile(r"([A-Za-z])\s*(?:=|\\equiv)\s*(\d+)\s*(?:\\pmod\{?|\(mod|\(\\bmod|\\mod)\s*(\d+)")
_RANGE = re.compile(
    r"\b(?:from|between)\s+\$?(-?\d+)\$?\s+(?:to|and)\s+\$?(-?\d+)\$?\b|(?<![\w.])(-?\d+)\s*(?:<=|≤|\\leq?)\s*\$?[A-Za-z]\w*"
    r"\$?\s*(?:<=|≤|\\leq?)\s*(-?\d+)"
)


def contradictory(problem: str, domain: Domain) -> StatementFault | None:
    """Tells one fact with two numbers: a letter, a residue, a sentence; or bounds that nothing can keep."""
    for match in _RANGE.finditer(problem):
        low, high = (match[1], match[2]) if match[1] else (match[3], match[4])
        if not match[1] and int(low) > int(high):
            return _fault("contradictory", match)
    if domain == "code":
        return None
    text = statements.without_source(problem)
    return _two_values(text) or _retold(text)


# "Evaluate it at x = 2 and at x = 3", "the roots x = 2 and x = 5", "bounded by x = 1, x = 4", "another has
# a = 5" are no contradictions.
_MANY_VALUED = re.compile(
    r"\b(?:or|at|when|if|lines?|between|roots?|zeros?|zeroes|solutions?|bounded|enclosed|region|area|volume"
    r"|intercepts?|asymptotes?|[Aa]nother|other|second|cases?|respectively)\b"
)


def _two_values(problem: str) -> StatementFault | None:
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
            return StatementFault("contradictory", f"{name} is {' and '.join(sorted(numbers))}")
    return None


def _retold(problem: str) -> StatementFault | None:
    """Two sentences of the same words that differ in one number."""
    told = [(sentence, _NUMBER.findall(sentence)) for sentence in statements.sentences(problem)]
    for (one, numbers), (other, others) in itertools.combinations(told, 2):
        if len(numbers) != len(others) or _NUMBER.sub("#", one) != _NUMBER.sub("#", other):
            continue
        differing = sum(a != b for a, b in zip(numbers, others, strict=True))
        if differing == 1 and len(one.split()) >= _LEAST_RETOLD_WORDS:
            return StatementFault("contradictory", f"{one[: _SHOWN // 2]} / {other[: _SHOWN // 2]}")
    return None


RULES: Mapping[str, Rule] = {
    rule.__name__: rule
    for rule in (
        refers_elsewhere,
        unfinished,
        gap,
        no_question,
        several_questions,
        undetermined_symbol,
        contradictory,
    )
}
