"""Facts of case studies: which are chosen, their steps, and a page without request or script."""

import re

import pytest

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.evaluation.analyses import case_studies
from promptcot_jax.evaluation.analyses.case_studies import CaseConfig
from promptcot_jax.evaluation.analyses.made import NoRecords
from promptcot_jax.evaluation.analyses.problem_sets import SetRow

MATH = SetRow(
    id="m<1>",
    level="AIME",
    concepts=("primes", "<i>sums</i>"),
    rationale="I want both.\nStep 1: take $p$ prime.\nStep 2: add $\\foo$.\nThen hide it.",
    problem="Find $p^2$.<script>alert(1)</script>",
    answer=r"\frac12",
)
CODE = SetRow(
    id="c", domain="code", problem="Print the sum.", solution="print('$5$')", rationale="One.\n\nTwo."
)


def test_steps_are_those_that_a_rationale_numbers():
    assert case_studies.steps(MATH.rationale) == (
        "I want both.",
        ["take $p$ prime.", "add $\\foo$.\nThen hide it."],
    )
    assert case_studies.steps("1. a\n2) b\n(3) c") == ("", ["a", "b", "c"])
    assert case_studies.steps("**Step 1:** a\n**Step 2:** b") == ("", ["a", "b"])
    assert case_studies.steps("One is\n\\[x\\] here.\nTwo.\n\nThree.") == (
        "",
        ["One is\n\\[x\\] here.", "Two.", "Three."],
    )
    assert case_studies.steps("") == ("", [])
    assert case_studies.steps("In 1. there is one number only.") == ("", ["In 1. there is one number only."])


def test_the_page_has_all_parts_and_asks_for_nothing():
    (made,) = case_studies.pages_of({"ours": [MATH, CODE]}, CaseConfig())
    assert "<script" not in made.html
    assert not re.search(r"<(img|link|iframe|a) |url\(|http-equiv=\"refresh", made.html)
    assert "default-src 'none'" in made.html
    assert "m&lt;1&gt;" in made.html
    assert "&lt;i&gt;sums&lt;/i&gt;" in made.html
    assert "<ol><li>take <math" in made.html
    assert '<code class="unread">$\\foo$</code>' in made.html
    assert "<mfrac>" in made.html  # the answer
    assert "<pre>print(&#x27;$5$&#x27;)\n</pre>" in made.html
    assert "1 formula could not be read" in made.caption
    assert [(row["id"], row["steps"], row["formulas"], row["unread_formulas"]) for row in made.rows] == [
        ("m<1>", 2, 4, 1),
        ("c", 2, 0, 0),
    ]


def test_ids_choose_and_otherwise_rows_are_evenly_spaced():
    rows = [SetRow(id=str(i), problem="x", rationale="z" if i % 2 else "") for i in range(40)]
    ids = [row.id for row in case_studies.chosen(rows, CaseConfig(number=4))]
    assert ids == ["1", "11", "21", "31"]  # of those with a rationale
    assert [row.id for row in case_studies.chosen(rows, CaseConfig(ids=("8", "3")))] == ["8", "3"]
    with pytest.raises(WrongUse, match="CASE_IDS: no problem has the id '77'"):
        case_studies.chosen(rows, CaseConfig(ids=("77",)))
    with pytest.raises(NoRecords, match="CASES"):
        case_studies.pages_of({}, CaseConfig())
    with pytest.raises(ValueError, match="at least 1"):
        CaseConfig(number=0)
