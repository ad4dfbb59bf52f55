"""Facts of near-duplicates: what is one, that the first stays, that cutting into calls changes nothing."""

import itertools
import random

import numpy as np
import pytest

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.corpus import generator
from promptcot_jax.synthesis import near_duplicates, text_sketches
from promptcot_jax.synthesis.near_duplicates import DuplicateConfig, Repeat

WORDS = [f"{a}{b}" for a in ("ba", "do", "ku", "mi", "ze") for b in ("lo", "ran", "tis", "wem", "fy", "gup")]
EXACT_ONLY = DuplicateConfig(minhash_threshold=None)
MINHASH_ONLY = DuplicateConfig(exact=False)


def corpus_texts(count, seed=0):
    config = generator.CorpusConfig(seed=seed, num_train=count, num_heldout=0, num_novel=0)
    return [row.problem for row in generator.generate(config).train]


def with_other_words(text, draw, count):
    """A text with some of its words replaced."""
    words = text.split()
    for place in draw.sample(range(len(words)), count):
        words[place] = draw.choice(WORDS)
    return " ".join(words)


def by_all_pairs(similarity, count, threshold):
    """What `find` would find if it looked at every pair."""
    kept, found = [], []
    for i in range(count):
        earlier = next((j for j in kept if similarity(j, i) >= threshold), None)
        found.append(earlier)
        if earlier is None:
            kept.append(i)
    return found


def test_case_spacing_and_unicode_form_make_no_other_text_and_the_first_is_kept():
    texts = ["What is 2 + 2?", "what  is\n2 + 2?", "What is 2 - 2?", "What is \uff12 + 2?", "What is 2 - 2?"]
    expected = [None, Repeat(0, "exact", 1.0), None, Repeat(0, "exact", 1.0), Repeat(2, "exact", 1.0)]
    assert near_duplicates.find(texts, EXACT_ONLY) == expected
    assert near_duplicates.find(texts) == expected  # a sign is a word: no near-duplicate either


def test_a_text_is_compared_with_kept_texts_only():
    words = WORDS[:30]
    one = " ".join(words)
    middle = " ".join(["x", *words[1:]])  # 27 of 29 three-word sequences are in each of its neighbours
    other = " ".join(["x", *words[1:-1], "y"])
    repeats = near_duplicates.find([one, middle, other, middle], DuplicateConfig(minhash_threshold=0.9))
    assert [repeat and repeat.earlier for repeat in repeats] == [None, 0, None, 0]
    assert repeats[3] == Repeat(0, "minhash", repeats[1].similarity)
    assert repeats[1].similarity == pytest.approx(27 / 29)
    assert near_duplicates.find([middle, other, one], DuplicateConfig(minhash_threshold=0.9))[2].earlier == 0


def test_similarity_is_that_of_the_sets_of_three_word_sequences():
    one, other = map(text_sketches.shingles, ("a b c d e f", "a b c d e g"))
    assert text_sketches.jaccard(one, other) == pytest.approx(3 / 5)
    assert text_sketches.jaccard(one, text_sketches.shingles("A  b c d e f")) == 1.0
    assert len(text_sketches.shingles("two words")) == 1
    assert text_sketches.jaccard(text_sketches.shingles(""), text_sketches.shingles("")) == 1.0


def test_minhash_finds_what_all_pairs_find_in_the_corpus_and_nothing_else():
    texts, draw = corpus_texts(600), random.Random(5)
    planted = [with_other_words(text, draw, 1) for text in texts[::3]]
    both = [*texts, *planted]
    sets = [set(text_sketches.shingles(text).tolist()) for text in both]
    expected = by_all_pairs(
        lambda j, i: len(sets[i] & sets[j]) / len(sets[i] | sets[j]), len(both), threshold=0.8
    )
    found = near_duplicates.find(both, MINHASH_ONLY)
    for i, repeat in enumerate(found):  # precision: each pair that is named is one
        assert repeat is None or len(sets[i] & sets[repeat.earlier]) / len(
            sets[i] | sets[repeat.earlier]
        ) == pytest.approx(repeat.similarity)
    repeated = {i for i, earlier in enumerate(expected) if earlier is not None}
    caught = {i for i, repeat in enumerate(found) if repeat is not None}
    assert len(repeated) > 150
    assert len(caught & repeated) >= 0.9 * len(repeated)
    assert len(caught - repeated) <= 0.03 * len(repeated)  # what a missed earlier pair left as kept
    near_copies = [i for i in range(600, 800) if len(both[i].split()) >= 40]
    assert len([i for i in near_copies if found[i]]) >= 0.93 * len(near_copies)


@pytest.mark.slow
def test_calls_batches_and_processes_change_nothing(monkeypatch):
    draw = random.Random(1)
    texts = corpus_texts(120)
    texts += [with_other_words(draw.choice(texts), draw, draw.randint(0, 2)) for _ in range(120)]
    draw.shuffle(texts)
    encode = bag_of_words
    whole = near_duplicates.find(texts, encode=encode)
    assert {repeat.rule for repeat in whole if repeat} == {"exact", "minhash", "embedding"}
    for seed in range(8):
        cuts = sorted(random.Random(seed).sample(range(len(texts)), 5))
        index = near_duplicates.Index(DuplicateConfig(), encode=encode)
        pieces = [index.add(texts[a:b]) for a, b in itertools.pairwise([0, *cuts, cuts[-1], len(texts)])]
        assert sum(pieces, []) == whole
    monkeypatch.setattr(near_duplicates, "_TEXTS_PER_BATCH", 50)
    assert near_duplicates.find(texts, encode=encode, num_processes=2) == whole


def bag_of_words(texts):
    """Unit vectors of counted words by their first two letters: so that reordered words are alike."""
    vectors = np.zeros((len(texts), 1024), np.float32)
    for vector, text in zip(vectors, texts, strict=True):
        for word in text.split():
            vector[sum(map(ord, word)) % 1024] += 1
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_embedding_finds_what_all_pairs_find_among_vectors():
    draw = np.random.default_rng(0)
    vectors = draw.standard_normal((1500, 64)).astype(np.float32)
    vectors[1000:] = vectors[:500] + draw.uniform(0.1, 0.5, (500, 1)) * vectors[1000:]  # cosines 0.995 to 0.9
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    texts = [str(i) for i in range(1500)]
    found = near_duplicates.find(
        texts, DuplicateConfig(minhash_threshold=None), encode=lambda batch: vectors[[int(t) for t in batch]]
    )
    cosines = vectors @ vectors.T
    expected = by_all_pairs(lambda j, i: cosines[j, i], 1500, threshold=0.95)
    is_clear = [i for i in range(1500) if expected[i] is None or cosines[i, expected[i]] > 0.953]
    assert sum(expected[i] is not None for i in is_clear) > 200
    missed = [i for i in is_clear if expected[i] != (found[i] and found[i].earlier)]
    assert len(missed) <= 5
    assert all(repeat.rule == "embedding" for repeat in found if repeat)


def test_nothing_is_found_by_a_rule_that_is_off():
    texts = ["one two three four five six", "One two three four five six", "one two three four five six."]
    off = DuplicateConfig(exact=False, minhash_threshold=None)
    assert near_duplicates.find(texts, off) == [None] * 3
    assert near_duplicates.find([], off) == near_duplicates.find([]) == []
    loose = DuplicateConfig(exact=False, minhash_threshold=0.7)
    assert [repeat and repeat.rule for repeat in near_duplicates.find(texts, loose)] == [
        None,
        *["minhash"] * 2,
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"minhash_threshold": 0.0}, "minhash_threshold must lie in .0, 1. or be None"),
        ({"embedding_threshold": 1.5}, "embedding_threshold"),
        ({"num_hashes": 8}, "num_hashes must lie in .16"),
        ({"bits_per_band": 64}, "bits_per_band"),
        ({"seed": -1}, "seed"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DuplicateConfig(**settings)


def test_one_text_instead_of_a_list_is_refused():
    with pytest.raises(WrongUse, match="got one text"):
        near_duplicates.find("a text")
