"""Facts of case studies: which are chosen, their steps, and a page without request or script."""

import re

import pytest

from promptcot_jax.analyses import case_studies
from promptcot_jax.analyses.case_studies import CaseConfig
from promptcot_jax.analyses.figures import NoRecords
from promptcot_jax.analyses.problem_sets import SetRow
from promptcot_jax.core.errors import WrongUse

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
    assert case_studies.steps("1. Take r.\n2. It is about\n3.14 times r.\n3.\nEnd.") == (
        "",
        ["Take r.", "It is about\n3.14 times r.", "End."],
    )
    assert case_studies.steps("**1.** a\n**2. b** c") == ("", ["a", "b** c"])
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
    assert "<pre>print(&#39;$5$&#39;)\n</pre>" in made.html
    assert "1 formula could not be read" in made.caption
    assert [(row["id"], row["steps"], row["formulas"], row["unread_formulas"]) for row in made.rows] == [
        ("m<1>", 2, 4, 1),
        ("c", 2, 0, 0),
    ]


def ids_of(sets, **settings):
    return [row.id for _, row in case_studies.chosen(sets, CaseConfig(**settings))]


def test_small_sets_are_drawn_from_too_and_the_caption_names_those_shown():
    sets = {
        name: [SetRow(id=f"{name}{i}", problem="x") for i in range(size)]
        for name, size in (("large", 1000), ("one", 1), ("small", 4))
    }
    assert ids_of(sets, number=6) == ["large0", "one0", "small0", "large333", "small2", "large666"]
    assert len(ids_of(sets, number=2000)) == 1005
    (made,) = case_studies.pages_of(sets, CaseConfig(number=2))
    assert made.caption.startswith("2 problems of the sets large, one: concepts")
    assert [row["set"] for row in made.rows] == ["large", "one"]


def test_an_id_of_two_sets_is_refused():
    sets = {"a": [SetRow(id="1", problem="x")], "b": [SetRow(id="1", problem="y"), CODE]}
    with pytest.raises(WrongUse, match="the sets 'a' and 'b' all have a problem with the id '1'; .*CASES"):
        ids_of(sets, ids=("c", "1"))
    assert ids_of(sets, ids=("c",)) == ["c"]


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ("No solution", "No solution"),
        ("12 cm", "12 cm"),
        ("50%", "<mn>50</mn><mi>%</mi>"),
        ("x", "<mi>x</mi>"),
        (" 5", "<mn>5</mn>"),
        (r"\text{No solution}", "<mtext>No\u00a0solution</mtext>"),
        ("It is $5$.", 'It is <math display="inline"><mrow><mn>5</mn></mrow></math>.'),
    ],
)
def test_answers_are_formulas_unless_they_are_words(answer, shown):
    (made,) = case_studies.pages_of({"a": [SetRow(id="1", problem="?", answer=answer)]}, CaseConfig())
    _, _, end = made.html.partition("<h3>Answer</h3>")
    assert shown in end
    assert ("<math" in end) == (shown.startswith("<") or "<math" in shown)
    assert made.rows[0]["formulas"] == end.count("<math")


def test_ids_choose_and_otherwise_rows_are_evenly_spaced():
    rows = [SetRow(id=str(i), problem="x", rationale="z" if i % 2 else "") for i in range(40)]
    assert ids_of({"a": rows}, number=4) == ["1", "11", "21", "31"]  # of those with a rationale
    assert ids_of({"a": rows}, ids=("8", "3")) == ["8", "3"]
    with pytest.raises(WrongUse, match="CASE_IDS: no problem has the id '77'"):
        ids_of({"a": rows}, ids=("77",))
    with pytest.raises(NoRecords, match="CASES"):
        case_studies.pages_of({}, CaseConfig())
    with pytest.raises(ValueError, match="at least 1"):
        CaseConfig(number=0)
