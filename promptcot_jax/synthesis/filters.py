"""Which problems that a model wrote are kept by their text: rules of `data.statement_rules`, and one more.

Concept fidelity, seeds, repetitions and benchmarks are `selection.py`'s, and whether a problem is well posed
is verification's. How often each rule refuses real, well-formed problems is in `docs/results/synthesis.md`.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping, Sequence

from promptcot_jax.core.records import Domain
from promptcot_jax.core.settings import NonNegativeInt, PositiveShare, settings
from promptcot_jax.data import statement_rules
from promptcot_jax.data.statement_rules import Fault, Finding, Rule

_OVERLAP_WORDS = 8  # in a row: what is copied, not said alike


@settings
class FilterConfig:
    """Which rules hold; False, None or 0 switches one off. Those on figures of other texts are last."""

    # Statements that end in an announcement, or in the middle of a sentence or formula.
    unfinished: bool = True
    # Tasks whose answer cannot be checked, or can be guessed.
    proofs: bool = True
    multiple_choice: bool = True
    yes_no: bool = True
    max_questions: NonNegativeInt = 1  # and commands to find something, in one statement
    english: bool = True  # statements in another language or script
    # Length of the statement, numbers included.
    min_words: NonNegativeInt = 4
    max_words: NonNegativeInt = 1000
    solution_in_problem: bool = True  # a statement that holds a solution, an answer or a plan's headings
    # Share of the statement's (or the rationale's) eight-word sequences that the other has too.
    max_rationale_overlap: PositiveShare | None = 0.5
    # Share of the concepts that problem and rationale use, by their words or by meaning. Off, and only
    # measured, since it depends on how concepts are named.
    min_concept_share: PositiveShare | None = None
    # Cosine of a concept with a sentence that uses it in meaning, such as 0.35 with MiniLM. None: not
    # measured, as hashed TF-IDF knows words only.
    concept_cosine: PositiveShare | None = None
    max_seed_similarity: PositiveShare | None = 0.95  # cosine with the nearest seed problem

    def __post_init__(self):
        if 0 < self.max_words < self.min_words:
            raise ValueError(
                f"min_words is {self.min_words}, above max_words, {self.max_words}: nothing could pass."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
    """A problem as the model wrote it, and what it was asked for."""

    domain: Domain
    concepts: tuple[str, ...]
    rationale: str
    problem: str


def statement_rules_of(config: FilterConfig) -> Mapping[str, Rule | None]:
    """The rules by the reason under which they refuse, in the order in which they are tried; None: off."""
    rules = statement_rules
    too_long = functools.partial(rules.too_long, most=config.max_words)
    several = functools.partial(rules.several_questions, most=config.max_questions)
    return {
        "unfinished_statement": rules.unfinished if config.unfinished else None,
        "too_short": functools.partial(rules.too_short, least=config.min_words) if config.min_words else None,
        "too_long": too_long if config.max_words else None,
        "foreign_language": rules.foreign_language if config.english else None,
        "asks_for_proof": rules.asks_for_proof if config.proofs else None,
        "multiple_choice": rules.multiple_choice if config.multiple_choice else None,
        "yes_no_answer": rules.yes_no_answer if config.yes_no else None,
        "solution_in_problem": rules.solution_in_problem if config.solution_in_problem else None,
        "several_questions": several if config.max_questions else None,
    }


def switched_on(config: FilterConfig) -> dict[str, bool]:
    """For each reason whether a problem can be refused under it."""
    on = {reason: rule is not None for reason, rule in statement_rules_of(config).items()}
    return on | {"rationale_in_problem": config.max_rationale_overlap is not None}


REASONS = tuple(switched_on(FilterConfig()))


def faults(written: Written, config: FilterConfig) -> Iterator[Fault]:
    """The faults of a problem, in the order of the rules."""
    for reason, rule in statement_rules_of(config).items():
        if rule is not None and (found := rule(written.problem, written.domain)):
            yield Fault(reason, *found)
    most = config.max_rationale_overlap
    if most is not None and (found := rationale_in_problem(written, most)):
        yield Fault("rationale_in_problem", *found)


def first_fault(written: Written, config: FilterConfig) -> Fault | None:
    """The fault of the first rule that a problem breaks."""
    return next(faults(written, config), None)


def first_faults(written: Sequence[Written], config: FilterConfig) -> list[Fault | None]:
    """`first_fault` of each problem."""
    return [first_fault(own, config) for own in written]


def rationale_in_problem(written: Written, most: float) -> Finding | None:
    """Statement and rationale share too many eight-word sequences: one copies the other."""
    problem, rationale = _runs(written.problem), _runs(written.rationale)
    if not problem or not rationale:
        return None
    share = len(problem & rationale) / min(len(problem), len(rationale))
    return Finding(" ".join(min(problem & rationale)), share) if share > most else None


def _runs(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[^\W_]+", text.lower())
    return {tuple(words[i : i + _OVERLAP_WORDS]) for i in range(len(words) - _OVERLAP_WORDS + 1)}
