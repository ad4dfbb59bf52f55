"""Facts of what is in sets: counts, repeats and overlaps by hand."""

import pytest

from promptcot_jax.analyses import accounting
from promptcot_jax.analyses.figures import NoRecords
from promptcot_jax.analyses.problem_sets import SetRow
from promptcot_jax.data import decontamination
from promptcot_jax.data.decontamination import Source

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
