"""Facts of a file of concept sets: read as it is, refused where a prompt could not be made from it."""

import json

import pytest

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import ConceptSet
from promptcot_jax.synthesis import concept_sets


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
    with pytest.raises(WrongUse, match="the id 'a' occurs twice"):
        concept_sets.read_concept_sets(path)
    path.write_text("\n")
    with pytest.raises(WrongUse, match="no concept sets"):
        concept_sets.read_concept_sets(path)
