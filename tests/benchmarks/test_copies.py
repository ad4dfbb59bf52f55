"""Planted copies: the same task in other words, always the same, less and less of the wording kept."""

import re

import pytest

from benchmarks import copies
from promptcot_jax.corpus import generator, rows

ROWS = [
    row
    for row in generator.generate(generator.CorpusConfig(seed=4, num_train=240)).train
    if row.domain == "math"
]


def names_and_numbers(text: str) -> list[str]:
    return sorted(re.findall(rf"\d+|\b(?:{'|'.join(rows.NAMES)})\b", text))


@pytest.mark.parametrize("edit", copies.PARAPHRASES)
def test_a_paraphrase_keeps_names_and_numbers_and_says_it_otherwise(edit: copies.Edit):
    said = [copies.edited(row.problem, edit, seed=1) for row in ROWS]
    assert said == [copies.edited(row.problem, edit, seed=1) for row in ROWS]
    for row, other in zip(ROWS, said, strict=True):
        assert names_and_numbers(other) == names_and_numbers(row.problem)
    changed = sum(other != row.problem for row, other in zip(ROWS, said, strict=True))
    # A few problems have no word that the table knows.
    assert changed >= (0.85 if edit in ("two_words", "words") else 1.0) * len(ROWS)


def test_what_the_edits_do():
    problem = "Hana owns 3 different bags. A bag holds 4 red cups. What is the largest prime factor of 12?"
    said = {edit: copies.edited(problem, edit, seed=1) for edit in (*copies.PARAPHRASES, *copies.COPIES)}
    facts, asked = problem[:51], problem[52:]
    assert said["question"] == f"{facts} Which prime is the largest that 12 can be divided by?"
    assert said["question_first"] == f"{asked} {facts}"
    other = "Hana has 3 distinct bags. A sack contains 4 red cups."
    assert said["words"] == f"{other} What is the greatest prime factor of 12?"
    assert said["all"] == f"Which prime is the greatest that 12 can be divided by? {other}"
    assert sum(a != b for a, b in zip(problem.split(), said["two_words"].split(), strict=True)) == 2
    assert said["numbers"] == problem.replace("12", "13").replace("4", "5").replace("3 diff", "4 diff")
    assert said["none"] == problem
    assert problem in said["framed"]
