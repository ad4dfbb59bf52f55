"""For each pair another one with like concepts, whose rationale p_theta reads in place of the pair's own.

What the rationale of an unrelated problem costs does not show that p_theta uses what z says beyond c: c tells
the two problems apart already. That of a pair with like concepts fits c as well as the pair's own does.
"""

import dataclasses
from collections.abc import Hashable, Sequence

import numpy as np

from promptcot_jax.core.arrays import Bool, Float
from promptcot_jax.em.pairs import Pair


@dataclasses.dataclass(frozen=True)
class LikePairs:
    """For each pair the index of another one; one pair may be the other of several."""

    others: tuple[int, ...]
    is_like: tuple[bool, ...]  # whether that one has like concepts: there may have been none that has
    is_bijection: bool  # whether each pair is the other of exactly one

    @property
    def num_unlike(self) -> int:
        """How many pairs had to take one without like concepts."""
        return len(self.is_like) - sum(self.is_like)


def like_pairs(pairs: Sequence[Pair]) -> LikePairs:
    """Chooses by what the rows say alone, so that all rounds of a run have the same choice.

    In this order, as far as there is such a pair: one whose problem and annotated rationale are other texts,
    since a twin's z is as good as the own; one of the same domain; of the same `family`, where rows carry
    one; with the largest share of concepts in common (Jaccard index); the next one, the first following the
    last, which among pairs that are all alike is a cyclic shift. Like is a pair of the same domain and
    family, or where a row has no family, of the same domain with a concept in common; a twin never is.

    So no pair of a family that has two different ones or more gets a rationale of another family.

    Raises:
        ValueError: there are fewer than two pairs.
    """
    count = len(pairs)
    if count < 2:
        raise ValueError(f"like_pairs needs two pairs or more, got {count}.")
    triples = [pair.triple for pair in pairs]
    is_twin = _equal([t.problem for t in triples]) | _equal([t.rationale for t in triples])
    same_domain = _equal([t.domain for t in triples])
    same_family = _equal([t.family for t in triples])
    overlap = concept_overlap([t.concepts for t in triples])
    has_family = np.array([bool(t.family) for t in triples])
    in_common = np.where(has_family[:, None] & has_family[None], same_family, overlap > 0)

    preferences = np.stack([~is_twin, same_domain, same_family, overlap], axis=-1).tolist()

    others = tuple(
        max(((i + step) % count for step in range(1, count)), key=preferences[i].__getitem__)
        for i in range(count)
    )
    chosen = np.arange(count), np.array(others)
    return LikePairs(
        others=others,
        is_like=tuple((~is_twin & same_domain & in_common)[chosen].tolist()),
        is_bijection=len(set(others)) == count,
    )


def concept_overlap(concepts: Sequence[Sequence[str]]) -> Float[np.ndarray, "B B"]:
    """Jaccard index of each two sets of concepts, upper and lower case alike; 0 where both are empty."""
    sets = [{concept.strip().casefold() for concept in some} for some in concepts]
    known = sorted(set().union(*sets))
    has = np.array([[concept in some for concept in known] for some in sets], np.int64)  # [B, concepts]
    shared = has @ has.T
    sizes = has.sum(axis=-1)
    return shared / np.maximum(sizes[:, None] + sizes[None] - shared, 1)


def _equal(values: Sequence[Hashable]) -> Bool[np.ndarray, "B B"]:
    """Whether each two are equal; what is empty says nothing, and equals nothing."""
    return np.array([[bool(a) and a == b for b in values] for a in values])
