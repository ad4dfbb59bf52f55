"""Concept lists c that new problems are written from: a user's file, or lists drawn from the seed triples.

The paper conditions its generator on lists of foundational concepts with a difficulty level. A drawn list is
one that some triple has, with that triple's domain and level; sampling new combinations from a concept pool
is a later step of this room.
"""

import os
from collections.abc import Sequence

from etils import epath

from promptcot_jax.core import prng
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import ConceptSet, Triple
from promptcot_jax.data import rows


def read_concept_sets(path: epath.PathLike) -> list[ConceptSet]:
    """Concept sets of a file of any format.

    Raises:
        WrongUse: the file holds none, a list is empty, or two rows share an id.
    """
    concept_sets = list(rows.iter_records(path, ConceptSet))
    if not concept_sets:
        raise WrongUse(f"{os.fspath(path)}: no concept sets in it.")
    seen: set[str] = set()
    for concept_set in concept_sets:
        if not any(concept.strip() for concept in concept_set.concepts):
            raise WrongUse(f"{os.fspath(path)}: concept set {concept_set.id!r} names no concept.")
        if concept_set.id in seen:
            raise WrongUse(f"{os.fspath(path)}: two concept sets have the id {concept_set.id!r}.")
        seen.add(concept_set.id)
    return concept_sets


def draw_concept_sets(triples: Sequence[Triple], *, count: int, seed: int) -> list[ConceptSet]:
    """`count` distinct (domain, concepts, level) of the triples, in a seeded order.

    Raises:
        WrongUse: the triples have fewer distinct ones.
    """
    distinct = list(dict.fromkeys((triple.domain, triple.concepts, triple.level) for triple in triples))
    if count > len(distinct):
        raise WrongUse(
            f"{count} concept sets are asked for, but the triples have {len(distinct)} distinct ones; "
            "ask for fewer, take more samples of each, or give a file of concept sets."
        )
    order = prng.stream_generator(seed, "synthesize").permutation(len(distinct))[:count]
    return [
        ConceptSet(id=f"drawn-{place:05d}", domain=domain, concepts=concepts, level=level)
        for place, (domain, concepts, level) in enumerate(distinct[i] for i in order)
    ]
