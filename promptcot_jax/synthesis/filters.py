"""Which written problems are kept: one small function a rule, each with the figure it decides by.

A rule looks at one problem with its rationale and concepts, and returns a fault or None; `RULES` names them
in the order in which they are tried. They look at nothing but the text, read as `statements.py` reads it:
concept fidelity, seeds, repetitions and benchmarks are `selection.py`'s, and whether a problem is well posed
is verification's. How often each rule refuses real, well-formed problems is in `docs/results.md`.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import Domain
from promptcot_jax.data import validity
from promptcot_jax.synthesis import statements

_OVERLAP_WORDS = 8  # in a row: what is copied, not said alike


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Which rules hold; False, None or 0 switches one off. Those on figures of other texts are last.

    Attributes:
        unfinished: statements that end in an announcement, or in the middle of a sentence or formula.
        proofs, multiple_choice, yes_no: tasks whose answer cannot be checked, or can be guessed.
        max_questions: questions and commands to find something, in one statement.
        english: statements in another language or script.
        min_words, max_words: length of the statement, numbers included.
        solution_in_problem: a statement that holds a solution, an answer or a plan's headings.
        max_rationale_overlap: share of the statement's (or the rationale's) eight-word sequences that the
            other has too.
        min_concept_share: share of the concepts that problem and rationale use, by their words or by meaning.
            Off, and only measured, since it depends on how concepts are named.
        concept_cosine: of a concept with a sentence that uses it in meaning, such as 0.35 with MiniLM. None:
            not measured, as hashed TF-IDF knows words only.
        max_seed_similarity: cosine with the nearest seed problem.
    """

    unfinished: bool = True
    proofs: bool = True
    multiple_choice: bool = True
    yes_no: bool = True
    max_questions: int = 1
    english: bool = True
    min_words: int = 4
    max_words: int = 1000
    solution_in_problem: bool = True
    max_rationale_overlap: float | None = 0.5
    min_concept_share: float | None = None
    concept_cosine: float | None = None
    max_seed_similarity: float | None = 0.95

    def __post_init__(self):
        for name in ("max_rationale_overlap", "min_concept_share", "concept_cosine", "max_seed_similarity"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise WrongUse(f"{name} must lie in (0, 1], or be None to switch the rule off; got {value}.")
        for name in ("max_questions", "min_words", "max_words"):
            if getattr(self, name) < 0:
                raise WrongUse(f"{name} must be 0 (off) or more, got {getattr(self, name)}.")
        if 0 < self.max_words < self.min_words:
            raise WrongUse(
                f"min_words is {self.min_words}, above max_words, {self.max_words}: nothing could pass."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
    """A problem as the model wrote it, and what it was asked for."""

    domain: Domain
    concepts: tuple[str, ...]
    rationale: str
    problem: str


@dataclasses.dataclass(frozen=True)
class Fault:
    """Why a problem is not kept."""

    reason: str
    figure: float  # what the rule measured; 1 where it only says yes
    detail: str = ""  # the words in question


Rule = Callable[[Written, FilterConfig], Fault | None]


def first_fault(written: Written, config: FilterConfig) -> Fault | None:
    """The fault of the first rule that a problem breaks."""
    for rule in RULES.values():
        if fault := rule(written, config):
            return fault
    return None


def _found(reason: str, pattern: re.Pattern[str], text: str) -> Fault | None:
    match = pattern.search(text)
    return Fault(reason, 1.0, " ".join(match[0].split())[:80]) if match else None


def unfinished(written: Written, config: FilterConfig) -> Fault | None:
    """A stem such as "the following conditions:" with nothing after it, an open formula, half a sentence."""
    if not config.unfinished or (end := statements.open_end(written.problem)) is None:
        return None
    return Fault("unfinished_statement", 1.0, end)


_PROOF = re.compile(
    rf"{validity.PROOF.pattern}|(?:^|[.;,:!?]\s+|\b(?:and|then|to)\s+)(?:prove|disprove)\b"
    r"|(?:^|[.;!?]\s+)(?:show|demonstrate|justify|verify)\s+that\b"
    r"|\bgive a (?:rigorous )?proof\b",
    re.IGNORECASE,
)


def proofs(written: Written, config: FilterConfig) -> Fault | None:
    """A request for a proof. The story around a program may speak of one."""
    if not config.proofs or written.domain == "code":
        return None
    return _found("asks_for_proof", _PROOF, written.problem)


_OPTION = re.compile(
    r"(?:^|\s)(?:\\(?:textbf|text|mathrm)\{)?\(?([A-E])[).:](?:\s*\})?(?=[\s$\\~])", re.MULTILINE
)
_CHOICE = re.compile(
    r"\b(?:which (?:one )?of the (?:following|options|statements)|choose the correct|select the correct"
    r"|(?:answer|response) choices)\b",
    re.IGNORECASE,
)


def multiple_choice(written: Written, config: FilterConfig) -> Fault | None:
    """Options to choose from: lettered in order, or asked for."""
    if not config.multiple_choice:
        return None
    letters = "".join(_OPTION.findall(written.problem))
    if "ABC" in letters:
        return Fault("multiple_choice", float(len(letters)), letters)
    return _found("multiple_choice", _CHOICE, written.problem)


_DECISION = re.compile(
    r"(?:^|[,:;]\s|\b(?:and|then)\s)(?:is|are|was|were|does|do|did|can|could|will|would|must|should|has|have)\s"
    r"[^?]*\?$"
    r"|(?:^|[,:;]\s|\b(?:and|then)\s)(?:determine|decide|find out|check|state|say|tell)\s+(?:whether|if)\b"
    r"|\b(?:true or false|yes or no)\b",
    re.IGNORECASE,
)
_QUESTION_WORD = re.compile(r"\b(?:how|what|which|who|whose|whom|when|where|why)\b", re.IGNORECASE)


def yes_no(written: Written, config: FilterConfig) -> Fault | None:
    """A question whose answer is yes or no. A program is judged by its tests and may print either."""
    if not config.yes_no or written.domain == "code":
        return None
    for sentence in statements.sentences(statements.words_only(written.problem)):
        if sentence.endswith("?") and _QUESTION_WORD.search(sentence):
            continue
        if _DECISION.search(sentence):
            return Fault("yes_no_answer", 1.0, sentence[-80:])
    return None


def several_questions(written: Written, config: FilterConfig) -> Fault | None:
    """Asks for more things than allowed. Programs are judged by what they print."""
    if not config.max_questions or written.domain == "code":
        return None
    asked = statements.questions(written.problem)
    if len(asked) <= config.max_questions:
        return None
    return Fault("several_questions", float(len(asked)), asked[-1])


_WORD = re.compile(r"[^\W\d_]{2,}")
_ENGLISH = frozenset(
    "a all an and any are as at be both but by can each every find for from function given had has have "
    "he her his how if in into is it its least let many more most much no not number of on one only or "
    "other out over per she so such sum than that the their them then there these they this to two up "
    "value was were what when where which who will with write you your".split()
)
_LEAST_ENGLISH = 0.12
_LEAST_WORDS = 8  # to tell a language by


def foreign_language(written: Written, config: FilterConfig) -> Fault | None:
    """A statement with other letters than Latin and Greek, or without English's small words."""
    if not config.english:
        return None
    words = [word.lower() for word in _WORD.findall(statements.words_only(written.problem))]
    foreign = [word for word in words if not word.isascii() and max(word) >= "\u0400"]
    if foreign:
        return Fault("foreign_language", len(foreign) / len(words), foreign[0])
    share = sum(word in _ENGLISH for word in words) / max(len(words), 1)
    if len(words) >= _LEAST_WORDS and share < _LEAST_ENGLISH:
        return Fault("foreign_language", share, " ".join(words[:6]))
    return None


def statement_length(written: Written, config: FilterConfig) -> Fault | None:
    """Too few or too many words and numbers."""
    count = len(re.findall(r"\w+", written.problem))
    if count < config.min_words:
        return Fault("too_short", float(count))
    return Fault("too_long", float(count)) if 0 < config.max_words < count else None


_SOLUTION = re.compile(
    r"\\boxed\b|(?:^|\n|[.?!]\s+)\W{0,4}(?:(?:full |detailed )?solution|final answer|answer|rationale|hint"
    r"|thinking process|blueprint|plan|explanation)\W{0,3}:"
    r"|\b(?:the|our|its) (?:final |correct )?answer (?:is|equals|turns out)\b(?!\s+(?:a|an|the|of)\b)"
    r"|####\s*-?\d|(?:^|\n|[.?!]\s+)Step 1\s*[:.]",
    re.IGNORECASE,
)


def solution_in_problem(written: Written, config: FilterConfig) -> Fault | None:
    """A boxed or stated answer, or the heading of a solution or plan, inside the statement."""
    return _found("solution_in_problem", _SOLUTION, written.problem) if config.solution_in_problem else None


def rationale_in_problem(written: Written, config: FilterConfig) -> Fault | None:
    """Statement and rationale share too many eight-word sequences: one copies the other."""
    if config.max_rationale_overlap is None:
        return None
    problem, rationale = _runs(written.problem), _runs(written.rationale)
    if not problem or not rationale:
        return None
    share = len(problem & rationale) / min(len(problem), len(rationale))
    if share <= config.max_rationale_overlap:
        return None
    return Fault("rationale_in_problem", share, " ".join(min(problem & rationale)))


def _runs(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[^\W_]+", text.lower())
    return {tuple(words[i : i + _OVERLAP_WORDS]) for i in range(len(words) - _OVERLAP_WORDS + 1)}


RULES: Mapping[str, Rule] = {
    rule.__name__: rule
    for rule in (
        unfinished,
        statement_length,
        foreign_language,
        proofs,
        multiple_choice,
        yes_no,
        solution_in_problem,
        several_questions,
        rationale_in_problem,
    )
}


def switched_on(config: FilterConfig) -> dict[str, bool]:
    """For each reason whether a problem can be refused under it."""
    return {
        "unfinished_statement": config.unfinished,
        "too_short": config.min_words > 0,
        "too_long": config.max_words > 0,
        "foreign_language": config.english,
        "asks_for_proof": config.proofs,
        "multiple_choice": config.multiple_choice,
        "yes_no_answer": config.yes_no,
        "solution_in_problem": config.solution_in_problem,
        "several_questions": config.max_questions > 0,
        "rationale_in_problem": config.max_rationale_overlap is not None,
    }


REASONS = tuple(switched_on(FilterConfig()))


_SMALL = frozenset("a an and by for from in into its of on or over the their to under via with".split())
_PREFIX_LETTERS = 5  # "congruences" is used where "congruent" stands; "sums" where "sum" does, by its ending


def concepts_in_words(concepts: tuple[str, ...], text: str) -> list[bool]:
    """For each concept whether at least half of its words, by their first letters, are in the text."""
    there = _prefixes(text)
    found = []
    for concept in concepts:
        own = _prefixes(concept)
        found.append(2 * len(own & there) >= max(len(own), 1))
    return found


@functools.lru_cache(1 << 12)
def _prefixes(text: str) -> frozenset[str]:
    words = re.findall(r"[^\W\d_]+", text.lower())
    return frozenset(word.removesuffix("s")[:_PREFIX_LETTERS] for word in words if word not in _SMALL)
