"""Copying counted by hand, coverage of concepts, answers that a rationale gives away."""

import pytest

from promptcot_jax.core import jsonl
from promptcot_jax.core.records import Triple
from promptcot_jax.corpus import generator
from promptcot_jax.synthesis import pair_checks
from promptcot_jax.synthesis.pair_checks import Copying, PairConfig
from promptcot_jax.synthesis.teacher_replies import Unusable
from tests import toys

PROBLEM = "a b c d e f g h"  # five 4-grams


@pytest.mark.parametrize(
    ("rationale", "share", "longest"),
    [
        ("nothing of it", 0.0, 0),
        ("x a b c y", 0.0, 3),
        ("x a b c d y", 0.2, 4),
        ("x a b c d y e f g h z", 0.4, 4),
        ("A, b; c $d$: e f g h!", 1.0, 8),  # punctuation and case are no words
        ("h g f e d c b a", 0.0, 1),
        ("", 0.0, 0),
    ],
)
def test_copying(rationale: str, share: float, longest: int):
    assert pair_checks.copying(PROBLEM, rationale, 4) == Copying(share=share, longest_run=longest)


def test_a_problem_shorter_than_an_n_gram_has_a_longest_run_only():
    assert pair_checks.copying("Compute 8 choose 4", "compute 8 choose 4", 8) == Copying(
        share=0.0, longest_run=4
    )


def test_the_longest_run_is_that_of_a_plain_search():
    words = [str((7 * i * i + 3 * i) % 11) for i in range(60)]
    other = [str((5 * i * i + i) % 11) for i in range(40)] + words[13:30] + ["12"]
    longest = max(
        k
        for k in range(1, 41)
        if any(words[i : i + k] == other[j : j + k] for i in range(61 - k) for j in range(len(other) - k + 1))
    )
    assert pair_checks.copying(" ".join(words), " ".join(other), 3).longest_run == longest


@pytest.mark.parametrize(
    ("concepts", "coverage"),
    [
        (("counting arguments",), 1.0),  # "counted", half of its words
        (("prime factorization", "triangles"), 0.5),
        (("graph colouring", "triangles"), 0.0),
        (("gcd",), 1.0),  # no word of four letters: all of it
        (("lcm",), 0.0),
        (("primes",), 1.0),
        (("a prime",), 1.0),  # the plural is in the text
    ],
)
def test_concept_coverage(concepts: tuple[str, ...], coverage: float):
    texts = ("Find the gcd of 12 and 18.", "We counted the primes in each.")
    assert pair_checks.concept_coverage(concepts, texts) == coverage


@pytest.mark.parametrize(
    ("answer", "rationale", "stated"),
    [
        ("72", "so that 72 comes out", "yes"),
        ("72", "so that 172 comes out", "no"),
        ("48", "start from 48 clips", "no"),  # a number of the problem
        (r"\frac{3}{4}", "the share is $\\dfrac{3}{4}$", "yes"),
        (r"\frac{3}{4}", "3 of 4 parts", "no"),
        ("", "anything", "unknown"),
    ],
)
def test_a_stated_answer(answer: str, rationale: str, stated: str):
    assert pair_checks.answer_stated(answer, "She sold 48 clips, then half as many.", rationale) == stated


@pytest.mark.parametrize(
    ("copied", "coverage", "reason"),
    [
        (Copying(share=0.51, longest_run=9), 1.0, "copies_problem"),
        (Copying(share=0.1, longest_run=26), 1.0, "copies_problem"),
        (Copying(share=0.5, longest_run=25), 0.39, "concepts_unused"),
        (Copying(share=0.5, longest_run=25), 0.4, None),
    ],
)
def test_thresholds(copied: Copying, coverage: float, reason: str | None):
    config = PairConfig(min_concept_coverage=0.4)
    if reason is None:
        pair_checks.check(copied, coverage, config)
        return
    with pytest.raises(Unusable) as caught:
        pair_checks.check(copied, coverage, config)
    assert caught.value.reason == reason


@pytest.mark.parametrize("changes", [{"copy_ngram": 0}, {"max_copied_share": 1.5}, {"max_copied_run": 0}])
def test_settings_that_mean_nothing_are_refused(changes: dict):
    with pytest.raises(ValueError, match=next(iter(changes))):
        PairConfig(**changes)


def refused(triples) -> float:
    """The share of triples that the default thresholds take for copies."""
    config, count = PairConfig(), 0
    for triple in triples:
        try:
            pair_checks.check(
                pair_checks.copying(triple.problem, triple.rationale, config.copy_ngram), 1.0, config
            )
        except Unusable:
            count += 1
    return count / len(triples)


def test_the_defaults_refuse_no_rationale_of_the_corpus():
    config = generator.CorpusConfig(seed=0, num_train=200, num_heldout=4, num_novel=4)
    assert refused(generator.generate(config).train) == 0.0


@pytest.mark.skipif(not toys.SEED_TRIPLES.exists(), reason="needs shared data")
def test_the_defaults_refuse_few_solutions_and_every_copy():
    triples = jsonl.read_records(toys.SEED_TRIPLES, Triple)
    assert refused(triples) <= 0.05
    long = [triple for triple in triples if len(triple.problem.split()) > 20]
    copies = [Triple(concepts=(), problem=t.problem, rationale=f"Pose: {t.problem}") for t in long]
    assert refused(copies) == 1.0
