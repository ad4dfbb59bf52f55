"""Facts of the rules: each finds what was planted in corpus problems, and lets these themselves pass."""

import dataclasses

import pytest

from promptcot_jax.corpus import generator
from promptcot_jax.data.statement_rules import Fault
from promptcot_jax.synthesis import filters, pair_checks
from promptcot_jax.synthesis.filters import FilterConfig, Written

ROWS = generator.generate(generator.CorpusConfig(seed=7, num_train=600, num_heldout=0, num_novel=0)).train
CORPUS = [
    Written(domain=r.domain, concepts=r.concepts, rationale=r.rationale, problem=r.problem) for r in ROWS
]
MATH = [(written, row) for written, row in zip(CORPUS, ROWS, strict=True) if row.domain == "math"]


def replaced(written, problem):
    return dataclasses.replace(written, problem=problem)


def first_sentence(text):
    return text.split(". ")[0]


PLANTED = {
    "unfinished_statement": [
        lambda w, r: replaced(w, f"{first_sentence(w.problem)}. It satisfies the following conditions:"),
        lambda w, r: replaced(w, " ".join(w.problem.split()[:12]) + " the"),
        lambda w, r: replaced(w, f"{w.problem} Here $x + y"),
    ],
    "too_short": [lambda w, r: replaced(w, "Find x.")],
    "too_long": [lambda w, r: replaced(w, " ".join([w.problem] * 60))],
    "foreign_language": [
        lambda w, r: replaced(w, f"{w.problem} \u6c42\u8fd9\u4e2a\u6570\u3002"),
        lambda w, r: replaced(
            w, "Berechne die Summe aller Zahlen, die kleiner als hundert sind und durch sieben teilbar."
        ),
    ],
    "asks_for_proof": [
        lambda w, r: replaced(w, f"{first_sentence(w.problem)}. Prove that the result is even."),
        lambda w, r: replaced(w, f"{first_sentence(w.problem)}. Show that it cannot be larger than 9."),
    ],
    "multiple_choice": [
        lambda w, r: replaced(w, f"{w.problem}\n(A) {r.answer}\n(B) 17\n(C) 4\n(D) 90"),
        lambda w, r: replaced(w, f"{first_sentence(w.problem)}. Which of the following is the result?"),
    ],
    "yes_no_answer": [
        lambda w, r: replaced(w, f"{first_sentence(w.problem)}. Is it a prime number?"),
        lambda w, r: replaced(w, f"{first_sentence(w.problem)}. Determine whether it is a square."),
    ],
    "solution_in_problem": [
        lambda w, r: replaced(w, f"{w.problem} The answer is {r.answer}."),
        lambda w, r: replaced(w, f"{w.problem}\nSolution: {r.solution}"),
        lambda w, r: replaced(w, f"{w.problem} \\boxed{{{r.answer}}}"),
    ],
    "several_questions": [
        lambda w, r: replaced(w, f"{w.problem} Also, find the sum of its digits."),
        lambda w, r: replaced(w, f"{w.problem} How many of them are even?"),
    ],
    "rationale_in_problem": [
        lambda w, r: replaced(w, f"{w.rationale} {w.problem}"),
        lambda w, r: dataclasses.replace(w, rationale=f"The problem: {w.problem}"),
    ],
}


@pytest.mark.parametrize("reason", filters.REASONS)
def test_recall_and_precision_of_every_rule_on_planted_faults(reason):
    config = FilterConfig(max_words=600)
    for plant in PLANTED[reason]:
        planted = [plant(written, row) for written, row in MATH]
        faults = [filters.first_fault(written, config) for written in planted]
        # A copied rationale may have a heading or a question of its own, and be caught by an earlier rule.
        by_any = reason == "rationale_in_problem"
        caught = sum(fault is not None and (by_any or fault.reason == reason) for fault in faults)
        assert caught >= 0.98 * len(planted), f"{caught} of {len(planted)}: {planted[0].problem}"
    clean = [filters.first_fault(written, config) for written in CORPUS]
    assert sum(fault is not None and fault.reason == reason for fault in clean) <= 0.005 * len(CORPUS)


SWITCHES = {
    "unfinished_statement": {"unfinished": False},
    "too_short": {"min_words": 0},
    "too_long": {"max_words": 0},
    "foreign_language": {"english": False},
    "asks_for_proof": {"proofs": False},
    "multiple_choice": {"multiple_choice": False},
    "yes_no_answer": {"yes_no": False},
    "solution_in_problem": {"solution_in_problem": False},
    "several_questions": {"max_questions": 0},
    "rationale_in_problem": {"max_rationale_overlap": None},
}


@pytest.mark.parametrize("reason", filters.REASONS)
def test_every_rule_can_be_switched_off(reason):
    on, off = FilterConfig(max_words=600), FilterConfig(**({"max_words": 600} | SWITCHES[reason]))
    assert filters.switched_on(on)[reason]
    assert filters.switched_on(off) == filters.switched_on(on) | {reason: False}
    written = next(
        planted for planted in (PLANTED[reason][0](w, r) for w, r in MATH) if filters.first_fault(planted, on)
    )
    fault = filters.first_fault(written, off)
    assert fault is None or fault.reason != reason


@pytest.mark.parametrize(
    "problem",
    [
        "Tim buys 3 dozen eggs. Eggs cost $.50 each. How much did he pay for eggs?",  # a price, no formula
        "How much did Mr. Benson pay in all for the ten tickets?",
        "How long, in hours, did it take Joseph and his friends to cook?",
        "A test has 30 questions, 12 of them multiple-choice. How many others are there?",
        "How many primes must we test to determine whether 2003 is prime?",
        "If $x$ is cubed, the answer is the least of the numbers above 8. What is $x$?",
        "Let $f(x) = 2x$ and $g(x) = x?$. What is $f(3) + g(1)$?",
        "Point A. lies on the circle, and B. does too. Find the length of the chord AB.",
    ],
)
def test_what_only_looks_like_a_fault_passes(problem):
    written = Written(domain="math", concepts=("numbers",), rationale="a plan", problem=problem)
    assert filters.first_fault(written, FilterConfig()) is None


def test_as_many_questions_as_allowed_pass():
    text = "Find the sum of the roots, and what is their product? Write their difference as a fraction."
    written = Written(domain="math", concepts=(), rationale="a plan", problem=text)
    fault = filters.first_fault(written, FilterConfig(max_questions=2))
    assert fault is not None
    assert (fault.reason, fault.figure) == ("several_questions", 3.0)
    assert fault.detail.endswith("Write their difference as a fraction.")
    assert filters.first_fault(written, FilterConfig(max_questions=3)) is None


def test_programs_may_print_yes_or_no():
    text = "Read two integers. Can the first be divided by the second? Print yes or no. What a day it was!"
    written = Written(domain="code", concepts=("division",), rationale="a plan", problem=text)
    assert filters.first_fault(written, FilterConfig()) is None
    fault = filters.first_fault(dataclasses.replace(written, domain="math"), FilterConfig())
    assert fault is not None
    assert fault.reason == "yes_no_answer"


def test_a_fault_has_the_figure_that_it_was_decided_by():
    long = Written(domain="math", concepts=(), rationale="z", problem="Find the number of paths. " * 300)
    assert filters.first_fault(long, FilterConfig()) == Fault("too_long", figure=1500.0)
    copied = "one two three four five six seven eight nine of the problem"
    both = Written(domain="math", concepts=(), rationale=copied, problem=f"{copied} and find it")
    fault = filters.rationale_in_problem(both, 0.5)
    assert fault is not None
    assert fault.figure == 1.0
    assert fault.detail == "eight nine of the problem" or len(fault.detail.split()) == 8


def test_concepts_are_found_by_their_words_in_other_forms():
    text = "How many positive divisors of n leave a remainder when squares are congruent modulo 7?"
    concepts = ("counting divisors", "congruences", "perfect squares", "lattice paths", "remainders")
    assert pair_checks.concepts_in_words(concepts, text) == [True, True, True, False, True]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_rationale_overlap": 0.0}, "max_rationale_overlap must lie in .0, 1. or be None"),
        ({"min_concept_share": 2.0}, "min_concept_share"),
        ({"max_questions": -1}, "max_questions must be 0"),
        ({"min_words": 50, "max_words": 20}, "min_words is 50, above max_words"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        FilterConfig(**settings)
