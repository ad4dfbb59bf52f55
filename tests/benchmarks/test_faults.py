"""Planted faults: deterministic, really there, and nothing else is changed."""

import typing

import pytest

from benchmarks import faults
from promptcot_jax.corpus import generator

ROWS = [
    row
    for row in generator.generate(generator.CorpusConfig(seed=4, num_train=240)).train
    if row.domain == "math"
]
KINDS = typing.get_args(faults.FaultKind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_is_planted_in_every_row_and_always_the_same(kind):
    forms = set()
    for row in ROWS:
        planted = faults.plant(row, kind, seed=1)
        assert planted == faults.plant(row, kind, seed=1)
        assert planted.row.id == f"{row.id}-{kind}"
        forms.add(planted.form)
        if kind == "wrong_answer":
            assert planted.row.problem == row.problem
            assert planted.row.answer != row.answer
        else:
            assert planted.row.problem != row.problem
            assert planted.row.answer == row.answer
    assert forms == set(faults._FORMS[kind])


def test_what_the_forms_do():
    row = next(row for row in ROWS if row.family == "mixture")
    texts = {
        (kind, planted.form): planted.row.problem
        for kind in KINDS
        for seed in range(30)
        for planted in [faults.plant(row, kind, seed)]
    }
    assert "___" in texts["missing_quantity", "gap"]
    assert len(texts["missing_quantity", "cut"]) < len(row.problem)
    assert texts["contradictory_data", "retold"].count(".") > row.problem.count(".")
    assert texts["two_questions", "sentence"] == f"{row.problem} What is its square?"
    assert row.problem.startswith(texts["no_question", "dropped"])
    assert f"The answer is {row.answer}." in texts["leaked_answer", "stated"]
