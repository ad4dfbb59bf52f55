"""Facts of concept sets: distinct, seeded, and refused where a prompt could not be made from them."""

import json

import pytest

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import ConceptSet, Triple
from promptcot_jax.synthesis import concept_sets


def triples():
    return [
        Triple(
            id=f"t{i}",
            concepts=(f"concept {i % 6}", "another"),
            level=str(i % 2),
            rationale="z",
            problem=f"x {i}",
        )
        for i in range(24)
    ]


def test_drawn_sets_are_distinct_seeded_and_keep_domain_and_level():
    drawn = concept_sets.draw_concept_sets(triples(), count=6, seed=3)
    keys = [(s.domain, s.concepts, s.level) for s in drawn]
    assert len(set(keys)) == 6 == len({s.id for s in drawn})
    assert set(keys) == {(t.domain, t.concepts, t.level) for t in triples()}
    assert drawn == concept_sets.draw_concept_sets(triples(), count=6, seed=3)
    assert keys != [
        (s.domain, s.concepts, s.level) for s in concept_sets.draw_concept_sets(triples(), count=6, seed=4)
    ]


def test_more_sets_than_the_triples_have_are_refused():
    with pytest.raises(WrongUse, match="7 concept sets.*6 distinct"):
        concept_sets.draw_concept_sets(triples(), count=7, seed=0)


def test_a_file_of_sets_is_read_and_unusable_rows_are_named(tmp_path):
    path = tmp_path / "sets.jsonl"
    path.write_text(json.dumps({"concepts": ["primes"], "level": 3}) + "\n")
    assert concept_sets.read_concept_sets(path) == [
        ConceptSet(id="sets.jsonl:1", concepts=("primes",), level="3")
    ]
    path.write_text('{"id": "a", "concepts": [" "]}\n')
    with pytest.raises(WrongUse, match="'a' names no concept"):
        concept_sets.read_concept_sets(path)
    path.write_text('{"id": "a", "concepts": ["p"]}\n{"id": "a", "concepts": ["q"]}\n')
    with pytest.raises(WrongUse, match="two concept sets"):
        concept_sets.read_concept_sets(path)
    path.write_text("\n")
    with pytest.raises(WrongUse, match="no concept sets"):
        concept_sets.read_concept_sets(path)
