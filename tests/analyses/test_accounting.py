"""Facts of what is in sets: kinds of answers, counts, repeats and overlaps by hand."""

import pytest

from promptcot_jax.analyses import accounting
from promptcot_jax.analyses.figures import NoRecords
from promptcot_jax.analyses.problem_sets import SetRow
from promptcot_jax.data import decontamination
from promptcot_jax.data.decontamination import Source


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("42", "integer"),
        ("$-7$", "integer"),
        ("70,110", "integer"),
        ("70{,}110", "integer"),
        ("3.25", "decimal"),
        (r"\frac{11}{16}", "fraction"),
        (r"-\dfrac12", "fraction"),
        ("3/4", "fraction"),
        ("B", "choice"),
        (r"\text{(C)}", "choice"),
        ("(3, 4]", "interval, tuple or set"),
        (r"\left( 3, \frac{\pi}{2} \right)", "interval, tuple or set"),
        (r"\{1, 2\}", "interval, tuple or set"),
        ("1, 2, 5", "list"),
        ("y = 2x + 1", "equation"),
        (r"x \le 3", "equation"),
        (r"\text{Evelyn}", "words"),
        ("even", "words"),
        (r"2\sqrt{3}", "expression"),
        (r"2\left(x+1\right)", "expression"),
        (r"x \leq 3", "equation"),
        ("(x+1)(x-2)", "expression"),
        ("(x+1)", "expression"),
        ("[a, b](c, d)", "expression"),
        ("(1,234)", "interval, tuple or set"),
        (r"(-\infty, 1) \cup \left[2, \infty\right)", "interval, tuple or set"),
        (r"\left\{ \frac{1}{2} \right\}", "interval, tuple or set"),
        ("1,234.5", "decimal"),
        (r"5\,000", "integer"),
        ("1,000/3", "fraction"),
        (r"10,000\pi", "expression"),
        (r"5,000\text{ dollars}", "expression"),
        (r"5\, \sqrt{2}", "expression"),
        (r"\binom{7}{2} P(1, 2)", "expression"),
        ("1,000, 2,000", "list"),
        ("(1, 2), (3, 4)", "list"),
        ("x^2 + 1", "expression"),
        ("", "none"),
    ],
)
def test_kinds_of_answers(answer: str, kind: str):
    assert accounting.answer_kind(SetRow(problem="x", answer=answer)) == kind


LONG = " ".join(f"word{chr(97 + i)}" for i in range(20))


def test_counts_are_those_of_the_rows():
    rows = [
        SetRow(id="1", problem="one two three", answer="1", level="AIME", solution="a b"),
        SetRow(id="2", problem="one two three", answer="1/2", level="AIME"),
        SetRow(id="3", problem=LONG, domain="code"),
        SetRow(id="4", problem="five words stand in here", answer="5"),
    ]

    def find_repeats(texts):
        return [
            "exact" if text in texts[:i] else "minhash" if "five" in text else ""
            for i, text in enumerate(texts)
        ]

    index = decontamination.Index([(Source("bench", "7"), LONG)])
    (made,) = accounting.figures_of({"ours": rows}, find_repeats, index)
    found = {(row["what"], row["group"]): (row["value"], row["share"]) for row in made.rows}
    assert found["rows", "all"] == (4, 1.0)
    assert found["domain", "code"] == (1, 0.25)
    assert found["source", "not stated"] == (4, 1.0)
    assert found["level", "AIME"] == (2, 0.5)
    assert found["kind of answer", "tests"] == (1, 0.25)
    assert found["repeated or contaminated", "exact repeat"] == (1, 0.25)
    assert found["repeated or contaminated", "near repeat"] == (1, 0.25)
    assert found["repeated or contaminated", "overlap"] == (1, 0.25)
    assert found["repeated or contaminated", "overlap with bench"] == (1, 0.25)
    assert found["words of a problem", "percentile 50"] == (4.0, None)
    assert found["words of a solution", "rows"] == (1, 0.25)
    assert ("words of a rationale", "rows") not in found
    assert "but for case, spacing and Unicode form (exact)" in made.caption


def test_without_benchmarks_nothing_is_said_of_overlap_and_without_sets_nothing_at_all():
    (made,) = accounting.figures_of({"a": [SetRow(problem="x")]}, lambda texts: [""] * len(texts), None)
    assert "no benchmarks were named" in made.caption
    assert not [row for row in made.rows if "overlap" in row["group"]]
    with pytest.raises(NoRecords, match="no set of problems"):
        accounting.figures_of({}, lambda texts: [], None)
