"""Facts of the figures on well-posed problems: what is counted of what, with a reader of toy statements."""

import re

import pytest

from promptcot_jax.analyses import well_posed
from promptcot_jax.analyses.figures import NoRecords
from promptcot_jax.analyses.problem_sets import SetRow
from promptcot_jax.core.records import MathCorpusRow, Triple
from promptcot_jax.corpus import generator, oracle
from promptcot_jax.corpus.oracle import Reading
from promptcot_jax.verify import problem_accuracy

FAMILY, OTHER = sorted(generator.families())[:2]


def statement(family: str, n: int, ending: str = "plain") -> str:
    return f"{family} {n} {ending}"


def read(text: str) -> Reading | None:
    """Of "family n ending"; its answer is twice n, and "none" of a program."""
    match = re.fullmatch(r"(\w+) (\d+) (\w+)", text)
    if match is None:
        return None
    family, n, ending = match[1], int(match[2]), match[3]
    answer = None if ending == "cases" else str(2 * n)
    return Reading(
        family=family,
        ending=ending,
        level=3 if ending == "plain" else 4,
        parameters={"n": n},
        ending_parameters={},
        answer=answer,
    )


def triple(n: int, ending: str = "plain", family: str = FAMILY) -> Triple:
    text = statement(family, n, ending)
    return Triple(concepts=("c",), family=family, rationale="z", problem=text)


def by_name(rows: list[dict] | None) -> dict[tuple[str, str], dict]:
    assert rows is not None
    return {(row["set"], row["figure"]): row for row in rows}


def test_problems_are_counted_against_the_training_rows(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(oracle, "concepts_of", lambda reading: (reading.family, ""))
    asked = (FAMILY, "something else")
    problems = [
        SetRow(problem=statement(FAMILY, 1), concepts=asked),  # numbers and pair are known
        SetRow(problem=statement(FAMILY, 7), concepts=asked),  # new numbers
        SetRow(problem=statement(FAMILY, 2, "remainder"), concepts=asked),  # a new pair of known numbers
        SetRow(problem=statement(OTHER, 1), concepts=asked),  # new both ways, and not what was asked for
        SetRow(problem="Find the value of x.", concepts=asked),
    ]
    found = by_name(well_posed.numbers([triple(1), triple(2)], problems, [], read=read))
    counts = {figure: (row["count"], row["of"]) for (of, figure), row in found.items() if of == "problems"}
    assert counts == {
        "well_posed": (4, 5),
        "new_numbers": (2, 4),
        "new_pairs": (2, 4),
        "own_concepts": (3, 4),
        "mean_level": (4, 4),
    }
    sound = found["problems", "well_posed"]
    assert sound["value"] == pytest.approx(0.8)
    assert (sound["low"], sound["high"]) == problem_accuracy.wilson(0.8, 5)
    assert found["problems", "mean_level"]["value"] == pytest.approx(3.25)
    assert found["triples", "well_posed"]["count"] == 2
    assert ("verified_prompts", "well_posed") not in found


def test_a_label_is_right_where_it_says_what_the_exact_answer_says():
    verified = [
        SetRow(problem=statement(FAMILY, 5), answer="10"),
        SetRow(problem=statement(FAMILY, 6), answer=r"\boxed{12}"),
        SetRow(problem=statement(FAMILY, 7), answer="13"),
        SetRow(problem=statement(FAMILY, 8, "cases"), domain="code"),  # has tests, and no label
        SetRow(problem="no problem", answer="1"),
    ]
    found = by_name(well_posed.numbers([triple(1)], [], verified, read=read))
    sound, right = found["verified_prompts", "well_posed"], found["verified_prompts", "right_labels"]
    assert (sound["count"], sound["of"]) == (4, 5)
    assert (right["count"], right["of"]) == (2, 3)


def test_a_share_of_nothing_is_none():
    found = by_name(well_posed.numbers([triple(1)], [SetRow(problem="?")], [SetRow(problem="?")], read=read))
    for name in (("problems", "new_pairs"), ("problems", "mean_level"), ("verified_prompts", "right_labels")):
        assert (found[name]["value"], found[name]["of"]) == (None, 0)


@pytest.mark.parametrize("triples", [[], [triple(1), triple(1, family="")], [triple(1, family="mine")]])
def test_a_run_on_another_corpus_has_no_figures(triples: list[Triple]):
    assert well_posed.numbers(triples, [SetRow(problem=statement(FAMILY, 1))], [], read=read) is None


def test_the_figure_says_what_its_shares_are_of():
    problems = [SetRow(problem=statement(FAMILY, n), concepts=(FAMILY,)) for n in range(9)]
    verified = [SetRow(problem=statement(FAMILY, 4), answer="8")]
    (made,) = well_posed.figures_of([triple(1), triple(3)], problems, verified, read=read)
    assert (made.name, len(made.rows)) == ("well_posed", 10)
    assert {"well_posed.svg"} <= {f"{made.name}.{suffix}" for suffix in made.files()}
    assert "9 synthesized problems and 1 verified prompt" in made.caption
    assert "2 of 2 can be read" in made.caption
    assert "problems 3.00" in made.caption


def test_without_new_problems_or_on_another_corpus_it_is_left_out():
    with pytest.raises(NoRecords, match="no new problems"):
        well_posed.figures_of([triple(1)], [], [], read=read)
    with pytest.raises(NoRecords, match="seed corpus"):
        well_posed.figures_of([triple(1, family="mine")], [SetRow(problem="x")], [], read=read)


def test_rows_of_the_corpus_itself_are_well_posed_and_new_in_the_novel_split():
    """With the reader of the project; the figures must hold for problems whose making is known."""
    config = generator.CorpusConfig(num_train=120, num_heldout=0, num_novel=40)
    made = generator.generate(config)
    triples = [
        Triple(concepts=row.concepts, family=row.family, rationale=row.rationale, problem=row.problem)
        for row in made.train
    ]
    novel = [
        SetRow(
            problem=row.problem,
            concepts=row.concepts,
            domain=row.domain,
            answer=row.answer if isinstance(row, MathCorpusRow) else "",
        )
        for row in made.novel
    ]
    found = by_name(well_posed.numbers(triples, novel, novel))
    figures = [("problems", name) for name in ("well_posed", "new_numbers", "new_pairs", "own_concepts")]
    for figure in (*figures, ("triples", "well_posed"), ("verified_prompts", "right_labels")):
        assert found[figure]["value"] == 1.0, figure
