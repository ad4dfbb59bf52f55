"""Concept lists c of a user's file; `concept_pool.py` draws new ones."""

import os

from etils import epath

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import ConceptSet
from promptcot_jax.data import rows


def read_concept_sets(path: epath.PathLike) -> list[ConceptSet]:
    """Concept sets of a file of any format.

    Raises:
        WrongUse: the file holds none, a list is empty, or two rows share an id.
    """
    concept_sets = list(rows.iter_records(path, ConceptSet))
    if not concept_sets:
        raise WrongUse(f"{os.fspath(path)}: no concept sets in it.")
    for concept_set in concept_sets:
        if not any(concept.strip() for concept in concept_set.concepts):
            raise WrongUse(f"{os.fspath(path)}: concept set {concept_set.id!r} names no concept.")
    rows.check_ids((concept_set.id for concept_set in concept_sets), os.fspath(path))
    return concept_sets
