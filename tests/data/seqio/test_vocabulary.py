"""The seqio vocabulary is the tokenizer itself: eager, in a graph, in batches, on any number of threads."""

import copy
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import seqio
import tensorflow as tf

from promptcot_jax.checkpoints import load
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data.seqio.vocabulary import TokenizerVocabulary
from tests import toys

BYTES = TokenizerVocabulary(toys.byte_tokenizer())
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXTS = [
    "",
    "plain",
    " leading and trailing \n",
    "Größe, 数学, матан, ∑∫√, \u05d0\u200d\u05d1",
    "👩‍👩‍👧‍👦🏳️‍🌈 e\u0301 \U0001f9ee",
    "<!-- BEGIN RATIONALE -->\nz\n<!-- END RATIONALE -->\n",
    "tab\there\r\nnull \x00 byte",
    "null bytes at the end\x00\x00",
    "\ufeff\u202eright to left\u202c \u0007\x1b[0m \ue000\U0010ffff",
]
# Blocks to draw characters from: scripts, combining marks, emoji and joiners, right-to-left, controls.
BLOCKS = (
    (0x00, 0x7F), (0x80, 0x24F), (0x300, 0x36F), (0x370, 0x52F), (0x590, 0x6FF), (0x900, 0x97F),
    (0xE00, 0xE7F), (0x1100, 0x11FF), (0x2000, 0x206F), (0x2200, 0x22FF), (0x3040, 0x30FF), (0x4E00, 0x4FFF),
    (0xAC00, 0xACFF), (0xFB1D, 0xFDFF), (0xFE00, 0xFE0F), (0xFFF0, 0xFFFF), (0x1D400, 0x1D7FF),
    (0x1F1E6, 0x1F1FF), (0x1F300, 0x1F6FF), (0x1F900, 0x1F9FF), (0xE0000, 0xE007F), (0x10FF00, 0x10FFFF),
)  # fmt: skip
# Bytes for which SmolLM2's vocabulary has no token (beside some that UTF-8 never or hardly uses).
LACKING = "\x04\x06\x13\x14\x16\x1d"
REAL_FILES = (
    "seed/math_triples_train.jsonl",
    "code/mbpp_train.jsonl",
    "code/code_contests_dev.jsonl",
    "train/gsm8k_train.jsonl",
    "train/math_train.jsonl",
)


def drawn_texts(count: int, seed: int = 0) -> list[str]:
    """Texts of 1 to 40 characters out of one or two blocks, without those that SmolLM2 cannot write."""
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(count):
        blocks = [BLOCKS[i] for i in rng.integers(len(BLOCKS), size=2)]
        low, high = np.array([blocks[i] for i in rng.integers(2, size=rng.integers(1, 41))]).T
        texts.append("".join(c for c in map(chr, rng.integers(low, high + 1)) if c not in LACKING))
    return texts


def real_texts(count: int) -> list[str]:
    """The first texts of the shared seed, code and training files."""
    files = [toys.SHARED / "data" / name for name in REAL_FILES]
    if not all(file.exists() for file in files):
        pytest.skip("the shared data are not here")
    rows = (json.loads(line) for file in files for line in file.read_bytes().splitlines())
    texts = (row[key] for row in rows for key in ("problem", "solution", "rationale") if row.get(key))
    return [text for text, _ in zip(texts, range(count), strict=False)]


@pytest.fixture(scope="module")
def smollm2() -> TokenizerVocabulary:
    """A real byte-level BPE out of a GGUF file; its weights are not read."""
    try:
        path = load.smollm2_path()
    except WrongUse as missing:
        pytest.skip(str(missing))
    return TokenizerVocabulary.from_path(path)


@pytest.fixture(scope="module", params=["bytes", "smollm2"])
def vocabulary(request) -> TokenizerVocabulary:
    return BYTES if request.param == "bytes" else request.getfixturevalue("smollm2")


def assert_is_the_tokenizer(vocabulary: TokenizerVocabulary, texts: list[str]) -> None:
    """Batched calls give the ids of `tokenizers` itself, and the texts back byte for byte."""
    backend = vocabulary.tokenizer.backend
    expected = [backend.encode(text, add_special_tokens=False).ids for text in texts]
    encoded = vocabulary.encode_tf(tf.constant(texts))
    assert encoded.dtype == tf.int32
    assert encoded.to_list() == expected
    texts_back = vocabulary.decode_tf(encoded).numpy().tolist()
    assert texts_back == [text.encode("utf-8") for text in texts]


def test_ten_thousand_real_texts(smollm2):
    texts = real_texts(10_000)
    assert len(texts) == 10_000
    assert_is_the_tokenizer(smollm2, texts)


def test_drawn_texts_of_many_scripts(vocabulary):
    assert_is_the_tokenizer(vocabulary, drawn_texts(3_000) + TEXTS)


def test_a_byte_without_a_token_is_left_out_as_tokenizers_does(smollm2):
    assert smollm2.decode(smollm2.encode(f"a{LACKING}b")) == "ab"
    assert BYTES.decode(BYTES.encode(f"a{LACKING}b")) == f"a{LACKING}b"
    assert all(smollm2.decode(smollm2.encode(chr(i))) == chr(i) for i in range(128) if chr(i) not in LACKING)


def test_eager_graph_and_batch_agree(vocabulary):
    texts = TEXTS + drawn_texts(60, seed=1)
    encode_graph = tf.function(vocabulary.encode_tf, input_signature=[tf.TensorSpec([], tf.string)])
    decode_graph = tf.function(vocabulary.decode_tf, input_signature=[tf.TensorSpec([None], tf.int32)])
    batch = tf.function(vocabulary.encode_tf)(tf.constant(texts))
    for text, row in zip(texts, batch.to_list(), strict=True):
        ids = vocabulary.encode(text)
        assert ids == row == encode_graph(text).numpy().tolist()
        assert vocabulary.decode(ids) == text
        assert vocabulary.decode(tf.constant(ids, tf.int32)) == text
        assert decode_graph(tf.constant(ids, tf.int32)).numpy() == text.encode()


def test_texts_of_any_shape_gain_one_ragged_axis():
    texts = tf.constant([["a", "bc", ""], ["数", "d", "é"]])
    nested = tf.ragged.constant([["a"], [], ["bc", "d"]])
    for value in (texts, nested):
        ids = tf.function(BYTES.encode_tf)(value)
        assert ids.shape.rank == 3
        assert ids.to_list() == [[BYTES.encode(t.decode()) for t in row] for row in value.numpy().tolist()]
        assert BYTES.decode_tf(ids).to_list() == [list(row) for row in value.numpy().tolist()]


def test_dense_ids_of_any_shape_lose_their_last_axis():
    ids = tf.constant([[BYTES.encode("ab"), BYTES.encode("cd")], [BYTES.encode("ef"), BYTES.encode("gh")]])
    decode = tf.function(BYTES.decode_tf, input_signature=[tf.TensorSpec([None, 2, None], tf.int32)])
    assert decode(ids).numpy().tolist() == [[b"ab", b"cd"], [b"ef", b"gh"]]
    assert decode(ids).shape == (2, 2)
    assert BYTES.decode_tf(tf.RaggedTensor.from_row_lengths(ids[0], [2, 0])).to_list() == [[b"ab", b"cd"], []]
    assert BYTES.decode_tf(tf.zeros([2, 0], tf.int32)).numpy().tolist() == [b"", b""]
    assert BYTES.decode_tf(tf.zeros([0], tf.int32)).numpy() == b""


def test_decoding_ends_at_the_end_token_and_passes_over_padding_behind():
    a, pad, eos = BYTES.encode("a"), [BYTES.pad_id], [BYTES.eos_id]
    rows = [a + eos + a, a + a + pad, a + pad + a, a + pad + eos, eos + a + a, pad + pad + pad]
    texts = ["a", "aa", "a<|pad|>a", "a", "", ""]
    assert [BYTES.decode(row) for row in rows] == texts
    ragged = tf.ragged.constant(rows, dtype=tf.int32)
    assert BYTES.decode_tf(ragged).numpy().tolist() == [text.encode() for text in texts]
    padded = ragged.to_tensor(BYTES.pad_id)
    assert BYTES.decode_tf(padded).numpy().tolist() == [text.encode() for text in texts]


@pytest.mark.parametrize("num_parallel_calls", [None, 1, 4, tf.data.AUTOTUNE])
def test_parallel_calls_change_nothing(vocabulary, num_parallel_calls):
    texts = drawn_texts(200, seed=2)
    dataset = tf.data.Dataset.from_tensor_slices(texts).map(vocabulary.encode_tf, num_parallel_calls)
    assert [row.tolist() for row in dataset.as_numpy_iterator()] == vocabulary.tokenizer.encode_many(texts)


@pytest.mark.parametrize(
    "threads", [{"RAYON_NUM_THREADS": "1"}, {"RAYON_NUM_THREADS": "5"}, {"TOKENIZERS_PARALLELISM": "false"}]
)
def test_threads_change_nothing(tmp_path, smollm2, threads):
    smollm2.tokenizer.save(tmp_path)
    texts = drawn_texts(500, seed=3)
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    code = (
        "import json, sys\n"
        "from promptcot_jax.data.tokenizer import Tokenizer\n"
        f"texts = json.load(open('{tmp_path / 'texts.json'}'))\n"
        f"json.dump(Tokenizer.from_directory('{tmp_path}').encode_many(texts), sys.stdout)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | threads, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == smollm2.tokenizer.encode_many(texts)


def test_a_path_names_a_vocabulary(tmp_path):
    BYTES.tokenizer.save(tmp_path)
    assert TokenizerVocabulary.from_path(tmp_path) == BYTES
    with pytest.raises(WrongUse, match=r"absent\.gguf: no such file"):
        TokenizerVocabulary.from_path(tmp_path / "absent.gguf")
    with pytest.raises(WrongUse, match=r"tokenizer\.json: no such file"):
        TokenizerVocabulary.from_path(tmp_path / "absent")


def test_the_tokenizer_of_a_gguf_file_is_that_of_the_model(smollm2):
    assert (smollm2.eos_id, smollm2.pad_id, smollm2.bos_id) == (2, 2, 1)
    assert smollm2.vocab_size == 49_152
    assert "<|im_start|>user\nhi<|im_end|>" in smollm2.tokenizer.render_chat(
        [{"role": "user", "content": "hi"}]
    )


def test_vocabularies_are_equal_when_their_tokenizers_are():
    same, other = (TokenizerVocabulary(t) for t in (toys.byte_tokenizer(), toys.byte_tokenizer("chat")))
    assert same == BYTES
    assert hash(same) == hash(BYTES)
    assert other != BYTES
    assert copy.deepcopy({"vocabulary": BYTES})["vocabulary"] is BYTES
    assert (BYTES.vocab_size, BYTES.eos_id, BYTES.pad_id, BYTES.bos_id, BYTES.unk_id) == (
        262,
        256,
        257,
        None,
        None,
    )


def test_seqio_preprocessors_tokenize_with_it():
    feature = seqio.Feature(vocabulary=BYTES, add_eos=True, dtype=tf.int32)
    dataset = tf.data.Dataset.from_tensor_slices({"inputs": ["ab"], "targets": ["cd"]})
    features = {"inputs": feature, "targets": feature}
    dataset = seqio.preprocessors.tokenize(dataset, output_features=features, copy_pretokenized=False)
    dataset = seqio.preprocessors.append_eos(dataset, features)
    expected = {name: [*BYTES.encode(text), 256] for name, text in (("inputs", "ab"), ("targets", "cd"))}
    seqio.test_utils.assert_dataset(dataset, expected)


def test_a_text_that_is_no_utf8_is_refused_with_its_reason():
    message = r"The text b'a\\xff'\.\.\. is not UTF-8 \(byte 1"
    with pytest.raises(WrongUse, match=message):
        BYTES.encode_tf(tf.constant(b"a\xff"))
    with pytest.raises(tf.errors.OpError, match=f"WrongUse: .*{message}"):
        list(tf.data.Dataset.from_tensors(b"a\xff").map(BYTES.encode_tf))
