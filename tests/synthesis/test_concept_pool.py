"""Facts of drawn concept lists: never the same twice, balanced, by their rule, however they are asked for."""

import collections

import numpy as np
import pytest

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import ConceptSet, Triple
from promptcot_jax.corpus import generator
from promptcot_jax.synthesis.concept_pool import ConceptPool, PoolConfig


def seeds(count=300):
    config = generator.CorpusConfig(seed=0, num_train=count, num_heldout=0, num_novel=0)
    return [
        Triple(domain=r.domain, concepts=r.concepts, level=r.level, rationale="z", problem=r.problem)
        for r in generator.generate(config).train
    ]


def letters(texts):
    """Vectors of counted letters."""
    vectors = np.array([[text.count(letter) + 1e-3 for letter in "abcdefgh"] for text in texts], np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("rule", ["cooccurrence", "embedding", "uniform"])
@pytest.mark.parametrize("balance", ["even", "seeds"])
def test_no_list_comes_twice_in_any_order_and_all_is_seeded(rule, balance):
    config = PoolConfig(rule=rule, balance=balance)
    drawn = ConceptPool(seeds(), config, seed=3, encode=letters).draw(200)
    keys = {(one.domain, frozenset(one.concepts)) for one in drawn}
    assert len(keys) == 200 == len({one.id for one in drawn})
    assert all(len(set(one.concepts)) == len(one.concepts) for one in drawn)
    pool = ConceptPool(seeds(), config, seed=3, encode=letters)
    assert [one for size in (1, 60, 0, 139) for one in pool.draw(size)] == drawn
    assert ConceptPool(seeds(), config, seed=4, encode=letters).draw(200) != drawn


def test_concepts_that_differ_in_capitals_and_spaces_are_one():
    spellings = ["Divisors", "divisors", "divisors ", "di visors"]
    given = [ConceptSet(concepts=(spelling, "Primes")) for spelling in spellings]
    pool = ConceptPool([*given, ConceptSet(concepts=("primes ", "Sums"))], PoolConfig(), seed=0)
    assert len(pool) == 4
    drawn = [frozenset(one.concepts) for one in pool.draw(100)]
    assert len(drawn) == len(set(drawn))
    assert frozenset({"Divisors", "Primes"}) in drawn
    assert {name for names in drawn for name in names} == {"Divisors", "di visors", "Primes", "Sums"}


def test_domains_and_levels_come_alike_or_as_the_seeds_have_them():
    given = [
        *[ConceptSet(concepts=(f"a{i}", f"a{i + 1}"), level="1") for i in range(30)],
        *[ConceptSet(concepts=(f"a{i}", f"b{i}", "c"), level="2") for i in range(9)],
        ConceptSet(domain="code", concepts=("x", "y"), level="1"),
        ConceptSet(domain="code", concepts=("y", "z"), level="1"),
        ConceptSet(domain="code", concepts=("x", "z"), level="1"),
    ]
    even = ConceptPool(given, PoolConfig(), seed=0).draw(9)
    assert collections.Counter((one.domain, one.level) for one in even) == {
        ("math", "1"): 3,
        ("math", "2"): 3,
        ("code", "1"): 3,
    }
    assert all(set(one.concepts) <= {"x", "y", "z"} for one in even if one.domain == "code")
    as_given = ConceptPool(given, PoolConfig(balance="seeds", rule="uniform"), seed=0).draw(100)
    by_level = collections.Counter(one.level for one in as_given)
    assert by_level["1"] > 2 * by_level["2"] > 0


def test_a_walk_follows_what_stands_together_and_as_often():
    given = [
        *[ConceptSet(concepts=("hub", "often"), level="1")] * 90,
        *[ConceptSet(concepts=("hub", "seldom"), level="1")] * 10,
        ConceptSet(concepts=("far", "away"), level="1"),
    ]
    seconds = collections.Counter()
    for seed in range(300):
        (drawn,) = ConceptPool(given, PoolConfig(concepts_per_set=2), seed=seed).draw(1)
        assert set(drawn.concepts) in ({"hub", "often"}, {"hub", "seldom"}, {"far", "away"})
        if drawn.concepts[0] == "hub":
            seconds[drawn.concepts[1]] += 1
    assert 0.83 < seconds["often"] / seconds.total() < 0.97
    (longer,) = ConceptPool(given, PoolConfig(concepts_per_set=4), seed=1).draw(1)
    assert len(set(longer.concepts)) == 4  # beyond its neighbours the walk goes on anywhere


def test_a_low_temperature_keeps_to_like_concepts():
    given = [ConceptSet(concepts=("aaa", "aab", "abb", "hhh", "hhg", "hgg"), level="1")]
    like = {}
    for temperature in (0.02, 50.0):
        config = PoolConfig(rule="embedding", concepts_per_set=3, temperature=temperature)
        pools = [ConceptPool(given, config, seed=seed, encode=letters) for seed in range(100)]
        like[temperature] = sum(len({"a" in c for c in pool.draw(1)[0].concepts}) == 1 for pool in pools)
    assert like[0.02] == 100
    assert like[50.0] < 30  # 1 in 10 by chance


def test_a_pool_that_is_used_up_gives_what_there_is():
    given = [ConceptSet(concepts=("a", "b", "c"), level="1"), ConceptSet(concepts=("a", "b", "c"), level="2")]
    pool = ConceptPool(given, PoolConfig(rule="uniform", concepts_per_set=2), seed=0)
    assert {frozenset(one.concepts) for one in pool.draw(50)} == {
        frozenset("ab"),
        frozenset("ac"),
        frozenset("bc"),
    }
    assert pool.draw(1) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"concepts_per_set": -1}, "concepts_per_set must be 0"),
        ({"temperature": 0.0}, "temperature must be positive"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PoolConfig(**settings)


def test_a_pool_without_concepts_is_refused():
    with pytest.raises(WrongUse, match="no concepts"):
        ConceptPool([], PoolConfig(), seed=0)
