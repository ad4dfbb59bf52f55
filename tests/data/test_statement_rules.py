"""Each rule finds what it is named for, and lets its honest neighbour pass."""

import collections
import json

import pytest

from benchmarks import faults
from promptcot_jax.corpus import generator
from promptcot_jax.data import statement_rules
from promptcot_jax.data.statement_rules import WELL_POSED, first_fault
from tests import toys

MATH = toys.SHARED / "data" / "train" / "math_train.jsonl"
GSM8K = toys.SHARED / "data" / "train" / "gsm8k_train.jsonl"
MBPP = toys.SHARED / "data" / "code" / "mbpp_train.jsonl"


@pytest.mark.parametrize(
    ("reason", "faulty", "sound"),
    [
        (
            "missing_figure",
            "In the figure below, find the length of AB.",
            "In the figure below, find AB. [asy]draw((0,0)--(3,4));[/asy]",
        ),
        (
            "missing_figure",
            "The following table gives the ages. What is their mean?",
            "Five friends sit at a table. How many ways are there to seat them around the table?",
        ),
        (
            "missing_figure",
            "What is the area of the triangle shown?",
            "The point (1, 2) is rotated by 90 degrees. What are the coordinates of the image of the point?",
        ),
        (
            "missing_part",
            "Using the result from part (a), find the limit.",
            "(a) Show that x > 1. (b) Using the result from part (a), find the least x.",
        ),
        (
            "missing_part",
            "With the numbers of the previous problem, what is the sum?",
            "A snail climbs for 3 days. On the previous day it rested. How far did it climb?",
        ),
        ("unfinished", "Find the number of integers n such that", "Find the number of integers n."),
        ("unfinished", "Find all x with the following conditions:", "Find all x with these: x > 1, x < 3."),
        ("gap", "Lena has ___ apples and eats 3. How many are left?", "Find $a_{n}$ for n = 3."),
        ("gap", "Lena has [number] apples. How many are left?", "Find f([3.5]) + 1."),
        ("no_question", "A train leaves at 3 and arrives at 5.", "A train leaves at 3. When does it arrive?"),
        ("no_question", "Prove that 7 divides 8^n - 1.", "Determine the remainder of 8^n - 1 modulo 7."),
        (
            "several_questions",
            "A box has 3 red balls. How many are there? What is the chance of red?",
            "There are 3 boxes. What is 3 + 4, how ever you look at it?",
        ),
        (
            "several_questions",
            "Find the sum of the roots and find their product.",
            "Find the sum of the roots and their product.",
        ),
        (
            "undetermined_symbol",
            "A triangle has sides 3 and 4. What is the value of $k$?",
            "Given $kx = 3$ at $x = 1$, what is the value of $k$?",
        ),
        (
            "contradictory",
            "Let N = 5 (mod 16) and N = 4 (mod 16). Find the least N.",
            "Let N = 5 (mod 16) and N = 4 (mod 17). Find the least N.",
        ),
        ("contradictory", "If x = 5 and y = 2 and x = 7, find y.", "If x + y = 5 and x - y = 7, find y."),
        (
            "contradictory",
            "Hana has 3 red and 4 blue cups. Hana has 3 red and 5 blue cups. How many cups are there?",
            "Hana has 3 red and 4 blue cups. Emil has 3 red and 5 blue cups. How many cups are there?",
        ),
        ("contradictory", "How many n with 9 <= n <= 3 are prime?", "How many n with 3 <= n <= 9 are prime?"),
    ],
)
def test_a_fault_is_found_and_its_neighbour_passes(reason: str, faulty: str, sound: str):
    found = first_fault(faulty, "math", WELL_POSED)
    assert found is not None
    assert (found.reason, bool(found.detail)) == (reason, True)
    assert first_fault(sound, "math", WELL_POSED) is None


@pytest.mark.parametrize(
    "sound",
    [
        "The region bounded by y = 0, x = 1, x = 4 and y = x^2 turns about the x-axis. Find its volume.",
        "A monic quadratic has the two roots x = 2 and x = 5. What is its constant term?",
        "A sequence has a = 3 for its first term. Another sequence has a = 5. Find the sum of both.",
        "What is the chance that two dice show a seven? Express your answer as m/n and find m + n.",
        "What is the area of the shaded part? It can be written as m/n in lowest terms; find m + n.",
    ],
)
def test_a_sound_statement_passes(sound: str):
    assert first_fault(sound, "math", WELL_POSED) is None


def test_a_program_may_print_several_things_and_show_odd_texts():
    text = "Read n. Print the sum of its digits. Then compute their product and print it, or ??? if it is 0."
    assert first_fault(text, "code", WELL_POSED) is None
    assert first_fault("A frog jumps over n stones.", "code", WELL_POSED).reason == "no_question"
    assert first_fault("Read n (9 <= n <= 3). Print n.", "code", WELL_POSED).reason == "contradictory"


# What the text shows is found always or nearly so; the forms below the line are for a judge or the votes.
RECALL = {
    ("missing_quantity", "gap"): (0.98, 1.0, {"gap"}),
    ("contradictory_data", "retold"): (0.95, 1.0, {"contradictory"}),
    ("two_questions", "sentence"): (0.98, 1.0, {"several_questions"}),
    ("two_questions", "clause"): (0.97, 1.0, {"several_questions"}),
    ("two_questions", "request"): (0.98, 1.0, {"several_questions"}),
    ("no_question", "dropped"): (0.93, 1.0, {"no_question"}),
    ("missing_context", "figure"): (0.98, 1.0, {"missing_figure"}),
    ("missing_context", "earlier"): (0.98, 1.0, {"missing_part"}),
    # ---
    ("missing_quantity", "vague"): (0.0, 0.05, set()),
    ("missing_quantity", "cut"): (0.0, 0.05, {"undetermined_symbol"}),
    ("contradictory_data", "denied"): (0.0, 0.05, set()),
    ("two_questions", "wish"): (0.0, 0.05, set()),
    ("missing_context", "notes"): (0.0, 0.05, {"undetermined_symbol"}),
}


def test_recall_of_planted_faults_by_form():
    rows = generator.generate(generator.CorpusConfig(seed=5, num_train=300)).train
    found = collections.defaultdict(list)
    for row in rows:
        for kind in faults.ILL_POSED if row.domain == "math" else ():
            planted = faults.plant(row, kind, seed=1)
            fault = first_fault(planted.row.problem, "math", WELL_POSED)
            found[kind, planted.form].append(fault.reason if fault else "")
    assert found.keys() == RECALL.keys()
    for form, (least, most, reasons) in RECALL.items():
        recall = sum(map(bool, found[form])) / len(found[form])
        assert least <= recall <= most, form
        assert set(found[form]) - {""} <= reasons, form


def share_refused(problems: list[tuple[str, str]]) -> float:
    return sum(first_fault(*problem, WELL_POSED) is not None for problem in problems) / len(problems)


def test_no_row_of_the_corpus_is_refused():
    rows = generator.generate(generator.CorpusConfig(seed=5, num_train=400)).train
    assert share_refused([(row.problem, row.domain) for row in rows]) == 0.0


@pytest.mark.skipif(not MATH.exists(), reason="needs shared data")
@pytest.mark.parametrize(("file", "most"), [(MATH, 0.012), (GSM8K, 0.003), (MBPP, 0.0)])
def test_few_real_problems_are_refused(file, most: float):
    rows = [json.loads(line) for line in file.read_text().splitlines()[:2000]]
    assert share_refused([(row["problem"], row.get("domain", "math")) for row in rows]) <= most


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Dr. Li left at 5 p.m. on Monday. He ran. When did he rest?", 3),
        ("How many divisors of 30! are prime? is 7 one of them?", 2),
        ("The P.T.O. bought U.S. coins! Find their worth.", 2),
        ("Let $f(x) = x?$ and\nlet $g = f$\n\nFind $g(1)$.", 2),
    ],
)
def test_sentences_end_where_the_next_begins(text: str, number: int):
    assert len(statement_rules.sentences(statement_rules.words_only(text))) == number


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("Find x, and find y.", ["Find x, and find y.", "and find y."]),
        ("If x = 2, what is y? What is z?", ["what is y?", "What is z?"]),
        ("What is 2 + 2? Express your answer in base 3. Write your answer twice.", ["What is 2 + 2?"]),
        ("A dog may give birth to 5 pups. In which month is it born?", ["In which month is it born?"]),
        ("Write the sum in base 4. Give its number of digits too.", ["Write the sum in base 4.", "Give its"]),
        ("A train leaves at 3, and how it goes is known.", []),
    ],
)
def test_a_statement_asks_as_often_as_it_asks(text: str, asked: list[str]):
    found = statement_rules.questions(text)
    assert len(found) == len(asked)
    assert all(one.startswith(start) for one, start in zip(found, asked, strict=True))


@pytest.mark.parametrize(
    ("broken", "whole"),
    [
        ("The roots satisfy the following conditions:", "The following condition holds: x < 3."),
        ("Tickets cost $5. Find the sum of", "Tickets cost $5. Find the sum."),
        ("Let $x = 3$ and $2x + y", "It costs 5$. Let $x$ be what 3$ buy. Find $x$."),
        ("Find $\\frac{1}{2} + 3x", "Each costs 100$ or \\$5. What is their sum?"),
    ],
)
def test_a_text_breaks_off_or_comes_to_its_end(broken: str, whole: str):
    assert statement_rules.open_end(broken)
    assert statement_rules.open_end(whole) is None
