import pytest

from promptcot_jax.corpus import generator
from promptcot_jax.data import templates, tokenizer, tokenizer_training


@pytest.fixture(scope="module")
def texts():
    corpus = generator.generate(generator.CorpusConfig(num_train=300, num_heldout=0, num_novel=0))
    return [text for row in corpus.train for text in (row.rationale, row.problem, row.solution)]


@pytest.fixture(scope="module")
def trained(texts):
    return tokenizer_training.train_tokenizer(texts, 600)


def test_same_texts_give_the_same_bytes(texts, trained):
    again = tokenizer_training.train_tokenizer(iter(texts), 600)
    assert again.backend.to_str() == trained.backend.to_str()
    assert again.digest == trained.digest


def test_vocabulary_has_the_size_asked_for_and_merges_shorten_the_corpus(texts, trained):
    assert trained.vocab_size == 600
    num_bytes = sum(len(text.encode()) for text in texts)
    assert sum(map(len, trained.encode_many(texts))) < 0.6 * num_bytes


def test_digits_stand_alone_and_markers_are_one_token(trained):
    assert [trained.token_text(i) for i in trained.encode("2026")] == ["2", "0", "2", "6"]
    assert not [t for t in trained.backend.get_vocab() if any(c.isdigit() for c in t) and len(t) > 1]
    for marker in templates.MARKERS:
        assert len(trained.encode(marker)) == 1
        assert trained.token_text(trained.encode(f"a{marker}\nb")[1]) == marker


def test_any_text_survives_the_round_trip(trained):
    text = f"{templates.BEGIN_PROBLEM}\nnaïve 漢字 \x00 🙂  two  spaces\n\tx = 10**9\n{templates.END_PROBLEM}"
    assert trained.decode(trained.encode(text)) == text


def test_special_tokens_have_their_roles(trained):
    assert trained.token_text(trained.eos_id) == "<|endoftext|>"
    assert trained.token_text(trained.pad_id) == "<|pad|>"
    assert trained.eos_id in trained.stop_ids
    assert trained.bos_id is None


def test_saved_tokenizer_reads_back(trained, tmp_path):
    trained.save(tmp_path)
    again = tokenizer.Tokenizer.from_directory(tmp_path)
    assert again.digest == trained.digest
    assert again.encode("Find 12 rows.") == trained.encode("Find 12 rows.")


def test_a_vocabulary_without_room_for_the_bytes_is_refused(texts):
    with pytest.raises(ValueError, match="at least 262"):
        tokenizer_training.train_tokenizer(texts, 200)
