"""Another pair with like concepts for each pair, against the rule's words and on the seed corpus."""

import collections

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptcot_jax.core.records import Triple
from promptcot_jax.corpus import generator
from promptcot_jax.em import derangement
from promptcot_jax.em.pairs import Pair

EXAMPLES = settings(max_examples=300, deadline=None, derandomize=True)


def pairs_of(triples):
    return [
        Pair(index=i, triple=triple, theta_prompt_ids=(), phi_prompt_ids=(), problem_ids=())
        for i, triple in enumerate(triples)
    ]


def triple(concepts="a", *, problem="x", rationale="z", family="", domain="math"):
    return Triple(
        domain=domain, concepts=tuple(concepts), family=family, rationale=rationale, problem=problem
    )


DRAWN = st.lists(  # arguments of `triple`
    st.builds(
        dict,
        concepts=st.lists(st.sampled_from("abcdE"), max_size=3),
        problem=st.sampled_from("12345678"),
        rationale=st.sampled_from(["", "r", "s", "t", "u", "v"]),
        family=st.sampled_from(["", "f", "g", "h"]),
        domain=st.sampled_from(["math", "code"]),
    ),
    min_size=2,
    max_size=9,
)


def are_twins(one, other):
    return one.problem == other.problem or (one.rationale == other.rationale != "")


def jaccard(one, other):
    one, other = set(one.concepts), set(other.concepts)
    return len(one & other) / len(one | other) if one | other else 0.0


def worth(one, other):
    """How well the other suits, by the rule's words."""
    same_family = one.family == other.family != ""
    return not are_twins(one, other), one.domain == other.domain, same_family, jaccard(one, other)


@EXAMPLES
@given(DRAWN)
def test_each_pair_gets_another_one_and_none_would_suit_better(drawn):
    triples = [triple(**arguments) for arguments in drawn]
    found = derangement.like_pairs(pairs_of(triples))
    count = len(triples)
    for i, chosen in enumerate(found.others):
        others = [(i + step) % count for step in range(1, count)]
        assert chosen in others
        best = max(worth(triples[i], triples[j]) for j in others)
        first = next(j for j in others if worth(triples[i], triples[j]) == best)
        assert chosen == first
        one, other = triples[i], triples[chosen]
        with_families = bool(one.family and other.family)
        alike = one.family == other.family if with_families else jaccard(one, other) > 0
        is_like = alike and one.domain == other.domain and not are_twins(one, other)
        assert found.is_like[i] == is_like
    assert found.num_unlike == count - sum(found.is_like)
    assert found.is_bijection == (sorted(found.others) == list(range(count)))
    assert derangement.like_pairs(pairs_of(triples)) == found


@EXAMPLES
@given(st.lists(st.tuples(st.sampled_from("fghi"), st.text("abcd", max_size=3)), max_size=10))
def test_no_rationale_of_another_family_where_each_has_two_pairs(drawn):
    drawn = [*drawn, *((family, "a") for family in "fghi" for _ in range(2))]
    found = derangement.like_pairs(
        pairs_of(
            triple(concepts, family=family, problem=f"x{i}", rationale=f"z{i}")
            for i, (family, concepts) in enumerate(drawn)
        )
    )
    assert all(drawn[i][0] == drawn[j][0] for i, j in enumerate(found.others))
    assert found.num_unlike == 0


@pytest.mark.parametrize("num_rows", [64, 180])
def test_pairs_of_the_seed_corpus_stay_in_their_family(num_rows):
    rows = generator.generate(generator.CorpusConfig(num_train=0, num_heldout=num_rows, num_novel=0)).heldout
    assert min(collections.Counter(row.family for row in rows).values()) >= 2
    found = derangement.like_pairs(
        pairs_of(
            triple(
                row.concepts,
                problem=row.problem,
                rationale=row.rationale,
                family=row.family,
                domain=row.domain,
            )
            for row in rows
        )
    )
    assert all(rows[i].family == rows[j].family for i, j in enumerate(found.others))
    assert found.num_unlike == 0
    next_ones = [rows[i].family == rows[(i + 1) % num_rows].family for i in range(num_rows)]
    assert not any(next_ones)  # or the figure against the next pair would say the same


def test_pairs_that_are_all_alike_are_shifted_by_one():
    found = derangement.like_pairs(pairs_of(triple(problem=f"x{i}", rationale=f"z{i}") for i in range(5)))
    assert found.others == (1, 2, 3, 4, 0)
    assert found.is_bijection


def test_a_twin_is_taken_only_where_nothing_else_is_left():
    """Its rationale says what the own says: reading it costs nothing, whatever p_theta uses."""
    rows = [
        triple("ab", problem="x0", rationale="z0"),
        triple("ab", problem="x0", rationale="z1"),
        triple("ab", problem="x2", rationale="z0"),
        triple("ac", problem="x3", rationale="z3"),
    ]
    assert derangement.like_pairs(pairs_of(rows)).others == (3, 2, 1, 0)
    found = derangement.like_pairs(pairs_of(rows[:2]))
    assert (found.others, found.num_unlike) == ((1, 0), 2)


def test_rationales_that_are_not_there_are_no_twins():
    rows = [triple(concepts, problem=f"x{i}", rationale="") for i, concepts in enumerate(("ab", "cd", "ab"))]
    found = derangement.like_pairs(pairs_of(rows))
    assert (found.others, found.is_like) == ((2, 2, 0), (True, False, True))
    assert not found.is_bijection


def test_one_pair_has_no_other():
    with pytest.raises(ValueError, match="two pairs or more"):
        derangement.like_pairs(pairs_of([triple()]))
